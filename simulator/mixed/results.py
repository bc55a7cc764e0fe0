"""A training run on several kinds of accelerators: time of the slowest, dollars of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.cost import cost
from ridgeline.simulator.mixed.plan import MixedPlan
from ridgeline.simulator.mixed.split import choose_layers, choose_shares
from ridgeline.simulator.mixed.step import KindStep, MixedPrices
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.run import whole_run
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import plan_schedule
from ridgeline.simulator.training import checkpoint_bytes, executed_flops
from ridgeline.simulator.uncertainty import plan_kind, stack_range

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KindResult:
    """What one kind of accelerators does in the job."""

    cluster: str
    accelerator: str
    accelerators: int
    ranks: int
    """Data-parallel ranks (across dp) or pipeline stages (across pp)."""
    share_seqs: int
    """Sequences of a rank in a step."""
    micro_batch_seqs: int
    micro_batches: int
    layers: tuple[int, ...]
    """Of each of its virtual stages, in model order; empty across dp."""
    step_time_s: float
    """Without waiting for other kinds (across dp); the whole step (across pp)."""
    memory_gib: float
    """Of its fullest accelerator."""
    memory_limit_gib: float
    fits: bool
    usd_per_accelerator_hour: float
    cost_usd: float
    energy_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedResult:
    """A predicted run on several kinds. Times in seconds, fractions 0 to 1."""

    name: str
    model: str
    cluster: str
    accelerators: int
    stack: str
    across: str
    chosen: bool
    """The split was found, not given."""
    kinds: tuple[KindResult, ...]
    step_time_s: float
    step_time_low_s: float
    step_time_high_s: float
    even_step_time_s: float
    """With equal shares, or layers as even as they go; infinite where that does not fit or does
    not divide."""
    mfu: float
    """Of the peaks of all kinds together."""
    tokens_per_s: float
    fits: bool
    steps: int
    wall_clock_s: float
    goodput: float
    accelerator_hours: float
    cost_usd: float
    """Before credits; of the kinds whose price is known."""
    credits_usd: float
    energy_kwh: float
    co2_kg: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {"schema": "ridgeline.train.mixed", "schema_version": SCHEMA_VERSION, **asdict(self)}


def simulate_mixed(mixed: MixedPlan, kernels: Kernels | None = None) -> MixedResult:
    """Predict a run on several kinds of accelerators, its split chosen where it is not given.

    Raises
    ------
    InputError
        The splits to choose from are too many, or do not add up.
    InfeasibleError
        No split fits.
    """
    prices = MixedPrices(mixed, kernels)
    first, t = mixed.plans[0], mixed.plans[0].training
    if mixed.across == "dp":
        chosen = not mixed.shares
        shares = mixed.shares or choose_shares(mixed, prices)
        steps = tuple(prices.kind_step(kind, share) for kind, share in enumerate(shares))
        layers: tuple[int, ...] = ()
    else:
        chosen = not t.stage_layers
        layers = t.stage_layers or choose_layers(mixed, prices)
        steps = prices.pipeline_steps(layers)
        shares = (t.global_batch_seqs // first.parallel.dp,) * len(mixed.plans)
    return _result(mixed, prices, steps, shares, layers, chosen=chosen)


def _even(mixed: MixedPlan, prices: MixedPrices) -> float:
    """Return the step time of the split that knows nothing of kinds."""
    plan = mixed.plans[0]
    p, t = plan.parallel, plan.training
    if mixed.across == "pp":
        small, extra = divmod(plan.model.num_layers, p.pp * p.vpp)
        if not small:
            return inf
        start = (p.pp * p.vpp - extra + 1) // 2
        even = tuple(small + (start <= s < start + extra) for s in range(p.pp * p.vpp))
        steps = prices.pipeline_steps(even)
    else:
        if t.global_batch_seqs % (p.dp * t.micro_batch_seqs):
            return inf
        share = t.global_batch_seqs // p.dp
        try:
            steps = tuple(prices.kind_step(kind, share) for kind in range(len(mixed.plans)))
        except InputError:  # no schedule of so many micro-batches
            return inf
    return max(step.seconds for step in steps) if all(step.fits for step in steps) else inf


def _result(
    mixed: MixedPlan,
    prices: MixedPrices,
    steps: tuple[KindStep, ...],
    shares: tuple[int, ...],
    layers: tuple[int, ...],
    *,
    chosen: bool,
) -> MixedResult:
    plan, t = mixed.plans[0], mixed.plans[0].training
    stack = load_stack(plan.stack)
    seconds = max(step.seconds for step in steps)
    tokens = float(t.global_batch_seqs * t.seq_len)
    forward = executed_flops(steps[0].plan, plan_schedule(steps[0].plan))
    flops = (2.0 if t.lora_rank else 3.0) * forward * tokens
    peak = sum(c.accelerator.peak(t.precision) * c.count for c in mixed.own)
    ranges = [stack_range(stack, p.cluster.accelerator, plan_kind(p)) for p in mixed.plans]
    run = whole_run(seconds, tokens, plan, checkpoint_bytes(plan))
    bills = [
        cost(run, replace(p, cluster=own)) for p, own in zip(mixed.plans, mixed.own, strict=True)
    ]
    home = [kind for kind, count in enumerate(mixed.ranks) for _ in range(count)]
    kinds: list[KindResult] = []
    for kind, (step, own, bill) in enumerate(zip(steps, mixed.own, bills, strict=True)):
        most = max(share.total for share in step.memory)
        mine = [n for stage, n in enumerate(layers) if home[stage % len(home)] == kind]
        kinds.append(
            KindResult(
                cluster=own.name,
                accelerator=own.accelerator.name,
                accelerators=own.count,
                ranks=mixed.ranks[kind],
                share_seqs=shares[kind],
                micro_batch_seqs=step.plan.training.micro_batch_seqs,
                micro_batches=shares[kind] // step.plan.training.micro_batch_seqs,
                layers=tuple(mine),
                step_time_s=step.seconds,
                memory_gib=most / 2.0**30,
                memory_limit_gib=own.accelerator.memory_bytes / 2.0**30,
                fits=step.fits,
                usd_per_accelerator_hour=bill.usd_per_accelerator_hour,
                cost_usd=bill.usd,
                energy_kwh=bill.energy_kwh,
            )
        )
    return MixedResult(
        name=mixed.name,
        model=plan.model.name,
        cluster=" + ".join(own.name for own in mixed.own),
        accelerators=plan.cluster.count,
        stack=stack.name,
        across=mixed.across,
        chosen=chosen,
        kinds=tuple(kinds),
        step_time_s=seconds,
        step_time_low_s=seconds * min(low for low, _ in ranges),
        step_time_high_s=seconds * max(high for _, high in ranges),
        even_step_time_s=_even(mixed, prices),
        mfu=flops / (seconds * peak),
        tokens_per_s=tokens / seconds,
        fits=all(step.fits for step in steps),
        steps=run.steps,
        wall_clock_s=run.wall_clock_s,
        goodput=run.goodput,
        accelerator_hours=sum(bill.accelerator_hours for bill in bills),
        cost_usd=sum(bill.usd for bill in bills),
        credits_usd=sum(bill.credits_usd for bill in bills),
        energy_kwh=sum(bill.energy_kwh for bill in bills),
        co2_kg=sum(bill.co2_kg for bill in bills),
        warnings=tuple(dict.fromkeys(line for bill in bills for line in bill.warnings)),
    )
