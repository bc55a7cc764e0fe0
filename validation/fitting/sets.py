"""Corrections picked by cross-validation, and sets judged on the rows that no fit saw."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import LARGEST_LOG, MOST_VALUES, Correction, KernelSet
from ridgeline.simulator.roofline.attention import corrected
from ridgeline.simulator.roofline.correction import fit_correction
from ridgeline.validation.fitting.attention import SOURCE
from ridgeline.validation.fitting.fit import SPLIT, Floats, statistics

FOLDS = 4
"""Every fourth training row judges the axes that the other rows are fitted on."""

Grid = Mapping[str, Sequence[float]]


def pick_correction(
    coords: Mapping[str, Floats], residual_log: Floats, candidates: Sequence[Grid]
) -> Correction:
    """Return the correction on the candidate axes that do best on training rows left out.

    Parameters
    ----------
    coords
        Coordinates float64[N] of the training rows, by name.
    residual_log
        float64[N], log(measured/model) of the training rows.
    candidates
        Axes by name with their nodes; an empty list stands for every value there is. Nodes
        outside the data are dropped, grids of more than ``MOST_VALUES`` skipped.
    """
    judge = np.arange(len(residual_log)) % FOLDS == 0
    best: tuple[tuple[str, tuple[float, ...]], ...] = ()
    least = np.inf
    for candidate in candidates:
        axes = tuple((name, _inside(coords[name], nodes)) for name, nodes in candidate.items())
        if math.prod(len(nodes) for _, nodes in axes) > MOST_VALUES:
            continue
        seen = {name: values[~judge] for name, values in coords.items()}
        left = {name: values[judge] for name, values in coords.items()}
        factor = corrected(
            np.ones(int(judge.sum())), left, _fitted(seen, residual_log[~judge], axes)
        )
        error = float(np.abs(factor / np.exp(residual_log[judge]) - 1.0).mean())
        if error < least:
            least, best = error, axes
    return _fitted(coords, residual_log, best)


def _inside(values: Floats, nodes: Sequence[float]) -> tuple[float, ...]:
    if not nodes:
        return tuple(round(v, 4) for v in np.unique(values).tolist())
    low, high = float(values.min()), float(values.max())
    return tuple(
        round(v, 4) for v in sorted({float(n) for n in nodes if low < n < high} | {low, high})
    )


def _fitted(
    coords: Mapping[str, Floats],
    residual_log: Floats,
    axes: tuple[tuple[str, tuple[float, ...]], ...],
) -> Correction:
    picked = np.stack([coords[name] for name, _ in axes], axis=1)
    return fit_correction(picked, residual_log, None, axes, clip=LARGEST_LOG)


def judged_set(
    key: tuple[str, str, str, str, str],
    parameters: dict[str, float],
    correction: Correction,
    predicted: Floats,
    modelled: Floats,
    measured: Floats,
    held_out: NDArray[np.bool_],
) -> KernelSet:
    """Return the set of ``key``, judged on the held-out rows.

    Parameters
    ----------
    key
        Operator, library, version, dtype, kernel.
    parameters, correction
        Fitted on the other rows.
    predicted, modelled, measured
        Seconds float64[N] of all rows: corrected, uncorrected, true.
    held_out
        bool[N].
    """
    bare = statistics(modelled[held_out], measured[held_out])
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
        held_out=statistics(predicted[held_out], measured[held_out])
        | {"mape_uncorrected": bare["mape"]},
        split=SPLIT,
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        source=SOURCE,
    )


def held_out_table(
    named: Iterable[tuple[str, KernelSet]], extra: Sequence[tuple[str, str]] = ()
) -> str:
    """Return a Markdown table of held-out errors, a row by set.

    Parameters
    ----------
    named
        Accelerator name and set.
    extra
        Heading and key of further ``held_out`` entries.
    """
    columns = [("MAPE", "mape"), ("median", "median_ape"), ("uncorrected", "mape_uncorrected")]
    columns += extra
    heads = ["accelerator", "library", "dtype", "kernel", "rows", "held out"]
    heads += [head for head, _ in columns]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, one in named:
        cells = [name, f"{one.library} {one.version}", one.dtype, one.kernel, str(one.rows)]
        cells.append(f"{one.held_out['rows']:.0f}")
        cells += [
            f"{100 * one.held_out[key]:.1f}" if key in one.held_out else "" for _, key in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
