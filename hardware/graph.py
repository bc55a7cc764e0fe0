"""A cluster as a graph of accelerators and switches, and back.

The graph of a cluster has one vertex per accelerator (0 to count - 1, attribute ``kind`` =
"accelerator") and per switch (its name, ``kind`` = "switch", ``in_network_reduction``). Every edge
is one link with ``bytes_per_s`` (one direction), ``latency_s`` and optionally ``efficiency`` and
``tier`` (the name of the tier it makes). ``docs/clusters.md`` describes the file a user can give.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any, TypeAlias

import networkx as nx

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier, Torus

MOST_VERTICES = 100_000
SAME_RATE = 1e-6
"""Rates that differ by less than this part are taken for one tier."""

Graph: TypeAlias = "nx.Graph[Any]"


def cluster_graph(cluster: Cluster) -> Graph:
    """Return the graph of a cluster made from tiers or a torus.

    Raises
    ------
    InputError
        When it would have more than 100,000 vertices.
    """
    vertices = cluster.count + sum(2 * cluster.count // tier.size for tier in cluster.tiers)
    if vertices > MOST_VERTICES:
        raise InputError(
            f"cluster {cluster.name!r}: its graph would have about {vertices:,} vertices, more "
            f"than {MOST_VERTICES:,}; the tiers say the same: use Cluster.tiers"
        )
    graph: Graph = nx.Graph(per_node=cluster.per_node)
    for rank in range(cluster.count):
        graph.add_node(rank, kind="accelerator")
    size = 1
    above_access: dict[int, str] = {}
    latency_below = 0.0
    if cluster.torus:
        _add_torus(graph, cluster.torus, cluster.count)
        size = cluster.torus.size
    for tier in cluster.tiers:
        links = {"efficiency": tier.efficiency, "tier": tier.name}
        leaves = _leaves(graph, tier, size, cluster.count, above_access, links)
        for block in range(0, cluster.count, tier.size):
            name = f"{tier.name}-{block // tier.size}"
            graph.add_node(name, kind="switch", in_network_reduction=tier.in_network_reduction)
            if leaves is None:
                for rank in range(block, min(block + tier.size, cluster.count)):
                    graph.add_edge(
                        rank,
                        name,
                        bytes_per_s=tier.bytes_per_s,
                        latency_s=tier.latency_s / 2,
                        **links,
                    )
            else:
                below = latency_below if above_access else 0.0
                for start in range(block, min(block + tier.size, cluster.count), size):
                    graph.add_edge(
                        leaves[start],
                        name,
                        bytes_per_s=size * tier.bytes_per_s / tier.oversubscription,
                        latency_s=max(0.0, tier.latency_s - below) / 2,
                        **links,
                    )
        if tier.name not in ("scale-up", "pcie", "node"):
            above_access = {
                start: f"{tier.name}-{start // tier.size}"
                for start in range(0, cluster.count, tier.size)
            }
            latency_below = tier.latency_s
        size = tier.size
    return graph


def _leaves(
    graph: Graph,
    tier: Tier,
    size: int,
    count: int,
    access: dict[int, str],
    links: dict[str, Any],
) -> dict[int, str] | None:
    """Return the switch below ``tier`` by first rank, None when accelerators reach it at once."""
    if access:
        return access
    if tier.oversubscription == 1.0:
        return None
    leaves = {}
    for start in range(0, count, size):
        leaves[start] = f"{tier.name}-leaf-{start // size}"
        graph.add_node(leaves[start], kind="switch", in_network_reduction=False)
        for rank in range(start, min(start + size, count)):
            graph.add_edge(
                rank, leaves[start], bytes_per_s=tier.bytes_per_s, latency_s=0.0, **links
            )
    return leaves


def _add_torus(graph: Graph, torus: Torus, count: int) -> None:
    graph.graph["torus"] = {"dims": list(torus.dims), "wraparound": list(torus.wraparound)}
    link = {
        "bytes_per_s": torus.link_bytes_per_s,
        "latency_s": torus.latency_s,
        "efficiency": torus.efficiency,
        "tier": "torus",
    }
    strides = [prod(torus.dims[axis + 1 :]) for axis in range(len(torus.dims))]
    for first in range(0, count, torus.size):
        for place in product(*(range(d) for d in torus.dims)):
            rank = first + sum(p * s for p, s in zip(place, strides, strict=True))
            for axis, side in enumerate(torus.dims):
                if place[axis] + 1 < side:
                    graph.add_edge(rank, rank + strides[axis], **link)
                elif torus.wraparound[axis] and side > 2:
                    graph.add_edge(rank, rank - (side - 1) * strides[axis], **link)


def read_graph(path: str | Path) -> Graph:
    """Read a cluster graph from a node-link JSON file (``docs/clusters.md``).

    Raises
    ------
    InputError
        When the file cannot be read or is no such graph.
    """
    where = Path(path)
    try:
        data = json.loads(where.read_text("utf-8"))
        if data.get("directed") or data.get("multigraph"):
            raise InputError(
                f"cluster graph {where}: directed or multigraph; write one undirected edge per "
                "pair, bytes_per_s being the sum of its links in one direction"
            )
        graph: Graph = nx.Graph(**data.get("graph", {}))
        for node in data["nodes"]:
            graph.add_node(node["id"], **{key: node[key] for key in node if key != "id"})
        # networkx before 3.4 wrote "links"
        for edge in data["edges"] if "edges" in data else data["links"]:
            link = {key: edge[key] for key in edge if key not in ("source", "target")}
            graph.add_edge(edge["source"], edge["target"], **link)
    except OSError as error:
        raise InputError(f"cluster graph {where}: {error.strerror}") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cluster graph {where}: not a node-link JSON file ({error}); see docs/clusters.md"
        ) from None
    return graph


def cluster_from_graph(graph: Graph, accelerator: Accelerator, *, name: str = "graph") -> Cluster:
    """Derive the tiers of a cluster from an explicit graph.

    Links are added from the fastest to the slowest. A link at an accelerator counts with its own
    rate; a link between switches with the rate that all such links of its part of the graph leave
    for each accelerator of that part. Whenever the connected parts grow, they make a tier.

    Raises
    ------
    InputError
        For a graph that is not connected, has no accelerators, lacks a rate, or whose parts differ
        in size at some tier (one part may be smaller than the others).
    """
    _check_graph(graph, name)
    ranks = [v for v, data in graph.nodes(data=True) if data["kind"] == "accelerator"]
    part = {vertex: index for index, vertex in enumerate(graph)}
    members: dict[int, list[Any]] = {index: [v] for v, index in part.items()}
    weight = {index: int(graph.nodes[v]["kind"] == "accelerator") for v, index in part.items()}
    torus = _torus(graph, len(ranks), name)
    inner: set[Any] = set()
    if torus:
        inner = {frozenset(e[:2]) for e in graph.edges if graph.edges[e].get("tier") == "torus"}
        _merge(part, members, weight, [tuple(edge) for edge in inner])
    tiers: list[Tier] = []
    access = 0.0
    while len(members) > 1:
        rates = _rates(graph, part, weight)
        fastest = max(rates.values())
        links = [edge for edge, rate in rates.items() if rate >= fastest * (1 - SAME_RATE)]
        before = max(weight.values())
        per_accelerator, switched = _bandwidth(graph, part, weight, links)
        old = dict(part)
        _merge(part, members, weight, links)
        sizes = sorted(w for w in weight.values() if w)
        if sizes[-1] > before:
            if len(sizes) > 1 and sizes[1] < sizes[-1]:
                raise InputError(
                    f"cluster graph {name!r}: links of {fastest:.3g} B/s join parts of "
                    f"{sizes[0]} and of {sizes[-1]} accelerators; give every part the same links"
                )
            tier = _tier(graph, part, old, links, sizes[-1], per_accelerator, len(tiers))
            if switched and access > per_accelerator:
                tier = _oversubscribed(tier, access)
            tiers.append(tier)
        if not switched:
            access = per_accelerator
    return Cluster(
        name=name,
        accelerator=accelerator,
        count=len(ranks),
        per_node=int(graph.graph.get("per_node", tiers[0].size if tiers else len(ranks))),
        tiers=tuple(tiers),
        torus=torus,
        sources=("an explicit graph",),
    )


def _check_graph(graph: Graph, name: str) -> None:
    problems = []
    kinds = {v: data.get("kind") for v, data in graph.nodes(data=True)}
    for vertex, kind in kinds.items():
        if kind not in ("accelerator", "switch"):
            problems.append(f"vertex {vertex!r}: kind is {kind!r}; write accelerator or switch")
    if "accelerator" not in kinds.values():
        problems.append("no vertex has kind accelerator")
    for u, v, data in graph.edges(data=True):
        for key, least in (("bytes_per_s", "above 0"), ("latency_s", "0 or more")):
            value = data.get(key)
            good = isinstance(value, int | float) and isfinite(value) and value >= 0
            if not good or (key == "bytes_per_s" and not value):
                problems.append(f"edge {u!r} - {v!r}: {key} is {value!r}; it must be {least}")
    if not problems and not nx.is_connected(graph):
        problems.append("not connected: some accelerators cannot reach the others")
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise InputError([f"cluster graph {name!r}: {line}" for line in shown])


def _torus(graph: Graph, count: int, name: str) -> Torus | None:
    shape = graph.graph.get("torus")
    if not shape:
        return None
    edges = [data for _, _, data in graph.edges(data=True) if data.get("tier") == "torus"]
    if not edges or count % prod(shape["dims"]):
        raise InputError(
            f"cluster graph {name!r}: torus {shape['dims']} does not divide {count} accelerators, "
            'or no edge has tier "torus"'
        )
    return Torus(
        dims=tuple(shape["dims"]),
        wraparound=tuple(shape["wraparound"]),
        link_bytes_per_s=edges[0]["bytes_per_s"],
        latency_s=edges[0]["latency_s"],
        efficiency=edges[0].get("efficiency", 1.0),
    )


def _rates(graph: Graph, part: dict[Any, int], weight: dict[int, int]) -> dict[Any, float]:
    """Rate of every link between two parts, as ``cluster_from_graph`` counts it."""
    between: dict[int, float] = defaultdict(float)
    out: dict[Any, float] = {}
    switches = []
    for u, v, data in graph.edges(data=True):
        if part[u] == part[v]:
            continue
        if "accelerator" in (graph.nodes[u]["kind"], graph.nodes[v]["kind"]):
            out[u, v] = data["bytes_per_s"]
        else:
            switches.append((u, v))
            between[part[u]] += data["bytes_per_s"]
            between[part[v]] += data["bytes_per_s"]
    for u, v in switches:
        shares = [between[p] / weight[p] for p in (part[u], part[v]) if weight[p]]
        out[u, v] = max(shares, default=0.0)
    return out


def _bandwidth(
    graph: Graph, part: dict[Any, int], weight: dict[int, int], links: list[Any]
) -> tuple[float, bool]:
    """Bandwidth of ``links`` per accelerator where it is least, and if switches alone have it."""
    leaving: dict[int, float] = defaultdict(float)
    for u, v in links:
        for vertex in (u, v):
            if weight[part[vertex]]:
                leaving[part[vertex]] += graph.edges[u, v]["bytes_per_s"]
    switched = all(graph.nodes[u]["kind"] == graph.nodes[v]["kind"] == "switch" for u, v in links)
    return min((b / weight[p] for p, b in leaving.items()), default=0.0), switched


def _merge(
    part: dict[Any, int], members: dict[int, list[Any]], weight: dict[int, int], links: list[Any]
) -> None:
    """Join the parts at both ends of every link, the larger taking in the smaller."""
    for u, v in links:
        keep, drop = part[u], part[v]
        if keep == drop:
            continue
        if len(members[keep]) < len(members[drop]):
            keep, drop = drop, keep
        for vertex in members[drop]:
            part[vertex] = keep
        members[keep] += members.pop(drop)
        weight[keep] += weight.pop(drop)


def _tier(
    graph: Graph,
    part: dict[Any, int],
    old: dict[Any, int],
    links: list[Any],
    size: int,
    bytes_per_s: float,
    level: int,
) -> Tier:
    """Describe the tier that ``links`` made; its latency is that of the shortest new path."""
    first = next(v for v in graph if graph.nodes[v]["kind"] == "accelerator")
    reach = graph.subgraph([v for v in graph if part[v] == part[first]])
    near = nx.single_source_dijkstra_path_length(reach, first, weight="latency_s")
    latency = min(
        seconds
        for vertex, seconds in near.items()
        if graph.nodes[vertex]["kind"] == "accelerator" and old[vertex] != old[first]
    )
    data = graph.edges[links[0]]
    touched = [v for link in links for v in link if graph.nodes[v]["kind"] == "switch"]
    return Tier(
        name=str(data.get("tier", f"tier-{level + 1}")),
        size=size,
        bytes_per_s=bytes_per_s,
        latency_s=float(latency),
        efficiency=float(data.get("efficiency", 1.0)),
        in_network_reduction=any(graph.nodes[v].get("in_network_reduction") for v in touched),
    )


def _oversubscribed(tier: Tier, access: float) -> Tier:
    return Tier(
        name=tier.name,
        size=tier.size,
        bytes_per_s=access,
        latency_s=tier.latency_s,
        efficiency=tier.efficiency,
        in_network_reduction=tier.in_network_reduction,
        oversubscription=access / tier.bytes_per_s,
    )
