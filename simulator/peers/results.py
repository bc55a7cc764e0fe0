"""A run among peers: local steps at the pace of the slowest, and averaging over their links."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import numpy as np

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator import legality
from ridgeline.simulator.adapters import adapter_parameters
from ridgeline.simulator.cost import cost
from ridgeline.simulator.endings import HOST_MEMORY_BYTES_PER_S, held_parameters
from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.mixed.split import MOST_STEPS, best_shares
from ridgeline.simulator.peers.averaging import averaging_seconds, rounds
from ridgeline.simulator.peers.plan import PeerKind, PeersPlan
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.device import price_streams
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.run import whole_run
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import plan_schedule, simulate_step
from ridgeline.simulator.training import checkpoint_bytes, executed_flops
from ridgeline.workloads.parameters import parameters

SCHEMA_VERSION = 1
OUTER_STATE_BYTES = 8.0
"""Per parameter of the outer optimizer: the weights of the last averaging and a momentum, fp32
(Douillard et al. 2023, arXiv:2311.08105, algorithm 1)."""
OUTER_MOVED_BYTES = 24.0
"""Per parameter of its step, fp32: reads both and the average, writes both and the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """What one kind of peer does in the job."""

    cluster: str
    accelerator: str
    accelerators: int
    """Of one peer."""
    peers: int
    share_seqs: int
    """Of a step, for each peer."""
    step_time_s: float
    """Of a local step, without waiting for others."""
    up_mbit_per_s: float
    down_mbit_per_s: float
    memory_gib: float
    memory_limit_gib: float
    fits: bool
    usd_per_accelerator_hour: float
    """0 for volunteers, and where no price is known."""
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersResult:
    """A predicted run among peers. Times in seconds, fractions 0 to 1."""

    name: str
    model: str
    stack: str
    peers: int
    accelerators: int
    kinds: tuple[PeerResult, ...]
    local_steps: int
    averaging_rounds: int
    averaged_bytes: float
    """By every peer, each time."""
    compute_s: float
    """Of all local steps between two averagings."""
    averaging_s: float
    outer_step_s: float
    round_time_s: float
    """From one averaging to the next."""
    step_time_s: float
    """Mean over the local steps of a round."""
    utilization: float
    """Share of a round in local steps."""
    tokens_per_s: float
    mfu: float
    fits: bool
    steps: int
    wall_clock_s: float
    accelerator_hours: float
    cost_usd: float
    energy_kwh: float
    co2_kg: float
    warnings: tuple[str, ...]

    @property
    def averaging_s_per_step(self) -> float:
        """Averaging over the local steps of a round."""
        return self.averaging_s / self.local_steps

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {"schema": "ridgeline.train.peers", "schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _LocalStep:
    plan: Plan
    seconds: float
    outer_s: float
    memory: float
    limit: float

    @property
    def fits(self) -> bool:
        return self.memory <= self.limit


class _Steps:
    """Local steps of every kind of peer by share, each played once."""

    def __init__(self, peers: PeersPlan, kernels: Kernels | None) -> None:
        self._peers, self._kernels = peers, kernels
        self._known: dict[tuple[int, int], _LocalStep] = {}

    def of(self, kind: int, share: int) -> _LocalStep:
        """Return the step of a peer of a kind with ``share`` sequences.

        Raises
        ------
        InputError
            The peer's plan cannot run them.
        """
        if (kind, share) not in self._known:
            self._known[kind, share] = self._play(self._peers.kinds[kind], share)
        return self._known[kind, share]

    def _play(self, kind: PeerKind, share: int) -> _LocalStep:
        plan = kind.plan
        plan = replace(plan, training=replace(plan.training, global_batch_seqs=share))
        if problems := legality.problems(plan):
            raise InputError(problems)
        stack = load_stack(plan.stack)
        step = simulate_step(plan, stack, kernels=self._kernels)
        held = held_parameters(plan, step.parts, step.slices, step.schedule, step.shape.groups)
        # with the state of the inner optimizer goes that of the outer
        outer = np.zeros_like(held) if self._peers.averaging.local_steps == 1 else held
        hosted = "optimizer" in plan.training.offload
        kept = np.zeros_like(held) if hosted else outer * OUTER_STATE_BYTES
        facts = memory_facts(stack)
        totals = [share.total for share in stage_memory(plan, step.schedule, facts)]
        return _LocalStep(
            plan=plan,
            seconds=step.seconds,
            outer_s=_outer_seconds(plan, float(outer.max())),
            memory=float(np.max(np.array(totals) + kept)),
            limit=plan.cluster.accelerator.memory_bytes,
        )


def trained_parameters(plan: Plan) -> float:
    """Return the parameters that peers average."""
    return adapter_parameters(plan) or float(parameters(plan.model).total_with_mtp)


def simulate_peers(peers: PeersPlan, kernels: Kernels | None = None) -> PeersResult:
    """Predict a run among peers, the batch shared out so that the slowest is done first.

    Raises
    ------
    InputError
        A peer's plan is illegal, or the batch cannot be shared out.
    InfeasibleError
        No share fits.
    """
    steps = _Steps(peers, kernels)
    shares = _shares(peers, steps)
    local = [steps.of(kind, share) for kind, share in enumerate(shares)]
    averaging = peers.averaging
    plan = peers.kinds[0].plan
    size = trained_parameters(plan) * averaging.bits / 8.0
    links = [kind.slower_bytes_per_s for kind in peers.kinds for _ in range(kind.count)]
    waits = [kind.latency_s for kind in peers.kinds for _ in range(kind.count)]
    averaging_s = averaging_seconds(
        size, links, waits, group=averaging.group, adapted=averaging.parts == "adapted"
    )
    h = averaging.local_steps
    compute_s = h * max(step.seconds for step in local)
    outer_s = max(step.outer_s for step in local)
    together = max(compute_s, averaging_s) if averaging.overlap else compute_s + averaging_s
    return _result(peers, shares, local, size, compute_s, averaging_s, outer_s, together + outer_s)


def _outer_seconds(plan: Plan, held: float) -> float:
    """Return the time of an outer step over ``held`` parameters, wherever their state lies."""
    moved = held * OUTER_MOVED_BYTES
    if not moved:
        return 0.0
    if "optimizer" in plan.training.offload:
        return moved / HOST_MEMORY_BYTES_PER_S
    accelerator = plan.cluster.accelerator
    return float(price_streams(np.array([moved]), plan.training.precision, accelerator)[0])


def _shares(peers: PeersPlan, steps: _Steps) -> tuple[int, ...]:
    """Return the sequences of a peer of each kind: those given, else the best."""
    kinds = peers.kinds
    if kinds[0].share_seqs:
        return tuple(kind.share_seqs for kind in kinds)
    batch, units = peers.global_batch_seqs, [kind.unit_seqs for kind in kinds]
    if sum(batch // (u * k.count) for u, k in zip(units, kinds, strict=True)) > MOST_STEPS:
        raise InputError(
            f"training.global_batch_seqs = {batch}: can be shared out in too many ways to try; "
            f"give batch_share of every peer, or a larger micro_batch_seqs"
        )
    refused: list[str] = []

    def seconds(kind: int, share: int) -> float:
        try:
            step = steps.of(kind, share * units[kind])
        except InputError as error:  # no plan of so many sequences
            refused.extend(error.problems)
            return inf
        return step.seconds if step.fits else inf

    ranks = [u * kind.count for u, kind in zip(units, kinds, strict=True)]
    slowest, found = best_shares(batch, ranks, seconds)
    if slowest == inf:
        if refused:
            raise InputError(list(dict.fromkeys(refused)))
        if batch < sum(ranks):
            raise InputError(
                f"training.global_batch_seqs = {batch}: fewer than one micro-batch for every "
                f"peer; {sum(ranks)} sequences are"
            )
        raise InfeasibleError(
            f"training.global_batch_seqs = {batch}: no share of it in whole micro-batches both "
            f"adds up and fits into the memory of every peer; shard or recompute more, or take "
            f"another batch"
        )
    return tuple(share * unit for share, unit in zip(found, units, strict=True))


def _result(
    peers: PeersPlan,
    shares: tuple[int, ...],
    local: list[_LocalStep],
    size: float,
    compute_s: float,
    averaging_s: float,
    outer_s: float,
    round_s: float,
) -> PeersResult:
    plan = peers.kinds[0].plan
    t, h = plan.training, peers.averaging.local_steps
    tokens = float(peers.global_batch_seqs * t.seq_len)
    forward = executed_flops(local[0].plan, plan_schedule(local[0].plan))
    flops = (2.0 if t.lora_rank else 3.0) * forward * tokens
    step_s = round_s / h
    # peers come and go without stopping the others
    quiet = replace(plan, run=replace(plan.run, failures=False, checkpoint_interval_s=0.0))
    run = whole_run(step_s, tokens, quiet, checkpoint_bytes(plan))
    kinds: list[PeerResult] = []
    hours = energy = co2 = peak = 0.0
    warnings: list[str] = []
    for kind, share, step in zip(peers.kinds, shares, local, strict=True):
        bill = cost(run, kind.plan)
        accelerator, count = kind.plan.cluster.accelerator, kind.plan.cluster.count
        hours += kind.count * bill.accelerator_hours
        energy += kind.count * bill.energy_kwh
        co2 += kind.count * bill.co2_kg
        peak += kind.count * count * accelerator.peak(t.precision)
        warnings += [] if kind.volunteer else bill.warnings
        kinds.append(
            PeerResult(
                cluster=kind.plan.cluster.name,
                accelerator=accelerator.name,
                accelerators=count,
                peers=kind.count,
                share_seqs=share,
                step_time_s=step.seconds,
                up_mbit_per_s=kind.up_bytes_per_s * 8e-6,
                down_mbit_per_s=kind.down_bytes_per_s * 8e-6,
                memory_gib=step.memory / 2.0**30,
                memory_limit_gib=step.limit / 2.0**30,
                fits=step.fits,
                usd_per_accelerator_hour=0.0 if kind.volunteer else bill.usd_per_accelerator_hour,
                cost_usd=0.0 if kind.volunteer else kind.count * bill.usd,
            )
        )
    return PeersResult(
        name=peers.name,
        model=plan.model.name,
        stack=load_stack(plan.stack).name,
        peers=peers.peers,
        accelerators=sum(k.count * k.plan.cluster.count for k in peers.kinds),
        kinds=tuple(kinds),
        local_steps=h,
        averaging_rounds=rounds(peers.peers, peers.averaging.group),
        averaged_bytes=size,
        compute_s=compute_s,
        averaging_s=averaging_s,
        outer_step_s=outer_s,
        round_time_s=round_s,
        step_time_s=step_s,
        utilization=compute_s / round_s,
        tokens_per_s=tokens / step_s,
        mfu=flops / (step_s * peak),
        fits=all(step.fits for step in local),
        steps=run.steps,
        wall_clock_s=run.wall_clock_s,
        accelerator_hours=hours,
        cost_usd=sum(kind.cost_usd for kind in kinds),
        energy_kwh=energy,
        co2_kg=co2,
        warnings=tuple(dict.fromkeys(warnings)),
    )
