"""The TOML file of models that share a fleet -> one frozen ``FleetQuestion``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ridgeline.errors import InputError, nearest
from ridgeline.hardware import load_accelerator
from ridgeline.simulator.planfile import read_tables
from ridgeline.simulator.serving.choice.goals import (
    DEFAULT_SHARE,
    Demand,
    parse_goals,
    parse_percentile,
)
from ridgeline.simulator.serving.choice.space import ServiceSpace
from ridgeline.simulator.serving.placement.schema import MOST_MODELS, read_fleet_table
from ridgeline.simulator.serving.servicefile import make_question_traffic, read_service

_TRAFFIC = (
    *("request_rate", "rates", "period_s", "burstiness", "seed"),
    *("input_len", "output_len", "lengths", "length_low", "length_cv"),
)
_SERVED = ("engine", "precision", "kv_precision", "chunked_prefill", "memory_fraction")
_OWN = ("name", "model", "slo", "percentile", "tp", "pp")
N = TypeVar("N", int, float)
MODEL_KEYS = (*_OWN, *_SERVED, *_TRAFFIC)
"""Keys of ``[[model]]``; all but its own are those of ``[serving]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One model: what it may be served by, what is asked of it and what is promised."""

    name: str
    space: ServiceSpace
    demand: Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetQuestion:
    """Models, what can be rented, and how a model that is away comes back."""

    tenants: tuple[Tenant, ...]
    accelerators: tuple[str, ...]
    """Kinds, in the order of the file."""
    available: Mapping[str, int] = field(default_factory=dict)
    """Most of a kind; without an entry ``most``."""
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    """Of an accelerator of a kind; without an entry that of the models' money."""
    most: int = 64
    """Accelerators at once, all kinds together."""
    duration_s: float = 600.0
    load_bytes_per_s: float = 0.0
    """Rate at which an accelerator takes weights in; 0 is its link to the host."""
    wake_s: float = 0.0
    """Of a load beside its bytes (processes, graphs, allocator)."""
    most_together: int = 4
    """Models that may share accelerators by turns; 1 lets none."""
    release_after_s: float = 0.0
    """Idle time after which a model that is alone gives its accelerators back; 0: never."""
    start_up_s: float = 60.0
    """From asking for accelerators to having them, before weights are loaded."""


def read_models(path: Path) -> FleetQuestion:
    """Read a file of models.

    Raises
    ------
    InputError
        With all mistakes, one line each.
    """
    tables, where = read_tables(path), f"{path}: "
    known = ("fleet", "model", "money")
    wrong = [
        f"{where}{key}: unknown table; {nearest(key, known)}" for key in tables if key not in known
    ]
    table, lines = read_fleet_table(tables.get("fleet"), where)
    wrong += lines
    entries = tables.get("model")
    if not isinstance(entries, list) or not entries:
        wrong.append(f"{where}model: give each model a [[model]] table")
        entries = []
    if len(entries) > MOST_MODELS:
        wrong.append(f"{where}model: {len(entries)} models; at most {MOST_MODELS} are placed")
        entries = []
    names: list[str] = []
    for name in table.on if table is not None else ():
        try:
            names.append(load_accelerator(name).name)
        except InputError as error:
            wrong += [f"{where}fleet.on: {line}" for line in error.problems]
    available = _by_kind(table.available if table else {}, "available", names, where, wrong)
    prices = _by_kind(table.usd_per_hour if table else {}, "usd_per_hour", names, where, wrong)
    if len(set(names)) < len(names):
        wrong.append(f"{where}fleet.on: names an accelerator twice")
    tenants = []
    if table is not None and names and not wrong:
        money = tables.get("money", {})
        for place, entry in enumerate(entries):
            try:
                tenants.append(
                    _tenant(entry, place, names, money, table.duration_s, table.max_accelerators)
                )
            except InputError as error:
                wrong += [f"{where}{line}" for line in error.problems]
        twice = [one.name for one in tenants if [t.name for t in tenants].count(one.name) > 1]
        if twice:
            wrong.append(f"{where}model {twice[0]!r}: stands there twice; give each a name")
    if wrong or table is None:
        raise InputError(wrong)
    return FleetQuestion(
        tenants=tuple(tenants),
        accelerators=tuple(names),
        available=available,
        usd_per_hour=prices,
        most=table.max_accelerators,
        duration_s=table.duration_s,
        load_bytes_per_s=table.load_gb_per_s * 1e9,
        wake_s=table.wake_s,
        most_together=table.most_together,
        release_after_s=table.release_after_s,
        start_up_s=table.start_up_s,
    )


def _by_kind(
    given: Mapping[str, N], key: str, names: list[str], where: str, wrong: list[str]
) -> dict[str, N]:
    """Return numbers by the accelerators' own names; what is wrong goes to ``wrong``."""
    found: dict[str, N] = {}
    for name, value in given.items():
        try:
            found[load_accelerator(name).name] = value
        except InputError as error:
            wrong += [f"{where}fleet.{key}: {line}" for line in error.problems]
    wrong += [
        f"{where}fleet.{key}.{name}: is not in fleet.on; add it there or leave it out"
        for name in found
        if name not in names
    ]
    return found


def _tenant(
    entry: object, place: int, names: list[str], money: object, duration_s: float, most: int
) -> Tenant:
    label = f"model {place + 1}"
    if not isinstance(entry, dict):
        raise InputError(f"{label}: must be a table")
    named = entry.get("name") or entry.get("model")
    label = f"model {named!r}" if isinstance(named, str) else label
    unknown = [key for key in entry if key not in MODEL_KEYS]
    if unknown:
        raise InputError([f"{label}.{key}: unknown; {nearest(key, MODEL_KEYS)}" for key in unknown])
    texts = ("name", "model", "slo", "percentile")
    wrong = [
        f"{label}.{key} = {entry[key]!r:.60}: must be text"
        for key in texts
        if not isinstance(entry.get(key, ""), str)
    ]
    wrong += [
        f"{label}.{key}: missing; {hint}"
        for key, hint in (
            ("model", "name it, for example 'llama3-8b'"),
            ("slo", "say what is promised, for example 'ttft=2s,tpot=50ms'"),
        )
        if not entry.get(key)
    ]
    if wrong:
        raise InputError(wrong)
    overrides: dict[str, Any] = {
        f"serving.{key}": value for key, value in entry.items() if key in (*_SERVED, *_TRAFFIC)
    }
    labels = {f"serving.{key}": f"{label}.{key}" for key in (*_SERVED, *_TRAFFIC)}
    overrides |= {
        "model.name": entry["model"],
        "cluster.spec": f"1x{names[0]}",
        "serving.duration_s": duration_s,
    }
    labels |= {"model.name": f"{label}.model"}
    if isinstance(money, dict):
        overrides |= {f"money.{key}": value for key, value in money.items()}
        labels |= {f"money.{key}": f"money.{key}" for key in money}
    question = read_service(None, overrides, labels)
    try:
        share = DEFAULT_SHARE
        if entry.get("percentile"):
            share = parse_percentile(entry["percentile"], "percentile")
        goals = parse_goals(entry["slo"], share)
    except InputError as error:
        raise InputError([f"{label}: {line}" for line in error.problems]) from None
    service = question.deployed[0].service
    ways = {key: _ways(entry[key], f"{label}.{key}") for key in ("tp", "pp") if key in entry}
    space = ServiceSpace(
        model=service.model,
        accelerators=tuple(names),
        engine=question.section.engine if "engine" in entry else "",
        precisions=(service.precision,),
        kv_precisions=(service.kv_precision,),
        modes=("aggregated",),
        most=most,
        limits=service.limits,
        speculation=service.speculation,
        money=service.money,
        **ways,
    )
    demand = Demand(traffic=make_question_traffic(question), goals=goals, asked=question.asked)
    return Tenant(name=str(named), space=space, demand=demand)


def _ways(value: object, label: str) -> tuple[int, ...]:
    listed: list[Any] = value if isinstance(value, list) else [value]
    if not listed or not all(type(one) is int and one >= 1 for one in listed):
        raise InputError(f"{label} = {value!r:.60}: must be a whole number or a list of them")
    if any(one & (one - 1) for one in listed):
        raise InputError(
            f"{label} = {value!r:.60}: must be powers of two, which fill nodes without gaps"
        )
    return tuple(listed)
