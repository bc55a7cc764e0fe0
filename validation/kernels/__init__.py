"""Measured tables of kernels, and predictions beside them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

_HOMES = {"KernelTable": "table", "read_kernel_table": "table"}

__all__ = ["KernelTable", "read_kernel_table"]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
