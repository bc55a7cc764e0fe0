"""What every fit shares: the split by shape, the robust bounded fitter, statistics of errors."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]
Bounds = Mapping[str, tuple[float, float]]

HELD_OUT = 3
"""Tenths of the shapes that no fit sees."""
SPLIT = "30% of the shapes held out: crc32 of the shape key modulo 10 below 3"
MOST_ROWS = 3000
"""Rows that parameters are fitted on; corrections use all."""
KNEE = 0.05
"""Log residual above which an error counts by its size and no more by its square."""


def held_out_rows(*shape: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows are held out: by their shape columns alone, whatever library or dtype.

    Whole numbers are written as such, so that the same shape is held out in every table.
    """
    columns = [np.asarray(column).tolist() for column in shape]
    keys = [
        ",".join(str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in row)
        for row in zip(*columns, strict=True)
    ]
    return np.array([zlib.crc32(key.encode()) % 10 < HELD_OUT for key in keys], np.bool_)


def subsample(count: int, most: int = MOST_ROWS) -> NDArray[np.int64]:
    """Return at most ``most`` of ``count`` row numbers, evenly spread, always the same."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def statistics(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Return mean and median absolute relative error, geometric bias and rows.

    ``bias`` is exp(mean log(predicted/measured)) - 1: above 0 is too slow.
    """
    ratio = predicted / measured
    error = np.abs(ratio - 1.0)
    return {
        "mape": round(float(error.mean()), 5),
        "median_ape": round(float(np.median(error)), 5),
        "bias": round(float(np.exp(np.log(ratio).mean()) - 1.0), 5),
        "rows": float(len(measured)),
    }


def fit_set(
    model: Callable[[dict[str, float]], Floats],
    measured: Floats,
    bounds: Bounds,
    starts: Sequence[Mapping[str, float]],
    *,
    weights: Floats | None = None,
    evaluations: int = 60,
) -> dict[str, float]:
    """Return the parameters whose modelled seconds come nearest to the measured ones.

    Minimises the soft-L1 norm of log(model/measured) within bounds, from every start, and keeps
    the best; the same input gives the same answer.

    Parameters
    ----------
    model
        Seconds float64[N] by named parameters.
    measured
        Seconds float64[N].
    bounds
        Lowest and highest value by name. A parameter whose lowest is above 0 moves on a
        logarithmic scale, any other on a linear one; one with lowest = highest stays.
    starts
        Where the searches begin; values are cut to the bounds.
    weights
        float64[N], of rows; 1 each.
    evaluations
        Most evaluations of the gradient, a start.

    Raises
    ------
    ValueError
        From SciPy, when the model returns something that is not finite.
    """
    free = [name for name, (low, high) in bounds.items() if low < high]
    fixed = {name: low for name, (low, high) in bounds.items() if low >= high}
    logarithmic = np.array([bounds[name][0] > 0.0 for name in free])
    low = np.array([bounds[name][0] for name in free])
    high = np.array([bounds[name][1] for name in free])
    scale_low = np.where(logarithmic, np.log(np.where(logarithmic, low, 1.0)), low)
    scale_high = np.where(logarithmic, np.log(np.where(logarithmic, high, 1.0)), high)
    root = np.sqrt(weights / weights.mean()) if weights is not None else 1.0
    target = np.log(measured)

    def named(unit: Floats) -> dict[str, float]:
        scaled = scale_low + unit * (scale_high - scale_low)
        values = np.where(logarithmic, np.exp(np.where(logarithmic, scaled, 0.0)), scaled)
        return {**fixed, **dict(zip(free, values.tolist(), strict=True))}

    def residual(unit: Floats) -> Floats:
        off: Floats = root * (np.log(model(named(unit))) - target)
        return off

    best: dict[str, float] = dict(fixed)
    least = np.inf
    for start in starts:
        begin = np.clip([start[name] for name in free], low, high)
        scaled = np.where(logarithmic, np.log(np.where(logarithmic, begin, 1.0)), begin)
        unit = (scaled - scale_low) / (scale_high - scale_low)
        found = least_squares(
            residual,
            np.clip(unit, 1e-3, 1.0 - 1e-3),
            bounds=(0.0, 1.0),
            loss="soft_l1",
            f_scale=KNEE,
            diff_step=[1e-3],  # the least over tiles has kinks: step over the smallest
            max_nfev=evaluations,
        )
        if found.cost < least:
            least = found.cost
            best = named(found.x)
    return {name: float(f"{best[name]:.6g}") for name in bounds}
