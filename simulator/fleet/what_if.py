"""What changes of a fleet bring in goodput and dollars, seed by seed with the same luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.fleet.changes import (
    Reader,
    code,
    field,
    interval,
    number,
    parse_changes,
    parse_time,
    positive_time,
    share,
    whole,
)
from ridgeline.simulator.fleet.fleetfile import read_fleet
from ridgeline.simulator.fleet.many import interval as student
from ridgeline.simulator.fleet.many import play_many
from ridgeline.simulator.fleet.results import FleetResult, play_fleet
from ridgeline.simulator.fleet.spec import Fleet

FIGURES = ("goodput", "cost_usd", "usd_per_useful_hour", "mean_jct_s")


def _hours(text: str) -> float:
    return parse_time(text) / 3600.0


def _checkpoint_code(text: str) -> dict[str, Any]:
    return {f"checkpoint.{name}": value for name, value in code(text).items()}


KEYS: Mapping[str, Reader] = {
    "spares": field("pool.spares", share),
    "checkpoint": field("checkpoint.kind", str),
    "interval": field("checkpoint.interval", interval),
    "copies": field("checkpoint.copies", whole),
    "code": _checkpoint_code,
    "store-interval": field("checkpoint.store_interval_s", positive_time),
    "fleet": field("pool.failures", str),
    "failures": field("pool.failures_per_1000_node_days", number),
    "shape": field("pool.weibull_shape", number),
    "switch-share": field("pool.switch_share", share),
    "repair": field("pool.repair_h", _hours),
    "detect": field("pool.detect_s", parse_time),
    "requeue": field("pool.requeue_s", parse_time),
    "stragglers": field("pool.stragglers", share),
    "slow-links": field("pool.slow_links_per_1000_node_days", number),
    "reclaims": field("pool.reclaims_per_1000_node_days", number),
    "reclaim-wait": field("pool.reclaimed_h", _hours),
    "nodes": field("pool.nodes", whole),
    "policy": field("policy", str),
    "placement": field("placement", str),
}
"""What may be asked about, by the user's word; of pools it holds for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A mean over seeds, and what it differs from the fleet as it is."""

    value: float
    difference: float
    low: float | None
    """Where the true difference lies with 95% confidence (Student's t over the seeds, each against
    itself); None with one seed."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change brings."""

    change: str
    figures: dict[str, Figure]
    """By the names of ``FIGURES``."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def changed_fleets(
    path: str | Path, text: str, overrides: Mapping[str, object] | None = None
) -> dict[str, Fleet]:
    """Return the fleet with each change alone, and with all together when there are several.

    Parameters
    ----------
    path, overrides
        Of :func:`ridgeline.simulator.fleet.fleetfile.read_fleet`.
    text
        For example ``spares=2%,checkpoint=in-memory``.

    Raises
    ------
    InputError
        Changes that mean nothing, or that the fleet does not allow.
    """
    changes = parse_changes(text, "--what-if", KEYS)
    sets = dict(changes)
    if len(changes) > 1:
        sets["all together"] = {key: v for one in changes.values() for key, v in one.items()}
    fleets: dict[str, Fleet] = {}
    wrong: list[str] = []
    for name, fields in sets.items():
        if wrong and name not in changes:
            break
        try:
            fleets[name] = read_fleet(path, {**(overrides or {}), **fields})
        except InputError as error:
            wrong += [f"--what-if {name}: {line}" for line in error.problems]
    if wrong:
        raise InputError(wrong)
    return fleets


def what_if(
    base: Sequence[FleetResult], fleets: Mapping[str, Fleet], *, workers: int = 1
) -> tuple[tuple[Change, ...], bool]:
    """Return what each change brings, and whether all were played to the end.

    Parameters
    ----------
    base
        The fleet as it is, one or more seeds in a row.
    fleets
        Of :func:`changed_fleets`.
    workers
        Processes.
    """
    found: list[Change] = []
    for name, fleet in fleets.items():
        runs, complete = _played(fleet, len(base), workers)
        if not complete:
            return tuple(found), False
        figures = {key: _figure(key, base, runs) for key in FIGURES}
        found.append(Change(change=name, figures=figures))
    return tuple(found), True


def _played(fleet: Fleet, seeds: int, workers: int) -> tuple[Sequence[FleetResult], bool]:
    if seeds == 1:
        result = play_fleet(fleet).result
        return (result,), result.complete
    many = play_many(fleet, seeds, workers=workers)
    return many.runs, many.complete


def _figure(name: str, base: Sequence[FleetResult], runs: Sequence[FleetResult]) -> Figure:
    before = [float(getattr(run, name)) for run in base]
    after = [float(getattr(run, name)) for run in runs]
    spread = student([new - old for new, old in zip(after, before, strict=True)])
    bounded = isfinite(spread.low)
    return Figure(
        value=student(after).mean,
        difference=spread.mean,
        low=spread.low if bounded else None,
        high=spread.high if bounded else None,
    )
