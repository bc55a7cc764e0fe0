"""Rows of a comparison: what a trace measured beside what the simulator predicts."""

from __future__ import annotations

from dataclasses import dataclass


def relative_error(predicted: float, measured: float) -> float | None:
    """Return predicted over measured, less one; None where nothing was measured."""
    return predicted / measured - 1.0 if measured > 0.0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryRow:
    """Kernels of one category in a step, added up; idle is what the device waits."""

    category: str
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None where nothing was measured."""
        return relative_error(self.predicted_s, self.measured_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRow:
    """Products of one shape in a step."""

    operator: str
    """The simulator's operator that it is, empty when the plan has none like it."""
    m: int
    n: int
    k: int
    batch: int
    dtype: str
    calls: float
    measured_s: float
    predicted_s: float | None
    """None where the device has no peak for the number format."""
    tflops_per_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return (
            None if self.predicted_s is None else relative_error(self.predicted_s, self.measured_s)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRow:
    """Collectives of one kind and size in a step."""

    kind: str
    bytes: float
    ranks: int
    calls: float
    measured_s: float
    """Shortest over the traced ranks, times calls."""
    predicted_s: float | None
    """None where bytes or group are unknown."""
    bus_gb_per_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return (
            None if self.predicted_s is None else relative_error(self.predicted_s, self.measured_s)
        )
