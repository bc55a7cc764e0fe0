"""Switch mechanisms off one at a time: what each of them buys, nothing refitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import Stack, load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.validation.calibration.fit import MeasuredStep

Switch = Callable[[Plan, Stack], tuple[Plan, Stack]]
FREE = 1e6
"""Factor on the bandwidth of links that makes them cost next to nothing."""


def _stack(**changes: Any) -> Switch:
    def switch(plan: Plan, stack: Stack) -> tuple[Plan, Stack]:
        return plan, replace(stack, **changes)

    return switch


def _burst_clocks(plan: Plan, stack: Stack) -> tuple[Plan, Stack]:
    accelerator = plan.cluster.accelerator
    efficiency = replace(
        accelerator.efficiency, sustained=dict.fromkeys(accelerator.efficiency.sustained, 1.0)
    )
    cluster = replace(plan.cluster, accelerator=replace(accelerator, efficiency=efficiency))
    return replace(plan, cluster=cluster), stack


def _full_links(plan: Plan, stack: Stack) -> tuple[Plan, Stack]:
    tiers = tuple(replace(tier, efficiency=1.0) for tier in plan.cluster.tiers)
    return replace(plan, cluster=replace(plan.cluster, tiers=tiers)), stack


def _free_network(plan: Plan, stack: Stack) -> tuple[Plan, Stack]:
    first, *rest = plan.cluster.tiers or (None,)
    if first is None or not rest:
        return plan, stack
    fast = (replace(t, bytes_per_s=t.bytes_per_s * FREE, latency_s=0.0) for t in rest)
    return replace(plan, cluster=replace(plan.cluster, tiers=(first, *fast))), stack


def _no_bubble(plan: Plan, stack: Stack) -> tuple[Plan, Stack]:
    """Return the plan with 16 times the micro-batches; the caller divides the time."""
    training = plan.training
    longer = replace(training, global_batch_seqs=LONGER * training.global_batch_seqs)
    return replace(plan, training=longer), stack


LONGER = 16
SWITCHES: dict[str, Switch] = {
    "clocks of a short burst": _burst_clocks,
    "attention at the rate of the newest kernel": _stack(attention_rate={}),
    "attention backward as fast as forward": _stack(attention_backward=1.0),
    "no misaligned heads": _stack(misaligned_rate=1.0),
    "element-wise operators in one pass each": _stack(
        elementwise_factor=1.0, moe_elementwise_factor=1.0
    ),
    "free fp8 casts": _stack(fp8_cast_bytes=0.0),
    "gradients accumulate in their products": _stack(fused_accumulation=True),
    "gathers wait for reductions": _stack(backward_prefetch=False),
    "whole layers gathered at once": _stack(sharding_unit="layer"),
    "free host": _stack(launch_s=0.0, host_layer_s=0.0, host_step_s=0.0, moe_host_s=0.0),
    "no jitter with scale": _stack(scale_jitter=0.0),
    "NCCL as fast as alone": _stack(nccl_bandwidth=1.0),
    "links at their full bandwidth": _full_links,
    "perfect overlap": _stack(
        tp_overlap=1.0,
        ep_overlap=1.0,
        cp_overlap=1.0,
        gradient_overlap=True,
        parameter_overlap=True,
        overlap_slowdown=0.0,
    ),
    "hidden communication costs nothing": _stack(overlap_slowdown=0.0),
    "free tensor-parallel exchange": _stack(tp_overlap=1.0),
    "free network between nodes": _free_network,
    "no pipeline bubble": _no_bubble,
}


def ablate(steps: Sequence[MeasuredStep]) -> dict[str, dict[str, float]]:
    """Return mean absolute errors by source, as shipped and with each mechanism off.

    The pipeline bubble is diluted by 16 times the micro-batches, which also dilutes what a step
    pays once.
    """
    every: dict[str, Switch | None] = {"as shipped": None, **SWITCHES}
    return {name: _mape(steps, switch) for name, switch in every.items()}


def _mape(steps: Sequence[MeasuredStep], switch: Switch | None) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for step in steps:
        plan, stack = step.plan, load_stack(step.plan.stack)
        divisor = 1.0
        if switch is _no_bubble:
            if plan.parallel.pp > 1:
                plan, stack = switch(plan, stack)
                divisor = LONGER
        elif switch is not None:
            plan, stack = switch(plan, stack)
        seconds = simulate_step(plan, stack).seconds / divisor
        errors.setdefault(step.source, []).append(abs(seconds / step.seconds - 1.0))
    return {source: fmean(errors[source]) for source in sorted(errors)}


def ablation_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return what ``ablate`` found as Markdown: errors as shipped, and their change in points."""
    base = found["as shipped"]
    sources = list(base)
    head = "| switched off | mean of sources | " + " | ".join(sources) + " |"
    lines = [head, "|---" + "|--:" * (len(sources) + 1) + "|"]
    for name, errors in found.items():
        values = [fmean(errors.values()), *(errors[s] for s in sources)]
        if name == "as shipped":
            cells = [f"{100 * v:.1f}%" for v in values]
        else:
            old = [fmean(base.values()), *(base[s] for s in sources)]
            cells = [_change(100 * (v - b)) for v, b in zip(values, old, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _change(points: float) -> str:
    return "" if abs(points) < 0.05 else f"{points:+.1f}"
