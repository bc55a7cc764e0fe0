"""A run under other conditions: more or fewer accelerators, faster or slower links, other prices.

A plan is priced in milliseconds, so a page can afford a few dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.reliability import failures_per_node_day
from ridgeline.report.charts import Swing
from ridgeline.simulator import legality
from ridgeline.simulator.cost import plan_price
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.remedies import resized
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.search.sensitivity import (
    CHANGE,
    scaled_kernels,
    scaled_network,
    scaled_scale_up,
)
from ridgeline.simulator.stages import num_parts
from ridgeline.simulator.training import simulate_training

FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
"""Of data-parallel ways, and with them of accelerators."""
MOST_PASSES = 100_000
"""Passes of a step (slices times micro-batches) beyond which no variation is played: it would take
seconds, not milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The same job on another number of accelerators."""

    accelerators: int
    result: TrainingResult


def scaling(plan: Plan, kernels: Kernels | None = None) -> tuple[Scaled, ...]:
    """Return the job on fewer and more accelerators: other data-parallel ways, the same batch.

    Counts for which the batch does not divide, or that make no legal cluster, are left out.
    """
    found = []
    for factor in FACTORS:
        other = _with_ways(plan, factor)
        if other is None or other.micro_batches * num_parts(other) > MOST_PASSES:
            continue
        try:
            if legality.problems(other):
                continue
            result = simulate_training(other, kernels=kernels)
        except (InputError, InfeasibleError):
            continue
        found.append(Scaled(accelerators=other.cluster.count, result=result))
    return tuple(found)


def _with_ways(plan: Plan, factor: float) -> Plan | None:
    """Return the plan with ``factor`` times the data-parallel ways, None where that is no plan."""
    ways, count = plan.parallel.dp * factor, plan.cluster.count * factor
    if factor == 1:
        return plan
    if ways != int(ways) or ways < 1 or count != int(count):
        return None
    per_node = plan.cluster.per_node
    if int(count) > per_node and int(count) % per_node:
        return None
    cluster = resized(plan.cluster, int(count))
    if cluster is None:
        return None
    size = plan.parallel.shard_size
    if size > ways * plan.parallel.cp:
        return None
    return replace(plan, cluster=cluster, parallel=replace(plan.parallel, dp=int(ways)))


def sensitivity(
    plan: Plan,
    base: TrainingResult,
    figure: Callable[[TrainingResult], float],
    kernels: Kernels | None = None,
) -> tuple[Swing, ...]:
    """Return what a tenth less and more of each assumption does to a figure of the run.

    Parameters
    ----------
    figure
        For example the cost; relative changes of it are returned.
    """
    value = figure(base)
    swings: list[Swing] = []
    if plan.micro_batches * num_parts(plan) > MOST_PASSES:
        return ()
    for name, source, changed in _changes(plan):
        ends = []
        for sign in (-1.0, 1.0):
            try:
                result = simulate_training(changed(1.0 + sign * CHANGE), kernels=kernels)
            except (InputError, InfeasibleError):
                break
            ends.append(figure(result) / value - 1.0)
        if len(ends) == 2 and max(abs(end) for end in ends) > 1e-6:
            swings.append(Swing(name=name, low=ends[0], high=ends[1], source=source))
    return tuple(swings)


def _changes(plan: Plan) -> Iterator[tuple[str, str, Callable[[float], Plan]]]:
    """Yield what each assumption is called, where its value comes from, and the plan scaled."""
    accelerator = plan.cluster.accelerator
    yield (
        "speed of kernels",
        f"{accelerator.efficiency.rung} kernel parameters of {accelerator.name}",
        lambda factor: replace(plan, cluster=scaled_kernels(plan.cluster, factor)),
    )
    yield (
        "scale-up bandwidth",
        accelerator.sources.get("scaleup_bytes_per_s", f"profile {accelerator.name}"),
        lambda factor: replace(plan, cluster=scaled_scale_up(plan.cluster, factor)),
    )
    if len(plan.cluster.tiers) > 1 or plan.cluster.torus is not None:
        yield (
            "network bandwidth",
            accelerator.sources.get("scaleout_bytes_per_s", f"cluster {plan.cluster.name}"),
            lambda factor: replace(plan, cluster=scaled_network(plan.cluster, factor)),
        )
    if not plan.training.tokens:
        return
    try:
        price = plan_price(plan)
    except InputError:
        price = None
    if price is not None and price.usd_per_hour:
        hourly = price.usd_per_hour
        yield (
            "price",
            price.source,
            lambda factor: replace(
                plan, money=replace(plan.money, usd_per_accelerator_hour=hourly * factor)
            ),
        )
    yield (
        "tokens",
        "of the plan",
        lambda factor: replace(
            plan, training=replace(plan.training, tokens=plan.training.tokens * factor)
        ),
    )
    if not plan.run.failures:
        return
    given = plan.run.failures_per_1000_node_days
    rate = given if given >= 0 else 1000.0 * failures_per_node_day(per_node=plan.cluster.per_node)
    if rate:
        yield (
            "failure rate",
            "of the plan" if given >= 0 else "published fleets (docs/reliability.md)",
            lambda factor: replace(
                plan, run=replace(plan.run, failures_per_1000_node_days=rate * factor)
            ),
        )
        yield (
            "time to restart",
            "of the plan, or its default",
            lambda factor: replace(
                plan, run=replace(plan.run, restart_s=plan.run.restart_s * factor)
            ),
        )
