"""One operator of a simulated step, and the categories that a comparison has."""

from __future__ import annotations

from dataclasses import dataclass

GEMM, ATTENTION, MEMORY, COMMUNICATION, OPTIMIZER = (
    "gemm",
    "attention",
    "memory-bound",
    "communication",
    "optimizer",
)
CATEGORIES = (GEMM, ATTENTION, MEMORY, COMMUNICATION, OPTIMIZER)
"""Of a comparison; norms, element-wise kernels and copies are all memory-bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOperator:
    """One row of the operator table in a step."""

    name: str
    part: int
    """Of the operator table: a layer kind or an end of the model."""
    phase: str
    category: str
    dims: tuple[int, ...]
    """m, n, k, batch of a product; empty for others."""
    dtype: str
    count: float
    """In a step on one accelerator, averaged over the pipeline stages."""
    seconds: float
    """Of one, alone."""
    exposed_s: float
    """What one adds to the step."""
    collective: str
    """Its kind, empty for an operator."""
    bytes: float
    ranks: int
