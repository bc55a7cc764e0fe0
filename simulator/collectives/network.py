"""Seconds of collectives over link tiers and tori: the readable face of ``_kernels``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier
from ridgeline.simulator.collectives import _kernels
from ridgeline.simulator.collectives.layout import ALGORITHMS, AUTO, NAMES
from ridgeline.simulator.identity import ByIdentity

_FIT_OF = {"send_recv": "all_to_all", "broadcast": "all_gather"}


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A cluster's links as arrays, ready for the kernel.

    Attributes
    ----------
    levels
        float64[L, 4], innermost first: accelerators joined, bytes/s per accelerator and direction
        (efficiency and oversubscription counted in), latency of a hop [s], and the fraction of the
        bandwidth at which switches add up (0 where they cannot). On a torus level 0 is the slice.
    fits
        float64[6, 7], a row per operation: base [s], per rank [s], efficiency, ramp [s], gamma,
        delta, and 1 where the accelerator carries a fit for the innermost tier, else 0.
    torus
        float64[A, 4], a row per axis: length, 1 if it wraps around, bytes/s of one link and
        direction, latency of a hop [s]. A is 0 on switched networks.
    """

    levels: NDArray[np.float64]
    fits: NDArray[np.float64]
    torus: NDArray[np.float64]


_NETWORKS = ByIdentity[Network](64)
_BANDWIDTH = 1
"""Column of ``Network.levels``."""
_LINK = 2
"""Column of ``Network.torus``."""


def network(cluster: Cluster) -> Network:
    """Return the arrays of ``cluster``; the same object for the same cluster."""
    return _NETWORKS.of((cluster,), lambda: _make(cluster))


def scaled(net: Network, inside: float, between: float) -> Network:
    """Return the network with other bandwidths, as ratios to its own.

    Parameters
    ----------
    net
        From :func:`network`.
    inside
        For the innermost tier: a node, a scale-up domain, a torus.
    between
        For the tiers around it.
    """
    if inside == 1.0 and between == 1.0:
        return net
    levels, torus = net.levels.copy(), net.torus.copy()
    levels[0, _BANDWIDTH] *= inside
    levels[1:, _BANDWIDTH] *= between
    torus[:, _LINK] *= inside
    return Network(levels=levels, fits=net.fits, torus=torus)


def price_collectives(
    net: Network,
    operation: ArrayLike,
    size_bytes: ArrayLike,
    size: ArrayLike,
    stride: ArrayLike,
    algorithm: int = AUTO,
    sharing: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Price N collectives in one call.

    Parameters
    ----------
    net
        From :func:`network`.
    operation
        int8[N], codes of ``layout``.
    size_bytes
        float64[N], >= 0, bytes in the meaning of ``layout``.
    size
        int32[N], ranks of the group, >= 1. A send/receive in a group of more than two ranks is
        priced for its slowest neighbours.
    stride
        int64[N], accelerators between neighbouring ranks, >= 1. Groups of the same kind cover the
        whole cluster and run at the same time, each accelerator on its own links.
    algorithm
        One of ``layout.AUTO``, ``RING``, ``TREE``, ``IN_SWITCH``, ``HIERARCHICAL``.
    sharing
        float64[N], >= 1: collectives that compete for the same links; divides the bandwidth.

    Returns
    -------
    float64[N]
        Seconds. A group of one costs nothing; zero bytes cost the latency.

    Notes
    -----
    Formulas and sources: ``docs/collectives.md``.
    """
    operations = np.asarray(operation, np.int8)
    amounts = np.asarray(size_bytes, np.float64)
    sizes = np.asarray(size, np.int32)
    strides = np.asarray(stride, np.int64)
    shared = np.ones(operations.shape) if sharing is None else np.asarray(sharing, np.float64)
    assert operations.ndim == 1, operations.shape
    assert operations.shape == amounts.shape == sizes.shape == strides.shape == shared.shape
    seconds = np.empty(operations.shape)
    _kernels.price(
        operations,
        amounts,
        sizes,
        strides,
        algorithm,
        shared,
        net.levels,
        net.fits,
        net.torus,
        seconds,
    )
    return seconds


def collective_seconds(
    net: Network,
    operation: str,
    size_bytes: float,
    size: int,
    stride: int = 1,
    algorithm: str = "auto",
    sharing: float = 1.0,
) -> float:
    """Price one collective by name; see :func:`price_collectives`.

    Raises
    ------
    InputError
        Unknown operation or algorithm, or a number out of its range.
    """
    problems = [
        *_unknown("operation", operation, NAMES),
        *_unknown("algorithm", algorithm, ALGORITHMS),
    ]
    if not 0.0 <= size_bytes < float("inf"):
        problems.append(f"collective: {size_bytes} bytes: must be a finite number >= 0")
    problems += [
        f"collective: {name} {value}: must be >= 1"
        for name, value in (("size", size), ("stride", stride), ("sharing", sharing))
        if not value >= 1
    ]
    if problems:
        raise InputError(problems)
    code = ALGORITHMS.index(algorithm)
    return float(
        price_collectives(
            net, [NAMES.index(operation)], [size_bytes], [size], [stride], code, [sharing]
        )[0]
    )


def _unknown(what: str, name: str, known: Sequence[str]) -> list[str]:
    if name in known:
        return []
    return [f"collective: unknown {what} {name!r}: {nearest(name, known)}"]


def _make(cluster: Cluster) -> Network:
    levels: list[tuple[float, float, float, float]] = []
    axes: list[tuple[float, float, float, float]] = []
    torus = cluster.torus
    if torus is not None:
        link = torus.link_bytes_per_s * torus.efficiency
        axes = [
            (float(length), float(wraps), link, torus.latency_s)
            for length, wraps in zip(torus.dims, torus.wraparound, strict=True)
        ]
        levels.append((float(np.prod(torus.dims)), link, torus.latency_s, 0.0))
    for tier in cluster.tiers:
        scale_up = not levels
        levels.append(
            (
                float(tier.size),
                tier.bytes_per_s * tier.efficiency / tier.oversubscription,
                tier.latency_s,
                _switch_fraction(tier, cluster.accelerator, scale_up),
            )
        )
    assert levels, cluster.name
    fits = np.zeros((len(NAMES), 7))
    if torus is None:
        fits[:] = [_fit(cluster.accelerator, name) for name in NAMES]
    return Network(
        levels=np.array(levels), fits=fits, torus=np.array(axes, float).reshape(len(axes), 4)
    )


def _switch_fraction(tier: Tier, accelerator: Accelerator, scale_up: bool) -> float:
    if not tier.in_network_reduction:
        return 0.0
    if not scale_up:
        return 1.0
    fractions = _switch_fractions()
    return fractions.get(accelerator.family, fractions["default"])


@cache
def _switch_fractions() -> dict[str, float]:
    text = files("ridgeline.simulator.collectives").joinpath("in_switch.toml").read_text("utf-8")
    return {family: float(row["fraction"]) for family, row in tomllib.loads(text).items()}


def _fit(accelerator: Accelerator, name: str) -> tuple[float, ...]:
    fit = accelerator.efficiency.collectives.get(_FIT_OF.get(name, name))
    if fit is None:
        return (0.0,) * 7
    return (fit.base_s, fit.per_rank_s, fit.bandwidth, fit.ramp_s, fit.gamma, fit.delta, 1.0)
