"""Operators of a training step: (model, plan, phase) to a table of shapes and messages."""
