"""Apply a correction to modelled seconds."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import Correction
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline.correction import _kernels

Floats: TypeAlias = NDArray[np.float64]


def flat_axes(correction: Correction) -> tuple[Floats, NDArray[np.int64]]:
    """Return the nodes of all axes one after the other, and how many each axis has."""
    nodes = np.concatenate([np.array(nodes, np.float64) for _, nodes in correction.axes])
    return nodes, np.array(correction.shape, np.int64)


def log_correction(coords: Floats, correction: Correction) -> Floats:
    """Return the correction at ``coords[N, D]`` (log2), natural logarithm, float64[N]."""
    coords = np.ascontiguousarray(coords, np.float64)
    assert coords.ndim == 2
    assert coords.shape[1] == len(correction.axes)
    assert not correction.more, "only GEMM adds grids, and applies them in its own kernel"
    out = np.empty(len(coords))
    _kernels.interpolate(coords, *_arrays(correction), out)
    return out


_ARRAYS = ByIdentity[tuple[Floats, NDArray[np.int64], Floats]]()


def _arrays(correction: Correction) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return nodes, lengths and values of a correction."""
    return _ARRAYS.of(
        (correction,),
        lambda: (*flat_axes(correction), np.array(correction.values, np.float64)),
    )


def apply_correction(seconds: Floats, coords: Floats, correction: Correction | None) -> Floats:
    """Return ``seconds * exp(correction)``; unchanged without a correction.

    Parameters
    ----------
    seconds
        float64[N], modelled.
    coords
        float64[N, D], log2 of the quantities that the axes name, in their order.
    correction
        Grid of log(measured/model).
    """
    if correction is None:
        return seconds
    return seconds * np.exp(log_correction(coords, correction))
