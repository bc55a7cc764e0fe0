"""What a question leaves open is assumed or chosen here, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, inf, log2
from typing import TYPE_CHECKING, Any

from ridgeline.cli.init_words import Wish
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.parameters import parameters

if TYPE_CHECKING:
    from ridgeline.simulator.plan import Plan
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.serving.results import ServingResult

TOKENS_PER_PARAMETER = 20.0
"""Hoffmann et al. 2022 (arXiv 2203.15556): about as many are best for a given compute."""
SEQ_LEN = 8192
SHORT_TOKENS = 8192
"""Micro-batches of short sequences grow to so many tokens: an encoder's, an image's."""
INPUT_LEN, OUTPUT_LEN, CONCURRENCY = 1024, 256, 32
STATE_BYTES = 16.0
"""Of a parameter in mixed precision with Adam: weights, gradients, master copy, two moments."""
MOST = 4096
"""Accelerators to try where the question leaves their number open."""
KEPT = 0.9
"""Share of requests within the limits that is enough."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plan file."""

    key: str
    """With its section: ``training.tokens``."""
    value: object
    why: str
    """asked, or why it says what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A plan file, and what is predicted for it."""

    lines: tuple[Line, ...]
    result: TrainingResult | ServingResult


def draft_training(wish: Wish) -> Drafted:
    """Return the plan of a training run, with the best of the usual ways to split it.

    Raises
    ------
    InputError
        What was asked cannot be.
    InfeasibleError
        No usual split fits memory, budget and deadline.
    """
    from ridgeline.simulator.budget.batch import choose_batch
    from ridgeline.simulator.stacks import usual_stack

    model = load_model(wish.model)
    count = parameters(model)
    accelerator = _accelerator(wish)
    tokens = wish.tokens or float(f"{TOKENS_PER_PARAMETER * count.total:.2g}")
    longest = model.learned_positions or model.max_positions or SEQ_LEN
    seq_len = wish.seq_len or min(SEQ_LEN, longest)
    stack = wish.stack or usual_stack(accelerator)
    precision = wish.precision or _precision(accelerator)
    refused: InfeasibleError | None = None
    for spec in _specs(wish, accelerator, STATE_BYTES * count.total):
        accelerators = make_cluster(spec).count
        sequences = (
            wish.batch_seqs
            or _divisible(wish.batch_tokens / seq_len, accelerators)
            or choose_batch(
                nonembedding_params=count.non_embedding,
                tokens=tokens,
                seq_len=seq_len,
                accelerators=accelerators,
                sequences=0,
            ).sequences
        )
        asked = {
            "model.config" if wish.model.endswith(".json") else "model.name": wish.model,
            "cluster.spec": spec,
            "training.tokens": tokens,
            "training.seq_len": seq_len,
            "training.global_batch_seqs": sequences,
            "training.precision": precision,
            "stack.name": stack,
        }
        try:
            plan, result = _best_split(asked, wish)
        except InfeasibleError as error:
            refused = error
            continue
        return Drafted(lines=tuple(_training_lines(wish, asked, plan)), result=result)
    raise refused or InfeasibleError(
        f"{model.name} takes more than {MOST:,} of {accelerator.name}; say how many there are"
    )


def _training_lines(wish: Wish, asked: dict[str, Any], plan: Plan) -> Iterator[Line]:
    reasons = {
        "cluster.spec": "" if _sized(wish) else "assumed: the fewest that do, doubled from 1",
        "training.tokens": "" if wish.tokens else "assumed: 20 a parameter (arXiv 2203.15556)",
        "training.seq_len": "" if wish.seq_len else "assumed",
        "training.global_batch_seqs": ""
        if wish.batch_seqs
        else f"asked: about {_written(wish.batch_tokens)} tokens"
        if wish.batch_tokens
        else "assumed: the best by Step Law (2503.04715)",
        "training.precision": "" if wish.precision else "assumed",
        "stack.name": "" if wish.stack else "assumed: usual on this hardware",
    }
    for key, value in asked.items():
        text = _written(value) if key == "training.tokens" else value
        yield Line(key, text, reasons.get(key, "") or "asked")
        if key == "cluster.spec":
            yield from _split_lines(plan)
        if key == "training.global_batch_seqs":
            yield Line("training.micro_batch_seqs", plan.training.micro_batch_seqs, "chosen")
            yield Line("training.recompute", plan.training.recompute, "chosen")


def _split_lines(plan: Plan) -> Iterator[Line]:
    """Yield how the work is split; data parallelism is what that leaves, and follows a change."""
    why = {"tp": "tensor parallel", "pp": "pipeline stages"}
    why |= {"cp": "context parallel", "ep": "expert parallel", "zero_stage": "what is sharded"}
    for name in ("tp", "pp", "cp", "ep", "sp", "zero_stage"):
        value = getattr(plan.parallel, name)
        if value is True or name in ("tp", "pp", "zero_stage") or value > 1:
            yield Line(f"parallel.{name}", value, f"chosen: {why.get(name, 'sequence parallel')}")


def _best_split(asked: dict[str, Any], wish: Wish) -> tuple[Plan, TrainingResult]:
    """Return the best of the usual splits; of more of them where these do not fit."""
    from ridgeline.cli.plan_space import read_space
    from ridgeline.simulator.search.objective import Constraints, Objective
    from ridgeline.simulator.search.search import search

    goal = wish.goal or ("cost" if wish.deadline_s and not _sized(wish) else "time")
    limits = Constraints(budget_usd=wish.budget_usd or inf, deadline_s=wish.deadline_s or inf)
    short = asked["training.seq_len"]
    micro = ["1", "2"] + [str(m) for m in (8, 32, 128) if m * short <= SHORT_TOKENS]
    usual = {"tp": "1,2,4,8", "cp": "1", "vpp": "1", "zero_stage": "1,3"}
    usual["micro_batch"] = ",".join(micro)
    wider = {"tp": "1,2,4,8,16", "cp": "1,2,4,8", "vpp": "1,2", "micro_batch": "1"}
    for last, values in enumerate((usual, wider | {"zero_stage": "1,3"})):
        space = read_space(None, asked, {}, values).space
        try:
            found = search(space, objective=Objective(**{goal: 1.0}), constraints=limits,
                           runners_up=0)  # fmt: skip
        except InfeasibleError:
            if last:
                raise
            continue
        return found.plan, found.best.result
    raise AssertionError("the last space answers or raises")


def draft_service(wish: Wish) -> Drafted:
    """Return the plan of a service: the smallest replica that fits and keeps the limits.

    Raises
    ------
    InputError
        What was asked cannot be.
    InfeasibleError
        The model fits on none of the usual replicas.
    """
    accelerator = _accelerator(wish)
    asked: dict[str, Any] = {
        "model.config" if wish.model.endswith(".json") else "model.name": wish.model,
        "serving.engine": wish.engine or "vllm",
        "serving.precision": wish.precision or _precision(accelerator),
    }
    if wish.request_rate:
        asked["serving.request_rate"] = wish.request_rate
    else:
        asked["serving.concurrency"] = wish.concurrency or CONCURRENCY
    asked["serving.input_len"] = wish.input_len or INPUT_LEN
    asked["serving.output_len"] = wish.output_len or OUTPUT_LEN
    if wish.limits:
        asked["serving.slo"] = ",".join(f"{name}={text}" for name, text in wish.limits.items())
    refused: Exception | None = None
    best: tuple[float, dict[str, Any], ServingResult] | None = None
    for split in _replicas(wish, accelerator):
        trial = asked | split
        try:
            result = _served(trial)
        except (InfeasibleError, InputError) as error:
            refused = refused if isinstance(refused, InfeasibleError) else error
            continue
        kept = _kept(result, wish)
        if best is None or kept > best[0]:
            best = kept, trial, result
        if kept >= KEPT:
            break
    if best is None:
        raise refused or InfeasibleError(f"no usual replica of {wish.model} fits the cluster")
    return Drafted(lines=tuple(_serving_lines(wish, best[1], best[0])), result=best[2])


def _served(overrides: dict[str, Any]) -> ServingResult:
    from ridgeline.simulator.serving.serve import serve
    from ridgeline.simulator.serving.servicefile import make_question_traffic, read_service

    question = read_service(None, overrides)
    traffic = make_question_traffic(question)
    return serve(
        question.deployed, traffic, router=question.section.router, slo=question.slo
    ).result


def _kept(result: ServingResult, wish: Wish) -> float:
    """Return the share of requests within the limits; without any, of what keeps up."""
    if wish.limits:
        return result.goodput_fraction
    return 1.0 if not wish.request_rate or result.utilisation < KEPT else 1.0 - result.utilisation


def _replicas(wish: Wish, accelerator: Accelerator) -> Iterator[dict[str, Any]]:
    """Yield splits from the smallest replica on; without a cluster also more and more replicas."""
    per_node = max(1, accelerator.per_node)
    shapes = [(2**k, 1) for k in range(8) if 2**k <= per_node]
    shapes += [(shapes[-1][0], 2), (shapes[-1][0], 4)]
    whole = _spec(wish, accelerator)
    for tp, pp in shapes:
        split = {"parallel.tp": tp, "parallel.pp": pp}
        if whole:
            yield {"cluster.spec": whole, **split}
            continue
        for replicas in (1, 2, 4, 8, 16) if wish.request_rate else (1,):
            yield {"cluster.spec": f"{tp * pp * replicas}x{wish.accelerator}", **split}


def _serving_lines(wish: Wish, chosen: dict[str, Any], kept: float) -> Iterator[Line]:
    given = {
        "serving.engine": wish.engine,
        "serving.precision": wish.precision,
        "serving.concurrency": wish.concurrency,
        "serving.input_len": wish.input_len,
        "serving.output_len": wish.output_len,
        "cluster.spec": _sized(wish),
    }
    order = ("model", "cluster", "parallel", "serving")
    for key in sorted(chosen, key=lambda key: order.index(key.partition(".")[0])):
        why = "asked" if given.get(key, True) else "assumed"
        if key == "cluster.spec" and not _sized(wish):
            why = "assumed: the fewest that do"
        if key == "parallel.tp":
            why = "chosen: smallest that fits"
            if wish.limits:
                why += f"; {100 * kept:.0f}% within limits"
        elif key == "parallel.pp":
            why = "chosen"
        yield Line(key, chosen[key], why)


def _accelerator(wish: Wish) -> Accelerator:
    return make_cluster(wish.spec).accelerator if wish.spec else load_accelerator(wish.accelerator)


def _precision(accelerator: Accelerator) -> str:
    return "bf16" if "bf16" in accelerator.peak_flops else "fp16"


def _sized(wish: Wish) -> bool:
    """Whether the question says how many accelerators there are."""
    return bool(wish.spec or wish.count or wish.nodes)


def _spec(wish: Wish, accelerator: Accelerator) -> str:
    """Return the short name of the cluster, empty where its size is left open."""
    if wish.spec:
        return wish.spec
    if wish.nodes:
        return f"{wish.nodes}x{wish.per_node or accelerator.per_node}x{wish.accelerator}"
    return f"{wish.count}x{wish.accelerator}" if wish.count else ""


def _specs(wish: Wish, accelerator: Accelerator, state_bytes: float) -> Iterator[str]:
    """Yield the cluster, or ever larger ones that hold the state of training."""
    spec = _spec(wish, accelerator)
    if spec:
        yield spec
        return
    count = 1
    while count <= MOST:
        if count >= ceil(state_bytes / accelerator.memory_bytes):
            yield f"{count}x{wish.accelerator}"
        count *= 2


def _divisible(sequences: float, accelerators: int) -> int:
    """Return a batch within a sixteenth of ``sequences`` that many ways of data parallelism divide.

    A multiple of the odd part of the accelerators' number and of a power of two.
    """
    from ridgeline.simulator.budget.batch import odd_part

    if not sequences:
        return 0
    odd = odd_part(accelerators)
    unit = odd << max(0, floor(log2(max(1.0, sequences / 8 / odd))))
    return max(1, round(sequences / unit)) * unit


def _written(tokens: float) -> str | float:
    """Return a count as people write it in a plan file: 1T, 140B."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= size:
            return f"{tokens / size:.6g}{suffix}"
    return tokens
