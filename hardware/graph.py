"""A cluster as a graph of accelerators and switches, and back.

The graph of a cluster has one vertex per accelerator (0 to count - 1, attribute ``kind`` =
"accelerator") and per switch (its name, ``kind`` = "switch", ``in_network_reduction``). Every edge
is one link with ``bytes_per_s`` (one direction), ``latency_s`` and optionally ``back_bytes_per_s``
(the other direction, where it differs), ``efficiency`` and ``tier`` (the name of the tier it
makes). ``docs/clusters.md`` describes the file a user can give.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import networkx as nx

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier, Torus

MOST_VERTICES = 100_000
MOST_EDGES = 1_000_000
MOST_FILE_BYTES = 256 << 20
MOST_RATES = 64
"""Different rates of links; a network has a handful, and each costs a pass over the graph."""
MOST_RATE = 1e18
"""Bytes per second of a link; a thousand times more than any that is sold."""
SAME_RATE = 1e-6
"""Rates that differ by less than this part are taken for one tier."""

_LEAST = 1e-12
_LINK_RULES: tuple[tuple[str, float | None, float, float, str], ...] = (
    ("bytes_per_s", None, _LEAST, MOST_RATE, f"above 0, at most {MOST_RATE:g}"),
    ("back_bytes_per_s", 1.0, _LEAST, MOST_RATE, f"above 0, at most {MOST_RATE:g}"),
    ("latency_s", None, 0.0, 1.0, "0 to 1"),
    ("efficiency", 1.0, _LEAST, 1.0, "above 0, at most 1"),
)
"""Attribute of a link, its default, its least and greatest value, and the rule in words."""

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
        with where.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise InputError(f"cluster graph {where}: larger than {MOST_FILE_BYTES >> 20} MiB")
        data = json.loads(content)
        if data.get("directed") or data.get("multigraph"):
            raise InputError(
                f"cluster graph {where}: directed or multigraph; write one undirected edge per "
                "pair, bytes_per_s being the sum of its links in one direction"
            )
        graph: Graph = nx.Graph()
        graph.graph.update(data.get("graph", {}))
        for node in data["nodes"]:
            graph.add_node(node["id"], **{key: node[key] for key in node if key != "id"})
        # networkx before 3.4 wrote "links"
        for edge in data["edges"] if "edges" in data else data["links"]:
            link = {key: edge[key] for key in edge if key not in ("source", "target")}
            if edge["source"] not in graph or edge["target"] not in graph:
                raise InputError(
                    f"cluster graph {where}: edge {_name(edge['source'])} - "
                    f"{_name(edge['target'])}: one end is not among the nodes"
                )
            graph.add_edge(edge["source"], edge["target"], **link)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cluster graph {where}: cannot be read: {reason}") from None
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f"cluster graph {where}: no {error}; it needs nodes (each with an id) and edges (each "
            "with source and target), see docs/clusters.md"
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"cluster graph {where}: not a node-link JSON file ({reason}); see docs/clusters.md"
        ) from None
    return graph


def _name(vertex: object) -> str:
    """Return a vertex as a complaint shows it, on one line."""
    text = repr(vertex)
    return text if len(text) <= 40 else text[:37] + "..."


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
    graph = _slower_way(graph)
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
    rounds = 0
    while len(members) > 1:
        rounds += 1
        if rounds > MOST_RATES:
            raise InputError(
                f"cluster graph {name!r}: links of more than {MOST_RATES} different rates; give "
                "links of one kind the same bytes_per_s"
            )
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


def _slower_way(graph: Graph) -> Graph:
    """Return the graph with the slower direction of every link: collectives use both alike."""
    if not any("back_bytes_per_s" in data for _, _, data in graph.edges(data=True)):
        return graph
    made = graph.copy()
    for _, _, data in made.edges(data=True):
        data["bytes_per_s"] = min(
            data["bytes_per_s"], data.pop("back_bytes_per_s", data["bytes_per_s"])
        )
    return made


def _check_graph(graph: Graph, name: str) -> None:
    if len(graph) > MOST_VERTICES or graph.number_of_edges() > MOST_EDGES:
        raise InputError(
            f"cluster graph {name!r}: {len(graph):,} vertices and {graph.number_of_edges():,} "
            f"edges; the most are {MOST_VERTICES:,} and {MOST_EDGES:,}: name the cluster instead"
        )
    problems = []
    kinds = {v: data.get("kind") for v, data in graph.nodes(data=True)}
    for vertex, kind in kinds.items():
        if kind not in ("accelerator", "switch"):
            problems.append(
                f"vertex {_name(vertex)}: kind is {_name(kind)}; write accelerator or switch"
            )
    count = sum(kind == "accelerator" for kind in kinds.values())
    if not count and not problems:
        problems.append("no vertex has kind accelerator")
    for u, v, data in graph.edges(data=True):
        where = f"edge {_name(u)} - {_name(v)}"
        if u == v:
            problems.append(f"{where}: joins a vertex with itself")
        for key, default, least, most, rule in _LINK_RULES:
            value = data.get(key, default)
            if not _is_number(value) or not least <= value <= most:
                problems.append(f"{where}: {key} is {_name(value)}; it must be {rule}")
    per_node = graph.graph.get("per_node", 1)
    if type(per_node) is not int or not 1 <= per_node <= max(count, 1) or count % per_node:
        problems.append(f"per_node is {_name(per_node)}; it must divide the {count} accelerators")
    if not problems and not nx.is_connected(graph):
        problems.append("not connected: some accelerators cannot reach the others")
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise InputError([f"cluster graph {name!r}: {line}" for line in shown])


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _torus(graph: Graph, count: int, name: str) -> Torus | None:
    shape = graph.graph.get("torus")
    if not shape:
        return None
    dims = shape.get("dims") if isinstance(shape, dict) else None
    wraparound = shape.get("wraparound") if isinstance(shape, dict) else None
    if (
        not isinstance(dims, list)
        or not isinstance(wraparound, list)
        or not all(type(side) is int and 1 <= side <= count for side in dims)
        or not all(isinstance(axis, bool) for axis in wraparound)
        or not 1 <= len(dims) == len(wraparound) <= 6
    ):
        raise InputError(
            f"cluster graph {name!r}: torus is {_name(shape)}; it needs dims, the sides, and "
            "wraparound, true or false for each of them"
        )
    edges = [data for _, _, data in graph.edges(data=True) if data.get("tier") == "torus"]
    if not edges or count % prod(dims):
        raise InputError(
            f"cluster graph {name!r}: torus {dims} does not divide {count} accelerators, "
            'or no edge has tier "torus"'
        )
    return Torus(
        dims=tuple(dims),
        wraparound=tuple(wraparound),
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
