"""Compiled price of decode attention: split-KV thread blocks, their combination, L2-warm reads.

The constants repeat ``layout`` (a test says so): Numba's cache hashes only this file, so that it
stands alone. Formulas and sources: ``docs/kernels-attention.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

STEP = 64.0
SPLIT_LIMIT = 256.0


@kernel
def _splits(
    blocks: float,
    steps: float,
    block_s: float,
    step_s: float,
    combine_s: float,
    combined_s: float,
    cores: float,
    fixed: float,
) -> float:
    """Time of ``blocks`` rows of ``steps`` steps, ``fixed`` splits each or (0) the fastest number.

    Splits that are picked are powers of two, up to the first that leaves one step a block: with
    a last split that is partly empty, one more key never makes the answer smaller.
    """
    if fixed > 0.0:
        wave_s = np.ceil(steps / fixed) * step_s + block_s
        made: float = max(blocks * fixed / cores, 1.0) * wave_s + combine_s + fixed * combined_s
        return made
    best = max(blocks / cores, 1.0) * (steps * step_s + block_s)
    split = 2.0
    while split < 2.0 * steps and split <= SPLIT_LIMIT:
        added = combine_s + split * combined_s
        if added >= best:
            break
        wave_s = np.ceil(steps / split) * step_s + block_s
        best = min(best, max(blocks * split / cores, 1.0) * wave_s + added)
        split *= 2.0
    return best


@kernel
def price(
    shapes: NDArray[np.float64],
    parameters: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write the seconds of every shape to ``out``; inputs are valid (see ``problem``)."""
    peak, hbm, cores, l2, kv_bytes = parameters[:5]
    launch_s, memory, l2_speedup, l2_share, sharpness = parameters[5:10]
    block_s, step_s, block_rate, combine_s, combine_memory, compute = parameters[10:16]
    block1_s, step1_s, block1_rate, combine1_s, combine1_memory = parameters[16:21]
    group_rows, group_min, group_max, splits, split_batch = parameters[21:26]
    warm = l2_share * l2
    for i in range(shapes.shape[0]):
        batch, heads, kv_heads, kv_len, window, qk_dim, v_dim, cached = shapes[i]
        seen = min(kv_len, window) if window > 0.0 else kv_len
        steps = np.ceil(seen / STEP)
        group = heads / kv_heads
        kv_step = STEP * cached * kv_bytes
        sums = 8.0 * batch * heads * v_dim / hbm
        fixed = splits if batch <= split_batch else 0.0
        if group_min <= group <= group_max:
            blocks = batch * kv_heads * np.ceil(group / group_rows)
            multiply = 2.0 * STEP * group_rows * (qk_dim + v_dim) * cores / (compute * peak)
            one = max(step_s, max(kv_step / block_rate, multiply))
            busy = _splits(
                blocks, steps, block_s, one, combine_s, sums / combine_memory, cores, fixed
            )
        else:
            one = max(step1_s, kv_step / block1_rate)
            added = sums / combine1_memory
            busy = _splits(batch * heads, steps, block1_s, one, combine1_s, added, cores, fixed)
        moved = batch * kv_heads * cached * (seen * kv_bytes + 2.0 + kv_bytes)
        moved += 2.0 * batch * heads * (qk_dim + v_dim)
        missed = moved * moved / (moved * moved + warm * warm)
        read = moved * (missed + (1.0 - missed) / l2_speedup) / (memory * hbm)
        high = max(busy, read)
        low = min(busy, read)
        joined = high * (1.0 + (low / high) ** sharpness) ** (1.0 / sharpness)
        out[i] = launch_s + joined


@kernel
def bound(
    shapes: NDArray[np.float64],
    parameters: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Write FLOPs over peak or bytes beyond the L2 over HBM bandwidth, whichever takes longer."""
    peak, hbm, _, l2, kv_bytes = parameters[:5]
    for i in range(shapes.shape[0]):
        batch, heads, kv_heads, kv_len, window, qk_dim, v_dim, cached = shapes[i]
        seen = min(kv_len, window) if window > 0.0 else kv_len
        flops = 2.0 * batch * heads * seen * (qk_dim + v_dim)
        moved = batch * kv_heads * cached * seen * kv_bytes + 2.0 * batch * heads * (qk_dim + v_dim)
        out[i] = max(flops / peak, max(0.0, moved - l2) / hbm)


@kernel
def problem(shapes: NDArray[np.float64]) -> int:
    """Return the first shape that cannot be priced, or -1."""
    for i in range(shapes.shape[0]):
        shape = shapes[i]
        for j in range(8):
            least = 0.0 if j == 4 else 1.0
            if not least <= shape[j] < np.inf:
                return i
        if shape[1] % shape[2] != 0.0:
            return i
    return -1
