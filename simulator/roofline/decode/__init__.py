"""Attention of one new query token per sequence over its KV cache."""
