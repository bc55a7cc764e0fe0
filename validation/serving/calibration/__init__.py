"""Fit the parameters of serving engines to measured services, and leave groups out."""
