"""What a service is asked: requests, when they come and how long they are."""
