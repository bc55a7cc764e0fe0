"""What no kernel of a table can beat on its device, and the check of units that follows."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.validation.kernels.spelling import GEMM_FORMATS, GemmFormat, plain_dtype
from ridgeline.validation.kernels.table import MOST_PROBLEMS, KernelTable

Floats: TypeAlias = NDArray[np.float64]

FASTEST = 1.0 / 3.0
"""Measured over datasheet floor below which a row cannot be in microseconds."""
SLOWEST = 300.0
"""Median of measured over floor above which a whole table cannot be in microseconds."""
SMALL_S = 5e-6
"""Floors count as this much at least in the check of the median: launches cost microseconds."""
TRIVIAL_S = 2e-6
"""Datasheet floor under which a kernel is all launch."""
HOST_FLOOR_S = 40e-6
"""Kernels that are all launch take 3 to 16 us (median) where a graph is replayed (every library of
the A100 to B200 tables) and 55 to 230 us where the host launches each of them."""
LEAST_TRIVIAL_ROWS = 10


def floors(table: KernelTable, accelerator: Accelerator) -> tuple[Floats, Floats]:
    """Return the datasheet floors of every row.

    Returns
    -------
    float64[N], float64[N]
        Useful FLOPs over the dense peak, s (NaN where the device has no such peak or the format is
        unknown), and bytes that must move over the HBM bandwidth, s; of collectives 0, and the
        bytes that must leave an accelerator over its scale-up bandwidth.
    """
    columns = {name: table[name].astype(np.float64) for name in _numeric(table)}
    if table.kind == "collective":
        ranks = columns["num_gpus"]
        sent = columns["bytes"] * (ranks - 1.0) / ranks
        return np.zeros(len(table)), sent / accelerator.scaleup_bytes_per_s
    peak, weight, activation = _formats(table, accelerator)
    if table.kind == "gemm":
        m, n, k = columns["m"], columns["n"], columns["k"]
        groups = columns.get("groups", np.ones(len(table)))
        flops = 2.0 * m * n * k
        moved = activation * m * k + weight * groups * n * k + 2.0 * m * n
    elif table.kind == "moe":
        hidden = columns["hidden"]
        inner = columns["ffn"] / columns["tp"]
        pairs = columns["tokens"] * columns["top_k"] / columns["ep"]
        experts = np.minimum(columns["experts"] / columns["ep"], np.maximum(pairs, 1.0))
        # Two matrices an expert: not every model gates.
        flops = 4.0 * pairs * hidden * inner
        moved = 2.0 * weight * experts * hidden * inner + 4.0 * columns["tokens"] * hidden
    else:
        flops, moved = _attention(table, columns, weight, activation)
    return flops / peak, moved / accelerator.memory_bytes_per_s


def _numeric(table: KernelTable) -> list[str]:
    return [name for name, column in table.columns.items() if column.dtype.kind in "iuf"]


def _formats(table: KernelTable, accelerator: Accelerator) -> tuple[Floats, Floats, Floats]:
    """Return peak, bytes of a weight (a cached value) and bytes of an activation, by row."""
    found: dict[str, tuple[float, float, float]] = {}
    for dtype in np.unique(table.dtypes):
        compute, _, stored = plain_dtype(str(dtype)).partition("/")
        form = GEMM_FORMATS.get(compute, GemmFormat("", np.nan, np.nan, quantised=False))
        cache = GEMM_FORMATS.get(stored, form)
        try:
            peak = accelerator.peak(form.compute)
        except InputError:
            peak = np.nan
        found[str(dtype)] = (peak, cache.weight_bytes, form.activation_bytes)
    values = np.array([found[str(dtype)] for dtype in table.dtypes])
    return values[:, 0], values[:, 1], values[:, 2]


def _attention(
    table: KernelTable, columns: dict[str, Floats], cached: Floats, activation: Floats
) -> tuple[Floats, Floats]:
    batch, heads, kv_heads = columns["batch"], columns["heads"], columns["kv_heads"]
    width = columns["head_dim"]
    if table.kind == "prefill":
        queries = keys = columns["seq_len"]
    else:
        queries, keys = np.ones(len(table)), columns["kv_len"]
    window = np.where(columns["window"] > 0, np.minimum(columns["window"], keys), keys)
    if table.kind == "prefill":
        # Row i of queries sees min(i, window) keys.
        scores = window * (window + 1.0) / 2.0 + (queries - window) * window
    else:
        scores = keys = window
    flops = 4.0 * batch * heads * width * scores
    moved = batch * width * (2.0 * cached * kv_heads * keys + (activation + 2.0) * heads * queries)
    return flops, moved


def check_units(table: KernelTable, accelerator: Accelerator) -> None:
    """Refuse a table whose latencies cannot be microseconds on this device.

    Raises
    ------
    InputError
        Rows faster than a third of their datasheet floor (bytes that the L2 can hold are not
        counted), the first 20 and a count; or a median 300 times over it.
    """
    flop_s, byte_s = floors(table, accelerator)
    measured = table.latency_us * 1e-6
    cached = 0.0 if table.kind == "collective" else accelerator.l2_bytes
    beyond = np.maximum(byte_s - cached / accelerator.memory_bytes_per_s, 0.0)
    floor = np.fmax(flop_s, beyond)
    bad = np.flatnonzero(measured < FASTEST * floor)
    if len(bad):
        shown = [
            f"{table.path}: row {table.rows[index]}: latency_us = {table.latency_us[index]:g}: "
            f"{accelerator.name} needs at least {floor[index] * 1e6:.4g} us by its datasheet; "
            "microseconds expected (or another accelerator)"
            for index in bad[:MOST_PROBLEMS]
        ]
        if len(bad) > MOST_PROBLEMS:
            shown.append(f"{table.path}: and {len(bad) - MOST_PROBLEMS:,} more such rows")
        raise InputError(shown)
    slow = float(np.median(measured / np.fmax(floor, SMALL_S)))
    if slow > SLOWEST:
        row = int(np.argmax(measured))
        raise InputError(
            f"{table.path}: half of the rows are {slow:,.0f} times slower than the datasheet of "
            f"{accelerator.name} allows, row {table.rows[row]} with latency_us = "
            f"{table.latency_us[row]:g} among them; microseconds expected"
        )


def host_bound(table: KernelTable, floor_s: Floats) -> NDArray[np.bool_]:
    """Return which rows measure the host that launches the kernel, not the kernel.

    A set (library, version, dtype, kernel) is launched one by one when its shapes of next to no
    work (datasheet floor below 2 us, at least 10 of them) take 40 us or more: nothing that falls
    with shape is left there. Its rows within 1.3 times their median are host-bound; so are those
    within 4 times of it that take over 4 times their floor (a host that was held up). MoE layers
    are left out: they are many kernels, and their smallest take as long.

    Parameters
    ----------
    table
        Measured kernels.
    floor_s
        float64[N], the larger of the two datasheet floors.
    """
    found = np.zeros(len(table), np.bool_)
    if table.kind == "moe":
        return found
    measured = table.latency_us * 1e-6
    for _, rows in table.sets():
        trivial = rows[floor_s[rows] < TRIVIAL_S]
        if len(trivial) < LEAST_TRIVIAL_ROWS:
            continue
        if np.percentile(measured[trivial], 5) >= HOST_FLOOR_S:
            host_s = np.median(measured[trivial])
            stalled = (measured[rows] <= 4.0 * host_s) & (measured[rows] > 4.0 * floor_s[rows])
            found[rows] = (measured[rows] <= 1.3 * host_s) | stalled
    return found
