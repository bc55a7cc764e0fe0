"""Questions about services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import weight_bytes
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.workloads.catalogue import load_model


def _load_seconds(ask: Mapping[str, Any]) -> float:
    """Return the seconds that all weights of ``model`` take at ``bytes_per_s``."""
    service = Service(
        model=load_model(ask["model"]),
        cluster=make_cluster(ask["cluster"]),
        engine="vllm",
        tp=ask["tp"],
    )
    return float(weight_bytes(make_shape(service)) * service.tp / ask["bytes_per_s"])


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {"load-seconds": _load_seconds}
"""Kind of question -> what answers it."""
