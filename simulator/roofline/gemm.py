"""Price measured GEMM shapes by a kernel set."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import KernelSet
from ridgeline.simulator.roofline import _kernels, layout
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.gemm_parameters import (
    gemm_format,
    put_correction,
    put_parameters,
)

Floats: TypeAlias = NDArray[np.float64]


def set_table(burst: Floats, kernel_set: KernelSet) -> Floats:
    """Return a device table whose GEMMs are those of one kernel set.

    Parameters
    ----------
    burst
        ``device_parameters(accelerator, sustained=False)``; not changed.
    kernel_set
        A set of op gemm.

    Returns
    -------
    float64[len(DTYPES), PARAMETERS + CORRECTIONS]
        Only the row of the format that the set multiplies in is the set's.
    """
    assert kernel_set.op == "gemm"
    index = layout.DTYPES.index(gemm_format(kernel_set.dtype).compute)
    table = np.zeros((len(layout.DTYPES), layout.PARAMETERS + layout.CORRECTIONS))
    table[:, : layout.PARAMETERS] = burst[:, : layout.PARAMETERS]
    put_parameters(table[index], kernel_set.dtype, kernel_set.parameters)
    put_correction(table[index, layout.PARAMETERS :], kernel_set.correction)
    return table


def predict_gemm(
    m: NDArray[np.int64],
    n: NDArray[np.int64],
    k: NDArray[np.int64],
    *,
    kernel_set: KernelSet,
    accelerator: Accelerator,
) -> Floats:
    """Return the burst seconds of out[m,n] = x[m,k] W[n,k]^T by one kernel set, float64[N].

    Parameters
    ----------
    m, n, k
        int64[N], at least 1.
    kernel_set
        A set of op gemm; dynamic quantisation is counted where its format has it.
    accelerator
        The device that the set was fitted on.

    Raises
    ------
    InputError
        A dimension under 1, or a format that the device lacks.
    """
    table = set_table(device_parameters(accelerator, sustained=False), kernel_set)
    return price_shapes(table, kernel_set.dtype, m, n, k)


def price_shapes(
    table: Floats,
    dtype: str,
    m: NDArray[np.int64],
    n: NDArray[np.int64],
    k: NDArray[np.int64],
) -> Floats:
    """Return the seconds of shapes in one measured dtype, by a table of ``set_table``."""
    form = gemm_format(dtype)
    index = layout.DTYPES.index(form.compute)
    count = len(m)
    dims = np.zeros((count, layout.DIMS), np.int64)
    dims[:, 0], dims[:, 1], dims[:, 2], dims[:, 3] = m, n, k, 1
    dims[:, 4] = form.quantised
    extra = np.ones((count, layout.EXTRAS))
    extra[:, layout.BYTES_MOVED] = 0.0
    kind = np.full(count, layout.GEMM, np.int8)
    dtypes = np.full(count, index, np.int8)
    table.flags.writeable = False  # one constness, so that the kernels are compiled once
    bad = _kernels.problem(kind, dtypes, dims, extra, table)
    if bad >= 0:
        if not table[index, layout.PEAK] > 0.0:
            raise InputError(f"{dtype} computes in {form.compute}, which the device lacks")
        shape = tuple(dims[bad, :3].tolist())
        raise InputError(f"row {bad}: m, n, k = {shape}: every dimension must be at least 1")
    seconds = np.empty(count)
    _kernels.price(kind, dtypes, dims, extra, table, seconds)
    return seconds
