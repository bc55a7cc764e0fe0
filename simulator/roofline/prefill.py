"""Attention over prompts as one kernel library runs it on one device, KV write included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline import _kernels
from ridgeline.simulator.roofline.attention import (
    Floats,
    axis_names,
    check_operator,
    checked,
    coordinates,
    corrected,
    element_bytes,
    in_si,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet

SHAPE = ("batch", "seq_len", "heads", "kv_heads", "head_dim", "window")
FITTED = (
    "launch_us",
    "compute",
    "softmax_ps_per_score",
    "block_us",
    "lone",
    "tail",
    "memory",
    "sharpness",
    "write_memory",
    "query_block",
    "key_block",
    "packed",
)
"""Names of a prefill set's parameters, in the order in which the kernel reads them.

``launch_us``, ``compute``, ``softmax_ps_per_score``, ``block_us``, ``tail``, ``memory`` and
``sharpness`` are those of ``AttentionEfficiency``, with the units that they are named by.
``lone``: time of a block pair in the longest thread block over that in a full device.
``write_memory``: bandwidth of the separate kernel that writes new keys and values to the cache,
over HBM bandwidth (above 1 when they stay in the L2). ``query_block``, ``key_block``: queries and
keys of one block. ``packed``: 1 when the heads of one KV head share blocks.
"""


_PARAMETERS = ByIdentity[Floats]()


def prefill_parameters(
    parameters: Mapping[str, float], dtype: str, accelerator: Accelerator
) -> Floats:
    """Return what the kernel reads: the datasheet, then the fitted values."""
    compute, cached = element_bytes(dtype)
    device = (
        accelerator.peak("fp8" if compute == 1.0 else "bf16"),
        accelerator.memory_bytes_per_s,
        float(accelerator.cores),
        compute,
        cached,
    )
    return np.array([*device, *in_si(parameters, FITTED)])


def predict_prefill(
    batch: ArrayLike,
    seq_len: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    window: ArrayLike,
    *,
    kernel_set: KernelSet,
    accelerator: Accelerator,
) -> Floats:
    """Return the seconds of causal attention over prompts without a prefix, at burst clock.

    Parameters
    ----------
    batch, seq_len, heads, kv_heads, head_dim
        Whole numbers, at least 1; arrays are broadcast to N shapes. ``heads`` is a multiple of
        ``kv_heads``.
    window
        Keys that a query sees, 0 for all.
    kernel_set
        A set with ``op = "prefill"``.
    accelerator
        The device that the set was fitted on.

    Returns
    -------
    float64[N]
        Seconds of the whole attention call under graph replay: attention, the write to the KV
        cache and, where the library does it there, the rotation. Never under the FLOPs over the
        datasheet peak, nor under the bytes beyond the L2 over the datasheet HBM bandwidth.

    Raises
    ------
    InputError
        The set is of another operator, or a shape cannot be priced.

    Notes
    -----
    Formula and fit: ``docs/kernels-attention.md``.
    """
    check_operator(kernel_set, "prefill")
    columns = (batch, seq_len, heads, kv_heads, head_dim, window)
    shapes = checked("prompt", SHAPE, columns, _kernels.prefill_problem)
    parameters = _PARAMETERS.of(
        (kernel_set, accelerator),
        lambda: prefill_parameters(kernel_set.parameters, kernel_set.dtype, accelerator),
    )
    seconds = np.empty(len(shapes))
    _kernels.prefill(shapes, parameters, seconds)
    coords = prefill_coordinates(shapes, axis_names(kernel_set.correction))
    seconds = corrected(seconds, coords, kernel_set.correction)
    least = np.empty(len(shapes))
    _kernels.prefill_bound(shapes, parameters, accelerator.l2_bytes, least)
    return np.maximum(seconds, least)


def prefill_coordinates(shapes: Floats, only: Collection[str] | None = None) -> dict[str, Floats]:
    """Return the coordinates that a prefill correction may use, or those named: log2 of each."""
    batch, seq_len, heads, kv_heads, head_dim, window = shapes.T
    return coordinates(
        only,
        seq_len=seq_len,
        rows=batch * heads,
        group=heads / kv_heads,
        head_dim=head_dim,
        windowed=np.where((window > 0) & (window < seq_len), 2.0, 1.0),
    )
