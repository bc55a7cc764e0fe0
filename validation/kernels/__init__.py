"""Measured tables of kernels, and predictions beside them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.validation.kernels.measured_gemm import MeasuredGemm, read_measured_gemm
    from ridgeline.validation.kernels.pricing import predict_table
    from ridgeline.validation.kernels.report import KernelReport, validate_kernels
    from ridgeline.validation.kernels.rung import TableRung, read_rung
    from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

_HOMES = {
    "KernelReport": "report",
    "KernelTable": "table",
    "MeasuredGemm": "measured_gemm",
    "TableRung": "rung",
    "predict_table": "pricing",
    "read_kernel_table": "table",
    "read_measured_gemm": "measured_gemm",
    "read_rung": "rung",
    "validate_kernels": "report",
}

__all__ = [
    "KernelReport",
    "KernelTable",
    "MeasuredGemm",
    "TableRung",
    "predict_table",
    "read_kernel_table",
    "read_measured_gemm",
    "read_rung",
    "validate_kernels",
]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
