"""A cluster: accelerators and the tiers of links, or the torus, between them."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.hosts import Host

if TYPE_CHECKING:
    import networkx as nx


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
    """Fraction of ``bytes_per_s`` that large collectives reach. On the scale-up tier it comes on
    top of the accelerator's own ``Efficiency.collectives`` and is 1 unless a cluster is known to be
    worse."""
    in_network_reduction: bool = False
    """Switches can add up (NVLS, SHARP)."""
    oversubscription: float = 1.0
    """Bandwidth into the tier over bandwidth through it, >= 1."""

    @property
    def effective_bytes_per_s(self) -> float:
        """What large collectives get per accelerator and direction: B * efficiency / oversub."""
        return self.bytes_per_s * self.efficiency / self.oversubscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Torus:
    """Nearest-neighbour links of a TPU slice."""

    dims: tuple[int, ...]
    wraparound: tuple[bool, ...]
    link_bytes_per_s: float
    """One link, one direction."""
    latency_s: float
    efficiency: float

    @property
    def size(self) -> int:
        """Chips of one slice."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size


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
    host: Host | None = None
    """Of a node, where a plan names one."""
    sources: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """Nodes (hosts), the last one perhaps not full."""
        return -(-self.count // self.per_node)

    @property
    def slices(self) -> int:
        """TPU slices; 1 without a torus."""
        return self.count // self.torus.size if self.torus else 1

    def graph(self) -> nx.Graph[Any]:
        """Return the cluster as a graph of accelerators and switches.

        See :func:`ridgeline.hardware.graph.cluster_graph` for its vertices and attributes.

        Raises
        ------
        InputError
            Above 100,000 vertices.
        """
        # networkx costs 0.1 s to import and most commands never need the graph
        from ridgeline.hardware.graph import cluster_graph

        return cluster_graph(self)


def ranks_per_tier(cluster: Cluster, size: int, stride: int) -> tuple[int, ...]:
    """Say how many ranks of a group are joined at each tier, innermost first.

    Parameters
    ----------
    cluster
        On a torus the slice comes first, then ``cluster.tiers``.
    size
        Ranks of the group.
    stride
        Accelerators between neighbouring ranks of the group; the groups tile the cluster, so that
        rank ``r`` belongs to the block of ``size * stride`` accelerators that ``r`` falls in.

    Returns
    -------
    tuple of int
        One factor per tier; their product is ``size``. With 8 accelerators a node, size 16 gives
        (8, 2) at stride 1 and (1, 16) at stride 8.

    Notes
    -----
    The first n_t ranks of a group lie within every block of S_t accelerators of tier t for sure
    when n_t divides ``size`` and n_t * stride divides S_t: the largest such n_t (a multiple of the
    one inside it) is taken. Where a group does not divide a block some groups straddle its border,
    so this never promises a faster link than the worst group has: 12 ranks at stride 1 on nodes of
    8 give (4, 3).
    """
    assert size >= 1, size
    assert stride >= 1, stride
    blocks = [tier.size for tier in cluster.tiers]
    if cluster.torus:
        blocks.insert(0, cluster.torus.size)
    factors: list[int] = []
    joined = 1
    for level, block in enumerate(blocks):
        if level == len(blocks) - 1:
            inside = size
        else:
            aligned = gcd(size, block // stride) if block % stride == 0 else 1
            inside = aligned if aligned % joined == 0 else joined
        factors.append(inside // joined)
        joined = inside
    return tuple(factors)
