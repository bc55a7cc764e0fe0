"""Questions of arithmetic: parameters that a token meets, bytes of a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import kv_bytes_per_token, training_flops_per_token
from ridgeline.workloads.huggingface import model_from_config
from ridgeline.workloads.parameters import parameters


def _active_ratio(ask: Mapping[str, Any]) -> float:
    """Return parameters a token meets in ``over`` over those in ``model``, without embeddings."""

    def met(config: Mapping[str, Any]) -> int:
        count = parameters(model_from_config(dict(config)))
        return count.active - count.embedding - count.head

    return met(ask["over"]) / met(ask["model"])


def _kv_bytes(ask: Mapping[str, Any]) -> float:
    """Return bytes of the key-value cache per token."""
    return kv_bytes_per_token(load_model(ask["model"]), ask["bytes_per_element"])


def _training_flops(ask: Mapping[str, Any]) -> float:
    """Return model FLOPs of ``tokens`` tokens of ``model``: a name or a ``config.json``'s table."""
    named = ask["model"]
    model = load_model(named) if isinstance(named, str) else model_from_config(dict(named))
    per_token = training_flops_per_token(model, ask["seq_len"], ask["convention"])
    return per_token.model * float(ask["tokens"])


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "active-ratio": _active_ratio,
    "kv-bytes": _kv_bytes,
    "training-flops": _training_flops,
}
"""Kind of question -> what answers it."""
