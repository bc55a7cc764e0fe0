"""Which plans make sense: small named checks, each naming the culprit, the rule and the fix.

``problems`` are refused; ``warnings`` are run, and said. A message begins with the key of the plan
file that it is about, as in ``parallel.tp = 16: does not divide the 40 attention heads; 8 does``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ridgeline.errors import nearest
from ridgeline.simulator.legality_layers import layer_problems
from ridgeline.simulator.legality_memory import memory_problems
from ridgeline.simulator.legality_split import (
    batch_holds,
    closest,
    divisors,
    multiple,
    split_problems,
)
from ridgeline.simulator.legality_together import together_problems
from ridgeline.simulator.legality_towers import tower_problems, tower_remarks
from ridgeline.simulator.legality_tuning import tuning_problems
from ridgeline.simulator.plan import (
    OPTIMIZERS,
    PLACEMENT,
    PRECISIONS,
    SCHEDULE_SUFFIX,
    SCHEDULES,
    Parallelism,
    Plan,
)
from ridgeline.simulator.recompute import MODULES, OPTIMAL, POLICIES, parse_recompute
from ridgeline.simulator.stacks import load_stack, runs_on, usual_stack
from ridgeline.simulator.stage_skips import skipped_stages

Check = Callable[[Plan], Iterator[str]]

MOST_TASKS = 20_000_000
"""Tasks of a step at a finer granularity: some two seconds of play."""
_TASKS_OF_A_LAYER = {"layer": 5, "operator": 40}
"""Of one pass of a micro-batch through it, roughly."""
OFFLOADS = ("optimizer", "gradients", "activations", "parameters")
CP_KINDS = ("ring", "ulysses")
FLOP_CONVENTIONS = ("causal", "full")


def problems(plan: Plan) -> list[str]:
    """Return why ``plan`` cannot be run, one line each; empty when it can."""
    if lines := list(_positive(plan)):
        return lines  # the other checks divide
    return [line for check in _CHECKS for line in check(plan)]


def unsearched(parallel: Parallelism) -> list[str]:
    """Return what a search cannot keep fixed while it varies the rest; empty for nothing."""
    names = ("weight_shard_size", "gradient_shard_size", "secondary_shard_size")
    used = [
        name
        for name in (*names, "quantized_weights", "quantized_gradients")
        if getattr(parallel, name)
    ]
    if not used:
        return []
    line = (
        f"parallel.{', '.join(used)}: a search neither varies nor keeps it; leave it out, and try "
        f"it on the plan that is found"
    )
    return [line]


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


def _schedule_name(name: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Return the check of a schedule's name; a described one is checked when it is read."""
    own = name.endswith(SCHEDULE_SUFFIX) or skipped_stages(name)
    return () if own else (("training.schedule", name, SCHEDULES),)


def _names(plan: Plan) -> Iterator[str]:
    training = plan.training
    for key, value, known in (
        *_schedule_name(training.schedule),
        ("training.precision", training.precision, PRECISIONS),
        ("training.optimizer", training.optimizer, OPTIMIZERS),
        ("training.flop_convention", training.flop_convention, FLOP_CONVENTIONS),
        ("parallel.cp_kind", plan.parallel.cp_kind, CP_KINDS),
        *(("training.offload", item, OFFLOADS) for item in training.offload),
    ):
        if value not in known:
            yield f"{key} = {value!r}: is not known; {nearest(value, known)}"
    if not is_recompute(training.recompute):
        known = (*POLICIES, *MODULES, "every-2", "full-1", OPTIMAL)
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
        ("parallel.weight_shard_size", parallel.weight_shard_size, 0),
        ("parallel.gradient_shard_size", parallel.gradient_shard_size, 0),
        ("parallel.secondary_shard_size", parallel.secondary_shard_size, 0),
        ("training.seq_len", training.seq_len, 1),
        ("training.global_batch_seqs", training.global_batch_seqs, 1),
        ("training.micro_batch_seqs", training.micro_batch_seqs, 1),
        ("training.sample_len", training.sample_len, 0),
    ):
        if value < least:
            yield f"{key} = {value}: must be at least {least}"
    if training.sample_len > training.seq_len:
        yield (
            f"training.sample_len = {training.sample_len}: samples are packed into a sequence of "
            f"training.seq_len = {training.seq_len}; {training.seq_len} is the most"
        )
    if parallel.zero_stage not in range(4):
        yield f"parallel.zero_stage = {parallel.zero_stage}: must be 0, 1, 2 or 3"


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
    if parsed is not None and parsed[1].mode == "mix":
        covered = sum(count for count, _ in parsed[1].shares)
        if covered != plan.model.num_layers:
            yield (
                f"training.recompute = {plan.training.recompute!r}: is for {covered} layers; the "
                f"model has {plan.model.num_layers}"
            )
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
    if run.batch_warmup_tokens > 0 and batch_holds(plan):
        most = training.global_batch_seqs
        if not 0 < start <= most or start % unit:
            yield (
                f"run.batch_warmup_start_seqs = {start}: must be a multiple of "
                f"dp*micro_batch_seqs = {unit}, at most global_batch_seqs = {most}; "
                f"{min(most, multiple(start, unit))} is"
            )
    if 0 < training.tokens < run.batch_warmup_tokens:
        yield (
            f"run.batch_warmup_tokens = {run.batch_warmup_tokens:g}: longer than the run of "
            f"{training.tokens:g} tokens"
        )
    if bool(run.eval_interval_steps) != bool(run.eval_steps):
        yield "run.eval_steps: goes together with run.eval_interval_steps; give both or neither"


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
    split_problems,
    _precision,
    _recompute,
    _run_length,
    layer_problems,
    tower_problems,
    tuning_problems,
    memory_problems,
    together_problems,
)


def _skipping(plan: Plan) -> Iterator[str]:
    if skipped_stages(plan.training.schedule):
        yield (
            f"training.schedule = {plan.training.schedule!r}: tokens pass part of the model alone; "
            f"what that does to the loss is not predicted"
        )


def _foreign_stack(plan: Plan) -> Iterator[str]:
    accelerator = plan.cluster.accelerator
    if not runs_on(load_stack(plan.stack), accelerator):
        yield (
            f"stack.name = {plan.stack!r}: is not known to run on {accelerator.name}; "
            f"its usual stack is {usual_stack(accelerator)}"
        )


_REMARKS: tuple[Check, ...] = (
    _foreign_stack,
    _skipping,
    _tensor_parallel_reach,
    _positions,
    _sharded_pipeline,
    _vocabulary,
    _expert_sequence,
    _starved_pipeline,
    tower_remarks,
)
