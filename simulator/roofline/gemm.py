"""GEMM kernel sets: their parameters in a device's table, and the price of measured shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import Correction, KernelSet
from ridgeline.simulator.roofline import _kernels, layout

Floats: TypeAlias = NDArray[np.float64]

AXES = ("m", "n", "k")
"""Axes of a GEMM correction, log2 each."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a GEMM of some dtype of the measured tables moves and multiplies its operands."""

    compute: str
    """Row of the device table: the number format that is multiplied."""
    activation_bytes: float
    weight_bytes: float
    quantised: bool
    """The activation is quantised inside the measured time."""


FORMATS = {
    "bfloat16": Format("bf16", 2.0, 2.0, False),
    "float16": Format("fp16", 2.0, 2.0, False),
    "fp8": Format("fp8", 1.0, 1.0, True),
    # one fp32 scale for 128 activations and for 128 x 128 weights (DeepSeek-V3 report, 3.3.2)
    "fp8_block": Format("fp8", 1.0 + 4 / 128, 1.0 + 4 / 128**2, True),
    # one fp8 scale for 16 values (NVIDIA, NVFP4)
    "nvfp4": Format("fp4", 0.5 + 1 / 16, 0.5 + 1 / 16, True),
    # one 8-bit exponent for 32 values (OCP Microscaling Formats 1.0)
    "mxfp4": Format("fp4", 0.5 + 1 / 32, 0.5 + 1 / 32, True),
    "int8_wo": Format("bf16", 2.0, 1.0, False),
    "int4_wo": Format("bf16", 2.0, 0.5, False),
    "sq": Format("int8", 1.0, 1.0, True),
}
"""By dtype of a measured table. Weight-only formats (``_wo``) multiply at the rate of bf16."""

# Parameter of a set -> (column, SI scale, value when absent).
PARAMETERS: dict[str, tuple[int, float, float | None]] = {
    "launch_us": (layout.GEMM_LAUNCH, 1e-6, None),
    "compute": (layout.GEMM_COMPUTE, 1.0, None),
    "memory": (layout.GEMM_MEMORY, 1.0, None),
    "l2_bytes_per_flop": (layout.GEMM_L2, 1.0, None),
    "tile_us": (layout.GEMM_TILE, 1e-6, None),
    "split_us": (layout.GEMM_SPLIT, 1e-6, None),
    "sharpness": (layout.GEMM_SHARPNESS, 1.0, None),
    "step_ns": (layout.GEMM_STEP, 1e-9, None),
    "quantise_us": (layout.QUANTISE, 1e-6, 0.0),
    "quantise_memory": (layout.QUANTISE_MEMORY, 1.0, 1.0),
    "quantise_ns_per_row": (layout.QUANTISE_ROW, 1e-9, 0.0),
    "warm_mb": (layout.WARM_BYTES, 1e6, 1.0),
    "warm_share": (layout.WARM_SHARE, 1.0, 0.0),
    "wave_blend": (layout.WAVE_BLEND, 1.0, 0.0),
    "tile_to_64": (layout.TILE_TO_64, 1.0, 0.0),
    "tile_to_128": (layout.TILE_TO_128, 1.0, 0.0),
    "tile_to_512": (layout.TILE_TO_512, 1.0, 0.0),
    "tile_beyond": (layout.TILE_BEYOND, 1.0, 0.0),
}
_FRACTIONS = ("compute", "memory", "quantise_memory", "warm_share", "wave_blend")


def gemm_format(dtype: str) -> Format:
    """Return how a measured dtype computes.

    Raises
    ------
    InputError
        A dtype that no model is known for.
    """
    if dtype not in FORMATS:
        raise InputError(f"dtype {dtype!r} has no GEMM model; {nearest(dtype, FORMATS)}")
    return FORMATS[dtype]


def put_parameters(row: Floats, dtype: str, parameters: dict[str, float]) -> None:
    """Write a set's parameters into one dtype's row of a device table.

    Raises
    ------
    InputError
        A parameter that is missing, unknown, negative, or a fraction above 1.
    """
    for name in parameters:
        if name not in PARAMETERS:
            raise InputError(f"gemm parameter {name!r} is unknown; {nearest(name, PARAMETERS)}")
    for name, (column, scale, absent) in PARAMETERS.items():
        value = parameters.get(name, absent)
        if value is None:
            raise InputError(f"gemm parameter {name!r} is missing")
        most = 1.0 if name in _FRACTIONS else np.inf
        if name.startswith("tile_") and name != "tile_us":
            most = len(layout.TILES)
        if not 0.0 <= value <= most:
            raise InputError(f"gemm parameter {name} = {value!r}: must be 0 to {most:g}")
        row[column] = value * scale
    form = gemm_format(dtype)
    row[layout.ELEMENT_BYTES] = form.activation_bytes
    row[layout.WEIGHT_BYTES] = form.weight_bytes


def put_correction(grid: Floats, correction: Correction | None) -> None:
    """Write a correction over log2 m, n, k into the ``GRID`` columns of one dtype.

    Raises
    ------
    InputError
        Other axes, or more nodes than there is room for.
    """
    grid[:] = 0.0
    if correction is None:
        return
    names = tuple(name for name, _ in correction.axes)
    if names != AXES or max(correction.shape) > layout.GRID_NODES:
        rule = f"axes {', '.join(AXES)} with at most {layout.GRID_NODES} nodes each"
        raise InputError(f"gemm correction has axes {names} {correction.shape}: it needs {rule}")
    grid[: layout.GRID_AXES] = correction.shape
    for axis, (_, nodes) in enumerate(correction.axes):
        start = layout.GRID_AXES + axis * layout.GRID_NODES
        grid[start : start + len(nodes)] = nodes
    start = layout.GRID_AXES * (1 + layout.GRID_NODES)
    grid[start : start + len(correction.values)] = correction.values


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
    float64[len(DTYPES), PARAMETERS + GRID]
        Only the row of the format that the set multiplies in is the set's.
    """
    assert kernel_set.op == "gemm"
    index = layout.DTYPES.index(gemm_format(kernel_set.dtype).compute)
    table = np.zeros((len(layout.DTYPES), layout.PARAMETERS + layout.GRID))
    table[:, : layout.PARAMETERS] = burst[:, : layout.PARAMETERS]
    put_parameters(table[index], kernel_set.dtype, kernel_set.parameters)
    put_correction(table[index, layout.PARAMETERS :], kernel_set.correction)
    return table


def predict_gemm(
    burst: Floats,
    kernel_set: KernelSet,
    m: NDArray[np.int64],
    n: NDArray[np.int64],
    k: NDArray[np.int64],
) -> Floats:
    """Return the burst seconds of out[m,n] = x[m,k] W[n,k]^T by one kernel set, float64[N].

    Parameters
    ----------
    burst
        ``device_parameters(accelerator, sustained=False)``.
    kernel_set
        A set of op gemm; dynamic quantisation is counted where its format has it.
    m, n, k
        int64[N], at least 1.

    Raises
    ------
    InputError
        A dimension under 1, or a format that the device lacks.
    """
    table = set_table(burst, kernel_set)
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
