"""What becomes of a weight gradient once its product has written it."""

from __future__ import annotations

from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import Builder
from ridgeline.simulator.roofline.layout import MEMORY


def accumulate(b: Builder, s: Shape, name: str, weights: float) -> None:
    """Add the gradient of ``weights`` to its accumulator, where no product does so itself."""
    if s.accumulation_bytes:
        moved = s.accumulation_bytes * weights
        b.compute(f"{name} gradient sum", "cast", MEMORY, s.dtype, moved=moved)
