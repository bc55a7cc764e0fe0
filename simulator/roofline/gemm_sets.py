"""Which measured GEMM set stands for a device's dtype where the stack's library is not known."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.kernels import KernelSet, load_kernel_sets
from ridgeline.simulator.roofline import _kernels, layout
from ridgeline.simulator.roofline.gemm_parameters import put_correction, put_parameters

Floats: TypeAlias = NDArray[np.float64]

SETS_OF = {
    "bf16": ("bfloat16", "float16"),
    "fp16": ("float16", "bfloat16"),
    "fp8": ("fp8",),
    "fp4": ("nvfp4", "mxfp4"),
    "int8": ("sq",),
}
"""Dtype of operators -> dtypes of measured sets that price it, first found first."""
NOISE = 0.02
"""Two libraries closer than this are alike: two versions of one library differ by 1-2%."""

_LARGE = tuple(product((4096, 8192, 16384), (4096, 8192, 16384), (4096, 8192, 16384)))
"""m, n, k of the matrix products that fill a training step."""


def default_set(
    accelerator: str, dtypes: tuple[str, ...], row: Floats, library: str | None
) -> KernelSet | None:
    """Return the set that stands for a dtype: the conservative one, or a library's own.

    Conservative is the slowest by median over large shapes; of several within ``NOISE`` of it,
    the one that predicts its held-out shapes best.

    Parameters
    ----------
    accelerator
        Name of the profile.
    dtypes
        Dtypes of sets, first found first.
    row
        The dtype's row of a device table, for its datasheet figures.
    library
        Only this library's sets, where it has any for the dtype; None for all.

    Raises
    ------
    InputError
        The library has no GEMM set for the device at all.
    """
    every = load_kernel_sets(accelerator, "gemm")
    if library is not None and library not in {one.library for one in every}:
        has = ", ".join(sorted({one.library for one in every})) or "none"
        raise InputError(f"{accelerator}: no GEMM kernel set of library {library!r}; it has {has}")
    for dtype in dtypes:
        sets = tuple(one for one in every if one.dtype == dtype)
        sets = tuple(one for one in sets if one.library == library) or sets
        if sets:
            figures = (row[layout.PEAK], row[layout.HBM], row[layout.CORES])
            return _conservative(accelerator, dtype, tuple(one.name for one in sets), figures)
    return None


@lru_cache(maxsize=256)
def _conservative(
    accelerator: str, dtype: str, names: tuple[str, ...], figures: tuple[float, float, float]
) -> KernelSet:
    every = load_kernel_sets(accelerator, "gemm")
    sets = [one for one in every if one.dtype == dtype and one.name in names]
    if len(sets) == 1:
        return sets[0]
    seconds = np.array([_large_seconds(one, figures) for one in sets])
    speed = np.median(seconds / seconds.max(axis=0), axis=1)
    alike = [one for one, s in zip(sets, speed.tolist(), strict=True) if s >= speed.max() - NOISE]
    return min(alike, key=lambda one: one.held_out["mape"])


def _large_seconds(one: KernelSet, figures: tuple[float, float, float]) -> Floats:
    """Return the burst seconds of the large shapes."""
    count = len(_LARGE)
    table = np.zeros((1, layout.PARAMETERS + layout.CORRECTIONS))
    row = table[0]
    row[layout.PEAK], row[layout.HBM], row[layout.CORES] = figures
    row[layout.SUSTAINED] = row[layout.SUSTAINED_AFTER] = 1.0
    put_parameters(row, one.dtype, one.parameters)
    put_correction(row[layout.PARAMETERS :], one.correction)
    table.flags.writeable = False
    dims = np.zeros((count, layout.DIMS), np.int64)
    dims[:, :3] = _LARGE
    dims[:, 3] = 1
    kind = np.full(count, layout.GEMM, np.int8)
    extra = np.tile([0.0, 1.0, 1.0], (count, 1))
    seconds = np.empty(count)
    _kernels.price(kind, np.zeros(count, np.int8), dims, extra, table, seconds)
    return seconds
