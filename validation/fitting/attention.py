"""What the fits of prefill and decode share: axes picked by cross-validation, sets assembled."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import LARGEST_LOG, MOST_VALUES, Correction, KernelSet
from ridgeline.simulator.roofline.attention import corrected
from ridgeline.simulator.roofline.correction import fit_correction
from ridgeline.validation.fitting.fit import (
    SPLIT,
    Bounds,
    fit_set,
    held_out_rows,
    statistics,
    subsample,
)

if TYPE_CHECKING:
    from ridgeline.validation.kernels.table import KernelTable

Floats = NDArray[np.float64]
Axes = tuple[tuple[str, tuple[float, ...]], ...]

SOURCE = (
    "ai-dynamo/aiconfigurator, commit 095f58a51c4ca8e61b66ec108d86f223f8d559ce (2026-08-21), "
    "Apache-2.0, re-tabulated"
)
FEWEST_ROWS = 40
"""Sets with fewer training rows are left out: a third of them would be parameters."""
SCREENED = 800
"""Rows of a fit that only tells which of the values that are tried is best."""
LAST_ROUNDS = 60
SMOOTHINGS = (0.3, 0.05)
FOLDS = 4
"""Every fourth training row judges the candidate axes that the others are fitted with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one set that can be true, split by shape, with the model that prices them."""

    shapes: Floats
    measured: Floats
    """float64[N], seconds."""
    least: Floats
    """float64[N], the bound under which no price lies, s."""
    held_out: NDArray[np.bool_]
    train: NDArray[np.int64]
    """Numbers of the rows that are not held out."""
    impossible: int
    """Rows that were left out because they are faster than the bound."""
    price: Callable[[Floats, Mapping[str, float]], Floats]
    """Shapes and parameters to seconds."""
    names: Sequence[str]
    """Parameters of the model."""
    bounds: Bounds
    start: Mapping[str, float]

    def fitted(
        self,
        fixed: Mapping[str, float],
        start: Mapping[str, float],
        rows: NDArray[np.int64],
        rounds: int,
    ) -> dict[str, float]:
        """Return the parameters that fit ``rows`` best where some of them are fixed."""
        shapes = self.shapes[rows]
        bounds = {**self.bounds, **{name: (value, value) for name, value in fixed.items()}}
        found = fit_set(
            lambda p: self.price(shapes, p),
            self.measured[rows],
            bounds,
            [start],
            evaluations=rounds,
        )
        return {name: found[name] for name in self.names}

    def best_of(self, tries: Iterable[Mapping[str, float]], rounds: int) -> dict[str, float]:
        """Return the parameters under the fixed values, of those tried, that fit a sample best."""
        few = self.train[subsample(len(self.train), SCREENED)]

        def cost(parameters: Mapping[str, float]) -> float:
            off = np.abs(np.log(self.price(self.shapes[few], parameters) / self.measured[few]))
            return float(np.minimum(off, 1.0).mean())

        return min((self.fitted(fixed, self.start, few, rounds) for fixed in tries), key=cost)

    def finish(
        self,
        key: tuple[str, str, str, str, str],
        fixed: Sequence[str],
        best: Mapping[str, float],
        coords: Mapping[str, Floats],
        candidates: Sequence[Mapping[str, Sequence[float]]],
    ) -> KernelSet:
        """Fit what is not ``fixed`` from ``best`` on, correct it and judge the set."""
        some = self.train[subsample(len(self.train))]
        parameters = self.fitted({name: best[name] for name in fixed}, best, some, LAST_ROUNDS)
        return finish_set(
            key,
            parameters,
            self.price(self.shapes, parameters),
            self.measured,
            self.least,
            self.held_out,
            coords,
            candidates,
            impossible=self.impossible,
        )


def possible_rows(
    table: KernelTable,
    columns: Sequence[str],
    shapes: Floats,
    least: Floats,
    price: Callable[[Floats, Mapping[str, float]], Floats],
    names: Sequence[str],
    bounds: Bounds,
    start: Mapping[str, float],
) -> Rows | None:
    """Return the rows that are no faster than ``least``; None where too few are left to fit.

    ``columns`` are those of the table by which shapes are held out, the rest fields of ``Rows``.
    """
    measured = table.latency_us * 1e-6
    possible = measured >= least
    held_out = held_out_rows(*(table[name][possible] for name in columns))
    train = np.flatnonzero(~held_out)
    if len(train) < FEWEST_ROWS:
        return None
    return Rows(
        shapes=shapes[possible],
        measured=measured[possible],
        least=least[possible],
        held_out=held_out,
        train=train,
        impossible=int((~possible).sum()),
        price=price,
        names=names,
        bounds=bounds,
        start=start,
    )


def pick_axes(
    coords: Mapping[str, Floats],
    residual_log: Floats,
    candidates: Sequence[Mapping[str, Sequence[float]]],
) -> tuple[Axes, float]:
    """Return the axes and smoothing whose correction does best on rows left out of its fit.

    Parameters
    ----------
    coords
        log2 coordinates float64[N] of the training rows, by name.
    residual_log
        float64[N], log(measured/model) of the training rows.
    candidates
        Axes by name with their log2 nodes. An empty list of nodes stands for every value there
        is. Nodes outside the data are dropped; grids of more than ``MOST_VALUES`` are skipped.
    """
    judge = np.arange(len(residual_log)) % FOLDS == 0
    left = {name: values[judge] for name, values in coords.items()}

    def error(axes: Axes, smooth: float) -> float:
        correction = _fit(coords, residual_log, axes, ~judge, smooth)
        factor = corrected(np.ones(int(judge.sum())), left, correction)
        return float(np.abs(factor / np.exp(residual_log[judge]) - 1.0).mean())

    grids = [
        tuple((name, _nodes(coords[name], nodes)) for name, nodes in candidate.items())
        for candidate in candidates
    ]
    small = [axes for axes in grids if math.prod(len(nodes) for _, nodes in axes) <= MOST_VALUES]
    best = min(small, key=lambda axes: error(axes, SMOOTHINGS[-1]))
    return best, min(SMOOTHINGS, key=lambda smooth: error(best, smooth))


def _nodes(values: Floats, nodes: Sequence[float]) -> tuple[float, ...]:
    if not nodes:
        return tuple(round(v, 4) for v in np.unique(values).tolist())
    low, high = float(values.min()), float(values.max())
    inside = {float(node) for node in nodes if low < node < high}
    return tuple(round(v, 4) for v in sorted(inside | {low, high}))


def _fit(
    coords: Mapping[str, Floats],
    residual_log: Floats,
    axes: Axes,
    rows: NDArray[np.bool_],
    smooth: float,
) -> Correction:
    picked = np.stack([coords[name][rows] for name, _ in axes], axis=1)
    return fit_correction(picked, residual_log[rows], None, axes, smooth=smooth, clip=LARGEST_LOG)


def finish_set(
    key: tuple[str, str, str, str, str],
    parameters: dict[str, float],
    modelled: Floats,
    measured: Floats,
    least: Floats,
    held_out: NDArray[np.bool_],
    coords: Mapping[str, Floats],
    candidates: Sequence[Mapping[str, Sequence[float]]],
    *,
    impossible: int,
) -> KernelSet:
    """Correct a fitted model on its training rows and judge it on the others.

    Parameters
    ----------
    key
        Operator, library, version, dtype, kernel.
    parameters
        Fitted values with the units in their names.
    modelled, measured, least
        Seconds float64[N] of all rows; ``least`` is the bound under which no price lies.
    held_out
        bool[N].
    coords
        log2 coordinates float64[N] of all rows, by name.
    candidates
        As ``pick_axes`` takes them.
    impossible
        Rows that were left out because they are faster than ``least``.
    """
    residual = np.log(measured / modelled)
    seen = {name: values[~held_out] for name, values in coords.items()}
    axes, smooth = pick_axes(seen, residual[~held_out], candidates)
    correction = _fit(coords, residual, axes, ~held_out, smooth)
    predicted = np.maximum(corrected(modelled, dict(coords), correction), least)
    judged = statistics(predicted[held_out], measured[held_out])
    bare = statistics(np.maximum(modelled, least)[held_out], measured[held_out])
    op, library, version, dtype, kernel = key
    return KernelSet(
        op=op,
        library=library,
        version=version,
        dtype=dtype,
        kernel=kernel,
        parameters=parameters,
        correction=correction,
        rows=int((~held_out).sum()),
        held_out=judged | {"mape_uncorrected": bare["mape"], "impossible": float(impossible)},
        split=SPLIT,
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        source=SOURCE,
    )


def newest_versions(
    table: KernelTable,
) -> list[tuple[tuple[str, str, str, str, str], NDArray[np.int64]]]:
    """Return the sets of a table that are of their library's newest version, with their rows."""
    sets = list(table.sets())
    newest: dict[str, str] = {}
    for (_, library, version, _, _), _ in sets:
        if _order(version) > _order(newest.get(library, "")):
            newest[library] = version
    return [(key, rows) for key, rows in sets if key[2] == newest[key[1]]]


def _order(version: str) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in version)
    return tuple(int(part) for part in digits.split())
