"""A cluster: accelerators and the tiers of links, or the torus, between them."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware.accelerator import Accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the network, innermost first."""

    name: str
    size: int
    """Accelerators that this tier joins (of the whole cluster for the outermost)."""
    bytes_per_s: float
    """Usable per accelerator and direction before ``efficiency`` (rails used are counted in)."""
    latency_s: float
    """One hop, software included, s."""
    efficiency: float
    """Fraction of ``bytes_per_s`` that large collectives reach."""
    in_network_reduction: bool = False
    """Switches can add up (NVLS, SHARP)."""
    oversubscription: float = 1.0
    """Bandwidth into the tier over bandwidth through it, >= 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torus:
    """Nearest-neighbour links of a TPU slice."""

    dims: tuple[int, ...]
    wraparound: tuple[bool, ...]
    link_bytes_per_s: float
    """One link, one direction."""
    latency_s: float
    efficiency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Accelerators of one kind and what joins them.

    ``tiers`` are innermost first. On a torus the scale-up tier is described by ``torus`` and the
    tiers begin with the network between slices (DCN), which may be absent.
    """

    name: str
    accelerator: Accelerator
    count: int
    per_node: int
    tiers: tuple[Tier, ...]
    torus: Torus | None = None
    sources: tuple[str, ...] = ()
