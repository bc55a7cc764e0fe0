"""Search over plans: every legal plan of a space, bounds that prune, the best, the front, why."""
