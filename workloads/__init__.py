"""What is computed: transformers as numbers, their parameters and FLOPs.

Names are loaded on first use. The count of a whole model, ``parameters``, is imported from
``ridgeline.workloads.parameters``: here that name is the module's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.workloads.catalogue import load_model, model_names
    from ridgeline.workloads.custom import custom_model
    from ridgeline.workloads.flops import (
        chinchilla_flops,
        forward_flops,
        kv_bytes_per_token,
        training_flops_per_token,
    )
    from ridgeline.workloads.huggingface import model_from_config
    from ridgeline.workloads.model import Attention, Model, MoE
    from ridgeline.workloads.parameters import distinct_layers, layer_parameters

_HOMES = {
    "Attention": "model",
    "MoE": "model",
    "Model": "model",
    "chinchilla_flops": "flops",
    "custom_model": "custom",
    "distinct_layers": "parameters",
    "forward_flops": "flops",
    "kv_bytes_per_token": "flops",
    "layer_parameters": "parameters",
    "load_model": "catalogue",
    "model_from_config": "huggingface",
    "model_names": "catalogue",
    "training_flops_per_token": "flops",
}

__all__ = [
    "Attention",
    "MoE",
    "Model",
    "chinchilla_flops",
    "custom_model",
    "distinct_layers",
    "forward_flops",
    "kv_bytes_per_token",
    "layer_parameters",
    "load_model",
    "model_from_config",
    "model_names",
    "training_flops_per_token",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
