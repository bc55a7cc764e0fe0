"""Fused mixture-of-experts layers on one rank: the readable face of ``_kernels``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline.attention import (
    Floats,
    axis_names,
    coordinates,
    corrected,
    in_si,
    stacked,
)
from ridgeline.simulator.roofline.moe import _kernels

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet

SHAPE = ("tokens", "hidden", "ffn", "top_k", "experts", "tp", "ep", "exponent")
"""Columns of a shape, in the order in which the kernel reads them."""

FITTED = (
    "launch_us",
    "compute",
    "memory",
    "core_gb_per_s",
    "tile_us",
    "step_ns",
    "sharpness",
    "elementwise",
    "expert_ns",
    "remote",
    "route_us",
    "floor_rows",
)
"""Names of a set's fitted parameters, in the order in which the kernel reads them.

``launch_us``: fixed time of the layer's kernels. ``compute``: fraction of the datasheet peak.
``memory``: fraction of the datasheet HBM bandwidth at which weights are read. ``core_gb_per_s``:
rate at which one core takes in operands. ``tile_us``: prologue and epilogue of one output tile.
``step_ns``: latency of 64 steps of the inner dimension. ``sharpness``: exponent that joins compute
and memory time. ``elementwise``: fraction of HBM bandwidth of what moves activations (above 1
where they stay in the L2). ``expert_ns``: time for each expert on the rank. ``remote``: share of
the pairs of other ranks' experts that the element-wise kernels walk over too. ``route_us``: time
per doubling of the routed pairs (sorting). ``floor_rows``: rows that a tensor-core tile multiplies
at least. ``projections`` (beside these): matrices of an expert, 3 when gated, else 2.
"""

# What a precision means to the tensor cores: format of the products, bytes of a weight and of an
# activation. Block scales counted in: 1 byte per 16 values (nvfp4), per 32 (mx formats), 2 bytes
# per 128 (int4).
PRECISIONS = {
    "bfloat16": ("bf16", 2.0, 2.0),
    "float16": ("fp16", 2.0, 2.0),
    "fp8": ("fp8", 1.0, 1.0),
    "fp8_block": ("fp8", 1.0, 1.0),
    "nvfp4": ("fp4", 0.5625, 0.5625),
    "int4_wo": ("bf16", 0.515625, 2.0),
    "w4a16_mxfp4": ("bf16", 0.53125, 2.0),
    "w4a8_mxfp4_mxfp8": ("fp8", 0.53125, 1.03125),
}
BALANCED = "balanced"
POWER_LAW = "power_law_"


def exponent_of(distributions: Sequence[str]) -> Floats:
    """Return the routing exponent of ``balanced`` (0) and ``power_law_EXPONENT``, float64[N].

    Raises
    ------
    InputError
        Another name, or an exponent that is not a finite number above 0.
    """
    known: dict[str, float] = {BALANCED: 0.0}
    for name in set(distributions) - set(known):
        text = name.removeprefix(POWER_LAW)
        try:
            value = float(text) if text != name else np.nan
        except ValueError:
            value = np.nan
        if not 0.0 < value < np.inf:
            raise InputError(
                f"distribution {name!r}: give {BALANCED} or {POWER_LAW}EXPONENT, "
                "for example power_law_1.2"
            )
        known[name] = value
    return np.array([known[name] for name in distributions], np.float64)


_PARAMETERS = ByIdentity[tuple[Floats, Floats]]()


def moe_parameters(
    parameters: Mapping[str, float], dtype: str, accelerator: Accelerator
) -> tuple[Floats, Floats]:
    """Return what the kernel reads: the device in this precision, and the fitted values.

    Raises
    ------
    InputError
        A precision that no set has, or one whose products the device has no peak for.
    """
    if dtype not in PRECISIONS:
        raise InputError(f"expert precision {dtype!r} is not known; {nearest(dtype, PRECISIONS)}")
    product, weight, activation = PRECISIONS[dtype]
    device = (
        accelerator.peak(product),
        accelerator.memory_bytes_per_s,
        float(accelerator.cores),
        weight,
        activation,
        parameters["projections"],
    )
    return np.array(device), np.array(in_si(parameters, FITTED))


def predict_moe(
    tokens: ArrayLike,
    hidden: ArrayLike,
    ffn: ArrayLike,
    top_k: ArrayLike,
    experts: ArrayLike,
    tp: ArrayLike,
    ep: ArrayLike,
    exponent: ArrayLike,
    *,
    kernel_set: KernelSet,
    accelerator: Accelerator,
) -> Floats:
    """Return the seconds of the expert layer on the busiest rank, at burst clock.

    Parameters
    ----------
    tokens
        Tokens that all ranks of the expert group route together, at least 1. All columns are
        broadcast to N shapes.
    hidden, ffn
        Width of the model and of one expert, before tensor parallelism.
    top_k, experts
        Experts of a token, and experts of the layer before expert parallelism.
    tp, ep
        Ranks that share an expert's matrices, and ranks that share the experts.
    exponent
        Of the power law of tokens over experts (``exponent_of``), 0 when balanced.
    kernel_set
        A set with ``op = "moe"``.
    accelerator
        The device that the set was fitted on.

    Returns
    -------
    float64[N]
        Seconds under graph replay: permutation, quantisation, both grouped GEMMs, activation and
        weighted sum; the exchange between ranks and the router are not in it. Never under the
        FLOPs of balanced routing over the datasheet peak.

    Raises
    ------
    InputError
        The set is of another operator, or a shape cannot be priced.

    Notes
    -----
    Formula and fit: ``docs/kernels-moe.md``.
    """
    if kernel_set.op != "moe":
        raise InputError(f"kernel set is for {kernel_set.op}: give one for moe")
    table = stacked(SHAPE, (tokens, hidden, ffn, top_k, experts, tp, ep, exponent))
    _check(table)
    device, fit = _PARAMETERS.of(
        (kernel_set, accelerator),
        lambda: moe_parameters(kernel_set.parameters, kernel_set.dtype, accelerator),
    )
    seconds = np.empty(len(table))
    _kernels.price(table, device, fit, seconds)
    coords = moe_coordinates(table, axis_names(kernel_set.correction))
    seconds = corrected(seconds, coords, kernel_set.correction)
    count, width, inner, k, _, shards, ranks, _ = table.T
    flops = 2.0 * kernel_set.parameters["projections"] * count * k / ranks * width * inner / shards
    least: Floats = np.maximum(seconds, flops / device[_kernels.PEAK])
    return least


def _check(table: Floats) -> None:
    if not len(table):
        return
    least, most = table.min(axis=0).tolist(), table.max(axis=0).tolist()
    sure = min(least[:-1]) >= 1.0 and max(most[:-1]) < np.inf
    sure = sure and 0.0 <= least[-1] <= most[-1] <= 8.0 and max(most[3], most[6]) <= least[4]
    if sure and most[5] <= least[2]:  # ranges are enough to say that no row can be wrong
        return
    sizes, exponent = table[:, :-1], table[:, -1]
    bad = ~(np.isfinite(sizes) & (sizes >= 1.0)).all(axis=1)
    bad |= ~(np.isfinite(exponent) & (exponent >= 0.0) & (exponent <= 8.0))
    bad |= (table[:, 3] > table[:, 4]) | (table[:, 5] > table[:, 2]) | (table[:, 6] > table[:, 4])
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"expert layer {row} is {dict(zip(SHAPE, table[row].tolist(), strict=True))}: every "
            "size must be at least 1, top_k and ep at most experts, tp at most ffn, "
            "exponent 0 to 8"
        )


def moe_coordinates(table: Floats, only: Collection[str] | None = None) -> dict[str, Floats]:
    """Return the coordinates that a correction may use: log2 of each, but for the exponent.

    Of those named alone, where ``only`` names any.
    """
    tokens, hidden, ffn, top_k, experts, tp, ep, exponent = table.T
    found = coordinates(
        only,
        tokens=tokens,
        rows=tokens * top_k / experts,
        ep=ep,
        experts_here=np.maximum(1.0, experts / ep),
        inner=ffn / tp,
        hidden=hidden,
        experts=experts,
        top_k=top_k,
        share=top_k / experts,
    )
    return found | {"exponent": exponent}
