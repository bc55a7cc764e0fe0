"""A training run on the calendar: when it ends, what it costs, how likely it keeps its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.fleet.calendar.assumptions import Assumptions, changed
from ridgeline.simulator.fleet.calendar.monte_carlo import Drawn, Setting, draw
from ridgeline.simulator.fleet.calendar.records import CalendarResult, Difference, Percentiles
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.run import Run, whole_run
from ridgeline.simulator.training import checkpoint_bytes

Float64 = NDArray[np.float64]

RUNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the run should keep; none where None."""

    deadline_s: float | None = None
    budget_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All runs of one set of assumptions."""

    assumptions: Assumptions
    setting: Setting
    run: Run
    drawn: Drawn
    cost_usd: Float64 | None
    """Of each run, None without a price."""

    @property
    def goodput(self) -> Float64:
        """Of each run: training steps that count, over the wall clock."""
        steps_s = self.run.steps_s + self.run.batch_warmup_s
        goodput: Float64 = steps_s * self.drawn.factor / self.drawn.wall_s
        return goodput


def simulate(
    plan: Plan,
    result: TrainingResult,
    assumptions: Assumptions,
    *,
    runs: int = RUNS,
    seed: int = 0,
) -> Outcome:
    """Play a predicted training run many times against what happens to it.

    Parameters
    ----------
    plan
        The run, with its tokens.
    result
        Its prediction.
    assumptions
        What the plan does not say.
    runs, seed
        Of the Monte Carlo; the same give the same to the bit.

    Raises
    ------
    InputError
        When the plan has no tokens.
    InfeasibleError
        When the run does not end.
    """
    if not plan.training.tokens:
        raise InputError("a calendar needs a whole run: give training.tokens (--tokens 15T)")
    size = checkpoint_bytes(plan)
    step_s, cluster = result.step_time_s, plan.cluster
    tokens = float(plan.training.global_batch_seqs * plan.training.seq_len)
    run = whole_run(step_s, tokens, plan, size)
    policy = assumptions.policy(plan)
    load_s = policy.costs(size, cluster.nodes, cluster.count, inf).store_load_s
    setting = Setting(
        work_s=run.steps_s + run.batch_warmup_s + run.evaluation_s,
        step_low=result.step_time_low_s / step_s,
        step_high=result.step_time_high_s / step_s,
        nodes=cluster.nodes,
        accelerators=cluster.count,
        failures=assumptions.failure_model(plan, result.exposed_communication_fraction, load_s),
        policy=policy,
        checkpoint_bytes=size,
        at_hand=assumptions.spares is None,
        spikes=assumptions.spikes,
        rewind_s=assumptions.rewind_steps * step_s,
    )
    drawn = draw(setting, runs, seed)
    cost = None
    if result.usd_per_accelerator_hour:
        paid = cluster.count + setting.spare_nodes * cluster.per_node
        cost = drawn.wall_s / 3600.0 * paid * result.usd_per_accelerator_hour
    return Outcome(assumptions=assumptions, setting=setting, run=run, drawn=drawn, cost_usd=cost)


def summarise(
    outcome: Outcome, *, seed: int, limits: Limits | None = None, start: date | None = None
) -> CalendarResult:
    """Return what the runs say together.

    Parameters
    ----------
    outcome
        Of :func:`simulate`.
    seed
        That it was drawn with.
    limits
        Whose probability is asked for.
    start
        First day, for dates.
    """
    limits = limits or Limits()
    drawn, setting, run = outcome.drawn, outcome.setting, outcome.run
    costs = setting.costs
    wall = _percentiles(drawn.wall_s)
    lost = drawn.lost_s + drawn.restart_s + drawn.wait_s + drawn.checkpoint_s
    in_time, in_time_error = _share(drawn.wall_s, limits.deadline_s)
    paid, paid_error = (
        (None, None) if outcome.cost_usd is None else _share(outcome.cost_usd, limits.budget_usd)
    )
    ended = np.isfinite(drawn.wall_s)
    work = {
        "steps": run.steps_s * drawn.factor,
        "batch warm-up": run.batch_warmup_s * drawn.factor,
        "evaluation": run.evaluation_s * drawn.factor,
        "checkpoints": drawn.checkpoint_s,
        "lost work": drawn.lost_s,
        "slow nodes": drawn.slow_s,
        "restarts": drawn.restart_s,
        "waiting for nodes": drawn.wait_s,
    }
    return CalendarResult(
        runs=len(drawn.wall_s),
        seed=seed,
        wall_clock_s=wall,
        cost_usd=None if outcome.cost_usd is None else _percentiles(outcome.cost_usd),
        finish=None if start is None else _dates(start, wall),
        goodput=_percentiles(outcome.goodput),
        mean_goodput=float(outcome.goodput.mean()),
        effective_training_time=_percentiles(1.0 - lost / drawn.wall_s),
        failures=_percentiles(drawn.failures),
        breakdown_s={name: float(seconds[ended].mean()) for name, seconds in work.items()},
        within_deadline=in_time,
        within_deadline_error=in_time_error,
        within_budget=paid,
        within_budget_error=paid_error,
        spare_nodes=None if setting.at_hand else setting.spare_nodes,
        checkpoint_interval_s=costs.interval_s,
        checkpoint_pause_s=costs.pause_s,
        checkpoint_host_bytes=costs.host_bytes,
        mttf_s=setting.failures.mttf_s(setting.nodes),
        assumptions=outcome.assumptions.to_dict(),
    )


def difference(change: str, base: Outcome, other: Outcome) -> Difference:
    """Return what a change brings, each run against itself."""
    goodput = float(other.goodput.mean())
    cost = cost_difference = None
    if base.cost_usd is not None and other.cost_usd is not None:
        cost = _median(other.cost_usd)
        cost_difference = _median_difference(other.cost_usd, base.cost_usd)
    return Difference(
        change=change,
        goodput=goodput,
        goodput_difference=goodput - float(base.goodput.mean()),
        wall_clock_s=_median(other.drawn.wall_s),
        wall_clock_difference_s=_median_difference(other.drawn.wall_s, base.drawn.wall_s),
        cost_usd=cost,
        cost_difference_usd=cost_difference,
    )


def base_of(assumptions: Assumptions, changes: Mapping[str, Mapping[str, Any]]) -> Assumptions:
    """Return what a what-if is compared with: without any spares when it is about spares.

    Good nodes at hand at no cost, the assumption where nothing is said, leave spares nothing to do.
    """
    about = any("spares" in fields for fields in changes.values())
    return replace(assumptions, spares=0.0) if about and assumptions.spares is None else assumptions


def what_if(
    plan: Plan,
    result: TrainingResult,
    base: Outcome,
    changes: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
) -> tuple[Difference, ...]:
    """Return what each change brings alone, and all together when there are several.

    Parameters
    ----------
    plan, result
        The run and its prediction.
    base
        What they are compared with, of :func:`base_of`.
    changes
        Of :func:`ridgeline.simulator.fleet.changes.parse_changes`.
    seed
        Of ``base``.
    """
    runs = len(base.drawn.wall_s)
    sets = [(text, {text: fields}) for text, fields in changes.items()]
    if len(changes) > 1:
        sets.append(("all together", dict(changes)))
    return tuple(
        difference(
            name,
            base,
            simulate(plan, result, changed(base.assumptions, part), runs=runs, seed=seed),
        )
        for name, part in sets
    )


def _percentiles(values: Float64) -> Percentiles:
    p10, p50, p90 = np.quantile(values, [0.1, 0.5, 0.9], method="higher")
    return Percentiles(p10=float(p10), p50=float(p50), p90=float(p90))


def _median(values: Float64) -> float:
    return float(np.quantile(values, 0.5, method="higher"))


def _median_difference(values: Float64, base: Float64) -> float:
    both = np.isfinite(values) & np.isfinite(base)
    return _median(values[both] - base[both])


def _share(values: Float64, limit: float | None) -> tuple[float | None, float | None]:
    if limit is None:
        return None, None
    share = float((values <= limit).mean())
    return share, sqrt(share * (1.0 - share) / len(values))


def _dates(start: date, wall: Percentiles) -> tuple[str, str, str]:
    p10, p50, p90 = (_day(start, seconds) for seconds in asdict(wall).values())
    return p10, p50, p90


def _day(start: date, seconds: float) -> str:
    if not isfinite(seconds):
        return ""
    try:
        return (start + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return ""
