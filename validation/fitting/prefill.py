"""Fit attention over prompts: block sizes by trial, the other parameters by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.roofline import _kernels
from ridgeline.simulator.roofline.attention import stacked
from ridgeline.simulator.roofline.prefill import (
    FITTED,
    SHAPE,
    prefill_coordinates,
    prefill_parameters,
)
from ridgeline.validation.fitting.attention import FEWEST_ROWS, finish_set, newest_versions
from ridgeline.validation.fitting.fit import Floats, fit_set, held_out_rows, subsample

if TYPE_CHECKING:
    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet
    from ridgeline.validation.kernels.table import KernelTable

BOUNDS = {
    "launch_us": (1.0, 50.0),
    "compute": (0.03, 1.0),
    "softmax_ps_per_score": (0.1, 400.0),
    "block_us": (0.001, 20.0),
    "lone": (0.3, 4.0),
    "tail": (0.001, 2.0),
    "memory": (0.1, 1.0),
    "sharpness": (0.5, 8.0),
    "write_memory": (0.1, 8.0),
}
START = {
    "launch_us": 8.0,
    "compute": 0.7,
    "softmax_ps_per_score": 30.0,
    "block_us": 1.0,
    "lone": 1.0,
    "tail": 0.2,
    "memory": 0.6,
    "sharpness": 1.2,
    "write_memory": 1.0,
}
BLOCKS = ((64.0, 64.0), (128.0, 64.0), (128.0, 128.0))
"""Queries and keys of a block that are tried: what fused attention kernels are compiled for."""
SCREENED = 800
"""Rows and, below, rounds of a fit that only tells which block size is best."""
SCREEN_ROUNDS = 20

_SEQ = (0.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0)
_COARSE_SEQ = (0.0, 4.0, 7.0, 9.0, 11.0, 14.0)
CANDIDATES: tuple[dict[str, tuple[float, ...]], ...] = (
    {"seq_len": _SEQ, "rows": (0, 3, 6, 9, 12), "head_dim": (), "windowed": ()},
    {"seq_len": _COARSE_SEQ, "rows": (0, 3, 6, 9, 12), "head_dim": (), "windowed": ()},
    {"seq_len": (0, 4, 7, 10, 14), "rows": (0, 4, 8, 12), "group": (0, 1, 3, 6), "head_dim": ()},
    {
        "seq_len": (0, 4, 7, 10, 14),
        "rows": (0, 4, 8, 12),
        "group": (0, 3),
        "head_dim": (),
        "windowed": (),
    },
    {"seq_len": _COARSE_SEQ, "rows": (0, 3, 6, 9, 12), "group": (0, 2, 5), "head_dim": ()},
    {"seq_len": (*_SEQ, 5.0, 13.0), "rows": (0, 2, 4, 6, 8, 10, 12, 14), "group": (0, 1, 5)},
)


def fit_table(table: KernelTable, accelerator: Accelerator) -> list[KernelSet]:
    """Fit every set of a prefill table, newest version of each library, that has enough rows."""
    found = []
    for key, rows in newest_versions(table):
        fitted = _fit_rows(key, table.take(rows), accelerator)
        if fitted is not None:
            found.append(fitted)
    return found


def _fit_rows(
    key: tuple[str, str, str, str, str], table: KernelTable, accelerator: Accelerator
) -> KernelSet | None:
    dtype = key[3]
    least = np.empty(len(table))
    facts = prefill_parameters(dict.fromkeys(FITTED, 1.0), dtype, accelerator)
    _kernels.prefill_bound(_shapes(table), facts, accelerator.l2_bytes, least)
    possible = table.latency_us * 1e-6 >= least
    impossible = int((~possible).sum())
    table, least = table.take(possible), least[possible]
    shapes = _shapes(table)
    held_out = held_out_rows(*(table[name] for name in SHAPE))
    train = np.flatnonzero(~held_out)
    if len(train) < FEWEST_ROWS:
        return None
    measured = table.latency_us * 1e-6

    def seconds(parameters: dict[str, float], rows: NDArray[np.int64]) -> Floats:
        out = np.empty(len(rows))
        _kernels.prefill(shapes[rows], prefill_parameters(parameters, dtype, accelerator), out)
        return out

    def fitted(
        fixed: dict[str, float], start: dict[str, float], rows: NDArray[np.int64], rounds: int
    ) -> dict[str, float]:
        bounds = BOUNDS | {name: (value, value) for name, value in fixed.items()}
        found = fit_set(
            lambda p: seconds(p, rows), measured[rows], bounds, [start], evaluations=rounds
        )
        return {name: found[name] for name in FITTED}

    few = train[subsample(len(train), SCREENED)]
    lowest, best = np.inf, START
    for query_block, key_block in BLOCKS:
        for packed in (0.0, 1.0):
            fixed = {"query_block": query_block, "key_block": key_block, "packed": packed}
            tried = fitted(fixed, START, few, SCREEN_ROUNDS)
            off = np.abs(np.log(seconds(tried, few) / measured[few]))
            cost = float(np.minimum(off, 1.0).mean())
            if cost < lowest:
                lowest, best = cost, tried
    fixed = {name: best[name] for name in ("query_block", "key_block", "packed")}
    parameters = fitted(fixed, best, train[subsample(len(train))], 60)
    modelled = seconds(parameters, np.arange(len(shapes)))
    coords = prefill_coordinates(shapes)
    return finish_set(
        key,
        parameters,
        modelled,
        measured,
        least,
        held_out,
        coords,
        CANDIDATES,
        impossible=impossible,
    )


def _shapes(table: KernelTable) -> Floats:
    return stacked(SHAPE, [table[name] for name in SHAPE])
