"""From facts of a cluster to its tiers of links, or its torus."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite, prod
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier, Torus

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
    if "scaleup_domain" not in facts and domain <= accelerator.per_node:
        # links that end at the host: a smaller host makes a smaller domain
        domain = min(domain, per_node)
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
            ratio = float(overrides.oversubscription)
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


def torus_cluster(
    name: str, accelerator: Accelerator, dims: tuple[int, ...], slices: int, overrides: Overrides
) -> Cluster:
    """Build one or several torus slices.

    A 3-D slice made of whole cubes wraps around on every axis (optical switches close the rings);
    a part of a cube is a mesh. A 2-D slice wraps around only on a full axis of 16.
    """
    wraparound: tuple[bool, ...]
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
