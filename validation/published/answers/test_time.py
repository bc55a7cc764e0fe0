"""Questions about test-time compute: what repeated sampling costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.simulator.serving.sampling import Curve, Solver, Tariff, solve


def _samples_usd(ask: Mapping[str, Any]) -> float:
    """Return dollars of ``samples`` attempts at each of ``problems`` problems."""
    solver = Solver(
        name="published",
        tariff=Tariff(usd_per_prompt=0.0, usd_per_sample=ask["usd_per_sample"]),
        curve=Curve(points=((ask["samples"], ask["share"]),)),
    )
    return solve(solver, ask["samples"], ask["problems"]).usd


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {"samples-usd": _samples_usd}
"""Kind of question -> what answers it."""
