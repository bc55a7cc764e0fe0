"""What a model runs on: accelerators, the links between them, prices, power and reliability."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.cluster import Cluster, Tier, Torus
    from ridgeline.hardware.efficiency import Efficiency
    from ridgeline.hardware.profiles import accelerator_names, load_accelerator
    from ridgeline.hardware.topology import cluster_names, make_cluster

_EXPORTS = {
    "Accelerator": "accelerator",
    "Cluster": "cluster",
    "Efficiency": "efficiency",
    "Tier": "cluster",
    "Torus": "cluster",
    "accelerator_names": "profiles",
    "cluster_names": "topology",
    "load_accelerator": "profiles",
    "make_cluster": "topology",
}

__all__ = [
    "Accelerator",
    "Cluster",
    "Efficiency",
    "Tier",
    "Torus",
    "accelerator_names",
    "cluster_names",
    "load_accelerator",
    "make_cluster",
]


def __getattr__(name: str) -> object:
    """Import an exported name when it is first asked for (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
