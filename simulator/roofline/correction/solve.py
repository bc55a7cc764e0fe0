"""Fit a correction: regularised, robust least squares on the residuals of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import LARGEST_LOG, MOST_VALUES, Correction
from ridgeline.simulator.roofline.correction import _kernels

Floats = NDArray[np.float64]
Axes = tuple[tuple[str, tuple[float, ...]], ...]

ITERATIONS = 8
"""Reweighting rounds: the answer moves by under 1e-3 after six."""
KNEE = 0.02
"""Residual below which errors count by their square, above by their size, natural logarithm."""

STEP = 0.1
"""Nodes closer than this, in octaves, are the two sides of a step."""


def fit_correction(
    coords: Floats,
    residual_log: Floats,
    weights: Floats | None,
    axes: Axes,
    *,
    smooth: float = 0.3,
    ridge: float = 0.05,
    clip: float = 0.7,
) -> Correction:
    """Return the grid that best explains ``residual_log``, smooth and small where data is thin.

    Minimises the sum over rows of w |r - A v| (Huber, by reweighting) + smooth |D v|^2 +
    ridge |v|^2, where A interpolates and D is how far a node lies off the line between its two
    neighbours on an axis. In units of one row: a node that few rows read stays near 0.

    Parameters
    ----------
    coords
        float64[N, D], log2 of the quantities that the axes name.
    residual_log
        float64[N], log(measured/model).
    weights
        float64[N] or None, 1 each.
    axes
        Name and increasing log2 nodes of each axis; at most 400 values in all.
    smooth, ridge
        Strength of the two penalties.
    clip
        Residuals beyond this are cut to it: outliers do not bend the grid.
    """
    return fit_grids(
        (coords,), residual_log, weights, (axes,), smooth=smooth, ridge=ridge, clip=clip
    )


def fit_grids(
    coords: Sequence[Floats],
    residual_log: Floats,
    weights: Floats | None,
    axes: Sequence[Axes],
    *,
    smooth: float,
    ridge: float,
    clip: float = 0.7,
) -> Correction:
    """Return the sum of grids that best explains ``residual_log``, fitted at once.

    As ``fit_correction``, with coordinates and axes by grid; the grids after the first are the
    ``more`` of the returned one.
    """
    target = np.clip(residual_log, -clip, clip)
    assert bool(np.isfinite(residual_log).all())
    parts = [_design(c, a) for c, a in zip(coords, axes, strict=True)]
    design = np.hstack(parts)
    ends = np.cumsum([part.shape[1] for part in parts]).tolist()
    penalty = ridge * np.eye(ends[-1])
    for end, part, one in zip(ends, parts, axes, strict=True):
        block = slice(end - part.shape[1], end)
        penalty[block, block] += smooth * _roughness(one, tuple(len(nodes) for _, nodes in one))
    base = np.ones(len(target)) if weights is None else np.asarray(weights, np.float64)
    values: Floats = np.zeros(ends[-1])
    for _ in range(ITERATIONS):
        off = np.abs(target - design @ values)
        weight = base * KNEE / np.maximum(off, KNEE)
        weighted = design * weight[:, None]
        solved = np.linalg.solve(weighted.T @ design + penalty, weighted.T @ target)
        values = solved.astype(np.float64, copy=False)
    values = np.clip(values, -LARGEST_LOG, LARGEST_LOG)
    grids = tuple(
        Correction(axes=one, values=tuple(round(v, 5) for v in split.tolist()))
        for one, split in zip(axes, np.split(values, ends[:-1]), strict=True)
    )
    return replace(grids[0], more=grids[1:])


def _design(coords: Floats, axes: Axes) -> Floats:
    """Return how much of each node every point reads, float64[N, values]."""
    coords = np.ascontiguousarray(coords, np.float64)
    shape = tuple(len(nodes) for _, nodes in axes)
    assert coords.shape[1] == len(axes)
    assert math.prod(shape) <= MOST_VALUES
    assert bool(np.isfinite(coords).all())
    nodes = np.concatenate([np.array(nodes, np.float64) for _, nodes in axes])
    design = np.zeros((len(coords), math.prod(shape)))
    _kernels.design(coords, nodes, np.array(shape, np.int64), design)
    return design


def _roughness(axes: Axes, shape: tuple[int, ...]) -> Floats:
    """Return D^T D of every node's distance from the line between its neighbours, by axis.

    Nodes closer than ``STEP`` are the two sides of a step, over which nothing need be smooth.
    """
    count = math.prod(shape)
    total = np.zeros((count, count))
    index = np.arange(count).reshape(shape)
    for axis, (_, nodes) in enumerate(axes):
        if len(nodes) < 3:
            continue
        x = np.array(nodes)
        below = ((x[2:] - x[1:-1]) / (x[2:] - x[:-2]))[:, None]
        lines = np.moveaxis(index, axis, 0).reshape(len(nodes), -1)
        rows = np.zeros((len(nodes) - 2, lines.shape[1], count))
        step, line = np.ogrid[: len(nodes) - 2, : lines.shape[1]]
        rows[step, line, lines[1:-1]] = 1.0
        rows[step, line, lines[:-2]] = -below
        rows[step, line, lines[2:]] = below - 1.0
        smooth = np.minimum(x[2:] - x[1:-1], x[1:-1] - x[:-2]) > STEP
        flat = rows[smooth].reshape(-1, count)
        total += flat.T @ flat
    return total


def spread_nodes(values: Floats, count: int) -> tuple[float, ...]:
    """Return ``count`` log2 nodes from the smallest to the largest value, evenly spaced.

    Fewer when the range is under half an octave a node; one when there is one value.
    """
    low, high = math.log2(float(values.min())), math.log2(float(values.max()))
    count = max(1, min(count, 1 + math.ceil(2.0 * (high - low))))
    if count == 1:
        return (round(low, 4),)
    return tuple(round(x, 4) for x in np.linspace(low, high, count).tolist())
