"""Fit expert layers: twelve parameters by least squares, then a correction on picked axes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import load_kernel_sets
from ridgeline.simulator.roofline.attention import corrected
from ridgeline.simulator.roofline.moe import (
    FITTED,
    SHAPE,
    _kernels,
    exponent_of,
    moe_coordinates,
    moe_parameters,
)
from ridgeline.validation.fitting.attention import newest_versions
from ridgeline.validation.fitting.fit import Floats, fit_set, held_out_rows, statistics, subsample
from ridgeline.validation.fitting.sets import held_out_table, judged_set, pick_correction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet
    from ridgeline.validation.kernels.table import KernelTable

FEWEST_ROWS = 60
"""Sets with fewer rows are left out: the split would judge them on a dozen."""
MOST_ROWS = 1500
"""Rows for the parameters: with 3,000 the held-out error moves by under 0.1 points."""

BOUNDS = {
    "launch_us": (1.0, 200.0),
    "compute": (0.05, 1.0),
    "memory": (0.2, 1.0),
    "core_gb_per_s": (5.0, 3000.0),
    "tile_us": (0.001, 20.0),
    "step_ns": (0.1, 1000.0),
    "sharpness": (1.0, 8.0),
    "elementwise": (0.05, 4.0),
    "expert_ns": (0.01, 2000.0),
    "remote": (0.001, 1.0),
    "route_us": (0.001, 10.0),
    "floor_rows": (8.0, 128.0),
}
START = {
    "launch_us": 20.0,
    "compute": 0.6,
    "memory": 0.8,
    "core_gb_per_s": 150.0,
    "tile_us": 0.5,
    "step_ns": 20.0,
    "sharpness": 2.0,
    "elementwise": 0.5,
    "expert_ns": 20.0,
    "remote": 0.5,
    "route_us": 0.5,
    "floor_rows": 64.0,
}
SECOND_START = START | {
    "core_gb_per_s": 60.0,
    "floor_rows": 32.0,
    "expert_ns": 200.0,
    "remote": 0.05,
}
UNGATED = "nongated"
"""Part of a kernel's name: the expert has two matrices, not three."""

_TOKENS = (0.0, 2.5, 5.0, 7.0, 9.0, 11.5, 14.0)
_ROWS = (-6.0, -3.0, 0.0, 2.0, 4.0, 6.0, 8.0, 11.0)
_HERE = (0.0, 2.0, 4.0, 6.0, 9.0)
_INNER = (4.0, 8.0, 11.0, 14.0)
_ALL_EP = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
_EVEN = (0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
_FEW_ROWS = (-6.0, -2.0, 1.0, 4.0, 7.0, 11.0)
_FEW_HERE = (0.0, 3.0, 6.0, 9.0)
_TOP = (0.0, 1.0, 2.0, 3.0, 4.5)
_WIDE = (11.0, 12.0, 12.6, 13.0)
CANDIDATES: tuple[dict[str, tuple[float, ...]], ...] = (
    {"tokens": _TOKENS, "ep": (0, 2, 4, 6, 8), "inner": _INNER, "exponent": ()},
    {"tokens": _EVEN, "ep": _ALL_EP, "exponent": (), "experts": (3, 8)},
    {"tokens": (0, 5, 7, 9, 11.5, 14), "experts_here": _HERE, "inner": _INNER, "ep": (0, 3, 8)},
    {"rows": _ROWS, "experts_here": _HERE, "top_k": (0, 3, 4.5), "experts": (3, 7, 9)},
    {"rows": _FEW_ROWS, "experts_here": _FEW_HERE, "inner": _INNER, "hidden": (11, 12, 13)},
    {"rows": _ROWS, "inner": (4, 7, 9, 11, 14), "experts_here": _FEW_HERE, "top_k": (0, 3)},
    {"rows": (-6, -1, 3, 7, 11), "experts": (3, 5, 7, 8, 9), "top_k": _TOP, "inner": (5, 10, 14)},
    {"rows": (-6, 1, 5, 11), "experts": (3, 7, 8, 9), "hidden": _WIDE, "inner": (5, 9, 11, 14)},
    {"rows": (-3, 1, 5, 9), "inner": (5, 11)},
)
"""Axes of corrections to choose from, with log2 nodes: what a library's heuristics may look at."""


def fit_table(table: KernelTable, accelerator: Accelerator) -> list[KernelSet]:
    """Fit every set of a moe table, newest version of each library, that has enough rows."""
    return [
        fit_rows(key, table.take(rows), accelerator)
        for key, rows in newest_versions(table)
        if len(rows) >= FEWEST_ROWS
    ]


def fit_rows(
    key: tuple[str, str, str, str, str], table: KernelTable, accelerator: Accelerator
) -> KernelSet:
    """Fit one set from its rows.

    Parameters
    ----------
    key
        Operator, library, version, dtype, kernel.
    table
        Rows of this set alone.
    accelerator
        The device that they were measured on.
    """
    sizes = [table[name] for name in SHAPE[:-1]]
    exponent = exponent_of(table["distribution"].tolist())
    shapes = np.stack([*(size.astype(np.float64) for size in sizes), exponent], axis=1)
    held_out = held_out_rows(*sizes, table["distribution"])
    measured = table.latency_us * 1e-6
    projections = 2.0 if UNGATED in key[4] else 3.0

    def seconds(parameters: dict[str, float], rows: NDArray[np.int64]) -> Floats:
        out = np.empty(len(rows))
        known = parameters | {"projections": projections}
        _kernels.price(shapes[rows], *moe_parameters(known, key[3], accelerator), out)
        return out

    train = np.flatnonzero(~held_out)
    few = train[subsample(len(train), MOST_ROWS)]
    found = fit_set(lambda p: seconds(p, few), measured[few], BOUNDS, [START, SECOND_START])
    parameters = {name: found[name] for name in FITTED} | {"projections": projections}
    modelled = seconds(parameters, np.arange(len(shapes)))
    coords = moe_coordinates(shapes)
    seen = {name: values[train] for name, values in coords.items()}
    correction = pick_correction(seen, np.log(measured / modelled)[train], CANDIDATES)
    predicted = corrected(modelled, coords, correction)
    made = judged_set(key, parameters, correction, predicted, modelled, measured, held_out)
    apart = {}
    for name, routed in (("balanced", exponent == 0.0), ("power_law", exponent > 0.0)):
        judged = held_out & routed
        if judged.any():
            apart[f"mape_{name}"] = statistics(predicted[judged], measured[judged])["mape"]
    return replace(made, held_out=made.held_out | apart)


def report(accelerators: Sequence[str]) -> str:
    """Return the held-out errors of the shipped sets as a Markdown table (docs/kernels-moe.md)."""
    named = [(name, one) for name in accelerators for one in load_kernel_sets(name, "moe")]
    return held_out_table(named, [("balanced", "mape_balanced"), ("power law", "mape_power_law")])
