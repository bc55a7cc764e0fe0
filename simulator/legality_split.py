"""Whether model, batch and sequence divide over the accelerators as a plan splits them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isqrt

from ridgeline.simulator.plan import SCHEDULE_SUFFIX, Plan
from ridgeline.simulator.stage_skips import skip_problems, skipped_stages

MAX_TASKS = 800_000
"""Stage blocks (micro-batch, stage, chunk, direction) of one step: a second and 2 GB to play."""


def split_problems(plan: Plan) -> Iterator[str]:
    """Yield why ``plan`` cannot be split as it says, one line each, from the outside in.

    All ways of parallelism, the batch and the sequence must be at least 1.
    """
    for check in (
        _world,
        _tensor_parallel,
        _experts,
        _stages,
        _schedule,
        _batch,
        _sequence,
        _sharding,
    ):
        yield from check(plan)


def divisors(n: int) -> list[int]:
    """Return the divisors of ``n``, ascending."""
    low = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return low + [n // d for d in reversed(low) if d * d != n]


def closest(value: int, legal: Iterable[int]) -> int:
    """Return the legal value nearest to ``value`` by ratio, the smaller one of two."""
    return min(legal, key=lambda d: (max(d, value) / min(d, value), d))


def multiple(value: int, unit: int) -> int:
    """Return the positive multiple of ``unit`` nearest to ``value``."""
    return max(1, (value + unit // 2) // unit) * unit


def world_holds(plan: Plan) -> bool:
    """Whether the ways of parallelism take all accelerators."""
    return plan.parallel.world == plan.cluster.count


def batch_holds(plan: Plan) -> bool:
    """Whether every data-parallel rank gets whole micro-batches, of accelerators that add up."""
    unit = plan.parallel.dp * plan.training.micro_batch_seqs
    return world_holds(plan) and plan.training.global_batch_seqs % unit == 0


def _world(plan: Plan) -> Iterator[str]:
    parallel, count = plan.parallel, plan.cluster.count
    if parallel.world == count:
        return
    group = parallel.tp * parallel.pp * parallel.cp
    if count % group == 0:
        yield (
            f"parallel.dp = {parallel.dp}: tp*pp*cp*dp = {parallel.world:,} and the cluster has "
            f"{count:,} accelerators; dp = {count // group} fits (or leave dp out)"
        )
        return
    fixes = []
    for name in ("pp", "tp", "cp"):
        value = getattr(parallel, name)
        rest = group // value
        if value > 1 and count % rest == 0:
            fixes.append(f"{name} = {closest(value, divisors(count // rest))}")
    advice = " or ".join(fixes) or f"tp*pp*cp = {closest(group, divisors(count))}"
    yield (
        f"parallel: tp*pp*cp = {group:,} does not divide the {count:,} accelerators of the "
        f"cluster; {advice} does"
    )


def _tensor_parallel(plan: Plan) -> Iterator[str]:
    model, tp = plan.model, plan.parallel.tp
    if tp == 1:
        return
    attention = model.attention
    widths = [("attention heads", attention.heads), ("hidden size", model.hidden)]
    if model.ffn_hidden:
        widths.append(("MLP width", model.ffn_hidden))
    if model.moe is not None and model.moe.num_shared_experts:
        widths.append(("width of the shared experts", model.moe.shared_ffn_hidden))
    for what, size in widths:
        if size % tp:
            fix = closest(tp, divisors(size))
            yield f"parallel.tp = {tp}: does not divide the {_size(what, size)}; tp = {fix} does"
    if attention.kind == "gqa":
        kv_heads = attention.kv_heads
        # A KV head is copied to several ranks when there are more ranks than heads.
        if kv_heads % tp and tp % kv_heads:
            legal = [t for t in divisors(attention.heads) if not (kv_heads % t and t % kv_heads)]
            yield (
                f"parallel.tp = {tp}: must divide the {kv_heads} KV heads or be a multiple of "
                f"them (each then copied); tp = {closest(tp, legal)} works"
            )


def _size(what: str, size: int) -> str:
    return f"{size} {what}" if what.endswith("heads") else f"{what} {size}"


def _experts(plan: Plan) -> Iterator[str]:
    parallel, moe = plan.parallel, plan.model.moe
    if moe is None:
        for name in ("ep", "etp"):
            value = getattr(parallel, name)
            if value > 1:
                yield f"parallel.{name} = {value}: {plan.model.name} has no experts; leave it out"
        return
    experts = moe.num_experts
    if parallel.ep > experts:
        yield f"parallel.ep = {parallel.ep}: there are only {experts} experts; ep = {experts} fits"
    elif experts % parallel.ep:
        fix = closest(parallel.ep, divisors(experts))
        yield f"parallel.ep = {parallel.ep}: does not divide the {experts} experts; ep = {fix} does"
    if moe.ffn_hidden % parallel.expert_tp:
        fix = closest(parallel.expert_tp, divisors(moe.ffn_hidden))
        yield (
            f"parallel.etp = {parallel.expert_tp}: does not divide the experts' width "
            f"{moe.ffn_hidden}; etp = {fix} does"
        )
    ranks = parallel.tp * parallel.cp * parallel.dp
    group = parallel.expert_tp * parallel.ep
    if world_holds(plan) and ranks % group:
        legal = [e for e in divisors(experts) if ranks % (e * parallel.expert_tp) == 0]
        if legal:
            advice = f"ep = {closest(parallel.ep, legal)} does"
        else:
            advice = f"etp = {closest(parallel.expert_tp, divisors(ranks))} with ep = 1 does"
        yield (
            f"parallel.ep = {parallel.ep}: etp*ep = {group} does not divide the tp*cp*dp = "
            f"{ranks} ranks of a pipeline stage; {advice}"
        )


def _stages(plan: Plan) -> Iterator[str]:
    parallel, training, layers = plan.parallel, plan.training, plan.model.num_layers
    chunks = parallel.pp * parallel.vpp
    if training.stage_layers:
        given = training.stage_layers
        if len(given) != chunks:
            yield (
                f"training.uneven_stages: lists {len(given)} stages, pp*vpp = {chunks}; "
                f"give {chunks} numbers"
            )
        if min(given) < 0:
            yield f"training.uneven_stages: {min(given)} layers in a stage; must be at least 0"
        if sum(given) != layers:
            yield (
                f"training.uneven_stages: adds up to {sum(given)} layers, {plan.model.name} has "
                f"{layers}"
            )
        return
    if chunks > layers:
        which = "pp*vpp" if parallel.vpp > 1 else "pp"
        yield f"parallel.pp: {which} = {chunks} stages are more than the {layers} layers"
    elif layers % chunks and not training.uneven_stages:
        if parallel.vpp > 1 and layers % parallel.pp == 0:
            vpp = closest(parallel.vpp, divisors(layers // parallel.pp))
            advice = f"vpp = {vpp} does"
        elif parallel.vpp > 1:
            legal = [d for d in divisors(layers) if layers % (d * parallel.vpp) == 0]
            advice = f"pp = {closest(parallel.pp, legal)} does" if legal else "vpp = 1 may"
        else:
            advice = f"pp = {closest(parallel.pp, divisors(layers))} does"
        what = f"pp*vpp = {chunks}" if parallel.vpp > 1 else f"pp = {parallel.pp}"
        yield (
            f"parallel.pp: {what} does not divide the {layers} layers; {advice}, or set "
            f"training.uneven_stages = true"
        )


def _schedule(plan: Plan) -> Iterator[str]:
    parallel, schedule = plan.parallel, plan.training.schedule
    if schedule == "zb-v" and (parallel.vpp != 2 or parallel.pp == 1):
        yield (
            f"training.schedule = 'zb-v': runs two chunks on each of several stages; take vpp = 2 "
            f"and pp of 2 or more, not vpp = {parallel.vpp} and pp = {parallel.pp}"
        )
    if skip := skipped_stages(schedule):
        for line in skip_problems(parallel.pp, parallel.vpp, skip):
            yield f"parallel.{line}"
        return
    own = schedule == "zb-v" or schedule.endswith(SCHEDULE_SUFFIX)
    if parallel.vpp > 1 and schedule != "interleaved" and not own:
        yield (
            f"training.schedule = {schedule!r}: vpp = {parallel.vpp} needs schedule = "
            f"'interleaved' (or vpp = 1)"
        )
    if schedule == "interleaved" and parallel.vpp == 1:
        yield "parallel.vpp = 1: schedule 'interleaved' needs vpp of 2 or more (or schedule '1f1b')"
    if schedule == "interleaved" and parallel.pp == 1:
        yield "parallel.pp = 1: schedule 'interleaved' needs a pipeline; pp = 2 or schedule '1f1b'"
    if schedule == "dualpipe" and parallel.pp % 2:
        yield (
            f"parallel.pp = {parallel.pp}: schedule 'dualpipe' pairs stages from both ends; pp "
            f"must be even, for example {parallel.pp + 1}"
        )
    if not batch_holds(plan):
        return
    m, pp = plan.micro_batches, parallel.pp
    unit = parallel.dp * plan.training.micro_batch_seqs
    if schedule == "interleaved" and pp > 1 and m % pp:
        yield (
            f"training.global_batch_seqs = {plan.training.global_batch_seqs}: 'interleaved' needs "
            f"the {m} micro-batches per rank to be a multiple of pp = {pp}; "
            f"{multiple(m, pp) * unit} sequences give {multiple(m, pp)}"
        )
    # DeepSeek's DualPipe asserts both (dualpipe.py, DualPipe.step).
    if schedule == "dualpipe" and (m < 2 * pp or m % 2):
        enough = max(2 * pp, m + m % 2)
        yield (
            f"training.global_batch_seqs = {plan.training.global_batch_seqs}: 'dualpipe' needs an "
            f"even number of micro-batches, at least 2*pp = {2 * pp}, and has {m}; "
            f"{enough * unit} sequences give {enough}"
        )
    tasks = 2 * m * pp * parallel.vpp
    if tasks > MAX_TASKS:
        yield (
            f"training.micro_batch_seqs = {plan.training.micro_batch_seqs}: {m:,} micro-batches "
            f"per rank make a step of {tasks:,} blocks, over the {MAX_TASKS:,} that are played; "
            f"take larger micro-batches or more dp"
        )


def _batch(plan: Plan) -> Iterator[str]:
    if not world_holds(plan) or batch_holds(plan):
        return
    dp, training = plan.parallel.dp, plan.training
    unit = dp * training.micro_batch_seqs
    batch = training.global_batch_seqs
    if batch < unit:
        fits = batch // dp
        advice = f"micro_batch_seqs = {fits}, or " if fits and batch % (fits * dp) == 0 else ""
        yield (
            f"training.global_batch_seqs = {batch}: fewer than dp*micro_batch_seqs = {dp}*"
            f"{training.micro_batch_seqs} = {unit}; {advice}at least {unit} works"
        )
        return
    yield (
        f"training.global_batch_seqs = {batch}: not a multiple of dp*micro_batch_seqs = {dp}*"
        f"{training.micro_batch_seqs} = {unit}; {multiple(batch, unit)} is"
    )


def _sequence(plan: Plan) -> Iterator[str]:
    parallel, seq_len = plan.parallel, plan.training.seq_len
    cp, tp = parallel.cp, parallel.tp
    ring = cp > 1 and parallel.cp_kind == "ring"
    # A ring gives each rank one chunk from the front and one from the back, to balance the mask.
    parts = 2 * cp if ring else cp
    if parallel.sp:
        parts *= tp
    if seq_len % parts:
        factors = ("2*" if ring else "") + "*".join(
            name for name, ways in (("cp", cp), ("tp", tp if parallel.sp else 1)) if ways > 1
        )
        yield (
            f"training.seq_len = {seq_len}: not a multiple of {factors} = {parts}; "
            f"{multiple(seq_len, parts)} is"
        )
    if cp > 1 and parallel.cp_kind == "ulysses":
        heads = plan.model.attention.heads
        if heads % (tp * cp):
            legal = [d for d in divisors(heads) if heads % (d * tp) == 0] or [1]
            yield (
                f"parallel.cp = {cp}: Ulysses splits heads, and tp*cp = {tp * cp} does not divide "
                f"the {heads} heads; cp = {closest(cp, legal)} does, or cp_kind = 'ring'"
            )


def _sharding(plan: Plan) -> Iterator[str]:
    parallel = plan.parallel
    size, ranks = parallel.shard_size, parallel.dp * parallel.cp
    yield from _partitions(plan)
    if not size:
        return
    if parallel.zero_stage == 0:
        yield f"parallel.shard_size = {size}: needs zero_stage 1, 2 or 3 (or leave it out)"
    if world_holds(plan) and ranks % size:
        yield (
            f"parallel.shard_size = {size}: does not divide the dp*cp = {ranks} ranks; "
            f"{closest(size, divisors(ranks))} does"
        )


def _partitions(plan: Plan) -> Iterator[str]:
    parallel, training = plan.parallel, plan.training
    sizes = {
        f"{what}_shard_size": getattr(parallel, f"{what}_shard_size")
        for what in ("weight", "gradient", "secondary")
    }
    used = [f"{name} = {size}" for name, size in sizes.items() if size]
    used += [
        f"{name} = true"
        for name in ("quantized_weights", "quantized_gradients")
        if getattr(parallel, name)
    ]
    if not used:
        return
    first = f"parallel.{used[0]}"
    if parallel.zero_stage != 3:
        yield f"{first}: saves communication of ZeRO-3; needs zero_stage = 3 (or leave it out)"
    if plan.model.moe is not None:
        yield (
            f"{first}: {plan.model.name} has experts, which are sharded over groups of their own "
            f"and not modelled with it; leave it out"
        )
    if training.schedule == "dualpipe":
        yield f"{first}: schedule 'dualpipe' holds the weights twice already; take another schedule"
    if training.lora_rank:
        yield f"{first}: is not modelled for adapters on frozen weights; leave it out"
    if training.precision not in ("fp16", "bf16"):
        yield (
            f"{first}: is modelled for 16-bit training alone, not {training.precision}; take "
            f"training.precision = 'bf16'"
        )
    ranks = min(parallel.shard_size or parallel.dp * parallel.cp, parallel.dp * parallel.cp)
    for name, size in sizes.items():
        if size and world_holds(plan) and ranks % size:
            yield (
                f"parallel.{name} = {size}: does not divide the {ranks} ranks over which the "
                f"optimizer is sharded; {closest(size, divisors(ranks))} does"
            )
    weight, secondary = sizes["weight_shard_size"] or ranks, sizes["secondary_shard_size"]
    if secondary and secondary >= weight:
        yield (
            f"parallel.secondary_shard_size = {secondary}: a second copy over no fewer ranks than "
            f"the weights' own {weight} saves nothing; leave it out"
        )
