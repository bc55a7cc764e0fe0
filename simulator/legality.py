"""Which plans make sense: small named checks, each naming the culprit, the rule and the fix.

``problems`` are refused; ``warnings`` are run, and said. A message begins with the key of the plan
file that it is about, as in ``parallel.tp = 16: does not divide the 40 attention heads; 8 does``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isqrt

from ridgeline.errors import nearest
from ridgeline.simulator.plan import (
    OPTIMIZERS,
    PLACEMENT,
    PRECISIONS,
    SCHEDULES,
    Plan,
)
from ridgeline.simulator.recompute import MODULES, POLICIES, parse_recompute

Check = Callable[[Plan], Iterator[str]]

MAX_TASKS = 800_000
"""Stage blocks (micro-batch, stage, chunk, direction) of one step: a second and 2 GB to play."""
MOST_TASKS = 20_000_000
"""Tasks of a step at a finer granularity: some two seconds of play."""
_TASKS_OF_A_LAYER = {"layer": 5, "operator": 40}
"""Of one pass of a micro-batch through it, roughly."""
OFFLOADS = ("optimizer", "gradients", "activations")
CP_KINDS = ("ring", "ulysses")
FLOP_CONVENTIONS = ("causal", "full")


def problems(plan: Plan) -> list[str]:
    """Return why ``plan`` cannot be run, one line each; empty when it can."""
    if lines := list(_positive(plan)):
        return lines  # the other checks divide
    return [line for check in _CHECKS for line in check(plan)]


def warnings(plan: Plan) -> list[str]:
    """Return what is legal in ``plan`` and yet probably not meant, one line each."""
    return [line for check in _REMARKS for line in check(plan)]


def too_fine(plan: Plan, granularity: str) -> list[str]:
    """Return why a legal plan is not played at a granularity, empty when it can be."""
    tasks = 2 * plan.micro_batches * plan.model.num_layers * _TASKS_OF_A_LAYER.get(granularity, 0)
    if tasks <= MOST_TASKS:
        return []
    line = (
        f"granularity {granularity!r}: about {tasks:,} tasks, over the {MOST_TASKS:,} that are "
        f"played; take a coarser one ('stage' is the default)"
    )
    return [line]


def is_recompute(name: str) -> bool:
    """Whether ``name`` is a recompute policy (``recompute.parse_recompute``)."""
    return parse_recompute(name) is not None


def divisors(n: int) -> list[int]:
    """Return the divisors of ``n``, ascending."""
    low = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return low + [n // d for d in reversed(low) if d * d != n]


def closest(value: int, legal: Iterable[int]) -> int:
    """Return the legal value nearest to ``value`` by ratio, the smaller one of two."""
    return min(legal, key=lambda d: (max(d, value) / min(d, value), d))


def _multiple(value: int, unit: int) -> int:
    """Return the positive multiple of ``unit`` nearest to ``value``."""
    return max(1, (value + unit // 2) // unit) * unit


def _names(plan: Plan) -> Iterator[str]:
    training = plan.training
    for key, value, known in (
        ("training.schedule", training.schedule, SCHEDULES),
        ("training.precision", training.precision, PRECISIONS),
        ("training.optimizer", training.optimizer, OPTIMIZERS),
        ("training.flop_convention", training.flop_convention, FLOP_CONVENTIONS),
        ("parallel.cp_kind", plan.parallel.cp_kind, CP_KINDS),
        *(("training.offload", item, OFFLOADS) for item in training.offload),
    ):
        if value not in known:
            yield f"{key} = {value!r}: is not known; {nearest(value, known)}"
    if not is_recompute(training.recompute):
        known = (*POLICIES, *MODULES, "every-2", "full-1")
        yield (
            f"training.recompute = {training.recompute!r}: is not known; "
            f"{nearest(training.recompute, known)}"
        )
    if sorted(plan.parallel.placement) != sorted(PLACEMENT):
        yield (
            f"parallel.placement = {list(plan.parallel.placement)}: must order each of "
            f"{', '.join(PLACEMENT)} once, innermost first"
        )


def _positive(plan: Plan) -> Iterator[str]:
    parallel, training = plan.parallel, plan.training
    for key, value, least in (
        ("parallel.tp", parallel.tp, 1),
        ("parallel.pp", parallel.pp, 1),
        ("parallel.vpp", parallel.vpp, 1),
        ("parallel.dp", parallel.dp, 1),
        ("parallel.cp", parallel.cp, 1),
        ("parallel.ep", parallel.ep, 1),
        ("parallel.etp", parallel.etp, 0),
        ("parallel.shard_size", parallel.shard_size, 0),
        ("training.seq_len", training.seq_len, 1),
        ("training.global_batch_seqs", training.global_batch_seqs, 1),
        ("training.micro_batch_seqs", training.micro_batch_seqs, 1),
    ):
        if value < least:
            yield f"{key} = {value}: must be at least {least}"
    if parallel.zero_stage not in range(4):
        yield f"parallel.zero_stage = {parallel.zero_stage}: must be 0, 1, 2 or 3"


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
    if _world_holds(plan) and ranks % group:
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
    if parallel.vpp > 1 and schedule != "interleaved":
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
    if not _batch_holds(plan):
        return
    m, pp = plan.micro_batches, parallel.pp
    unit = parallel.dp * plan.training.micro_batch_seqs
    if schedule == "interleaved" and pp > 1 and m % pp:
        yield (
            f"training.global_batch_seqs = {plan.training.global_batch_seqs}: 'interleaved' needs "
            f"the {m} micro-batches per rank to be a multiple of pp = {pp}; "
            f"{_multiple(m, pp) * unit} sequences give {_multiple(m, pp)}"
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
    if not _world_holds(plan) or _batch_holds(plan):
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
        f"{training.micro_batch_seqs} = {unit}; {_multiple(batch, unit)} is"
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
            f"{_multiple(seq_len, parts)} is"
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
    if not size:
        return
    if parallel.zero_stage == 0:
        yield f"parallel.shard_size = {size}: needs zero_stage 1, 2 or 3 (or leave it out)"
    if _world_holds(plan) and ranks % size:
        yield (
            f"parallel.shard_size = {size}: does not divide the dp*cp = {ranks} ranks; "
            f"{closest(size, divisors(ranks))} does"
        )


def _precision(plan: Plan) -> Iterator[str]:
    precision, accelerator = plan.training.precision, plan.cluster.accelerator
    has = [name for name in PRECISIONS if name in accelerator.peak_flops]
    if precision in PRECISIONS and precision not in has:
        yield (
            f"training.precision = {precision!r}: {accelerator.name} has no {precision} units; "
            f"it has {', '.join(has)}"
        )


def _recompute(plan: Plan) -> Iterator[str]:
    parsed = parse_recompute(plan.training.recompute)
    if parsed is None or parsed[1].mode not in ("every", "first"):
        return
    scope, layers = parsed[1], plan.model.num_layers
    every = scope.mode == "every"
    most = layers if every else -(-layers // plan.parallel.pp)
    if scope.number > most:
        owner = "the model has" if every else "a stage has at most"
        yield (
            f"training.recompute = {plan.training.recompute!r}: {owner} {most} layers; "
            f"{'every' if every else 'full'}-{most} is the most"
        )


def _run_length(plan: Plan) -> Iterator[str]:
    training, run = plan.training, plan.run
    step_tokens = training.global_batch_seqs * training.seq_len
    if 0 < training.tokens < step_tokens:
        yield (
            f"training.tokens = {training.tokens:g}: less than one step of {step_tokens:,} tokens; "
            f"leave it out to ask for a step alone"
        )
    start, unit = run.batch_warmup_start_seqs, plan.parallel.dp * training.micro_batch_seqs
    if run.batch_warmup_tokens > 0 and _batch_holds(plan):
        most = training.global_batch_seqs
        if not 0 < start <= most or start % unit:
            yield (
                f"run.batch_warmup_start_seqs = {start}: must be a multiple of "
                f"dp*micro_batch_seqs = {unit}, at most global_batch_seqs = {most}; "
                f"{min(most, _multiple(start, unit))} is"
            )
    if 0 < training.tokens < run.batch_warmup_tokens:
        yield (
            f"run.batch_warmup_tokens = {run.batch_warmup_tokens:g}: longer than the run of "
            f"{training.tokens:g} tokens"
        )
    if bool(run.eval_interval_steps) != bool(run.eval_steps):
        yield "run.eval_steps: goes together with run.eval_interval_steps; give both or neither"


def _world_holds(plan: Plan) -> bool:
    return plan.parallel.world == plan.cluster.count


def _batch_holds(plan: Plan) -> bool:
    unit = plan.parallel.dp * plan.training.micro_batch_seqs
    return _world_holds(plan) and plan.training.global_batch_seqs % unit == 0


def _tensor_parallel_reach(plan: Plan) -> Iterator[str]:
    cluster, parallel = plan.cluster, plan.parallel
    if parallel.tp == 1 or cluster.torus is not None:
        return
    inner = 1
    for name in parallel.placement:
        inner *= getattr(parallel, name)
        if name == "tp":
            break
    domain = max(cluster.per_node, cluster.tiers[0].size if cluster.tiers else 0)
    if inner > domain or (domain % inner and cluster.count > domain):
        yield (
            f"parallel.tp = {parallel.tp}: tensor-parallel groups span nodes (the fast links join "
            f"{domain} accelerators), so every layer waits for the network; "
            f"tp = {closest(min(parallel.tp, domain), divisors(domain))} stays inside"
        )


def _positions(plan: Plan) -> Iterator[str]:
    longest = plan.model.max_positions
    if longest and plan.training.seq_len > longest:
        yield (
            f"training.seq_len = {plan.training.seq_len}: longer than the {longest} positions "
            f"that {plan.model.name} states"
        )


def _sharded_pipeline(plan: Plan) -> Iterator[str]:
    parallel = plan.parallel
    if parallel.zero_stage >= 2 and parallel.pp > 1:
        # DeepSpeed: PipelineEngine asserts zero stage < 2; FSDP2 under torchtitan runs it.
        yield (
            f"parallel.zero_stage = {parallel.zero_stage}: with pp > 1 gradients are scattered "
            f"every micro-batch; DeepSpeed refuses this, PyTorch FSDP2 runs it; zero_stage = 1 is "
            f"the usual choice"
        )


def _vocabulary(plan: Plan) -> Iterator[str]:
    tp, vocab = plan.parallel.tp, plan.model.vocab
    if vocab % tp:
        yield (
            f"parallel.tp = {tp}: the vocabulary of {vocab} is padded to {-(-vocab // tp) * tp} "
            f"to split evenly"
        )


def _expert_sequence(plan: Plan) -> Iterator[str]:
    parallel = plan.parallel
    if plan.model.moe is not None and parallel.ep > 1 and parallel.tp > 1 and not parallel.sp:
        yield (
            "parallel.sp = false: Megatron-Core refuses expert with tensor parallelism unless "
            "sequence parallelism is on; sp = true also saves memory"
        )


def _starved_pipeline(plan: Plan) -> Iterator[str]:
    m, pp = plan.micro_batches, plan.parallel.pp
    if pp > 1 and m < pp:
        yield (
            f"training.global_batch_seqs = {plan.training.global_batch_seqs}: {m} micro-batches "
            f"cannot fill {pp} pipeline stages; most of the step is bubble"
        )


_CHECKS: tuple[Check, ...] = (
    _names,
    _world,
    _tensor_parallel,
    _experts,
    _stages,
    _schedule,
    _batch,
    _sequence,
    _sharding,
    _precision,
    _recompute,
    _run_length,
)
_REMARKS: tuple[Check, ...] = (
    _tensor_parallel_reach,
    _positions,
    _sharded_pipeline,
    _vocabulary,
    _expert_sequence,
    _starved_pipeline,
)
