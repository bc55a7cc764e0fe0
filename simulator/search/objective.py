"""What a search minimises and what it must keep to, for all candidates at once.

Time, money, energy and carbon of a run all grow with its step time, so a lower bound on the step
is a lower bound on each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.cost import cost
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.run import Run, interruptions, job_mttf_s, whole_run
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.training import checkpoint_bytes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LONG_S = 1e12
"""Work that no interval between checkpoints reaches, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Weights of what is minimised; all 0 means time alone.

    Time is that of the run, or of one step when the training states no tokens; so are the others.
    """

    time: float = 0.0
    """Per second."""
    cost: float = 0.0
    """Per dollar."""
    energy: float = 0.0
    """Per kWh."""
    carbon: float = 0.0
    """Per kg of CO2."""

    def __post_init__(self) -> None:
        weights = [getattr(self, f.name) for f in fields(self)]
        if any(not 0.0 <= weight < inf for weight in weights):
            raise InputError("objective: every weight must be a number of at least 0")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Per second, dollar, kWh and kg."""
        chosen = (self.time, self.cost, self.energy, self.carbon)
        return chosen if any(chosen) else (1.0, 0.0, 0.0, 0.0)

    def of_result(self, result: TrainingResult) -> float:
        """Return the value of a simulated run."""
        time, money, energy, carbon = self.weights
        return (
            time * result.wall_clock_s
            + money * result.cost_usd
            + energy * result.energy_kwh
            + carbon * result.co2_kg
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a plan must keep to."""

    budget_usd: float = inf
    deadline_s: float = inf
    max_accelerators: float = inf
    memory_headroom: float = 0.0
    """Share of an accelerator's memory to leave free, 0 to 1."""
    power_w: float = inf
    """Of the site while training: accelerators, hosts and PUE."""

    def __post_init__(self) -> None:
        lines = [
            f"{name}: must be more than 0"
            for name in ("budget_usd", "deadline_s", "max_accelerators", "power_w")
            if not getattr(self, name) > 0
        ]
        if not 0.0 <= self.memory_headroom < 1.0:
            lines.append("memory_headroom: must be a share from 0 to below 1")
        if lines:
            raise InputError(lines)

    def met_by(self, result: TrainingResult) -> bool:
        """Whether a simulated run keeps to all but the power, which is the cluster's alone."""
        return (
            result.worst_memory.total <= result.memory_limit * (1.0 - self.memory_headroom)
            and result.cost_usd <= self.budget_usd
            and result.wall_clock_s <= self.deadline_s
            and result.accelerators <= self.max_accelerators
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What runs take, float64[n] each."""

    wall_s: Floats
    usd: Floats
    kwh: Floats
    co2_kg: Floats
    value: Floats

    def take(self, rows: NDArray[np.intp]) -> Figures:
        """Return those of some runs."""
        return Figures(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class _Site:
    """What a cluster takes for an hour, and how failures stretch a run on it."""

    usd: float
    idle_kwh: float
    busy_kwh: float
    """Beyond idle, in steps."""
    kg_per_kwh: float
    longer: float
    """Wall clock over work for runs longer than ``interval_s``; infinite when none would end."""
    interval_s: float
    plan: Plan
    bytes: float
    mttf_s: float


class Ledger:
    """From step times to whole runs and their bills.

    Raises
    ------
    InputError
        The objective or a constraint is about money, and an accelerator has no price.
    """

    def __init__(self, space: Space, objective: Objective, constraints: Constraints) -> None:
        self.space = space
        self.objective = objective
        self.constraints = constraints
        self._sites = [_site(space, cluster) for cluster in space.clusters]
        self._work: dict[tuple[int, ...], tuple[float, float]] = {}
        self.count = np.array([cluster.count for cluster in space.clusters], np.float64)
        self.memory_bytes = np.array(
            [cluster.accelerator.memory_bytes for cluster in space.clusters], np.float64
        ) * (1.0 - constraints.memory_headroom)
        """What a plan may take of an accelerator, by cluster."""
        self.power_w = np.array([1e3 * (s.idle_kwh + s.busy_kwh) for s in self._sites])
        """What the site of each cluster draws while it trains."""
        unpriced = [c for c, s in zip(space.clusters, self._sites, strict=True) if not s.usd]
        self.priced = not unpriced
        """Whether every cluster has a price."""
        if unpriced and (objective.cost or constraints.budget_usd < inf):
            name = unpriced[0].accelerator.name
            raise InputError(f"money: no price is known of {name}; give one (--price)")

    def allowed(self) -> Mask:
        """Return which clusters keep to the constraints that are about them alone."""
        limits = self.constraints
        return (self.count <= limits.max_accelerators) & (self.power_w <= limits.power_w)

    def money(self, candidates: Candidates, figures: Figures) -> Floats:
        """Return what the front weighs against time: dollars, or accelerator-seconds."""
        if self.priced:
            return figures.usd
        return self.count[candidates.cluster] * figures.wall_s

    def within(self, figures: Figures, slack: float) -> Mask:
        """Whether figures keep to budget and deadline, both taken ``slack`` (a share) longer."""
        limits = self.constraints
        return (
            (figures.usd <= limits.budget_usd * (1.0 + slack))
            & (figures.wall_s <= limits.deadline_s * (1.0 + slack))
            & np.isfinite(figures.wall_s)
        )

    def figures(self, candidates: Candidates, step_s: Floats, *, bound: bool = False) -> Figures:
        """Return what the runs of candidates take.

        Parameters
        ----------
        candidates, step_s
            n plans and their step times [s].
        bound
            The step times are lower bounds, and so the figures must be. Only a run around the
            length at which checkpoints begin to pay needs care: it may be longer than one that is
            a little longer, having no checkpoints.
        """
        productive, evaluation = self._stretched(candidates, step_s)
        work = productive + evaluation
        wall = np.empty(len(candidates))
        hourly = np.empty((4, len(candidates)))
        for index in np.unique(candidates.cluster):
            rows = np.flatnonzero(candidates.cluster == index)
            site = self._sites[int(index)]
            wall[rows] = self._wall(site, work[rows], bound)
            hourly[:, rows] = np.array([site.usd, site.idle_kwh, site.busy_kwh, site.kg_per_kwh])[
                :, None
            ]
        with np.errstate(invalid="ignore"):  # a run without end at no known price
            usd = hourly[0] * wall / 3600.0
        kwh = (hourly[1] * wall + hourly[2] * productive) / 3600.0
        co2 = kwh * hourly[3]
        value = np.zeros(len(candidates))
        for weight, amount in zip(self.objective.weights, (wall, usd, kwh, co2), strict=True):
            if weight:
                value += weight * amount
        return Figures(wall_s=wall, usd=usd, kwh=kwh, co2_kg=co2, value=value)

    def _wall(self, site: _Site, work: Floats, bound: bool) -> Floats:
        if not self.space.training.tokens:
            return work
        wall = work * site.longer if site.longer < inf else np.full(len(work), inf)
        for row in np.flatnonzero(work <= site.interval_s).tolist():
            unsaved = self._unsaved(site, float(work[row]))
            wall[row] = min(unsaved, site.interval_s * site.longer) if bound else unsaved
        return wall

    @staticmethod
    def _unsaved(site: _Site, work: float) -> float:
        try:
            saving, failing, _ = interruptions(site.plan, work, site.mttf_s, site.bytes)
        except InfeasibleError:
            return inf
        return work + saving + failing

    def _stretched(self, candidates: Candidates, step_s: Floats) -> tuple[Floats, Floats]:
        """Return seconds of all steps and of evaluation; both go with the step time."""
        columns = [candidates.cluster]
        run = self.space.run
        if self.space.training.tokens and run.batch_warmup_tokens:
            columns += [
                candidates.pp, candidates.vpp, candidates.dp, candidates.micro_batch_seqs
            ]  # fmt: skip
        if self.space.training.tokens and run.eval_interval_steps:
            full = [name == "full" for name in self.space.recompute]
            columns.append(np.array(full, np.int32)[candidates.recompute])
        keys, first, place = np.unique(
            np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True
        )
        factors = np.empty((len(keys), 2))
        for i, key in enumerate(map(tuple, keys.tolist())):
            if key not in self._work:
                self._work[key] = self._factors(plan_at(self.space, candidates, int(first[i])))
            factors[i] = self._work[key]
        of_row = factors[place.reshape(-1)]
        return of_row[:, 0] * step_s, of_row[:, 1] * step_s

    @staticmethod
    def _factors(plan: Plan) -> tuple[float, float]:
        """Return the run's steps and its evaluation, both in units of a step."""
        options = replace(plan.run, failures=False, checkpoint_interval_s=0.0)
        tokens = float(plan.training.global_batch_seqs * plan.training.seq_len)
        run = whole_run(1.0, tokens, replace(plan, run=options), 0.0)
        return run.steps_s + run.batch_warmup_s, run.evaluation_s


def _site(space: Space, cluster: Cluster) -> _Site:
    plan = Plan(
        model=space.model,
        cluster=cluster,
        parallel=space.parallel,
        training=space.training,
        stack=space.stack,
        run=space.run,
        money=space.money,
    )
    hour = Run(
        steps=1,
        wall_clock_s=3600.0,
        goodput=1.0,
        steps_s=3600.0,
        batch_warmup_s=0.0,
        evaluation_s=0.0,
        checkpoint_s=0.0,
        failure_s=0.0,
        checkpoint_interval_s=0.0,
        mttf_s=inf,
        failures=0.0,
    )
    busy, idle = cost(hour, plan), cost(replace(hour, goodput=0.0), plan)
    mttf, size = job_mttf_s(plan), checkpoint_bytes(plan)
    try:
        saving, failing, interval = interruptions(plan, LONG_S, mttf, size)
        longer = (LONG_S + saving + failing) / LONG_S
    except InfeasibleError:
        longer, interval = inf, inf
    # a run that writes no checkpoints starts over at every failure: never in proportion
    if mttf < inf and not plan.run.checkpoint_interval_s:
        interval = inf
    return _Site(
        usd=busy.usd,
        idle_kwh=idle.energy_kwh,
        busy_kwh=busy.energy_kwh - idle.energy_kwh,
        kg_per_kwh=busy.co2_kg / busy.energy_kwh,
        longer=longer,
        interval_s=interval,
        plan=plan,
        bytes=size,
        mttf_s=mttf,
    )
