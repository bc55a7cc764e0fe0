"""What a service is asked: requests, when they come and how long they are."""

MAX_REQUESTS = 10_000_000
"""Some minutes and six gigabytes of a replay; more is taken for a slip."""
