"""Collectives inside one node as one library runs them: fitted forms with their corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.collectives import _kernels
from ridgeline.simulator.collectives.layout import AUTO, NAMES
from ridgeline.simulator.collectives.network import Network, price_collectives
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline.attention import Floats, coordinates, corrected, in_si, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet

COLLECTIVE = ("base_us", "per_rank_us", "bandwidth", "ramp_us", "gamma", "delta", "in_switch")
"""Parameters of a collective's set: those of ``CollectiveEfficiency``, and the fraction of the
bandwidth at which switches add up (0 where they do not)."""

CUSTOM = (
    "host_us",
    "start_us",
    "start_per_rank_us",
    "one_shot",
    "second_us",
    "two_shot",
    "large_base_us",
    "large_ramp_us",
    "large_bandwidth",
    "large_delta",
    "limit_bytes",
    "limit_power",
)
"""Parameters of a custom all-reduce, in the order in which the kernel reads them.

``host_us``: least time of an eager call. ``start_us``, ``start_per_rank_us``: launch and the
barrier between ranks. ``one_shot``, ``two_shot``: fractions of the scale-up bandwidth.
``second_us``: the second stage's barrier. ``large_*``: the fallback above ``limit_bytes`` (two
ranks; with n ranks that times (2/n)^``limit_power``), as in ``CollectiveEfficiency`` with gamma
1/2.
"""

_LONE = 4096.0
"""Ranks that the one tier of a measured node is taken to join: any group fits in."""
_NODES = ByIdentity[Network]()
_CUSTOM_FITS = ByIdentity[Floats]()


def predict_collective(
    size_bytes: ArrayLike, ranks: ArrayLike, *, kernel_set: KernelSet, accelerator: Accelerator
) -> Floats:
    """Return the seconds of a collective among ranks of one scale-up domain.

    Parameters
    ----------
    size_bytes
        Bytes as nccl-tests counts them (``layout``), at least 1; broadcast to N.
    ranks
        Ranks of the group, at least 2.
    kernel_set
        A set with ``op = "collective"``; its ``kernel`` is the operation.
    accelerator
        The device that the set was fitted on.

    Returns
    -------
    float64[N]
        Seconds under graph replay.

    Raises
    ------
    InputError
        The set is of another operator, or a size cannot be priced.
    """
    table = _table(size_bytes, ranks, kernel_set, "collective")
    operation = NAMES.index(_operation(kernel_set.kernel))
    node = _NODES.of(
        (kernel_set, accelerator), lambda: _node(operation, kernel_set.parameters, accelerator)
    )
    return _corrected(_over(node, operation, table), table, kernel_set)


def predict_custom_all_reduce(
    size_bytes: ArrayLike, ranks: ArrayLike, *, kernel_set: KernelSet, accelerator: Accelerator
) -> Floats:
    """Return the seconds of a serving library's own all-reduce; see ``predict_collective``."""
    table = _table(size_bytes, ranks, kernel_set, "custom_all_reduce")
    fit = _CUSTOM_FITS.of((kernel_set,), lambda: np.array(in_si(kernel_set.parameters, CUSTOM)))
    return _corrected(_custom(table, fit, accelerator), table, kernel_set)


def _corrected(seconds: Floats, table: Floats, kernel_set: KernelSet) -> Floats:
    coords = collective_coordinates(table)
    if kernel_set.correction is not None:
        # under the smallest measured size there is latency alone, which the correction keeps
        nodes = dict(kernel_set.correction.axes).get("bytes", (0.0,))
        coords["bytes"] = np.maximum(coords["bytes"], nodes[0])
    return corrected(seconds, coords, kernel_set.correction)


def collective_form(
    table: Floats, operation: int, parameters: Mapping[str, float], accelerator: Accelerator
) -> Floats:
    """Return what the fitted form says, float64[N], of ``table`` float64[N, 2]: bytes, ranks."""
    return _over(_node(operation, parameters, accelerator), operation, table)


def _node(operation: int, parameters: Mapping[str, float], accelerator: Accelerator) -> Network:
    """Return the one tier of a measured node, with the fit of the operation."""
    fits = np.zeros((len(NAMES), 7))
    *fit, in_switch = in_si(parameters, COLLECTIVE)
    fits[operation] = (*fit, 1.0)
    level = (_LONE, accelerator.scaleup_bytes_per_s, 0.0, in_switch)
    return Network(levels=np.array([level]), fits=fits, torus=np.zeros((0, 4)))


def _over(node: Network, operation: int, table: Floats) -> Floats:
    codes = np.full(len(table), operation, np.int8)
    return price_collectives(node, codes, table[:, 0], table[:, 1], np.ones(len(table)), AUTO)


def custom_form(table: Floats, parameters: Mapping[str, float], accelerator: Accelerator) -> Floats:
    """Return what the form of a custom all-reduce says; arguments as ``collective_form``."""
    return _custom(table, np.array(in_si(parameters, CUSTOM)), accelerator)


def _custom(table: Floats, fit: Floats, accelerator: Accelerator) -> Floats:
    seconds = np.empty(len(table))
    size_bytes, ranks = np.ascontiguousarray(table.T)
    bandwidth = accelerator.scaleup_bytes_per_s
    _kernels.custom_all_reduce(size_bytes, ranks, bandwidth, fit, seconds)
    return seconds


def collective_coordinates(table: Floats) -> dict[str, Floats]:
    """Return log2 of bytes and ranks, which corrections use."""
    return coordinates(bytes=table[:, 0], ranks=table[:, 1])


def _operation(kernel: str) -> str:
    if kernel not in NAMES:
        raise InputError(f"kernel set of {kernel!r}: no such collective; {nearest(kernel, NAMES)}")
    return kernel


def _table(size_bytes: ArrayLike, ranks: ArrayLike, kernel_set: KernelSet, op: str) -> Floats:
    if kernel_set.op != op:
        raise InputError(f"kernel set is for {kernel_set.op}: give one for {op}")
    table = stacked(("size_bytes", "ranks"), (size_bytes, ranks))
    if not len(table):
        return table
    (small, few), (large, many) = table.min(axis=0).tolist(), table.max(axis=0).tolist()
    if small >= 1.0 and large < np.inf and few >= 2.0 and many <= _LONE:
        return table
    bad = ~(np.isfinite(table).all(axis=1) & (table[:, 0] >= 1.0) & (table[:, 1] >= 2.0))
    bad |= table[:, 1] > _LONE
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"collective {row} has {table[row, 0]:g} bytes on {table[row, 1]:g} ranks: needs at "
            f"least 1 byte and 2 to {_LONE:g} ranks"
        )
    return table
