"""From the time of a step to a whole run: batch warm-up, evaluation, checkpoints, failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, log

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.reliability import (
    failures_per_node_day,
    goodput,
    mttf_s,
    optimal_interval_s,
    unsaved_time_s,
)
from ridgeline.simulator.plan import Plan

WARMUP_PIECES = 8
"""Between so many batch sizes, in geometric steps, the step time of a warm-up is interpolated."""
FORWARD_SHARE = 1.0 / 3.0
"""Forward pass in a step without recompute: 2 of 6 FLOPs per parameter and token."""
FORWARD_SHARE_FULL = 1.0 / 4.0
"""The same when the backward pass runs the forward pass again: 2 of 8."""

StepTime = Callable[[int], float]
"""Global batch in sequences -> step time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole training run; the times by cause add up to ``wall_clock_s``."""

    steps: int
    wall_clock_s: float
    goodput: float
    """Share of the wall clock spent in training steps."""
    steps_s: float
    """All tokens at the full batch."""
    batch_warmup_s: float
    """What the smaller batches at the start cost more."""
    evaluation_s: float
    checkpoint_s: float
    failure_s: float
    """Restarts and lost work."""
    checkpoint_interval_s: float
    """0 without checkpoints."""
    mttf_s: float
    """Mean time to failure of the job, infinite when failures are off."""
    failures: float
    """Expected number."""

    @property
    def breakdown(self) -> dict[str, float]:
        """Seconds by cause."""
        return {
            "steps": self.steps_s,
            "batch warm-up": self.batch_warmup_s,
            "evaluation": self.evaluation_s,
            "checkpoints": self.checkpoint_s,
            "failures": self.failure_s,
        }


def whole_run(
    step_time_s: float,
    tokens_per_step: float,
    plan: Plan,
    checkpoint_bytes: float,
    step_time_of_batch: StepTime | None = None,
) -> Run:
    """Predict a whole run.

    Parameters
    ----------
    step_time_s
        One step at the full batch [s].
    tokens_per_step
        Of the full batch.
    checkpoint_bytes
        What one checkpoint writes, all ranks together.
    step_time_of_batch
        Step time by global batch, for the warm-up; by default :func:`proportional_step_time`.

    Notes
    -----
    Steps are whole, the last one not being shorter. Evaluation runs forward passes only: a third of
    a step's time, a quarter with full recompute. Checkpoints block (``checkpoint_bytes`` over the
    storage bandwidth), every sqrt(2 delta M) by default. Failures follow the closed form of
    :func:`ridgeline.hardware.reliability.goodput`; without checkpoints, or when the run is over
    before the first, every failure starts it over. Without ``training.tokens`` the run is one step
    and nothing else.

    Raises
    ------
    InputError
        When the warm-up starts from a batch that the plan cannot run.
    InfeasibleError
        When failures come faster than the job recovers.
    """
    assert step_time_s > 0, step_time_s
    assert tokens_per_step > 0, tokens_per_step
    tokens = plan.training.tokens
    if not tokens:
        return Run(
            steps=1,
            wall_clock_s=step_time_s,
            goodput=1.0,
            steps_s=step_time_s,
            batch_warmup_s=0.0,
            evaluation_s=0.0,
            checkpoint_s=0.0,
            failure_s=0.0,
            checkpoint_interval_s=0.0,
            mttf_s=inf,
            failures=0.0,
        )
    options = plan.run
    time_of = step_time_of_batch or proportional_step_time(step_time_s, plan)
    warm_tokens = min(options.batch_warmup_tokens, tokens)
    warm_steps, warm_s = _warmup(plan, warm_tokens, time_of) if warm_tokens else (0.0, 0.0)
    full_steps = ceil((tokens - warm_tokens) / tokens_per_step * (1.0 - 1e-12))
    steps = ceil(warm_steps) + full_steps
    plain_warm_s = warm_tokens / tokens_per_step * step_time_s
    steps_s = full_steps * step_time_s + plain_warm_s
    extra_s = warm_s - plain_warm_s
    evaluation_s = 0.0
    if options.eval_interval_steps > 0:
        full = plan.training.recompute == "full"
        forward = (FORWARD_SHARE_FULL if full else FORWARD_SHARE) * step_time_s
        evaluation_s = steps // options.eval_interval_steps * options.eval_steps * forward
    work_s = steps_s + extra_s + evaluation_s
    mttf = job_mttf_s(plan)
    checkpoint_s, failure_s, interval = interruptions(plan, work_s, mttf, checkpoint_bytes)
    wall = work_s + checkpoint_s + failure_s
    return Run(
        steps=steps,
        wall_clock_s=wall,
        goodput=(steps_s + extra_s) / wall,
        steps_s=steps_s,
        batch_warmup_s=extra_s,
        evaluation_s=evaluation_s,
        checkpoint_s=checkpoint_s,
        failure_s=failure_s,
        checkpoint_interval_s=interval,
        mttf_s=mttf,
        failures=wall / mttf,
    )


def proportional_step_time(step_time_s: float, plan: Plan) -> StepTime:
    """Return a step time that goes with the micro-batches of a pipeline and its bubble.

    t(b) = t_B (m + (p - 1) / v) / (m_B + (p - 1) / v), with m the micro-batches of batch b on one
    data-parallel rank, p stages and v chunks per stage: the time of a 1F1B or interleaved schedule
    with equal stages (Narayanan et al., SC 2021, section 2.2). Gradient reduction and optimizer are
    scaled along, so a small batch is a little too fast.
    """
    parallel, training = plan.parallel, plan.training
    bubble = (parallel.pp - 1) / parallel.vpp
    per_micro_batch = parallel.dp * training.micro_batch_seqs
    full = training.global_batch_seqs / per_micro_batch + bubble

    def time_of(batch: int) -> float:
        return step_time_s * (batch / per_micro_batch + bubble) / full

    return time_of


def _warmup(plan: Plan, tokens: float, time_of: StepTime) -> tuple[float, float]:
    """Return steps and seconds of a warm-up whose batch grows linearly over ``tokens``."""
    training, start = plan.training, plan.run.batch_warmup_start_seqs
    unit = plan.parallel.dp * training.micro_batch_seqs
    target = training.global_batch_seqs
    if start < unit or start % unit or start > target:
        legal = min(max(unit, round(start / unit) * unit), target)
        raise InputError(
            f"run.batch_warmup_start_seqs = {start}: must be a multiple of dp * micro_batch_seqs = "
            f"{unit}, at most global_batch_seqs = {target}; nearest: {legal}"
        )
    if start == target:
        steps = tokens / (target * training.seq_len)
        return steps, steps * time_of(target)
    growth = plan.run.batch_warmup_tokens / (target - start)
    end = start + tokens / growth
    exact = [start * (target / start) ** (i / WARMUP_PIECES) for i in range(WARMUP_PIECES + 1)]
    edges = sorted({start, target, *(round(edge / unit) * unit for edge in exact)})
    steps = seconds = 0.0
    for low, high in pairwise(edges):
        if low >= end:
            break
        slope = (time_of(high) - time_of(low)) / (high - low)
        fixed = time_of(low) - slope * low
        top = min(high, end)
        # integrals of 1 / b and of t(b) / b over the tokens, dx = growth db
        inverse = growth / training.seq_len * log(top / low)
        steps += inverse
        seconds += fixed * inverse + slope * growth / training.seq_len * (top - low)
    return steps, seconds


def job_mttf_s(plan: Plan) -> float:
    """Return the mean time to failure of a job on all of its cluster [s]."""
    if not plan.run.failures:
        return inf
    cluster = plan.cluster
    given = plan.run.failures_per_1000_node_days
    rate = given / 1000.0 if given >= 0 else failures_per_node_day(per_node=cluster.per_node)
    return mttf_s(cluster.count / cluster.per_node, rate)


def interruptions(
    plan: Plan, work_s: float, mttf: float, checkpoint_bytes: float
) -> tuple[float, float, float]:
    """Return seconds of checkpoints, seconds lost to failures and the checkpoint interval."""
    options = plan.run
    write_s = checkpoint_bytes / options.checkpoint_bytes_per_s
    interval = options.checkpoint_interval_s
    if interval < 0:
        interval = optimal_interval_s(write_s, mttf) if mttf < inf else 0.0
    # a checkpoint that costs nothing is written all the time
    always = options.checkpoint_interval_s < 0 and not write_s and mttf < inf
    if not always and (interval == 0 or interval >= work_s):
        failure_s = unsaved_time_s(work_s, options.restart_s, mttf) - work_s
        if failure_s == inf:
            raise InfeasibleError(
                f"the run of {work_s / 3600:.1f} h writes no checkpoint and fails every "
                f"{mttf / 3600:.2f} h, so it never ends; set run.checkpoint_interval_s = 'auto'"
            )
        return 0.0, failure_s, 0.0
    share = goodput(
        checkpoint_s=write_s, interval_s=interval, restart_s=options.restart_s, mttf=mttf
    )
    if share <= 0:
        raise InfeasibleError(
            f"the job fails every {mttf / 3600:.2f} h, before it has restarted "
            f"({options.restart_s:.0f} s) and made up for lost work (checkpoints every "
            f"{interval:.0f} s): shorten run.restart_s or speed up run.checkpoint_bytes_per_s"
        )
    saving_s = work_s * write_s / interval if interval else 0.0
    return saving_s, work_s / share - work_s - saving_s, interval
