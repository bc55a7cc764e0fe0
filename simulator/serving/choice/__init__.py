"""Which service to deploy: the cheapest that keeps its promises, the front, the highest rate."""
