"""From the short name of a cluster to its tiers of links."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import isfinite, prod
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier, Torus
from ridgeline.hardware.profiles import load_accelerator

MOST_ACCELERATORS = 10_000_000
"""No cluster is larger: above it a count is taken for a slip."""
GRAMMAR = (
    "NODESxPER_NODExACCELERATOR (2048x8xh100-sxm), COUNTxACCELERATOR (1024xa100-sxm-80gb), "
    "TPU:AxBxC (tpu-v5p:8x8x16, *N for N slices) or NAME:UNITS (dgx-h100:128)"
)
IN_SWITCH_FAMILIES = ("hopper", "blackwell")
"""NVSwitch generation 3 and later adds up in the switch (NVLink SHARP): NVIDIA Hopper
architecture white paper, 2022."""
SINGLE_NODE_MOST = 64
"""More accelerators than any host is sold with, unless their scale-up domain is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Facts of a cluster that the user knows better; None keeps the default."""

    per_node: int | None = None
    fabric: str | None = None
    scaleout_bytes_per_s: float | None = None
    oversubscription: float | None = None
    rails: int | None = None
    nic_efficiency: float | None = None

    def problems(self) -> list[str]:
        """Return one line for each value that cannot be."""
        out = []
        if self.per_node is not None and self.per_node < 1:
            out.append(f"per_node = {self.per_node}: a node has at least 1 accelerator")
        if self.scaleout_bytes_per_s is not None and not (
            isfinite(self.scaleout_bytes_per_s) and self.scaleout_bytes_per_s > 0
        ):
            out.append(f"scaleout_bytes_per_s = {self.scaleout_bytes_per_s}: must be above 0")
        if self.oversubscription is not None and not (
            isfinite(self.oversubscription) and self.oversubscription >= 1
        ):
            out.append(f"oversubscription = {self.oversubscription}: must be 1 (none) or more")
        if self.rails is not None and self.rails < 1:
            out.append(f"rails = {self.rails}: a job uses at least 1 NIC of a node")
        if self.nic_efficiency is not None and not 0 < self.nic_efficiency <= 1:
            out.append(f"nic_efficiency = {self.nic_efficiency}: must be above 0 and at most 1")
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """A network between nodes."""

    name: str
    efficiency: float
    latency_s: float
    source: str


@cache
def _fabric_file() -> dict[str, Any]:
    return tomllib.loads((files("ridgeline.hardware") / "data/fabrics.toml").read_text("utf-8"))


def load_fabric(name: str) -> Fabric:
    """Return a network of ``fabrics.toml``, with its efficiency in training.

    Raises
    ------
    InputError
        For an unknown name, with the nearest one.
    """
    table = _fabric_file()["fabric"]
    wanted = name.strip().lower()
    for key, entry in table.items():
        if wanted == key or wanted in entry["aliases"]:
            source = f"fabric {key}: {entry['source']}"
            return Fabric(
                name=key,
                efficiency=round(entry["isolated"] * _fabric_file()["in_training"], 2),
                latency_s=entry["latency_s"],
                source=source + (" (unconfirmed)" if entry["unconfirmed"] else ""),
            )
    raise InputError(f"fabric {name!r}: unknown; {nearest(wanted, table)}")


@cache
def named_clusters() -> dict[str, dict[str, Any]]:
    """Return the shipped cluster files by name (and the aliases resolve in ``_find_named``)."""
    folder = files("ridgeline.hardware") / "data/clusters"
    out = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.endswith(".toml"):
            out[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text("utf-8"))
    return out


def cluster_names() -> tuple[str, ...]:
    """Return the names of the real clusters that are shipped, sorted."""
    return tuple(sorted(named_clusters()))


def make_cluster(
    spec: str,
    *,
    per_node: int | None = None,
    fabric: str | None = None,
    scaleout_bytes_per_s: float | None = None,
    oversubscription: float | None = None,
    rails: int | None = None,
    nic_efficiency: float | None = None,
) -> Cluster:
    """Build a cluster from its short name.

    Parameters
    ----------
    spec
        ``NODESxPER_NODExACCELERATOR`` (``2048x8xh100-sxm``), ``COUNTxACCELERATOR`` (its usual
        node), ``TPU:AxBxC`` (one torus slice) or ``TPU:AxBxC*SLICES`` (slices over the data-centre
        network), ``NAME:UNITS`` (a named cluster and its number of nodes, of racks for a
        rack-scale system; without ``:UNITS`` one).
    per_node
        Accelerators in a node; the usual number of the accelerator by default.
    fabric
        Network between nodes, one of ``fabrics.toml`` (infiniband, roce, efa, tcp, ...): sets
        NIC efficiency and latency.
    scaleout_bytes_per_s
        NIC bandwidth per accelerator and direction [B/s], all rails.
    oversubscription
        Of the outermost network tier, >= 1.
    rails
        NICs of a node that the job uses, of one per accelerator unless the named cluster says
        otherwise; all by default.
    nic_efficiency
        Fraction of the NIC bandwidth that collectives reach, 0 to 1.

    Raises
    ------
    InputError
        For an unknown name (with the nearest one), a spec that does not parse, counts that are
        not positive or above ten million, part of a node, a slice the TPU does not come in.
    """
    return cluster_from_spec(
        spec,
        Overrides(
            per_node=per_node,
            fabric=fabric,
            scaleout_bytes_per_s=scaleout_bytes_per_s,
            oversubscription=oversubscription,
            rails=rails,
            nic_efficiency=nic_efficiency,
        ),
    )


def cluster_from_spec(spec: str, overrides: Overrides) -> Cluster:
    """Build what :func:`make_cluster` documents."""
    problems = overrides.problems()
    if problems:
        raise InputError([f"cluster {spec!r}: {line}" for line in problems])
    text = spec.strip().lower()
    counted = re.fullmatch(r"([+-]?\d+)\s*x\s*(?:([+-]?\d+)\s*x\s*)?([a-z].*)", text)
    if counted:
        first, second, name = counted.groups()
        return _counted(spec, int(first), int(second) if second else None, name, overrides)
    name, _, arg = text.partition(":")
    if not re.match(r"[a-z]", name):
        raise InputError(f"cluster {spec!r}: not understood; write {GRAMMAR}")
    named = _find_named(name)
    if named is not None:
        units = re.fullmatch(r"[+-]?\d+", arg) if arg else None
        if arg and units is None:
            raise InputError(f"cluster {spec!r}: {arg!r} must be a whole number: {name}:16")
        return _named(spec, named, int(arg) if arg else 1, overrides)
    accelerator = _load(spec, name)
    if accelerator.torus_dims and arg:
        return _slices(spec, accelerator, arg, overrides)
    if arg:
        raise InputError(
            f"cluster {spec!r}: {accelerator.name} is an accelerator without a torus; "
            f"write COUNTx{accelerator.name}"
        )
    raise InputError(f"cluster {spec!r}: say how many, for example 8x{accelerator.name}")


def _load(spec: str, name: str) -> Accelerator:
    try:
        return load_accelerator(name)
    except InputError as error:
        clusters = nearest(name, named_clusters())
        hint = f"; as a cluster: {clusters}" if clusters.startswith("did you mean") else ""
        raise InputError([f"cluster {spec!r}: {line}{hint}" for line in error.problems]) from None


def _check_count(spec: str, what: str, value: int) -> None:
    if value < 1:
        raise InputError(f"cluster {spec!r}: {what} is {value}; it must be at least 1")
    if value > MOST_ACCELERATORS:
        raise InputError(
            f"cluster {spec!r}: {what} is {value:,}; the most is {MOST_ACCELERATORS:,}, "
            "more than was ever built: check the zeros"
        )


def _counted(spec: str, first: int, second: int | None, name: str, overrides: Overrides) -> Cluster:
    _check_count(spec, "the number of " + ("accelerators" if second is None else "nodes"), first)
    if second is not None:
        _check_count(spec, "accelerators per node", second)
        if overrides.per_node not in (None, second):
            raise InputError(
                f"cluster {spec!r}: per_node = {overrides.per_node} contradicts it; leave one out"
            )
    if _find_named(name) is not None:
        raise InputError(
            f"cluster {spec!r}: {name} is a cluster, not an accelerator; write {name}:{first}"
        )
    accelerator = _load(spec, name)
    count = first * (second or 1)
    _check_count(spec, "the number of accelerators", count)
    if accelerator.torus_dims:
        dims = compact_slice(accelerator, count)
        if dims is None:
            raise InputError(
                f"cluster {spec!r}: {count} chips are not one slice of {accelerator.name}; give "
                f"its shape, and *N for N slices: {accelerator.name}:{_example(accelerator)}*2"
            )
        per_node = second or overrides.per_node
        return torus_cluster(spec, accelerator, dims, 1, replace(overrides, per_node=per_node))
    per_node = second or overrides.per_node or accelerator.per_node
    return switched_cluster(spec, accelerator, count, per_node, overrides)


def switched_cluster(
    name: str,
    accelerator: Accelerator,
    count: int,
    per_node: int,
    overrides: Overrides,
    facts: dict[str, Any] | None = None,
) -> Cluster:
    """Build a cluster of nodes with switched links from an accelerator and facts of the cluster.

    Parameters
    ----------
    facts
        Table of a cluster file (``docs/clusters.md``), None for the usual node.
    """
    facts = facts or {}
    if per_node > max(SINGLE_NODE_MOST, accelerator.scaleup_domain):
        raise InputError(
            f"cluster {name!r}: {per_node} accelerators per node; no host has more than "
            f"{max(SINGLE_NODE_MOST, accelerator.scaleup_domain)}"
        )
    if count > per_node and count % per_node:
        low = count // per_node * per_node
        raise InputError(
            f"cluster {name!r}: {count} accelerators are not whole nodes of {per_node}; "
            f"nearest: {low} or {low + per_node}"
        )
    sources = [f"{key}: {text}" for key, text in facts.get("sources", {}).items()]
    tiers = [_scaleup(accelerator, count, per_node, facts)]
    node = min(per_node, count)
    if tiers[0].size < node:
        pcie = _fabric_file()["link"]["pcie"]
        tiers.append(
            Tier(
                name="node",
                size=node,
                bytes_per_s=accelerator.host_bytes_per_s,
                latency_s=pcie["latency_s"],
                efficiency=pcie["efficiency"],
            )
        )
        sources.append(f"node: {pcie['source']}")
    if tiers[-1].size < count:
        network, source = _network(name, accelerator, count, per_node, overrides, facts)
        tiers += [tier for tier in network if tier.size > tiers[-1].size]
        sources.append(source)
    return Cluster(
        name=name,
        accelerator=accelerator,
        count=count,
        per_node=per_node,
        tiers=tuple(tiers),
        sources=tuple(sources),
    )


def _scaleup(accelerator: Accelerator, count: int, per_node: int, facts: dict[str, Any]) -> Tier:
    domain = int(facts.get("scaleup_domain", accelerator.scaleup_domain))
    bytes_per_s = float(facts.get("scaleup_bytes_per_s", accelerator.scaleup_bytes_per_s))
    if domain > per_node:
        # a job smaller than the machine is spread evenly over racks, in whole nodes
        nodes = max(1, count // per_node)
        most = max(1, domain // per_node)
        domain = per_node * max(n for n in range(1, min(most, nodes) + 1) if nodes % n == 0)
    switched = domain > 2 and bytes_per_s > 1.5 * accelerator.host_bytes_per_s
    pcie = bytes_per_s <= accelerator.host_bytes_per_s
    link = _fabric_file()["link"]["pcie" if pcie else "nvlink"]
    return Tier(
        name="pcie" if pcie else "scale-up",
        size=min(max(domain, 1), count),
        bytes_per_s=bytes_per_s,
        latency_s=link["latency_s"],
        efficiency=float(facts.get("scaleup_efficiency", 1.0)),
        in_network_reduction=switched and accelerator.family in IN_SWITCH_FAMILIES,
    )


def _network(
    name: str,
    accelerator: Accelerator,
    count: int,
    per_node: int,
    overrides: Overrides,
    facts: dict[str, Any],
) -> tuple[list[Tier], str]:
    """Return the tiers between nodes, innermost first, and what they rest on."""
    fabric = load_fabric(overrides.fabric or facts.get("fabric", "infiniband"))
    nics = int(facts.get("nics_per_node", per_node))
    if overrides.scaleout_bytes_per_s is not None:
        per_accelerator = overrides.scaleout_bytes_per_s
    elif "nic_bytes_per_s" in facts:
        per_accelerator = facts["nic_bytes_per_s"] * nics / per_node
    else:
        per_accelerator = accelerator.scaleout_bytes_per_s
    if not per_accelerator > 0:
        raise InputError(
            f"cluster {name!r}: {accelerator.name} has no usual network; "
            "give scaleout_bytes_per_s per accelerator"
        )
    rails = overrides.rails or int(facts.get("rails", nics))
    if rails > nics:
        raise InputError(f"cluster {name!r}: rails = {rails}, but a node has {nics} NICs")
    efficiency = overrides.nic_efficiency or float(facts.get("nic_efficiency", fabric.efficiency))
    tables = facts.get("network") or [{"name": "network", "size": 0}]
    tiers = []
    for index, table in enumerate(tables):
        ratio = float(table.get("oversubscription", 1.0))
        if index == len(tables) - 1 and overrides.oversubscription is not None:
            ratio = overrides.oversubscription
        size = min(int(table["size"]) or count, count)
        tiers.append(
            Tier(
                name=table["name"],
                size=size,
                bytes_per_s=per_accelerator * rails / nics,
                latency_s=float(table.get("latency_s", fabric.latency_s)),
                efficiency=efficiency,
                oversubscription=ratio,
                in_network_reduction=bool(table.get("in_network_reduction", False)),
            )
        )
        if size == count:
            break
    return tiers, fabric.source


def _find_named(name: str) -> tuple[str, dict[str, Any]] | None:
    for key, facts in named_clusters().items():
        if name == key or name in facts.get("aliases", ()):
            return key, facts
    return None


def _named(
    spec: str, named: tuple[str, dict[str, Any]], units: int, overrides: Overrides
) -> Cluster:
    name, facts = named
    unit = facts.get("unit", "node")
    _check_count(spec, f"the number of {unit}s", units)
    most = facts.get("most_units", 0)
    if most and units > most:
        raise InputError(f"cluster {spec!r}: {name} has {most:,} {unit}s, {units:,} were asked for")
    per_node = int(facts["per_node"])
    if overrides.per_node not in (None, per_node):
        raise InputError(
            f"cluster {spec!r}: a node of {name} has {per_node} accelerators, "
            f"not {overrides.per_node}; leave per_node out"
        )
    count = units * per_node * int(facts.get("nodes_per_unit", 1))
    _check_count(spec, "the number of accelerators", count)
    return switched_cluster(
        f"{name}:{units}", load_accelerator(facts["accelerator"]), count, per_node, overrides, facts
    )


def _example(accelerator: Accelerator) -> str:
    return "4x4x8" if accelerator.torus_dims == 3 else "16x16"


def _slices(spec: str, accelerator: Accelerator, arg: str, overrides: Overrides) -> Cluster:
    match = re.fullmatch(r"(-?\d+(?:x-?\d+)*)(?:\*(-?\d+))?", arg)
    if match is None:
        raise InputError(
            f"cluster {spec!r}: {arg!r} is no slice; write {accelerator.name}:"
            f"{_example(accelerator)}, *N for N slices"
        )
    dims = tuple(int(d) for d in match.group(1).split("x"))
    slices = int(match.group(2)) if match.group(2) else 1
    for dim in dims:
        _check_count(spec, "a side of the slice", dim)
    _check_count(spec, "the number of slices", slices)
    if len(dims) != accelerator.torus_dims:
        raise InputError(
            f"cluster {spec!r}: a slice of {accelerator.name} has {accelerator.torus_dims} sides, "
            f"{len(dims)} were given; for example {accelerator.name}:{_example(accelerator)}"
        )
    problem = slice_problem(accelerator, dims)
    if problem:
        raise InputError(f"cluster {spec!r}: {problem}")
    _check_count(spec, "the number of accelerators", prod(dims) * slices)
    return torus_cluster(spec, accelerator, dims, slices, overrides)


def slice_problem(accelerator: Accelerator, dims: tuple[int, ...]) -> str:
    """Say why ``dims`` is no slice of this TPU, or return an empty string.

    3-D parts come in whole 4x4x4 cubes, or in a part of one; 2-D parts in powers of two up to the
    16 of a pod's side (Google Cloud TPU documentation: v4, v5e, v5p, v6e, tpu7x).
    """
    most = accelerator.scaleup_domain
    if prod(dims) > most:
        return (
            f"{prod(dims):,} chips are more than the largest slice of {accelerator.name}, "
            f"{most:,}; join several with *N"
        )
    if len(dims) == 3:
        if all(d % 4 == 0 for d in dims) or all(d in (1, 2, 4) for d in dims):
            return ""
        up = "x".join(str(-(-d // 4) * 4) for d in dims)
        return f"sides must be multiples of 4, or each 1, 2 or 4 inside one cube; nearest: {up}"
    if all(d in (1, 2, 4, 8, 16) for d in dims):
        return ""
    up = "x".join(str(min((1, 2, 4, 8, 16), key=lambda legal, d=d: abs(legal - d))) for d in dims)
    return f"sides must be 1, 2, 4, 8 or 16; nearest: {up}"


def compact_slice(accelerator: Accelerator, count: int) -> tuple[int, ...] | None:
    """Return the legal slice of ``count`` chips with the shortest longest side, if there is one."""
    if count > accelerator.scaleup_domain:
        return None
    sides = [d for d in range(1, count + 1) if count % d == 0]
    best: tuple[int, ...] | None = None
    for a in sides:
        for b in (d for d in sides if d >= a and (count // a) % d == 0):
            c = count // (a * b)
            if accelerator.torus_dims == 2:
                dims: tuple[int, ...] = (a, b)
                legal = c == 1
            else:
                dims = (a, b, c)
                legal = c >= b
            shorter = best is None or max(dims) < max(best)
            if legal and shorter and not slice_problem(accelerator, dims):
                best = dims
    return best


def torus_cluster(
    name: str, accelerator: Accelerator, dims: tuple[int, ...], slices: int, overrides: Overrides
) -> Cluster:
    """Build one or several torus slices.

    A 3-D slice made of whole cubes wraps around on every axis (optical switches close the rings);
    a part of a cube is a mesh. A 2-D slice wraps around only on a full axis of 16.
    """
    if len(dims) == 3:
        wraparound = (all(d % 4 == 0 for d in dims),) * 3
    else:
        wraparound = tuple(d == 16 for d in dims)
    ici = _fabric_file()["link"]["ici"]
    torus = Torus(
        dims=dims,
        wraparound=wraparound,
        link_bytes_per_s=accelerator.scaleup_bytes_per_s / (2 * accelerator.torus_dims),
        latency_s=ici["latency_s"],
        efficiency=ici["efficiency"],
    )
    count = prod(dims) * slices
    per_node = overrides.per_node or accelerator.per_node
    tiers: list[Tier] = []
    sources = [f"torus: {ici['source']}"]
    if slices > 1:
        facts = {"fabric": "dcn", "network": [{"name": "dcn", "size": 0}]}
        tiers, source = _network(name, accelerator, count, per_node, overrides, facts)
        sources.append(source)
    return Cluster(
        name=name,
        accelerator=accelerator,
        count=count,
        per_node=min(per_node, count),
        tiers=tuple(tiers),
        torus=torus,
        sources=tuple(sources),
    )
