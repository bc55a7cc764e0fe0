"""The face of decode attention: checked shapes in, seconds out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ridgeline.simulator.identity import ByIdentity
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
from ridgeline.simulator.roofline.decode import _kernels, layout

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet

_NAMES = ("batch", "heads", "kv_heads", "kv_len", "window", "qk_dim", "v_dim", "cached")


_PARAMETERS = ByIdentity[Floats]()


def set_parameters(kernel_set: KernelSet, accelerator: Accelerator) -> Floats:
    """Return ``decode_parameters`` of a set: not to be changed."""
    return _PARAMETERS.of(
        (kernel_set, accelerator),
        lambda: decode_parameters(kernel_set.parameters, kernel_set.dtype, accelerator),
    )


def decode_parameters(
    parameters: Mapping[str, float], dtype: str, accelerator: Accelerator
) -> Floats:
    """Return what the kernel reads: the datasheet, then the fitted values."""
    compute, cached = element_bytes(dtype)
    device = (
        accelerator.peak("fp8" if compute == 1.0 else "bf16"),
        accelerator.memory_bytes_per_s,
        float(accelerator.cores),
        accelerator.l2_bytes,
        cached,
    )
    return np.array([*device, *in_si(parameters, layout.FITTED)])


def predict_decode(
    batch: ArrayLike,
    kv_len: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    window: ArrayLike,
    *,
    kernel_set: KernelSet,
    accelerator: Accelerator,
) -> Floats:
    """Return the seconds of attention of one new token per sequence, at burst clock.

    Parameters
    ----------
    batch, kv_len, heads, kv_heads, head_dim
        Whole numbers, at least 1; arrays are broadcast to N shapes. ``kv_len`` counts the new
        token; ``heads`` is a multiple of ``kv_heads``.
    window
        Keys that a query sees, 0 for all.
    kernel_set
        A set with ``op = "decode"``.
    accelerator
        The device that the set was fitted on.

    Returns
    -------
    float64[N]
        Seconds of the whole attention call under graph replay, the KV write included. Never under
        the FLOPs over the datasheet peak, nor under the bytes beyond the L2 over the datasheet
        HBM bandwidth.

    Raises
    ------
    InputError
        The set is of another operator, or a shape cannot be priced.

    Notes
    -----
    Formula and fit: ``docs/kernels-attention.md``.
    """
    check_operator(kernel_set, "decode")
    dims = np.asarray(head_dim, float)
    shapes = decode_shapes(batch, kv_len, heads, kv_heads, window, dims, dims, 2.0 * dims)
    parameters = set_parameters(kernel_set, accelerator)
    seconds = np.empty(len(shapes))
    _kernels.price(shapes, parameters, seconds)
    coords = decode_coordinates(shapes, axis_names(kernel_set.correction))
    seconds = corrected(seconds, coords, kernel_set.correction)
    return _bounded(seconds, shapes, parameters)


def predict_mla_decode(
    batch: ArrayLike,
    kv_len: ArrayLike,
    heads: ArrayLike,
    *,
    kernel_set: KernelSet,
    accelerator: Accelerator,
    latent_dim: int = 512,
    rope_dim: int = 64,
) -> Floats:
    """Return the seconds of latent attention (MLA) decode with absorbed projections.

    All heads share one cached row of ``latent_dim + rope_dim`` values a token, which is both key
    and value (DeepSeek-V2, arXiv 2405.04434, section 2.1: 512 + 64). No table measures it: the
    parameters are those of the set's grouped kernel, without the correction, whose data lie
    elsewhere. Takes, returns and refuses what ``predict_decode`` does.
    """
    check_operator(kernel_set, "decode")
    width = latent_dim + rope_dim
    shapes = decode_shapes(batch, kv_len, heads, 1, 0, width, latent_dim, width)
    grouped = kernel_set.parameters | {"group_min": 1.0, "group_max": np.inf}
    parameters = decode_parameters(grouped, kernel_set.dtype, accelerator)
    seconds = np.empty(len(shapes))
    _kernels.price(shapes, parameters, seconds)
    return _bounded(seconds, shapes, parameters)


def decode_shapes(
    batch: ArrayLike,
    kv_len: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    window: ArrayLike,
    qk_dim: ArrayLike,
    v_dim: ArrayLike,
    cached: ArrayLike,
) -> Floats:
    """Return the shapes as ``layout`` has them.

    Raises
    ------
    InputError
        The first shape that cannot be priced, and the rule.
    """
    columns = (batch, heads, kv_heads, kv_len, window, qk_dim, v_dim, cached)
    return checked("decode shape", _NAMES, columns, _kernels.problem)


def decode_coordinates(shapes: Floats, only: Collection[str] | None = None) -> dict[str, Floats]:
    """Return the coordinates that a decode correction may use, or those named: log2 of each."""
    return coordinates(
        only,
        kv_len=shapes[:, layout.KV_LEN],
        batch=shapes[:, layout.BATCH],
        kv_heads=shapes[:, layout.KV_HEADS],
        rows=shapes[:, layout.BATCH] * shapes[:, layout.KV_HEADS],
        group=shapes[:, layout.HEADS] / shapes[:, layout.KV_HEADS],
        head_dim=shapes[:, layout.QK_DIM],
        windowed=np.where(shapes[:, layout.WINDOW] > 0, 2.0, 1.0),
    )


def _bounded(seconds: Floats, shapes: Floats, parameters: Floats) -> Floats:
    least = np.empty(len(shapes))
    _kernels.bound(shapes, parameters, least)
    return np.maximum(seconds, least)
