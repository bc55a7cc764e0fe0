"""Ways to serve models of a fleet: each alone, alone and released when idle, several by turns.

An option is the smallest of its way: of a kind of accelerator the fewest that keep the promises.
Fewer are never dearer, whatever else is placed, so that larger ones need not be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator
from ridgeline.simulator.cost import hourly_rate
from ridgeline.simulator.serving.capacity import weight_bytes
from ridgeline.simulator.serving.choice.candidates import Site, candidates_of, make_site
from ridgeline.simulator.serving.choice.goals import headroom
from ridgeline.simulator.serving.choice.records import Pooled, pooled
from ridgeline.simulator.serving.choice.space import (
    Kind,
    Replica,
    rented,
    rented_cluster,
)
from ridgeline.simulator.serving.choice.trial import Candidate, Trial, pools_of, try_candidate
from ridgeline.simulator.serving.placement.question import FleetQuestion, Tenant
from ridgeline.simulator.serving.placement.turns import Guest, Turns, take_turns
from ridgeline.simulator.serving.play import Pool
from ridgeline.simulator.serving.shape import make_shape

Say = Callable[[str], None]
ALONE, RELEASED, TURNS = "alone", "released", "turns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a model gets in an option."""

    name: str
    pool: Pooled
    reached_s: dict[str, float]
    """By figure, what the promised share of requests keeps."""
    headroom: float
    load_s: float
    """To bring it back; 0 where it never leaves."""
    loads: int
    cold_share: float
    """Of its requests, those that waited for a load."""
    busy_share: float
    """Of the time, in which its replicas work; 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Accelerators of one kind for some of the models."""

    members: frozenset[int]
    """Numbers of models."""
    way: str
    """alone, released or turns."""
    kind: int
    """Number of the accelerator in the question."""
    accelerators: int
    on_share: float
    """Of the time that they are paid for."""
    usd_per_hour: float
    """Of these accelerators by themselves; whole nodes round it up."""
    kept: tuple[Kept, ...]

    @property
    def held(self) -> int:
        """Accelerators that are rented all the time."""
        return self.accelerators if self.way != RELEASED else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seat:
    """A model on exactly so many accelerators of a kind, as one replica."""

    tenant: Tenant
    replica: Replica
    pool: Pool
    pooled: Pooled
    load_s: float

    @property
    def guest(self) -> Guest:
        return Guest(
            pool=self.pool,
            traffic=self.tenant.demand.traffic,
            load_s=self.load_s,
            goals=self.tenant.demand.goals,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options, and what was looked at for them."""

    options: tuple[Option, ...]
    kinds: tuple[Kind, ...]
    groups_tried: int
    lost: tuple[str, ...]
    """Models that nothing in the space serves, and why."""


def options_of(question: FleetQuestion, say: Say | None = None) -> Options:
    """Return the ways to serve each model and group of models.

    A group is tried where all groups with one member less keep their promises on that kind, in the
    sizes that all its members have a replica of.

    Raises
    ------
    InputError
        A model without anything legal, an accelerator without a price.
    """
    kinds = _priced(question)
    found: list[Option] = []
    seats: dict[tuple[int, int], dict[int, _Seat]] = {}
    lost: list[str] = []
    for number, tenant in enumerate(question.tenants):
        if say is not None:
            say(tenant.name)
        reasons = []
        ways = 0
        for place, kind in enumerate(kinds):
            try:
                site = make_site(tenant.space, kind, tenant.demand)
            except (InputError, InfeasibleError) as error:
                reasons.append(str(error))
                continue
            most = _most(question, place)
            alone = _alone(site, tenant, most)
            if alone is not None:
                found.append(_of_trial(alone, number, place, kind, tenant))
                ways += 1
            else:
                reasons.append(site.too_large or f"{kind.accelerator.name}: too slow or too few")
            seats[number, place] = _seats(site, question, tenant, most)
            released = _released(seats[number, place], question, number, place, kind)
            if released is not None:
                found.append(released)
                ways += 1
        if not ways:
            lost.append(f"{tenant.name}: {'; '.join(reasons)}")
    groups, tried = _groups(question, kinds, seats, say)
    return Options(options=(*found, *groups), kinds=kinds, groups_tried=tried, lost=tuple(lost))


def _priced(question: FleetQuestion) -> tuple[Kind, ...]:
    money, kinds = question.tenants[0].space.money, []
    for place, name in enumerate(question.accelerators):
        accelerator = load_accelerator(name)
        usd = question.usd_per_hour.get(name, 0.0)
        usd = usd or hourly_rate(money, accelerator)[0].usd_per_hour
        if not usd:
            raise InputError(f"fleet.usd_per_hour: no price is known of {name}; give it there")
        kinds.append(Kind(accelerator=accelerator, usd_per_hour=usd, place=place))
    return tuple(kinds)


def _most(question: FleetQuestion, place: int) -> int:
    return min(question.most, question.available.get(question.accelerators[place], question.most))


def _alone(site: Site, tenant: Tenant, most: int) -> Trial | None:
    """Return the trial on the fewest accelerators, of equals that with most headroom."""
    for size in range(1, most + 1):
        count = rented(site.kind.accelerator, size, tenant.space.most)
        cluster = rented_cluster(site.kind.accelerator, count) if count else None
        if cluster is None:
            continue
        best: Trial | None = None
        for candidate, hopeless in candidates_of(site, size, size - 1):
            if hopeless:
                continue
            trial = try_candidate(candidate, cluster, tenant.demand)
            if trial is None or not trial.kept:
                continue
            if best is None or trial.headroom > best.headroom:
                best = trial
        if best is not None:
            return best
    return None


def _of_trial(trial: Trial, number: int, place: int, kind: Kind, tenant: Tenant) -> Option:
    candidate, played = trial.candidate, trial.played
    on = float(played.on_s.sum())
    kept = Kept(
        name=tenant.name,
        pool=pooled(candidate)[0],
        reached_s=trial.reached_s,
        headroom=trial.headroom,
        load_s=0.0,
        loads=0,
        cold_share=0.0,
        busy_share=float(played.busy_s.sum()) / on if on > 0.0 else 0.0,
    )
    return Option(
        members=frozenset((number,)),
        way=ALONE,
        kind=place,
        accelerators=candidate.accelerators,
        on_share=1.0,
        usd_per_hour=kind.usd_per_hour * candidate.accelerators,
        kept=(kept,),
    )


def _seats(site: Site, question: FleetQuestion, tenant: Tenant, most: int) -> dict[int, _Seat]:
    """Return by accelerators the replica of a model that answers best when it is always there."""
    best: dict[int, tuple[float, Replica]] = {}
    for one in site.whole:
        size = one.replica.accelerators
        if size > most or one.replicas > 1:
            continue
        candidate = Candidate(kind=site.kind, replica=one.replica, replicas=1)
        trial = try_candidate(candidate, one.replica.service.cluster, tenant.demand)
        if trial is None or not trial.kept:
            continue
        if size not in best or trial.headroom > best[size][0]:
            best[size] = trial.headroom, one.replica
    seats = {}
    for size, (_, replica) in sorted(best.items()):
        load_s = _load_s(replica, question)
        if any(goal.figure != "tpot" and load_s > goal.limit_s and goal.share == 1.0
               for goal in tenant.demand.goals):  # fmt: skip
            continue
        candidate = Candidate(kind=site.kind, replica=replica, replicas=1)
        seats[size] = _Seat(
            tenant=tenant,
            replica=replica,
            pool=pools_of(candidate, replica.service.cluster)[0],
            pooled=pooled(candidate)[0],
            load_s=load_s,
        )
    return seats


def _load_s(replica: Replica, question: FleetQuestion) -> float:
    """Return the time to bring a model back: every accelerator takes its weights in by itself."""
    accelerator = replica.service.cluster.accelerator
    rate = question.load_bytes_per_s or accelerator.host_bytes_per_s
    if rate <= 0.0:
        raise InputError(
            f"fleet.load_gb_per_s: {accelerator.name} has no known link to its host; give the rate "
            "at which weights come"
        )
    return question.wake_s + weight_bytes(make_shape(replica.service)) / rate


def _released(
    seats: dict[int, _Seat], question: FleetQuestion, number: int, place: int, kind: Kind
) -> Option | None:
    """Return the cheapest way to have a model alone and give its accelerators back when idle."""
    if not question.release_after_s:
        return None
    best: Option | None = None
    for size, seat in seats.items():
        turns = take_turns(
            [seat.guest],
            release_after_s=question.release_after_s,
            start_up_s=question.start_up_s,
        )
        if turns is None:
            continue
        paid = rented(kind.accelerator, size, question.most)
        option = _of_turns([number], [seat], turns, RELEASED, place, size, question)
        if paid:
            usd = kind.usd_per_hour * paid * option.on_share
            option = replace(option, accelerators=paid, usd_per_hour=usd)
            if best is None or usd < best.usd_per_hour:
                best = option
    return best


def _groups(
    question: FleetQuestion,
    kinds: Sequence[Kind],
    seats: dict[tuple[int, int], dict[int, _Seat]],
    say: Say | None,
) -> tuple[list[Option], int]:
    found: list[Option] = []
    tried = 0
    count = len(question.tenants)
    for place, kind in enumerate(kinds):
        able = [number for number in range(count) if seats.get((number, place))]
        # a model alone is there all the time after its first load
        smaller = {frozenset((number,)): min(seats[number, place]) for number in able}
        for together in range(2, min(question.most_together, len(able)) + 1):
            if say is not None:
                say(f"{together} by turns on {kind.accelerator.name}")
            grown: dict[frozenset[int], int] = {}
            for members in combinations(able, together):
                parts = [smaller.get(frozenset(members) - {one}) for one in members]
                if any(part is None for part in parts):
                    continue
                least = max(part for part in parts if part is not None)
                tried += 1
                option = _group(members, place, seats, question, least, kind)
                if option is not None:
                    found.append(option)
                    grown[option.members] = option.accelerators
            smaller = grown
            if not grown:
                break
    return found, tried


def _group(
    members: Sequence[int],
    place: int,
    seats: dict[tuple[int, int], dict[int, _Seat]],
    question: FleetQuestion,
    least: int,
    kind: Kind,
) -> Option | None:
    """Return a group on the fewest accelerators that it can take turns on."""
    common = set.intersection(*(set(seats[number, place]) for number in members))
    for size in sorted(size for size in common if size >= least):
        there = [seats[number, place][size] for number in members]
        turns = take_turns([seat.guest for seat in there])
        if turns is not None:
            option = _of_turns(members, there, turns, TURNS, place, size, question)
            return replace(option, usd_per_hour=kind.usd_per_hour * size)
    return None


def _of_turns(
    members: Sequence[int],
    seats: Sequence[_Seat],
    turns: Turns,
    way: str,
    place: int,
    size: int,
    question: FleetQuestion,
) -> Option:
    span = max(turns.end_s, question.duration_s)
    kept = []
    for seat, stay in zip(seats, turns.stays, strict=True):
        goals = seat.tenant.demand.goals
        got = stay.reached(goals)
        kept.append(
            Kept(
                name=seat.tenant.name,
                pool=seat.pooled,
                reached_s=got,
                headroom=headroom(goals, got),
                load_s=seat.load_s,
                loads=stay.loads,
                cold_share=stay.cold / len(seat.tenant.demand.traffic),
                busy_share=stay.busy_s / span,
            )
        )
    return Option(
        members=frozenset(members),
        way=way,
        kind=place,
        accelerators=size,
        on_share=min(1.0, turns.on_s / span) if way == RELEASED else 1.0,
        usd_per_hour=math.nan,
        kept=tuple(kept),
    )
