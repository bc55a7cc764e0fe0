"""Clusters over months: many jobs, failures, checkpoints, calendars."""
