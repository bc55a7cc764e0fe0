"""Predict a training run: step, memory, run length, money, energy."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ridgeline.errors import InputError
from ridgeline.simulator import legality
from ridgeline.simulator.accounting import account
from ridgeline.simulator.beside import Beside, beside_step, page_out, with_beside
from ridgeline.simulator.blocks import GRANULARITIES
from ridgeline.simulator.cost import Cost, cost
from ridgeline.simulator.endings import by_device, owned_parameters
from ridgeline.simulator.host import host_evidence, host_share
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.memory.activations import recomputes_layer
from ridgeline.simulator.model_flops import model_flops_per_token
from ridgeline.simulator.optimizers import RULES
from ridgeline.simulator.plan import Plan, Training, Tuning
from ridgeline.simulator.recompute import Recompute, known_recompute
from ridgeline.simulator.results import (
    MemoryShare,
    Provenance,
    RolloutShare,
    TimeShare,
    TrainingResult,
)
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.run import Run, whole_run
from ridgeline.simulator.rung_shares import rung_evidence
from ridgeline.simulator.schedule import Schedule
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.tuning import only_forward, trained_parameters
from ridgeline.simulator.uncertainty import plan_kind, stack_evidence, stack_grade, stack_range
from ridgeline.workloads.flops import ForwardFlops, forward_flops
from ridgeline.workloads.thresholds import crossed

if TYPE_CHECKING:
    from ridgeline.simulator.rollout.step import Reinforced


def simulate_training(
    plan: Plan, granularity: str = "stage", kernels: Kernels | None = None
) -> TrainingResult:
    """Predict a training run.

    Parameters
    ----------
    plan
        What is trained, on what, and how it is split.
    granularity
        ``stage``, ``layer`` or ``operator``: what the event engine plays. They agree; finer ones
        show more in a timeline and take longer.
    kernels
        Another rung than the profile's, or measured kernels; the result says which priced what.

    Returns
    -------
    TrainingResult
        Also when the plan does not fit into memory: ``fits`` says so.

    Raises
    ------
    InputError
        The plan is illegal (all reasons together), or the granularity unknown.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"granularity {granularity!r}: must be one of {', '.join(GRANULARITIES)}")
    problems = legality.problems(plan) or legality.too_fine(plan, granularity)
    if problems:
        raise InputError(problems)
    step = simulate_step(plan, load_stack(plan.stack), granularity, kernels)
    plan = step.plan
    memory = stage_memory(plan, step.schedule, memory_facts(step.stack))
    priced_by = () if kernels is None else (rung_evidence(step),)
    if plan.rollout is not None:
        # a service is priced only where one is asked for
        from ridgeline.simulator.rollout.step import reinforce, scoring

        scored = scoring(plan, kernels)
        memory, paging = page_out(plan, with_beside(memory, scored))
        paged_s = sum(one.seconds for one in paging)
        loop = reinforce(plan, step.seconds + paged_s, scored, memory)
        paging = tuple(replace(one, seconds=loop.updates * one.seconds) for one in paging)
        return _result(step, memory, (*loop.beside, *paging), priced_by, loop)
    beside = beside_step(plan, step.seconds, kernels)
    memory, paging = page_out(plan, with_beside(memory, beside))
    return _result(step, memory, (*beside, *paging), priced_by)


def hardware_flops_factor(plan: Plan) -> float:
    """Return recomputed FLOPs over the forward FLOPs of the model."""
    recompute = plan.training.recompute
    layers = Counter(
        recomputes_layer(recompute, first + position, position)
        for first, count in stage_layers(plan)
        for position in range(count)
        if not only_forward(plan.training, first + position)
    )
    forward = forward_flops(plan.model, plan.training.attended_len, plan.training.flop_convention)
    again = sum(_again(plan, forward, policy) * count for policy, count in layers.items())
    towers = 0.0
    policy, scope = known_recompute(recompute)
    for tower in plan.model.towers if scope.mode == "all" else ():
        if tower.trained:
            inside = forward_flops(tower.model, tower.tokens, plan.training.flop_convention)
            share = tower.pieces * tower.tokens / plan.training.seq_len
            towers += share * _repeated(inside, policy)
    return (again / plan.model.num_layers + towers) / forward.total


def _again(plan: Plan, forward: ForwardFlops, name: str) -> float:
    """Return the FLOPs per token that a policy computes again when all layers have it."""
    policy, _ = known_recompute(name)
    again = _repeated(forward, policy)
    if policy.latent and not policy.qkv:
        a = plan.model.attention
        up = a.q_lora_rank * a.head_dim + a.kv_lora_rank * (
            a.head_dim - a.rope_head_dim + a.v_head_dim
        )
        again += 2.0 * a.heads * up * plan.model.num_layers
    return again


def _repeated(forward: ForwardFlops, policy: Recompute) -> float:
    """Return the FLOPs by token of all layers that a policy computes again."""
    again = forward.attention_scores if policy.core else 0.0
    again += forward.mlp + forward.experts + forward.router if policy.mlp else 0.0
    # of the projections of attention the output is a quarter, the other way in the rest
    return again + forward.attention_projections * (0.75 * policy.qkv + 0.25 * policy.output)


def visited_share(plan: Plan, schedule: Schedule) -> float:
    """Return the share of the model's layers that a token passes; less than 1 where it skips."""
    if not len(schedule.path_prev):
        return 1.0
    layers = np.array([count for _, count in stage_layers(plan)])
    visits = float(layers @ schedule.visits())
    return visits / (schedule.micro_batches * plan.model.num_layers)


def executed_flops(plan: Plan, schedule: Schedule) -> float:
    """Return the FLOPs of a forward pass that a token runs, on average."""
    training = plan.training
    forward = forward_flops(plan.model, training.attended_len, training.flop_convention)
    return forward.total - (1.0 - visited_share(plan, schedule)) * forward.layers


def _result(
    step: Step,
    memory: tuple[MemoryShare, ...],
    beside: tuple[Beside, ...],
    priced_by: tuple[Provenance, ...],
    loop: Reinforced | None = None,
) -> TrainingResult:
    plan, training = step.plan, step.plan.training
    cluster, accelerator = plan.cluster, plan.cluster.accelerator
    updates = 1 if loop is None else loop.updates
    seconds = updates * step.seconds + sum(one.seconds for one in beside)
    computed = float(updates * training.global_batch_seqs * training.seq_len)
    tokens = computed if loop is None else loop.share.tokens
    forward = forward_flops(plan.model, training.attended_len, training.flop_convention).total
    # of a pass that skips stages a token runs a part
    executed = executed_flops(plan, step.schedule) / forward
    model_flops = executed * model_flops_per_token(plan) * tokens
    model_flops += sum(one.model_flops for one in beside)
    padded = executed * model_flops_per_token(plan) * (computed - tokens)
    again = hardware_flops_factor(plan) * visited_share(plan, step.schedule)
    hardware_flops = model_flops + padded + forward * computed * again
    peak = accelerator.peak(training.precision) * cluster.count
    spent = account(step)
    groups = {group: updates * s for group, s in spent.groups.items()}
    groups |= {one.name: one.seconds for one in beside if one.seconds > 0.0}
    # of steps that do more or less than train all weights on next tokens none was measured
    kind = plan_kind(plan) if training.tuning == Tuning() else "tuned"
    grade = stack_grade(step.stack, accelerator, kind)
    low, high = stack_range(step.stack, accelerator, kind)
    run = whole_run(seconds, tokens, plan, checkpoint_bytes(plan))
    money, share = bill(run, plan, None if loop is None else loop.share)
    accelerators = cluster.count + (0 if share is None else share.accelerators)
    shortest, longest = seconds * low, seconds * high
    if loop is not None:
        # the engine has a range of its own; the rest has that of training
        trained_s = seconds - loop.waited_s
        shortest = trained_s * low + loop.waited_s - loop.fast_s
        longest = trained_s * high + loop.waited_s + loop.slow_s
    limit = accelerator.memory_bytes
    owned = owned_parameters(plan, step.parts, step.shape.groups)
    by_stage = by_device(owned, step.slices, step.schedule).tolist()
    host = host_share(plan, step.stack, memory, by_stage, max(owned))
    return TrainingResult(
        name=plan.name,
        model=plan.model.name,
        cluster=cluster.name,
        accelerators=accelerators,
        stack=step.stack.name,
        plan=_settings(plan),
        step_time_s=seconds,
        step_time_low_s=shortest,
        step_time_high_s=longest,
        evidence=grade,
        mfu=model_flops / (seconds * peak),
        hfu=hardware_flops / (seconds * peak),
        flop_convention=training.flop_convention,
        model_flops_per_step=model_flops,
        hardware_flops_per_step=hardware_flops,
        model_tflops_per_accelerator=model_flops / seconds / cluster.count / 1e12,
        tokens_per_s=tokens / seconds,
        tokens_per_s_per_accelerator=tokens / seconds / accelerators,
        bubble_fraction=updates * spent.bubble_s / seconds,
        exposed_communication_fraction=updates * spent.exposed_s / seconds,
        breakdown=tuple(
            TimeShare(group=group, seconds=s, fraction=s / seconds)
            for group, s in sorted(groups.items(), key=lambda item: (-item[1], item[0]))
        ),
        memory=memory,
        memory_limit=limit,
        fits=max(share.total for share in memory) <= limit and (host is None or host.fits),
        host=host,
        steps=run.steps,
        wall_clock_s=run.wall_clock_s,
        goodput=run.goodput,
        accelerator_hours=money.accelerator_hours,
        cost_usd=money.usd,
        credits_usd=money.credits_usd,
        usd_per_accelerator_hour=money.usd_per_accelerator_hour,
        energy_kwh=money.energy_kwh,
        co2_kg=money.co2_kg,
        provenance=(
            *stack_evidence(step.stack, accelerator, kind),
            *priced_by,
            *host_evidence(plan),
            *(Provenance(kind="money", text=text) for text in money.sources),
            *(
                Provenance(kind="policy", text=str(rule))
                for rule in crossed(model_flops * run.steps)
            ),
        ),
        warnings=(*legality.warnings(plan), *money.warnings),
        rollout=share,
    )


def bill(run: Run, plan: Plan, share: RolloutShare | None) -> tuple[Cost, RolloutShare | None]:
    """Return the cost of a run, and of its two pools where samples come from one of their own."""
    money = cost(run, plan)
    if share is None:
        return money, None
    share = replace(share, training_usd=money.usd)
    if plan.rollout is None or plan.rollout.cluster is None:
        return money, share
    pool = cost(run, replace(plan, cluster=plan.rollout.cluster))
    hours = money.accelerator_hours + pool.accelerator_hours
    # a sum of which one part is unknown is unknown
    usd = money.usd + pool.usd if money.usd and pool.usd else 0.0
    both = replace(
        money,
        accelerator_hours=hours,
        usd_per_accelerator_hour=usd / hours,
        usd=usd,
        credits_usd=money.credits_usd + pool.credits_usd,
        energy_kwh=money.energy_kwh + pool.energy_kwh,
        co2_kg=money.co2_kg + pool.co2_kg,
        sources=tuple(dict.fromkeys((*money.sources, *pool.sources))),
        warnings=tuple(dict.fromkeys((*money.warnings, *pool.warnings))),
    )
    return both, replace(share, rollout_usd=pool.usd)


def checkpoint_bytes(plan: Plan) -> float:
    """Return what one checkpoint holds: trained weights, fp32 copy, optimizer moments."""
    weight = 4.0 if plan.training.precision in ("fp32", "tf32") else 2.0
    return (weight + checkpoint_state(plan.training)) * trained_parameters(plan)


def checkpoint_state(training: Training) -> float:
    """Return the bytes per parameter that a checkpoint holds beside the weights.

    fp32 weights and the optimizer's state; what it keeps of low rank or by rows and columns is left
    out, being a few per cent of the weights.
    """
    rule = RULES[training.optimizer]
    element = 4.0 if training.master_weights else 2.0
    return 4.0 * training.master_weights + rule.elements * (rule.element_bytes or element)


def _settings(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values."""
    training = _record(plan.training)
    training["offload"] = list(training["offload"])
    training["stage_layers"] = list(training["stage_layers"])
    teacher = plan.training.tuning.teacher
    training["tuning"]["teacher"] = "" if teacher is None else teacher.name
    parallel = _record(plan.parallel)
    parallel["placement"] = list(parallel["placement"])
    return {
        "model": _routing(plan) | _inputs(plan),
        "parallel": parallel,
        "training": training,
        "micro_batches": plan.micro_batches,
    }


def _record(one: Any) -> dict[str, Any]:
    """Return a frozen record of plain values, and the records in it, by name.

    Nothing in them changes, so that nothing is copied: ``dataclasses.asdict`` takes ten times as
    long.
    """
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return {
        name: _record(value) if is_dataclass(value) else value for name, value in values.items()
    }


def _inputs(plan: Plan) -> dict[str, Any]:
    """Return what runs in front of a plan's model, nothing for most."""
    towers = [
        {
            "name": tower.name,
            "tokens": tower.tokens,
            "pieces": tower.pieces,
            "outputs": tower.outputs,
            "trained": tower.trained,
        }
        for tower in plan.model.towers
    ]
    return {"towers": towers} if towers else {}


def _routing(plan: Plan) -> dict[str, Any]:
    """Return what a plan may change of its model: how tokens reach experts, if there are any."""
    moe = plan.model.moe
    if moe is None:
        return {"capacity_factor": 0.0, "expert_load": []}
    return {"capacity_factor": moe.capacity_factor, "expert_load": list(moe.load)}
