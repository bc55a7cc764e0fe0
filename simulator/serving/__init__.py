"""Predict a service: iterations of an inference engine priced, and played against traffic."""
