"""How many accelerators should generate, and how many train: the same total split every way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator import legality
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.remedies import resized
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.training import simulate_training

MOST_SPLITS = 32
"""Of many nodes so many splits, evenly spread, are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSplit:
    """One split of the accelerators, predicted."""

    rollout_accelerators: int
    training_accelerators: int
    step_time_s: float
    rollout_idle: float
    training_idle: float
    usd_per_step: float
    """0 when no price is known."""
    fits: bool
    best: bool = False
    """The shortest step of those that fit."""

    def to_dict(self) -> dict[str, Any]:
        """Return the object of the JSON contract."""
        return asdict(self)


def pool_splits(plan: Plan, kernels: Kernels | None = None) -> tuple[PoolSplit, ...]:
    """Predict a step for every split of the two pools' nodes that can run, fewest rollouts first.

    Data-parallel ways follow the training accelerators, replicas the others, and the batch grows to
    whole micro-batches; all else stays as the plan says.

    Raises
    ------
    InputError
        There are not two pools of one kind of accelerator, or no split can run.
    """
    asked = plan.rollout
    if asked is None or asked.cluster is None:
        raise InputError(
            "--pool-splits: there are no two pools to split; give rollout.cluster a pool of its own"
        )
    if asked.cluster.accelerator.name != plan.cluster.accelerator.name:
        raise InputError(
            f"--pool-splits: the pools have {plan.cluster.accelerator.name} and "
            f"{asked.cluster.accelerator.name}; splits of one kind of accelerator are compared"
        )
    found: list[PoolSplit] = []
    for one in _candidates(plan):
        pool = one.rollout
        assert pool is not None
        assert pool.cluster is not None
        if legality.problems(one):
            continue
        try:
            step = simulate_training(one, kernels=kernels)
        except InfeasibleError:
            continue
        share = step.rollout
        assert share is not None
        found.append(
            PoolSplit(
                rollout_accelerators=pool.cluster.count,
                training_accelerators=one.cluster.count,
                step_time_s=step.step_time_s,
                rollout_idle=share.rollout_idle,
                training_idle=share.training_idle,
                usd_per_step=step.cost_usd,
                fits=step.fits,
            )
        )
    if not found:
        raise InputError("--pool-splits: no split of the nodes can run this plan; see its split")
    fitting = [split for split in found if split.fits]
    best = min(fitting, key=lambda split: split.step_time_s, default=None)
    return tuple(replace(split, best=split is best) for split in found)


def _candidates(plan: Plan) -> Iterator[Plan]:
    asked, parallel = plan.rollout, plan.parallel
    assert asked is not None
    assert asked.cluster is not None
    node = plan.cluster.per_node
    nodes = (plan.cluster.count + asked.cluster.count) // node
    stride = max(1, -(-(nodes - 1) // MOST_SPLITS))
    for generating in range(1, nodes, stride):
        training = (nodes - generating) * node
        ways = parallel.tp * parallel.pp * parallel.cp
        home, pool = resized(plan.cluster, training), resized(asked.cluster, generating * node)
        if home is None or pool is None or training % ways:
            continue
        dp = training // ways
        unit = dp * plan.training.micro_batch_seqs
        batch = -(-plan.training.global_batch_seqs // unit) * unit
        yield replace(
            plan,
            cluster=home,
            parallel=replace(parallel, dp=dp),
            training=replace(plan.training, global_batch_seqs=batch, tokens=0.0),
            rollout=replace(asked, cluster=pool, replicas=0),
        )
