"""From the command line of ``ridgeline plan`` to a space of plans, an objective and constraints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.plan_values import parse_count
from ridgeline.simulator.planfile import read_plan, read_tables
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.space import Space, usual_space
from ridgeline.simulator.stacks import usual_stack

ANY_MODEL = "llama3-8b"
"""Stands in the plan of a question about which model to train."""
MOST_VALUES = 100_000
"""Of one range: more is a slip."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_WATTS = {"w": 1.0, "kw": 1e3, "mw": 1e6, "gw": 1e9}
_NUMBER = r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"
_KINDS = ("time", "cost", "energy", "carbon")
RANGES = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "micro_batch")
"""Numbers that a search varies; each may be restricted to a list or a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question and what it was made of."""

    space: Space
    specs: tuple[str, ...]
    """Short name of each cluster; empty for that of the file."""
    tables: Mapping[str, Any]


def read_space(
    path: Path | None,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    values: Mapping[str, Any],
) -> Asked:
    """Return the space that a plan file and flags describe.

    Parameters
    ----------
    path, overrides, labels
        As ``planfile.read_plan`` takes them; the split in the file counts for nothing.
    values
        Flags of the search itself, by parameter name.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    specs = _specs(values.get("on"), values.get("accelerators"), path, overrides)
    template, clusters = _template(path, overrides, labels, specs)
    training = template.training
    uneven = training.uneven_stages or bool(training.stage_layers)
    space = Space(
        model=template.model,
        clusters=clusters,
        training=replace(training, stage_layers=(), uneven_stages=uneven),
        stack=template.stack,
        parallel=template.parallel,
        run=template.run,
        money=template.money,
        uneven_stages=uneven,
    )
    chosen: dict[str, Any] = {
        _field(name): tuple(parse_numbers(values[name], _flag(name)))
        for name in (*RANGES, "zero_stage")
        if values.get(name)
    }
    for name in ("recompute", "schedule"):
        if values.get(name):
            chosen[_field(name)] = tuple(_words(values[name]))
    if values.get("offload"):
        chosen["offload"] = tuple(
            () if word == "none" else tuple(word.split("+")) for word in _words(values["offload"])
        )
    if values.get("sp"):
        chosen["sp"] = {"on": (1,), "off": (0,), "both": (0, 1)}[values["sp"]]
    if not {"pp", "vpp", "zero_stage", "schedules"} & chosen.keys():
        space = usual_space(space)
    space = replace(space, **chosen)
    return Asked(space=space, specs=specs, tables=read_tables(path, overrides))


def names_model(path: Path | None, overrides: Mapping[str, object]) -> bool:
    """Whether the plan file or a flag says which model it is about."""
    model = read_tables(path, overrides).get("model")
    return bool(model)


def read_site(
    path: Path | None,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    values: Mapping[str, Any],
) -> tuple[Plan, tuple[Cluster, ...]]:
    """Return the clusters of a question without a model, and a plan for all but model and batch.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    anything = {"model.name": ANY_MODEL, "training.seq_len": 1, "training.global_batch_seqs": 1}
    stated = {**anything, **overrides}
    specs = _specs(values.get("on"), values.get("accelerators"), path, stated)
    return _template(path, stated, labels, specs)


def _template(
    path: Path | None,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    specs: tuple[str, ...],
) -> tuple[Plan, tuple[Cluster, ...]]:
    first = {} if not specs[0] else {"cluster.spec": specs[0]}
    template = read_plan(
        path, {**overrides, **first}, {**labels, "cluster.spec": "--on"}, legal=False
    )
    clusters = (template.cluster, *(_cluster(spec) for spec in specs[1:]))
    if "stack.name" not in overrides and "name" not in read_tables(path).get("stack", {}):
        _one_usual_stack(specs, clusters)
    return template, clusters


def _one_usual_stack(specs: tuple[str, ...], clusters: tuple[Cluster, ...]) -> None:
    """Refuse clusters whose usual stacks differ when none was named."""
    first = usual_stack(clusters[0].accelerator)
    for spec, cluster in zip(specs, clusters, strict=True):
        if (usual := usual_stack(cluster.accelerator)) != first:
            raise InputError(
                f"--on {spec!r}: its usual stack is {usual}, that of {specs[0]!r} is {first}, and "
                f"a search is of one; give --stack, or ask ridgeline compare"
            )


def _field(name: str) -> str:
    return {"micro_batch": "micro_batch_seqs", "schedule": "schedules"}.get(name, name)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_numbers(text: str, label: str) -> list[int]:
    """Return the numbers of a list of numbers and ranges: ``1,2,4``, ``1..8``, ``..16``.

    Raises
    ------
    InputError
        Anything else, with ``label`` in front.
    """
    numbers: list[int] = []
    for word in _words(text):
        match = re.fullmatch(r"([0-9_]*)(\.\.)?([0-9_]*)", word)
        if match is None or not (match[1] or match[3]):
            raise InputError(f"{label} {word}: must be a number or a range such as 1..8 or ..16")
        if not match[2]:
            numbers.append(int(word))
            continue
        if not match[3]:
            raise InputError(f"{label} {word}: a range needs an end, such as {word}64")
        low, high = int(match[1] or 1), int(match[3])
        if not low <= high <= low + MOST_VALUES:
            raise InputError(f"{label} {word}: must ascend, over at most {MOST_VALUES:,} numbers")
        numbers += range(low, high + 1)
    return sorted(set(numbers))


def _specs(
    on: str | None, accelerators: str | None, path: Path | None, overrides: Mapping[str, object]
) -> tuple[str, ...]:
    """Return the short names of all clusters; an empty one stands for that of the file."""
    given = _words(on) if on else [""]
    if not accelerators:
        return tuple(given)
    counts = parse_numbers(accelerators, "--accelerators")
    specs = []
    for spec in given:
        name, per_node = _kind(spec, path, overrides)
        whole = [n for n in counts if n % per_node == 0 or (n < per_node and per_node % n == 0)]
        if not whole:
            raise InputError(
                f"--accelerators {accelerators}: holds no whole number of nodes "
                f"({per_node} {name} each)"
            )
        specs += [f"{count}x{name}" for count in whole]
    return tuple(specs)


def _kind(spec: str, path: Path | None, overrides: Mapping[str, object]) -> tuple[str, int]:
    """Return accelerator and node size of a cluster whose count is given apart."""
    if spec:
        if re.search(r"^[0-9]+x|:", spec):
            raise InputError(f"--on {spec}: says how many; leave that to --accelerators")
        cluster = _cluster(f"1x{spec}")
        return cluster.accelerator.name, cluster.accelerator.per_node
    cluster = read_plan(path, overrides, legal=False).cluster
    name = cluster.accelerator.name
    if cluster.torus is not None or _cluster(f"{cluster.count}x{name}").tiers != cluster.tiers:
        raise InputError(
            "--accelerators: the file's cluster has links of its own; list --on instead"
        )
    return name, cluster.per_node


def _cluster(spec: str) -> Cluster:
    try:
        return make_cluster(spec)
    except InputError as error:
        raise InputError([f"--on {spec}: {line}" for line in error.problems]) from None


def parse_objective(text: str | None) -> Objective:
    """Return an objective: a word, or weights per hour, dollar, kWh and kg (``cost=1,time=50``).

    Raises
    ------
    InputError
        Anything else.
    """
    weights: dict[str, float] = {}
    for word in _words(text or "time"):
        name, has, number = word.partition("=")
        if name not in _KINDS:
            raise InputError(f"--objective {word}: must be one of {', '.join(_KINDS)}, or weights")
        try:
            weight = float(number) if has else 1.0
        except ValueError:
            raise InputError(f"--objective {word}: a weight is a number, as in cost=1") from None
        weights[name] = weight / 3600.0 if name == "time" and has else weight
    return Objective(**weights)


def parse_constraints(values: Mapping[str, Any]) -> Constraints:
    """Return the constraints that the flags state.

    Raises
    ------
    InputError
        A value that is no amount of what its flag is about.
    """
    budget, headroom = values.get("budget"), values.get("memory_headroom")
    return Constraints(
        budget_usd=inf if budget is None else _count(budget, "--budget"),
        deadline_s=_amount(values.get("deadline"), "--deadline", _UNITS, "30d, 12h or 90min"),
        max_accelerators=values.get("max_accelerators") or inf,
        memory_headroom=0.0 if headroom is None else _share(headroom),
        power_w=_amount(values.get("power"), "--power", _WATTS, "800kW or 2.5MW"),
    )


def _count(text: str, label: str) -> float:
    try:
        return parse_count(text.removeprefix("$"))
    except ValueError:
        raise InputError(f"{label} {text}: must be an amount such as 2e6 or 2M") from None


def _amount(text: str | None, label: str, units: Mapping[str, float], example: str) -> float:
    if text is None:
        return inf
    match = re.fullmatch(_NUMBER + r"\s*([a-zA-Z]+)", text.strip())
    if match is None or match[2].lower() not in units:
        raise InputError(f"{label} {text}: must be an amount with its unit, such as {example}")
    return float(match[1].replace("_", "")) * units[match[2].lower()]


def _share(text: str) -> float:
    try:
        return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        raise InputError(f"--memory-headroom {text}: must be a share such as 10% or 0.1") from None
