"""What is computed: transformers as numbers, their parameters and FLOPs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.workloads.catalogue import load_model, model_names
    from ridgeline.workloads.huggingface import model_from_config
    from ridgeline.workloads.model import Attention, Model, MoE
    from ridgeline.workloads.parameters import (
        distinct_layers,
        layer_parameters,
    )

_HOMES = {
    "Attention": "model",
    "MoE": "model",
    "Model": "model",
    "distinct_layers": "parameters",
    "layer_parameters": "parameters",
    "load_model": "catalogue",
    "model_from_config": "huggingface",
    "model_names": "catalogue",
}

__all__ = [
    "Attention",
    "MoE",
    "Model",
    "distinct_layers",
    "layer_parameters",
    "load_model",
    "model_from_config",
    "model_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
