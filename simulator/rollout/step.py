"""A step of reinforcement learning: its parts in turn, or two pools side by side.

The parts: samples are generated (G), scored by the reference and by the policy as it was (S),
trained on in one or more updates (U), and the new weights are sent to the engine (W). Where two
pools wait for each other a step is G + S + U + W; where the engine samples with weights one step
old it is max(G, S + U) + W; on shared accelerators it is the sum, with the time in which the state
of training makes room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.simulator.beside import Beside, scoring_pass, scoring_plan
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import MemoryShare, RolloutShare
from ridgeline.simulator.rollout.generation import Generation, generate, rollout_cluster
from ridgeline.simulator.rollout.weights import swap_seconds, sync_seconds
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.tuning import adds_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforced:
    """A step of reinforcement learning around its updates."""

    share: RolloutShare
    """Without dollars, which follow from the whole run."""
    beside: tuple[Beside, ...]
    """What comes on top of ``updates`` optimizer steps."""
    updates: int
    waited_s: float
    """Generation that training waits for."""
    slow_s: float
    """What the step takes longer with the slowest generation of its range."""
    fast_s: float
    """What it takes less with the fastest."""


def scoring(plan: Plan, kernels: Kernels | None = None) -> tuple[Beside, ...]:
    """Return the forward passes over a step's samples before its first update.

    The reference model of the KL term, unless the plan has none, and the policy's own
    log-probabilities in the numbers of training, which an engine computes otherwise
    (Shao et al. 2024, arXiv:2402.03300, equation 3).
    """
    asked, tuning = plan.rollout, plan.training.tuning
    assert asked is not None
    names = ["old log-probabilities"] if asked.old_log_probabilities else []
    names += ["reference"] if tuning.reference == "model" else []
    if not names:
        return ()
    one = scoring_pass("reference", scoring_plan(plan), kernels)
    owns = not adds_parameters(plan.training)
    return tuple(
        Beside(
            name=name,
            seconds=asked.updates * one.seconds,
            model_flops=asked.updates * one.model_flops,
            weights=one.weights if name == "reference" and owns else (),
            peak=one.peak,
        )
        for name in names
    )


def reinforce(
    plan: Plan,
    update_s: float,
    scored: Sequence[Beside],
    memory: Sequence[MemoryShare],
    generation: Generation | None = None,
) -> Reinforced:
    """Join one step of a plan's objective grpo.

    Parameters
    ----------
    plan
        A legal plan with a rollout.
    update_s
        One optimizer step [s].
    scored
        Of :func:`scoring`.
    memory
        Of the training accelerators, with what scores.
    generation
        Where it is known already; else it is played.

    Raises
    ------
    InputError, InfeasibleError
        As of :func:`ridgeline.simulator.rollout.generation.generate`.
    """
    asked = plan.rollout
    assert asked is not None
    made = generation or generate(plan)
    apart = asked.cluster is not None
    updates_s = asked.updates * update_s
    scoring_s = sum(one.seconds for one in scored)
    trained_s = scoring_s + updates_s
    sync_s, swap_s = sync_seconds(plan), swap_seconds(plan, memory)

    def exposed(generation_s: float) -> float:
        """Return the generation that training waits for."""
        return max(0.0, generation_s - trained_s) if asked.overlap == "one-step" else generation_s

    waited = exposed(made.seconds)
    seconds = waited + trained_s + sync_s + swap_s
    busy = made.busy_s
    both_idle = 1.0 - (trained_s + busy) / seconds
    trained = asked.updates * plan.training.global_batch_seqs * plan.training.seq_len
    share = RolloutShare(
        cluster=rollout_cluster(plan).name,
        accelerators=rollout_cluster(plan).count if apart else 0,
        overlap=asked.overlap,
        generation_s=made.seconds,
        generation_low_s=made.low_s,
        generation_high_s=made.high_s,
        tail_s=made.tail_s,
        scoring_s=scoring_s,
        update_s=updates_s,
        sync_s=sync_s,
        swap_s=swap_s,
        rollout_idle=1.0 - busy / seconds if apart else both_idle,
        training_idle=1.0 - trained_s / seconds if apart else both_idle,
        samples=asked.prompts * asked.samples,
        tokens=made.tokens,
        output_mean=made.output_mean,
        output_longest=made.output_longest,
        padding=max(0.0, 1.0 - made.tokens / trained),
        training_usd=0.0,
        rollout_usd=0.0,
    )
    # a padded position is computed and is no model FLOP
    used = [
        replace(one, model_flops=one.model_flops * min(1.0, made.tokens / trained))
        for one in scored
    ]
    name = "waiting for samples" if asked.overlap == "one-step" else "generation"
    around = ((name, waited), ("weight sync", sync_s), ("state swap", swap_s))
    return Reinforced(
        share=share,
        beside=(*used, *(Beside(name=what, seconds=s) for what, s in around if s > 0.0)),
        updates=asked.updates,
        waited_s=waited,
        slow_s=exposed(made.high_s) - waited,
        fast_s=waited - exposed(made.low_s),
    )
