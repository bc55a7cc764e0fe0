"""Fit decode attention: groups and splits by trial, other parameters by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ridgeline.simulator.roofline.decode import _kernels, layout
from ridgeline.simulator.roofline.decode.pricing import (
    decode_coordinates,
    decode_parameters,
    decode_shapes,
)
from ridgeline.validation.fitting.attention import newest_versions, possible_rows
from ridgeline.validation.fitting.fit import Floats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet
    from ridgeline.validation.kernels.table import KernelTable

SHAPE = ("batch", "kv_len", "heads", "kv_heads", "head_dim", "window")
BOUNDS = {
    "launch_us": (1.0, 50.0),
    "memory": (0.1, 1.0),
    "l2_speedup": (1.0, 8.0),
    "l2_share": (0.01, 2.0),
    "sharpness": (0.7, 8.0),
    "grouped_block_us": (0.01, 30.0),
    "grouped_step_ns": (1.0, 3000.0),
    "grouped_block_gb_per_s": (1.0, 1000.0),
    "grouped_combine_us": (0.01, 20.0),
    "grouped_combine_memory": (0.05, 8.0),
    "grouped_compute": (0.003, 1.0),
    "single_block_us": (0.01, 30.0),
    "single_step_ns": (1.0, 3000.0),
    "single_block_gb_per_s": (1.0, 1000.0),
    "single_combine_us": (0.01, 20.0),
    "single_combine_memory": (0.05, 8.0),
}
START = {
    "launch_us": 8.0,
    "memory": 0.8,
    "l2_speedup": 2.0,
    "l2_share": 0.5,
    "sharpness": 1.5,
    "grouped_block_us": 2.0,
    "grouped_step_ns": 200.0,
    "grouped_block_gb_per_s": 50.0,
    "grouped_combine_us": 2.0,
    "grouped_combine_memory": 1.0,
    "grouped_compute": 0.3,
    "single_block_us": 2.0,
    "single_step_ns": 200.0,
    "single_block_gb_per_s": 50.0,
    "single_combine_us": 2.0,
    "single_combine_memory": 1.0,
}
GROUP_ROWS = (8.0, 16.0, 64.0, 128.0)
"""Query heads that share a block: the row counts of tensor-core instructions and tiles."""
GROUPS = ((1.0, 1024.0), (2.0, 1024.0), (2.0, 32.0), (1.0, 32.0))
"""Heads per KV head that grouped kernels are tried to take; others run one head a block."""
SPLITS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
SPLIT_BATCHES = (512.0, 2.0**20)
"""Fixed numbers of splits that are tried, and the batch up to which."""
SCREEN_ROUNDS = 12

_KV = (1.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0)
_COARSE_KV = (1.0, 7.0, 10.0, 13.0, 17.0)
CANDIDATES: tuple[dict[str, tuple[float, ...]], ...] = (
    {"kv_len": _KV, "rows": (0, 3, 6, 8, 10, 12, 14), "head_dim": (), "windowed": ()},
    {"kv_len": _KV, "rows": (0, 3, 5, 6, 7, 8, 9, 10, 12, 14), "group": (0, 1, 3, 5, 7)},
    {"kv_len": _KV, "rows": (0, 3, 6, 8, 10, 12), "group": (0, 1, 3, 5), "windowed": ()},
    {"kv_len": _COARSE_KV, "rows": (0, 4, 7, 10, 13), "group": (0, 2.5, 6), "head_dim": ()},
    {"kv_len": _COARSE_KV, "rows": (0, 4, 7, 10), "group": (0, 3), "head_dim": (), "windowed": ()},
    {"kv_len": _COARSE_KV, "batch": (0, 3, 6, 8, 11), "group": (0, 1, 3, 5), "kv_heads": (0, 3, 6)},
    {"kv_len": _COARSE_KV, "batch": (0, 3, 6, 8, 11), "kv_heads": (0, 3, 6), "head_dim": ()},
    {"kv_len": (*_KV, 4.0, 7.0, 9.0, 11.0, 13.0), "rows": tuple(range(15)), "windowed": ()},
    {"kv_len": (1, 7, 9, 11, 13, 17), "batch": tuple(range(12)), "kv_heads": (0, 3, 6)},
)


def fit_table(table: KernelTable, accelerator: Accelerator) -> list[KernelSet]:
    """Fit every set of a decode table, newest version of each library, that has enough rows."""
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
    batch, kv_len, heads, kv_heads, dims, window = (table[name] for name in SHAPE)
    shapes = decode_shapes(batch, kv_len, heads, kv_heads, window, dims, dims, 2 * dims)
    least = np.empty(len(table))
    facts = decode_parameters(dict.fromkeys(layout.FITTED, 1.0), dtype, accelerator)
    _kernels.bound(shapes, facts, least)

    def price(shapes: Floats, parameters: Mapping[str, float]) -> Floats:
        out = np.empty(len(shapes))
        _kernels.price(shapes, decode_parameters(parameters, dtype, accelerator), out)
        return out

    rows = possible_rows(table, SHAPE, shapes, least, price, layout.FITTED, BOUNDS, START)
    if rows is None:
        return None
    groups = rows.shapes[:, layout.HEADS] / rows.shapes[:, layout.KV_HEADS]
    ends = [(low, high) for low, high in GROUPS if ((groups >= low) & (groups <= high)).any()]
    free = {"splits": 0.0, "split_batch_max": 1.0}
    best = rows.best_of(
        [
            free | {"group_rows": shared, "group_min": low, "group_max": high}
            for shared in GROUP_ROWS
            for low, high in ends
        ],
        SCREEN_ROUNDS,
    )
    chosen = {name: best[name] for name in ("group_rows", "group_min", "group_max")}
    best = rows.best_of(
        [chosen | free]
        + [
            chosen | {"splits": splits, "split_batch_max": most}
            for splits in SPLITS
            for most in SPLIT_BATCHES
        ],
        SCREEN_ROUNDS,
    )
    coords = decode_coordinates(rows.shapes)
    return rows.finish(key, (*chosen, *free), best, coords, CANDIDATES)
