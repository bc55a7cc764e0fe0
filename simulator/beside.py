"""What a step runs beside the passes of what it trains: a reference, a teacher, paging.

A frozen model that scores the step's sequences is a plan of its own that only runs forward: it goes
through the same operators, schedule and engine, and its time comes on top of the step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.errors import InputError
from ridgeline.simulator import legality
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.model_flops import model_flops_per_token
from ridgeline.simulator.plan import Plan, Tuning
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.tuning import adds_parameters
from ridgeline.workloads.model import Model

LOGIT_BYTES = 2.0 + 4.0
"""Of a stored logit: its value in 16 bits and the number of its token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One thing that a step runs beside its own passes."""

    name: str
    """Group of the breakdown of a step."""
    seconds: float
    """That it adds to a step."""
    model_flops: float = 0.0
    """Of a step."""
    weights: tuple[float, ...] = ()
    """Bytes of its weights by pipeline stage, per accelerator; empty where it has none of its
    own."""
    peak: tuple[float, ...] = ()
    """Bytes that its pass has alive beside weights, by stage."""
    logits: float = 0.0
    """Bytes that stay on the last stage until the loss of a micro-batch."""


def scoring_plan(plan: Plan, model: Model | None = None) -> Plan:
    """Return the plan of a frozen model's forward pass over the same sequences, equally split.

    Without ``model`` it is the model of the plan as it was before training, in the numbers in which
    the plan stores it.
    """
    training = plan.training
    bits = training.tuning.quantised_bits if model is None else 0.0
    uneven = training.uneven_stages or bool(training.stage_layers)
    return replace(
        plan,
        model=model or plan.model,
        training=replace(
            training,
            tokens=0.0,
            recompute="none",
            offload=(),
            lora_rank=0,
            stage_layers=() if model is not None else training.stage_layers,
            uneven_stages=uneven if model is not None else training.uneven_stages,
            tuning=Tuning(forward_only=True, quantised_bits=bits),
        ),
    )


def scoring_pass(
    name: str, plan: Plan, kernels: Kernels | None = None, *, owns_weights: bool = True
) -> Beside:
    """Price the forward pass of a ``scoring_plan`` over one step's sequences.

    ``owns_weights`` says that its weights lie beside those that are trained: not where adapters are
    simply left out of the pass.
    """
    stack = load_stack(plan.stack)
    step = simulate_step(plan, stack, kernels=kernels)
    shares = stage_memory(plan, step.schedule, memory_facts(stack))
    tokens = plan.training.global_batch_seqs * plan.training.seq_len
    return Beside(
        name=name,
        seconds=step.seconds - stack.host_step_s,
        model_flops=model_flops_per_token(plan) * tokens,
        weights=tuple(share.weights for share in shares) if owns_weights else (),
        peak=tuple(share.activations + share.buffers for share in shares),
    )


def scored_by(plan: Plan) -> tuple[tuple[str, Plan], ...]:
    """Return the frozen models that score a step's sequences, by what they are called."""
    tuning = plan.training.tuning
    if tuning.objective == "distill" and tuning.teacher is not None:
        return (("teacher", scoring_plan(plan, tuning.teacher)),)
    old = plan.rollout is not None and plan.rollout.old_log_probabilities
    if tuning.objective in ("dpo", "grpo") and (tuning.reference == "model" or old):
        return (("scoring", scoring_plan(plan)),)
    return ()


def beside_step(plan: Plan, step_s: float, kernels: Kernels | None = None) -> tuple[Beside, ...]:
    """Return what one step of ``plan`` runs beside its passes, by its objective.

    - dpo: the reference scores the chosen and the rejected sequences too, so that a step is two
      forward passes and one backward (Rafailov et al. 2023, arXiv:2305.18290, equation 7).
    - distill: the teacher's forward pass (Hinton et al. 2015, arXiv:1503.02531), or stored logits,
      read while the step before runs.

    Parameters
    ----------
    plan
        A legal plan.
    step_s
        The step's own seconds, behind which stored logits are read.
    kernels
        As of ``training.simulate_training``.

    Raises
    ------
    InputError
        The teacher cannot be split as the plan says.
    """
    training = plan.training
    tuning = training.tuning
    if tuning.objective == "dpo" and tuning.reference == "model":
        owns = not adds_parameters(training)
        return (scoring_pass("reference", scoring_plan(plan), kernels, owns_weights=owns),)
    if tuning.objective != "distill":
        return ()
    if tuning.teacher is None:
        tokens = float(training.global_batch_seqs * training.seq_len)
        read_s = tokens * tuning.stored_logits * LOGIT_BYTES / plan.run.checkpoint_bytes_per_s
        return (Beside(name="stored logits", seconds=max(0.0, read_s - step_s)),)
    teacher = scoring_plan(plan, tuning.teacher)
    if problems := legality.problems(teacher):
        name = tuning.teacher.name
        raise InputError([f"training.teacher = {name!r}, split alike: {line}" for line in problems])
    found = scoring_pass("teacher", teacher, kernels)
    p = plan.parallel
    tokens = training.micro_batch_seqs * training.seq_len / p.cp
    return (replace(found, logits=2.0 * tokens * plan.model.vocab / p.tp),)


def with_beside(memory: Sequence[MemoryShare], beside: Sequence[Beside]) -> tuple[MemoryShare, ...]:
    """Return the memory of every stage with the weights and the passes of what runs beside.

    The passes take turns, so the one with most alive counts.
    """
    shares = list(memory)
    for one in beside:
        for stage, share in enumerate(shares):
            buffers = share.buffers
            if one.peak:
                own = share.activations + share.buffers
                buffers += max(0.0, one.peak[stage] - own)
            buffers += one.logits if stage == len(shares) - 1 else 0.0
            weights = share.weights + (one.weights[stage] if one.weights else 0.0)
            shares[stage] = replace(share, weights=weights, buffers=buffers)
    return tuple(shares)


def page_out(
    plan: Plan, memory: Sequence[MemoryShare]
) -> tuple[tuple[MemoryShare, ...], tuple[Beside, ...]]:
    """Return the memory with optimizer state paged to the host where there is too little room.

    Pages go out at the peak of activations and come back for the update, over the host link
    (Dettmers et al. 2023, arXiv:2305.14314, section 3, paged optimizers); nothing moves where all
    has room.
    """
    if not plan.training.tuning.paged_optimizer:
        return tuple(memory), ()
    limit = plan.cluster.accelerator.memory_bytes
    moved = [min(share.optimizer, max(0.0, share.total - limit)) for share in memory]
    shares = tuple(
        replace(share, optimizer=share.optimizer - out)
        for share, out in zip(memory, moved, strict=True)
    )
    seconds = 2.0 * max(moved) / plan.cluster.accelerator.host_bytes_per_s
    return shares, (Beside(name="paging", seconds=seconds),) if seconds else ()
