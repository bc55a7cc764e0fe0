"""Profiler traces: read them, say what they hold, set the simulation beside them."""
