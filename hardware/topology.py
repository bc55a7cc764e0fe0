"""From the short name of a cluster to its tiers of links."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.links import Overrides, switched_cluster, torus_cluster
from ridgeline.hardware.profiles import load_accelerator

MOST_ACCELERATORS = 10_000_000
"""No cluster is larger: above it a count is taken for a slip."""
GRAMMAR = (
    "NODESxPER_NODExACCELERATOR (2048x8xh100-sxm), COUNTxACCELERATOR (1024xa100-sxm-80gb), "
    "TPU:AxBxC (tpu-v5p:8x8x16, *N for N slices) or NAME:UNITS (dgx-h100:128)"
)


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
        node; an accelerator may be the path of a profile, ``8x./mine.toml``), ``TPU:AxBxC`` (one
        torus slice) or ``TPU:AxBxC*SLICES`` (slices over the data-centre network), ``NAME:UNITS``
        (a named cluster and its number of nodes, of racks for a rack-scale system; without
        ``:UNITS`` one).
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
    text = spec.strip()
    # a profile of one's own is a path, whose case counts
    text = text if text.lower().endswith(".toml") else text.lower()
    if "+" in text:
        raise InputError(
            f"cluster {spec!r}: joins several kinds of accelerators, which ridgeline train alone "
            f"answers; name one kind"
        )
    counted = re.fullmatch(r"([+-]?\d+)\s*x\s*(?:([+-]?\d+)\s*x\s*)?([a-zA-Z./~_].*)", text)
    if counted:
        first, second, name = counted.groups()
        return _counted(spec, _whole(first), _whole(second) if second else None, name, overrides)
    name, _, arg = text.partition(":")
    if not re.match(r"[a-z]", name):
        raise InputError(f"cluster {spec!r}: not understood; write {GRAMMAR}")
    named = _find_named(name)
    if named is not None:
        units = re.fullmatch(r"[+-]?\d+", arg) if arg else None
        if arg and units is None:
            raise InputError(f"cluster {spec!r}: {arg!r} must be a whole number: {name}:16")
        return _named(spec, named, _whole(arg) if arg else 1, overrides)
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


def _whole(digits: str) -> int:
    # Python refuses to read numbers of thousands of digits; such a count is refused anyway
    return int(digits[:20])


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
    dims = tuple(_whole(d) for d in match.group(1).split("x"))
    slices = _whole(match.group(2)) if match.group(2) else 1
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
    up = "x".join(str(_nearest_side(d)) for d in dims)
    return f"sides must be 1, 2, 4, 8 or 16; nearest: {up}"


def _nearest_side(side: int) -> int:
    return min((1, 2, 4, 8, 16), key=lambda legal: abs(legal - side))


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
