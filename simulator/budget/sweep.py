"""What a tuning sweep costs: trials and tokens -> steps, accelerator-hours, dollars, makespan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.budget.sweepfile import Sweep
from ridgeline.simulator.cost import hourly_rate
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads.sweeps import MAX_TRIALS, Bracket, Rung, halving, hyperband, spread
from ridgeline.workloads.sweeps import depth as rungs_to

SCHEMA_VERSION = 1
_GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class RungCost:
    """Trials of one rung."""

    bracket: int
    """From 0; brackets of one trial each (carbs) count as one."""
    trials: int
    tokens: float
    """That each has had at the end of the rung, on average where they differ."""
    steps: int
    """Of all trials, in this rung."""
    seconds: float
    """Of one trial, start-up in it; on average where they differ."""
    accelerator_hours: float
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCost:
    """What a sweep takes."""

    method: str
    model: str
    cluster: str
    """Of one trial."""
    trial_accelerators: int
    accelerators: int
    at_once: int
    """Trials that run beside each other."""
    trials: int
    """Configurations."""
    tokens: float
    steps: int
    step_time_s: float
    full_trials: float
    """Trials of full length that the same accelerator-hours would pay for."""
    accelerator_hours: float
    """In which trials run."""
    accelerator_hours_low: float
    accelerator_hours_high: float
    """From the range of the step time."""
    usd: float
    """For these; 0 where no price is known."""
    makespan_s: float
    """From the first start to the last end."""
    held_usd: float
    """Where all accelerators are held for the makespan."""
    utilisation: float
    """Of the accelerators, over the makespan."""
    usd_per_accelerator_hour: float
    rungs: tuple[RungCost, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan.sweep",
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat line a rung."""
        return [asdict(rung) for rung in self.rungs]


def sweep_cost(sweep: Sweep) -> SweepCost:
    """Price a sweep: each part of a trial takes whole steps of its plan and a start-up.

    Raises
    ------
    InputError
        A budget without a price, a schedule that cannot be.
    InfeasibleError
        A trial that does not fit into memory, or a budget that pays for none.
    """
    plan = sweep.plan
    trained = simulate_training(plan)
    if not trained.fits:
        raise InfeasibleError(
            f"a trial does not fit: {trained.worst_memory.total / _GIB:.1f} GiB of "
            f"{trained.memory_limit / _GIB:.1f} GiB on {plan.cluster.name}; split its plan further"
        )
    price, warnings = hourly_rate(plan.money, plan.cluster.accelerator)
    clock = Clock(
        step_s=trained.step_time_s,
        step_tokens=float(plan.training.global_batch_seqs * plan.training.seq_len),
        start_up_s=sweep.start_up_s,
        resume=sweep.resume,
    )
    each_usd = price.usd_per_hour * plan.cluster.count / 3600.0
    brackets = _brackets(sweep, clock, each_usd)
    at_once = sweep.accelerators // plan.cluster.count
    parts = [clock.parts(bracket) for bracket in brackets]
    seconds = sum(n * s for bracket in parts for n, _, s in bracket)
    timed = [[(n, s) for n, _, s in bracket] for bracket in parts]
    span = makespan(timed, at_once, together=sweep.together)
    hours = seconds * plan.cluster.count / 3600.0
    full_s = clock.steps(sweep.most_tokens) * clock.step_s + clock.start_up_s
    fixed = sum(n for bracket in parts for n, _, _ in bracket) * clock.start_up_s
    low, high = (
        (fixed + (seconds - fixed) * edge / trained.step_time_s) * plan.cluster.count / 3600.0
        for edge in (trained.step_time_low_s, trained.step_time_high_s)
    )
    steps = sum(n * count for bracket in parts for n, count, _ in bracket)
    return SweepCost(
        method=sweep.method,
        model=plan.model.name,
        cluster=plan.cluster.name,
        trial_accelerators=plan.cluster.count,
        accelerators=sweep.accelerators,
        at_once=at_once,
        trials=sum(bracket.trials for bracket in brackets),
        tokens=steps * clock.step_tokens,
        steps=steps,
        step_time_s=trained.step_time_s,
        full_trials=seconds / full_s,
        accelerator_hours=hours,
        accelerator_hours_low=low,
        accelerator_hours_high=high,
        usd=hours * price.usd_per_hour,
        makespan_s=span,
        held_usd=span * sweep.accelerators / 3600.0 * price.usd_per_hour,
        utilisation=seconds * plan.cluster.count / (span * sweep.accelerators),
        usd_per_accelerator_hour=price.usd_per_hour,
        rungs=_rungs(brackets, parts, plan.cluster.count, price.usd_per_hour, sweep.method),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Tokens -> steps -> seconds of one trial."""

    step_s: float
    step_tokens: float
    start_up_s: float
    resume: bool

    def steps(self, tokens: float) -> int:
        """Return the steps that so many tokens take, at least one."""
        return max(1, math.ceil(tokens / self.step_tokens - 1e-9))

    def parts(self, bracket: Bracket) -> list[tuple[int, int, float]]:
        """Return for each rung its trials, and the steps and seconds of one of them."""
        out, before = [], 0
        for rung in bracket.rungs:
            reached = self.steps(rung.resource)
            steps = reached - before if self.resume else reached
            out.append((rung.trials, steps, steps * self.step_s + self.start_up_s))
            before = reached
        return out

    def seconds(self, brackets: Sequence[Bracket]) -> float:
        """Return the seconds of all trials together."""
        return sum(n * s for bracket in brackets for n, _, s in self.parts(bracket))


def _brackets(sweep: Sweep, clock: Clock, usd_per_s: float) -> tuple[Bracket, ...]:
    """Return the schedule in tokens."""
    most, least = sweep.most_tokens, sweep.least_tokens
    if sweep.method == "hyperband":
        unit = tuple(_in_tokens(one, least) for one in hyperband(most / least, sweep.eta))
        return unit * sweep.repeats
    if sweep.method == "successive-halving":
        rungs = rungs_to(most / least, sweep.eta) + 1
        return (halving(sweep.trials, least, sweep.eta, rungs),) * sweep.repeats

    def schedule(trials: int) -> tuple[Bracket, ...]:
        if sweep.method == "random":
            return (Bracket(rungs=(Rung(trials=trials, resource=most),)),)
        return spread(trials, least, most)

    trials = sweep.trials
    if not trials:
        if not usd_per_s:
            raise InputError(
                "sweep.budget_usd: no price is known; give money.usd_per_accelerator_hour in the "
                "plan, or sweep.trials"
            )
        trials = _affordable(
            lambda n: clock.seconds(schedule(n)) * usd_per_s * sweep.repeats, sweep.budget_usd
        )
    return schedule(trials) * sweep.repeats


def _affordable(usd: Any, budget_usd: float) -> int:
    """Return the most trials whose dollars are within a budget, by bisection."""
    if usd(1) > budget_usd:
        raise InfeasibleError(
            f"sweep.budget_usd = {budget_usd:g}: one trial costs {usd(1):,.2f} USD; give more or "
            "shorten it"
        )
    low, high = 1, 2
    while usd(high) <= budget_usd:
        low, high = high, 2 * high
        if high > MAX_TRIALS:
            raise InputError(
                f"sweep.budget_usd = {budget_usd:g}: pays for more than {MAX_TRIALS:,} trials"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if usd(middle) <= budget_usd else (low, middle)
    return low


def _in_tokens(bracket: Bracket, unit: float) -> Bracket:
    return Bracket(
        rungs=tuple(
            Rung(trials=rung.trials, resource=rung.resource * unit) for rung in bracket.rungs
        )
    )


def makespan(
    brackets: Sequence[Sequence[tuple[int, float]]], at_once: int, *, together: bool
) -> float:
    """Return the time from the first start to the last end, s.

    A rung begins when all trials of the one before have ended; whoever is free takes a trial of the
    first bracket that has one to start.

    Parameters
    ----------
    brackets
        Of each its rungs: trials, and seconds of one.
    at_once
        Trials that run beside each other.
    together
        Brackets beside each other; else one after the other.
    """
    if not together:
        return sum(-(-n // at_once) * s for bracket in brackets for n, s in bracket)
    rung = [0] * len(brackets)
    unstarted = [bracket[0][0] for bracket in brackets]
    running = [0] * len(brackets)
    ends: list[tuple[float, int, int]] = []
    now, free = 0.0, at_once
    first = 0
    while True:
        for place in range(first, len(brackets)):
            if free == 0:
                break
            start = min(free, unstarted[place])
            if start:
                heappush(ends, (now + brackets[place][rung[place]][1], place, start))
                unstarted[place] -= start
                running[place] += start
                free -= start
        while first < len(brackets) and not unstarted[first] and rung[first] + 1 == len(
            brackets[first]
        ):  # fmt: skip
            first += 1
        if not ends:
            return now
        now, place, count = heappop(ends)
        free += count
        running[place] -= count
        done = not running[place] and not unstarted[place]
        if done and rung[place] + 1 < len(brackets[place]):
            rung[place] += 1
            unstarted[place] = brackets[place][rung[place]][0]


def _rungs(
    brackets: Sequence[Bracket],
    parts: Sequence[Sequence[tuple[int, int, float]]],
    each: int,
    usd_per_hour: float,
    method: str,
) -> tuple[RungCost, ...]:
    """Return a line a rung; single trials of different lengths make one together."""
    out = []
    if method == "carbs":
        lines = [(bracket.rungs[0], part[0]) for bracket, part in zip(brackets, parts, strict=True)]
        count = len(lines)
        seconds = sum(part[2] for _, part in lines)
        hours = seconds * each / 3600.0
        return (
            RungCost(
                bracket=0,
                trials=count,
                tokens=sum(rung.resource for rung, _ in lines) / count,
                steps=sum(part[1] for _, part in lines),
                seconds=seconds / count,
                accelerator_hours=hours,
                usd=hours * usd_per_hour,
            ),
        )
    for number, (bracket, part) in enumerate(zip(brackets, parts, strict=True)):
        for rung, (trials, steps, seconds) in zip(bracket.rungs, part, strict=True):
            hours = trials * seconds * each / 3600.0
            out.append(
                RungCost(
                    bracket=number,
                    trials=trials,
                    tokens=rung.resource,
                    steps=trials * steps,
                    seconds=seconds,
                    accelerator_hours=hours,
                    usd=hours * usd_per_hour,
                )
            )
    return tuple(out)
