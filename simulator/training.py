"""Predict a training run: step, memory, run length, money, energy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator import legality
from ridgeline.simulator.accounting import account
from ridgeline.simulator.adapters import adapter_parameters
from ridgeline.simulator.blocks import GRANULARITIES
from ridgeline.simulator.cost import cost
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.results import MemoryShare, Provenance, TimeShare, TrainingResult
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.run import whole_run
from ridgeline.simulator.rung_shares import rung_evidence
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.uncertainty import plan_kind, stack_evidence, stack_grade, stack_range
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.thresholds import crossed

CHECKPOINT_STATE = 12.0
"""Bytes per parameter that a checkpoint holds beside the weights: fp32 copy and two moments."""


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
    memory = stage_memory(plan, step.schedule, memory_facts(step.stack))
    return _result(step, memory, () if kernels is None else (rung_evidence(step),))


def hardware_flops_factor(plan: Plan) -> float:
    """Return recomputed FLOPs over the forward FLOPs of the model."""
    policy, scope = known_recompute(plan.training.recompute)
    forward = forward_flops(plan.model, plan.training.attended_len, plan.training.flop_convention)
    again = forward.attention_scores if policy.core else 0.0
    again += forward.mlp + forward.experts + forward.router if policy.mlp else 0.0
    # of the projections of attention the output is a quarter, the other way in the rest
    again += forward.attention_projections * (0.75 * policy.qkv + 0.25 * policy.output)
    if policy.latent and not policy.qkv:
        a = plan.model.attention
        up = a.q_lora_rank * a.head_dim + a.kv_lora_rank * (
            a.head_dim - a.rope_head_dim + a.v_head_dim
        )
        again += 2.0 * a.heads * up * plan.model.num_layers
    layers = plan.model.num_layers
    recomputed = sum(
        scope.covers(first + position, position)
        for first, count in stage_layers(plan)
        for position in range(count)
    )
    return again * recomputed / layers / forward.total


def _result(
    step: Step, memory: tuple[MemoryShare, ...], priced_by: tuple[Provenance, ...]
) -> TrainingResult:
    plan, training = step.plan, step.plan.training
    cluster, accelerator = plan.cluster, plan.cluster.accelerator
    seconds = step.seconds
    tokens = float(training.global_batch_seqs * training.seq_len)
    forward = forward_flops(plan.model, training.attended_len, training.flop_convention).total
    # frozen weights need no gradients: the backward pass is as long as the forward pass
    model_flops = (2.0 if training.lora_rank else 3.0) * forward * tokens
    hardware_flops = model_flops + forward * tokens * hardware_flops_factor(plan)
    peak = accelerator.peak(training.precision) * cluster.count
    spent = account(step)
    run = whole_run(seconds, tokens, plan, checkpoint_bytes(plan))
    money = cost(run, plan)
    kind = plan_kind(plan)
    grade = stack_grade(step.stack, accelerator, kind)
    low, high = stack_range(step.stack, accelerator, kind)
    limit = accelerator.memory_bytes
    return TrainingResult(
        name=plan.name,
        model=plan.model.name,
        cluster=cluster.name,
        accelerators=cluster.count,
        stack=step.stack.name,
        plan=_settings(plan),
        step_time_s=seconds,
        step_time_low_s=seconds * low,
        step_time_high_s=seconds * high,
        evidence=grade,
        mfu=model_flops / (seconds * peak),
        hfu=hardware_flops / (seconds * peak),
        flop_convention=training.flop_convention,
        model_flops_per_step=model_flops,
        hardware_flops_per_step=hardware_flops,
        model_tflops_per_accelerator=model_flops / seconds / cluster.count / 1e12,
        tokens_per_s=tokens / seconds,
        tokens_per_s_per_accelerator=tokens / seconds / cluster.count,
        bubble_fraction=spent.bubble_s / seconds,
        exposed_communication_fraction=spent.exposed_s / seconds,
        breakdown=tuple(
            TimeShare(group=group, seconds=s, fraction=s / seconds)
            for group, s in sorted(spent.groups.items(), key=lambda item: (-item[1], item[0]))
        ),
        memory=memory,
        memory_limit=limit,
        fits=max(share.total for share in memory) <= limit,
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
            *(Provenance(kind="money", text=text) for text in money.sources),
            *(
                Provenance(kind="policy", text=str(rule))
                for rule in crossed(model_flops * run.steps)
            ),
        ),
        warnings=(*legality.warnings(plan), *money.warnings),
    )


def checkpoint_bytes(plan: Plan) -> float:
    """Return what one checkpoint holds: trained weights, fp32 copy, optimizer moments."""
    weight = 4.0 if plan.training.precision in ("fp32", "tf32") else 2.0
    moments = CHECKPOINT_STATE if plan.training.optimizer.startswith("adam") else 4.0
    trained = adapter_parameters(plan) or float(parameters(plan.model).total_with_mtp)
    return (weight + moments) * trained


def _settings(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values."""
    training = asdict(plan.training)
    training["offload"] = list(training["offload"])
    training["stage_layers"] = list(training["stage_layers"])
    parallel = asdict(plan.parallel)
    parallel["placement"] = list(parallel["placement"])
    return {
        "model": _routing(plan),
        "parallel": parallel,
        "training": training,
        "micro_batches": plan.micro_batches,
    }


def _routing(plan: Plan) -> dict[str, Any]:
    """Return what a plan may change of its model: how tokens reach experts, if there are any."""
    moe = plan.model.moe
    if moe is None:
        return {"capacity_factor": 0.0, "expert_load": []}
    return {"capacity_factor": moe.capacity_factor, "expert_load": list(moe.load)}
