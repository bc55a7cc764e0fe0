"""Is the simulator right? Measured tables, and predictions beside them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.validation.measured import MeasuredRow, read_measured
    from ridgeline.validation.rows import row_plan
    from ridgeline.validation.training import Report, validate_measured

_HOMES = {
    "MeasuredRow": "measured",
    "Report": "training",
    "read_measured": "measured",
    "row_plan": "rows",
    "validate_measured": "training",
}

__all__ = ["MeasuredRow", "Report", "read_measured", "row_plan", "validate_measured"]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
