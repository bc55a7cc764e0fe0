"""Fit attention over prompts: block sizes by trial, the other parameters by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.simulator.roofline import _kernels
from ridgeline.simulator.roofline.attention import stacked
from ridgeline.simulator.roofline.prefill import (
    FITTED,
    SHAPE,
    prefill_coordinates,
    prefill_parameters,
)
from ridgeline.validation.fitting.attention import newest_versions, possible_rows
from ridgeline.validation.fitting.fit import Floats

if TYPE_CHECKING:
    from collections.abc import Mapping

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
SCREEN_ROUNDS = 20
"""Rounds of a fit that only tells which block size is best."""

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
    shapes = stacked(SHAPE, [table[name] for name in SHAPE])
    least = np.empty(len(table))
    facts = prefill_parameters(dict.fromkeys(FITTED, 1.0), dtype, accelerator)
    _kernels.prefill_bound(shapes, facts, accelerator.l2_bytes, least)

    def price(shapes: Floats, parameters: Mapping[str, float]) -> Floats:
        out = np.empty(len(shapes))
        _kernels.prefill(shapes, prefill_parameters(parameters, dtype, accelerator), out)
        return out

    rows = possible_rows(table, SHAPE, shapes, least, price, FITTED, BOUNDS, START)
    if rows is None:
        return None
    tries = [
        {"query_block": query_block, "key_block": key_block, "packed": packed}
        for query_block, key_block in BLOCKS
        for packed in (0.0, 1.0)
    ]
    best = rows.best_of(tries, SCREEN_ROUNDS)
    return rows.finish(key, tuple(tries[0]), best, prefill_coordinates(rows.shapes), CANDIDATES)
