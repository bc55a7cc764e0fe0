"""Scaling laws as sourced data: what loss a model reaches, and how to split a compute budget.

Names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.workloads.scaling.allocation import Optimum
    from ridgeline.workloads.scaling.bundle import Bundle, bundle_names, load_bundle
    from ridgeline.workloads.scaling.laws import DEFAULT_LAW, law_names, load_law

_HOMES = {
    "DEFAULT_LAW": "laws",
    "Bundle": "bundle",
    "Optimum": "allocation",
    "bundle_names": "bundle",
    "law_names": "laws",
    "load_bundle": "bundle",
    "load_law": "laws",
}

__all__ = [
    "DEFAULT_LAW",
    "Bundle",
    "Optimum",
    "bundle_names",
    "law_names",
    "load_bundle",
    "load_law",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
