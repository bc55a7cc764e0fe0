"""The face of the compiled roofline: an accelerator's parameters, checked prices and bounds."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.efficiency import AttentionEfficiency, Efficiency, GemmEfficiency
from ridgeline.hardware.profiles import universal_efficiency
from ridgeline.simulator.roofline import _kernels, layout
from ridgeline.simulator.roofline.gemm_parameters import put_correction, put_parameters
from ridgeline.simulator.roofline.gemm_sets import SETS_OF, default_set

Floats: TypeAlias = NDArray[np.float64]
T = TypeVar("T")
Operators: TypeAlias = tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int64], Floats]

# Which measured set stands in for a dtype that a profile has none for, nearest first: kernels of
# one operand width share tiles and library, and bf16 is the set that every profile has.
_STAND_INS = {
    "fp32": ("tf32", "bf16"),
    "tf32": ("fp32", "bf16"),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "fp8": ("int8", "bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "fp4": ("fp8", "int8", "bf16", "fp16"),
}
# WARM_BYTES, WARM_SHARE and, behind WAVE_BLEND, QUANTISE_ROW to TILE_BEYOND: kernel sets' alone.
_COLD = (1.0, 0.0)
_WITHOUT_SET = (0.0,) * (layout.PARAMETERS - layout.QUANTISE_ROW)
_DIM_NAMES = {
    layout.GEMM: ("m", "n", "k", "batch"),
    layout.GROUPED_GEMM: ("m", "n", "k", "groups"),
    layout.ATTENTION_FORWARD: (
        "batch",
        "heads",
        "kv_heads",
        "seq_q",
        "seq_kv",
        "head_dim",
        "v_head_dim",
    ),
}
_DIM_NAMES[layout.FUSED] = _DIM_NAMES[layout.GEMM]
_DIM_NAMES[layout.ATTENTION_BACKWARD] = _DIM_NAMES[layout.ATTENTION_FORWARD]

# Keyed by identity, because an accelerator holds dicts and cannot be hashed; the entry keeps its
# accelerator alive, so that an identity is never reused while it is here.
_CACHE: OrderedDict[tuple[int, bool, str, str | None], tuple[Accelerator, Floats]] = OrderedDict()
_CACHED = 64


RUNGS = ("corrected", "fitted", "universal")
DEFAULT_RUNG = "fitted"


def device_parameters(
    accelerator: Accelerator,
    *,
    sustained: bool = True,
    rung: str = DEFAULT_RUNG,
    library: str | None = None,
) -> Floats:
    """Return the parameters that the compiled kernels read, one row by dtype.

    Parameters
    ----------
    accelerator
        Datasheet and efficiencies.
    sustained
        Apply the clock of long load to compute time; False gives burst speeds, which is what
        kernel tables measure.
    rung
        Where the GEMM parameters come from: ``corrected`` (the device's kernel sets with their
        corrections, ``default_set`` of each dtype; the profile's for dtypes without a set),
        ``fitted`` (the profile's own), ``universal`` (those of its class, all kernels).
    library
        With ``corrected``: take this library's sets where it has any.

    Returns
    -------
    float64[len(DTYPES), PARAMETERS], or PARAMETERS + CORRECTIONS where a set corrects
        Read-only and shared between calls. ``PEAK`` is NaN in the row of a dtype that the
        accelerator lacks. A dtype without a measured set of its own takes that of the nearest
        one (fp16 that of bf16).

    Raises
    ------
    InputError
        An unknown rung, or a library that has no GEMM set for the device.
    """
    if rung not in RUNGS:
        raise InputError(f"rung {rung!r} is not known; {nearest(rung, RUNGS)}")
    key = (id(accelerator), sustained, rung, library)
    found = _CACHE.get(key)
    if found is not None:
        return found[1]
    efficiency = accelerator.efficiency
    if rung == "universal":
        efficiency = universal_efficiency(accelerator)
    table = np.empty((len(layout.DTYPES), layout.PARAMETERS))
    for index, dtype in enumerate(layout.DTYPES):
        element = layout.BYTES[index]
        table[index] = _row(accelerator, efficiency, dtype, element, sustained=sustained)
    if rung == "corrected":
        table = _with_sets(table, accelerator, library)
    table.flags.writeable = False
    _CACHE[key] = (accelerator, table)
    if len(_CACHE) > _CACHED:
        _CACHE.popitem(last=False)
    return table


def _with_sets(table: Floats, accelerator: Accelerator, library: str | None) -> Floats:
    """Return the table with the default kernel set of every dtype that has one."""
    wide = np.zeros((len(layout.DTYPES), layout.PARAMETERS + layout.CORRECTIONS))
    wide[:, : layout.PARAMETERS] = table
    used = False
    for dtype, names in SETS_OF.items():
        index = layout.DTYPES.index(dtype)
        chosen = default_set(accelerator.name, names, table[index], library)
        if chosen is None or not table[index, layout.PEAK] > 0.0:
            continue
        used = True
        put_parameters(wide[index], chosen.dtype, chosen.parameters)
        put_correction(wide[index, layout.PARAMETERS :], chosen.correction)
        # weights of a layer are cold when its turn comes; only a benchmark's loop keeps them warm
        wide[index, layout.WARM_SHARE] = 0.0
    return wide if used else table


def _row(
    accelerator: Accelerator,
    efficiency: Efficiency,
    dtype: str,
    element: float,
    *,
    sustained: bool,
) -> list[float]:
    """One dtype's parameters, in the order of the columns in ``layout``."""
    gemm: GemmEfficiency = _nearest_set(efficiency.gemm, dtype, accelerator.name, "gemm")
    attention: AttentionEfficiency = _nearest_set(
        efficiency.attention, dtype, accelerator.name, "attention"
    )
    clock = 1.0
    if sustained and efficiency.sustained:
        clock = _nearest_set(efficiency.sustained, dtype, accelerator.name, "sustained")
    return [
        accelerator.peak_flops.get(dtype, np.nan),
        accelerator.memory_bytes_per_s,
        float(accelerator.cores),
        float(accelerator.systolic),
        element,
        gemm.launch_s,
        gemm.compute,
        gemm.memory,
        gemm.l2_bytes_per_flop,
        gemm.tile_s,
        gemm.split_s,
        gemm.sharpness,
        gemm.step_s,
        gemm.quantise_s,
        gemm.quantise_memory,
        attention.launch_s,
        attention.compute,
        attention.softmax_s_per_score,
        attention.block_s,
        attention.tail,
        attention.memory,
        attention.sharpness,
        efficiency.elementwise_launch_s,
        efficiency.elementwise_memory,
        clock,
        efficiency.sustained_after_s,
        element,
        *_COLD,
        gemm.wave_blend,
        *_WITHOUT_SET,
    ]


def _nearest_set(sets: dict[str, T], dtype: str, name: str, what: str) -> T:
    for candidate in (dtype, *_STAND_INS[dtype]):
        if candidate in sets:
            return sets[candidate]
    raise InputError(f"{name}: efficiency.{what} has no set for bf16; give one (has {list(sets)})")


def price_operators(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: Floats,
    device: Accelerator | Floats,
) -> Floats:
    """Return the seconds of N operators on one accelerator.

    Parameters
    ----------
    kind, dtype, dims, extra
        Operators as ``layout`` has them.
    device
        An accelerator (sustained clock), or the result of ``device_parameters``.

    Returns
    -------
    float64[N]
        Seconds.

    Raises
    ------
    InputError
        A dtype that the device lacks, a dimension under 1, negative or non-finite bytes, a rate
        that is not positive, a skew under 1: every such row, one line each.
    """
    operators, parameters = _checked(kind, dtype, dims, extra, device)
    seconds = np.empty(len(operators[0]))
    _kernels.price(*operators, parameters, seconds)
    return seconds


def price_streams(moved_bytes: Floats, precision: str, accelerator: Accelerator) -> Floats:
    """Return the seconds of kernels that do no more than move float64[N] bytes."""
    n = len(moved_bytes)
    extra = np.ones((n, layout.EXTRAS))
    extra[:, 0] = moved_bytes
    dtype = layout.FP32 if precision in ("fp32", "tf32") else layout.BF16
    return price_operators(
        np.full(n, layout.MEMORY, np.int8),
        np.full(n, layout.FP32 if "bf16" not in accelerator.peak_flops else dtype, np.int8),
        np.zeros((n, layout.DIMS), np.int64),
        extra,
        accelerator,
    )


def bounds(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: Floats,
    device: Accelerator | Floats,
) -> tuple[Floats, Floats]:
    """Return the datasheet roofline of N operators: no price is under either of the two.

    Takes and refuses what ``price_operators`` does.

    Returns
    -------
    float64[N], float64[N]
        Useful FLOPs (under the mask, nothing padded) over the datasheet peak, s, and bytes that
        must move over the datasheet HBM bandwidth, s.
    """
    operators, parameters = _checked(kind, dtype, dims, extra, device)
    flop_s = np.empty(len(operators[0]))
    byte_s = np.empty(len(operators[0]))
    _kernels.bound(*operators, parameters, flop_s, byte_s)
    return flop_s, byte_s


def _checked(
    kind: NDArray[np.int8],
    dtype: NDArray[np.int8],
    dims: NDArray[np.int64],
    extra: Floats,
    device: Accelerator | Floats,
) -> tuple[Operators, Floats]:
    parameters = device_parameters(device) if isinstance(device, Accelerator) else device
    if parameters.flags.writeable:  # one constness, so that the kernels are compiled once
        parameters = parameters.view()
        parameters.flags.writeable = False
    count = len(kind)
    assert dtype.shape == (count,)
    assert dims.shape == (count, layout.DIMS)
    assert extra.shape == (count, layout.EXTRAS)
    assert parameters.shape[0] == len(layout.DTYPES)
    assert parameters.shape[1] in (layout.PARAMETERS, layout.PARAMETERS + layout.CORRECTIONS)
    operators = (
        np.ascontiguousarray(kind, np.int8),
        np.ascontiguousarray(dtype, np.int8),
        np.ascontiguousarray(dims, np.int64),
        np.ascontiguousarray(extra, np.float64),
    )
    if _kernels.problem(*operators, parameters) >= 0:
        name = device.name if isinstance(device, Accelerator) else "the device"
        raise InputError(_problems(operators, parameters, name))
    return operators, parameters


def _problems(operators: Operators, parameters: Floats, name: str) -> list[str]:
    """Say what is wrong with every row that ``_kernels.problem`` stops at, first 20."""
    lines: list[str] = []
    for i in range(len(operators[0])):
        kind, dtype, dims, extra = operators
        one = (kind[i : i + 1], dtype[i : i + 1], dims[i : i + 1], extra[i : i + 1])
        if _kernels.problem(*one, parameters) >= 0:
            lines.append(f"operator {i} {_problem(one, parameters, name)}")
        if len(lines) == 20:
            lines.append("(further operators not shown)")
            break
    return lines


def _problem(one: Operators, parameters: Floats, name: str) -> str:
    kind, dtype = int(one[0][0]), int(one[1][0])
    dims, extra = one[2][0].tolist(), one[3][0].tolist()
    if not 0 <= kind < len(layout.KINDS):
        return f"has kind {kind}: kinds are 0 to {len(layout.KINDS) - 1}"
    what = f"({layout.KINDS[kind]})"
    if not 0 <= dtype < len(layout.DTYPES):
        return f"{what} has dtype {dtype}: dtypes are 0 to {len(layout.DTYPES) - 1}"
    moved, rate, skew = extra[layout.BYTES_MOVED], extra[layout.RATE], extra[layout.SKEW]
    if not 0.0 <= moved < np.inf:
        return f"{what} moves {moved} bytes: bytes must be finite and not negative"
    if not parameters[dtype, layout.PEAK] > 0.0:
        has = [d for d, p in zip(layout.DTYPES, parameters[:, layout.PEAK], strict=True) if p > 0]
        lacked = layout.DTYPES[dtype]
        return f"{what} computes in {lacked}, which {name} lacks; it has {', '.join(has)}"
    if not 0.0 < rate < np.inf:
        return f"{what} has rate {rate}: a rate must be finite and above 0 (1 is as fitted)"
    names = _DIM_NAMES[kind]
    for dim, value in zip(names, dims, strict=False):
        if value < 1:
            return f"{what} has {dim} = {value}: every dimension must be at least 1"
    if kind == layout.FUSED:
        return f"{what} stages its outputs {dims[4]} times: 0 or more"
    if kind in (layout.GEMM, layout.GROUPED_GEMM):
        if dims[4] not in (0, 1):
            return f"{what} has dynamic quantisation {dims[4]}: 0 or 1"
        return f"{what} has skew {skew}: busiest over mean group is finite and at least 1"
    if dims[7] < 0:
        return f"{what} has window {dims[7]}: 0 (none) or the keys that a query sees"
    if dims[8] not in (0, 1):
        return f"{what} has causal {dims[8]}: 0 or 1"
    return (
        f"{what} has {dims[1]} heads and {dims[2]} kv_heads: heads must be a multiple of kv_heads"
    )
