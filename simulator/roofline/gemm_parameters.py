"""GEMM kernel sets in a device's table: number formats, parameters, corrections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.kernels import Correction
from ridgeline.simulator.roofline import layout

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


def coordinates(
    m: NDArray[np.int64], n: NDArray[np.int64], k: NDArray[np.int64], cores: float
) -> dict[str, Floats]:
    """Return ``layout.COORDINATES`` of shapes by name, log2, float64[N] each."""
    side = layout.PAIR_TILE
    waves = np.ceil(m / layout.FILL_ROWS) * np.ceil(n / layout.FILL_COLUMNS) / cores
    return {
        "m": np.log2(m),
        "n": np.log2(n),
        "k": np.log2(k),
        "tiles": np.log2(np.ceil(m / side) * np.ceil(n / side) / cores),
        "last_rows": np.log2((m - 1) % layout.ROW_BLOCK + 1),
        "fill": np.log2(waves / np.ceil(waves)),
    }


def put_correction(columns: Floats, correction: Correction | None) -> None:
    """Write a correction into the ``CORRECTIONS`` columns of one dtype.

    Its first grid is over log2 m, n, k; those added to it over two of ``layout.COORDINATES``.

    Raises
    ------
    InputError
        Other axes, or more nodes or grids than there is room for.
    """
    columns[:] = 0.0
    if correction is None:
        return
    names = tuple(name for name, _ in correction.axes)
    if names != AXES or max(correction.shape) > layout.GRID_NODES:
        rule = f"axes {', '.join(AXES)} with at most {layout.GRID_NODES} nodes each"
        raise InputError(f"gemm correction has axes {names} {correction.shape}: it needs {rule}")
    columns[: layout.GRID_AXES] = correction.shape
    _put_grid(columns[layout.GRID_AXES : layout.GRID], correction, layout.GRID_NODES)
    if len(correction.more) > layout.PAIRS:
        rule = f"at most {layout.PAIRS}"
        raise InputError(f"gemm correction adds {len(correction.more)} grids: it may add {rule}")
    for place, grid in enumerate(correction.more):
        start = layout.GRID + place * layout.PAIR
        _put_pair(columns[start : start + layout.PAIR], grid)


def _put_pair(columns: Floats, grid: Correction) -> None:
    names = tuple(name for name, _ in grid.axes)
    fits = len(names) == 2 and all(2 <= count <= layout.PAIR_NODES for count in grid.shape)
    if not fits or len(grid.values) > layout.PAIR_VALUES or grid.more:
        rule = f"two axes of 2 to {layout.PAIR_NODES} nodes, {layout.PAIR_VALUES} values at most"
        raise InputError(f"gemm correction adds a grid over {names} {grid.shape}: it needs {rule}")
    for axis, name in enumerate(names):
        if name not in layout.COORDINATES:
            hint = nearest(name, layout.COORDINATES)
            raise InputError(f"gemm correction adds a grid over {name!r}, which is unknown; {hint}")
        columns[axis] = layout.COORDINATES.index(name) + 1
    columns[2:4] = grid.shape
    _put_grid(columns[4:], grid, layout.PAIR_NODES)


def _put_grid(columns: Floats, grid: Correction, room: int) -> None:
    for axis, (_, nodes) in enumerate(grid.axes):
        columns[axis * room : axis * room + len(nodes)] = nodes
    start = len(grid.axes) * room
    columns[start : start + len(grid.values)] = grid.values
