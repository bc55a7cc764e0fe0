"""What a plan file may say: its sections, their keys, types and ranges.

The only module that knows pydantic; what it finds is said in words of ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import ErrorDetails

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.energy import carbon_kg_per_kwh
from ridgeline.hardware.quotes import parse_day
from ridgeline.simulator import legality
from ridgeline.simulator.adapters import TARGETS
from ridgeline.simulator.plan import (
    HOST_UPDATES,
    OBJECTIVES,
    OFFLOAD_TIERS,
    OPTIMIZERS,
    OVERLAPS,
    PLACEMENT,
    PRECISIONS,
    REFERENCES,
    SCHEDULE_SUFFIX,
    SCHEDULES,
    TASKS,
    TRAINED,
)
from ridgeline.simulator.plan_mistakes import Mistakes, without_subject
from ridgeline.simulator.recompute import MODULES, POLICIES
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.service import KV_PRECISIONS
from ridgeline.simulator.serving.service import PRECISIONS as SERVING_PRECISIONS
from ridgeline.simulator.serving.variants import EXIT_KV
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.stage_skips import skipped_stages
from ridgeline.workloads.expert_load import load_problems
from ridgeline.workloads.traffic import MAX_REQUESTS

MAX_MISTAKES = 100
"""A file with more is no plan file, and nobody reads on."""
MAX_ACCELERATORS = 10_000_000
"""A hundred times the largest cluster built; beyond it a number is taken for a slip."""
MAX_SEQ_LEN = 100_000_000
MAX_BATCH = 100_000_000
MAX_TOKENS = 1e17
DEFAULT_STACK = "megatron-core"
ROUTERS = ("round-robin", "least-loaded", "prefix-aware")
PREEMPTIONS = ("recompute", "swap")
LENGTH_KINDS = ("fixed", "uniform", "log-normal")
SLO_FIGURES = ("ttft", "tpot", "latency")
MAX_POOLS = 100
BALANCED = "balanced"
"""Layers by work: the fullest stage has as little as possible."""
MONEY_KINDS = ("on-demand", "negotiated", "reserved", "spot", "owned")

_SYNONYMS = {
    "tensor_parallel": "tp",
    "pipeline_parallel": "pp",
    "data_parallel": "dp",
    "context_parallel": "cp",
    "expert_parallel": "ep",
    "sequence_parallel": "sp",
    "seq_parallel": "sp",
    "zero_quantized_weights": "quantized_weights",
    "zero_quantized_gradients": "quantized_gradients",
    "zero_hpz_partition_size": "secondary_shard_size",
    "virtual_pipeline": "vpp",
    "zero": "zero_stage",
    "global_batch": "global_batch_seqs",
    "micro_batch": "micro_batch_seqs",
    "batch_size": "global_batch_seqs",
    "sequence_length": "seq_len",
    "num_accel": "count",
    "price": "usd_per_accelerator_hour",
    "rate": "request_rate",
    "prompt_len": "input_len",
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_tokens",
    "gpu_memory_utilization": "memory_fraction",
}
"""What other tools call a key."""
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_COUNT_PATTERN = re.compile(
    r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([KMBGT]?)", re.IGNORECASE
)


def parse_count(value: object) -> float:
    """Return a count given as a number or as text with K, M, B or T behind it.

    Parameters
    ----------
    value
        ``15e12``, ``15_000_000``, ``"15T"``, ``"2.4B"``.

    Raises
    ------
    ValueError
        Neither, or not finite.
    """
    if isinstance(value, str):
        match = _COUNT_PATTERN.fullmatch(value.strip())
        if match is None:
            raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
        value = float(match[1].replace("_", "")) * _SUFFIXES[match[2].upper()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return float(value)


def _tokens(value: object) -> float:
    count = parse_count(value)
    if count < 0:
        raise ValueError("must be at least 0")
    if count > MAX_TOKENS:
        raise ValueError(f"must be at most {MAX_TOKENS:g}")
    return count


def _one_of(*known: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"is not known; {nearest(value, known)}")
        return value

    return AfterValidator(check)


def _known_task(value: str) -> str:
    if value in OBJECTIVES:
        raise ValueError(
            f"is an objective; write objective = {value!r} beside a task "
            f"(what is trained: {', '.join(TASKS)})"
        )
    if value not in TASKS:
        raise ValueError(f"is not known; {nearest(value, TASKS)}")
    return value


def _known_schedule(value: str) -> str:
    own = value.endswith(SCHEDULE_SUFFIX) or skipped_stages(value)
    if value not in SCHEDULES and not own:
        raise ValueError(
            f"is not known; {nearest(value, SCHEDULES)} "
            f"(or skip-N, or a file NAME{SCHEDULE_SUFFIX})"
        )
    return value


def _known_recompute(value: str) -> str:
    if not legality.is_recompute(value):
        raise ValueError(
            f"is not known; {nearest(value, (*POLICIES, *MODULES, 'every-2', 'full-1'))}"
        )
    return value


def _known_region(value: str) -> str:
    try:
        carbon_kg_per_kwh(value)
    except InputError as error:
        raise ValueError("; ".join(without_subject(line) for line in error.problems)) from None
    return value


def _known_day(value: str) -> str:
    try:
        return parse_day(value, "as_of").isoformat()
    except InputError as error:
        raise ValueError("; ".join(without_subject(line) for line in error.problems)) from None


def _known_stack(value: str) -> str:
    try:
        name = load_stack(value).name
        return value if value.endswith(".toml") else name
    except InputError as error:
        raise ValueError("; ".join(without_subject(line) for line in error.problems)) from None


def _known_engine(value: str) -> str:
    try:
        load_engine(value)
    except InputError as error:
        raise ValueError("; ".join(without_subject(line) for line in error.problems)) from None
    return value


def _known_slo(value: str) -> str:
    parse_slo(value)
    return value


def parse_slo(text: str) -> dict[str, float]:
    """Return the limits of ``ttft=500ms,tpot=50ms,latency=30s`` in seconds.

    Raises
    ------
    ValueError
        Another figure, no number, no unit.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, limit = part.partition("=")
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s)\s*", limit)
        if name.strip() not in SLO_FIGURES or match is None or float(match[1]) <= 0.0:
            raise ValueError("must be such as 'ttft=500ms,tpot=50ms' (ttft, tpot, latency)")
        limits[name.strip()] = float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]
    return limits


def _uneven(value: object) -> bool | str | list[int]:
    if isinstance(value, bool) or value == BALANCED:
        return value
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    raise ValueError("must be true, false, 'balanced' or a list of layers for each virtual stage")


def _expert_load(value: object) -> str | list[float]:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of numbers, one per expert, or the path of a file")
    if problems := load_problems(value):
        raise ValueError(problems[0])
    return value


def _auto_or_number(value: object) -> float | str:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError("must be 'auto' or a number from 0 to 1e9")
    return float(value)


Name = Annotated[str, Field(max_length=200)]
FilePath = Annotated[str, Field(max_length=4000)]
Ways = Annotated[int, Field(ge=1, le=MAX_ACCELERATORS)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Tokens = Annotated[float, PlainValidator(_tokens)]
AutoNumber = Annotated[float | Literal["auto"], PlainValidator(_auto_or_number)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelSection(_Section):
    """Which model: a name of the catalogue or a Hugging Face ``config.json``."""

    name: Name | None = None
    config: FilePath | None = None
    capacity_factor: Annotated[float, Field(ge=0, le=1000)] | None = None
    expert_load: Annotated[str | list[float] | None, PlainValidator(_expert_load)] = None
    encoder_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)] | None = None
    images: Annotated[int, Field(ge=0, le=10_000)] | None = None
    image_tokens: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)] | None = None
    train_vision: bool | None = None
    masked: Annotated[float, Field(ge=0, le=0.99)] = 0.0


class ClusterSection(_Section):
    """Which cluster: one line, the parts of it, or a graph of its links."""

    spec: Name | None = None
    graph: FilePath | None = None
    accelerator: Name | None = None
    count: Ways | None = None
    accel_per_node: Annotated[int, Field(ge=1, le=100_000)] | None = None
    fabric: Name | None = None
    scaleout_gb_per_s: Annotated[float, Field(ge=0.001, le=1e6)] | None = None
    oversubscription: Annotated[float, Field(ge=1, le=1000)] | None = None
    rails: Annotated[int, Field(ge=1, le=1000)] | None = None
    nic_efficiency: Annotated[float, Field(ge=0.001, le=1)] | None = None
    host: Name | None = None


class ParallelSection(_Section):
    """How the model and the batch are split."""

    tp: Ways = 1
    pp: Ways = 1
    vpp: Ways = 1
    dp: Ways | None = None
    cp: Ways = 1
    cp_kind: Annotated[str, _one_of(*legality.CP_KINDS)] = "ring"
    ep: Ways = 1
    etp: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    sp: bool = False
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    shard_size: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    weight_shard_size: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    gradient_shard_size: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    secondary_shard_size: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    quantized_weights: bool = False
    quantized_gradients: bool = False
    placement: list[Annotated[str, _one_of(*PLACEMENT)]] = list(PLACEMENT)
    across: Annotated[str, _one_of("", "dp", "pp")] = ""


class TrainingSection(_Section):
    """What is trained, how much, in which numbers."""

    tokens: Tokens = 0.0
    seq_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)]
    global_batch_seqs: Batch
    micro_batch_seqs: Batch = 1
    precision: Annotated[str, _one_of(*PRECISIONS)] = "bf16"
    optimizer: Annotated[str, _one_of(*OPTIMIZERS)] = "adamw"
    optimizer_rank: Annotated[int, Field(ge=0, le=65536)] = 0
    master_weights: bool = True
    int8_weights: bool = False
    layerwise_update: bool = False
    recompute: Annotated[str, AfterValidator(_known_recompute)] = "none"
    schedule: Annotated[str, AfterValidator(_known_schedule)] | None = None
    uneven_stages: Annotated[bool | str | list[int], PlainValidator(_uneven)] = False
    batch_shares: list[Batch] = []
    flop_convention: Annotated[str, _one_of(*legality.FLOP_CONVENTIONS)] = "causal"
    offload: list[Annotated[str, _one_of(*legality.OFFLOADS)]] = []
    offload_to: Annotated[str, _one_of(*OFFLOAD_TIERS)] = "host"
    host_update: Annotated[str, _one_of(*HOST_UPDATES)] = "after"
    task: Annotated[str, AfterValidator(_known_task)] = "pretrain"
    lora_rank: Annotated[int, Field(ge=1, le=65536)] = 16
    lora_targets: Annotated[str, _one_of(*TARGETS)] = "attention"
    sample_len: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    double_quantised: bool = True
    paged_optimizer: bool = False
    frozen_layers: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    trained: Annotated[str, _one_of(*TRAINED)] = "all"
    adapter_width: Annotated[int, Field(ge=1, le=65536)] = 64
    side_reduction: Annotated[int, Field(ge=2, le=65536)] = 8
    objective: Annotated[str, _one_of(*OBJECTIVES)] = "next-token"
    reference: Annotated[str, _one_of(*REFERENCES)] = "model"
    teacher: FilePath = ""
    stored_logits: Annotated[int, Field(ge=0, le=100_000_000)] = 0


class RolloutSection(_Section):
    """What a step of reinforcement learning generates, and where."""

    prompts: Batch
    samples: Annotated[int, Field(ge=1, le=1_000_000)]
    prompt_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)] = 256
    output_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)]
    lengths: Annotated[str, _one_of("fixed", "log-normal")] = "log-normal"
    length_cv: Annotated[float, Field(ge=0, le=100)] = 1.0
    longest: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    cluster: Annotated[str, Field(max_length=200)] = ""
    engine: Annotated[str, AfterValidator(_known_engine)] = "vllm"
    precision: Annotated[str, _one_of("fp16", "bf16", "fp8")] = "bf16"
    tp: Ways = 1
    pp: Ways = 1
    replicas: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    max_sequences: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    memory_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    overlap: Annotated[str, _one_of(*OVERLAPS)] = "sync"
    updates: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    old_log_probabilities: bool = True
    seed: Annotated[int, Field(ge=0, le=2**62)] = 0


class RunSection(_Section):
    """What surrounds the steps of a whole run."""

    batch_warmup_tokens: Tokens = 0.0
    batch_warmup_start_seqs: Annotated[int, Field(ge=0, le=MAX_BATCH)] = 0
    eval_interval_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    eval_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    checkpoint_interval_s: AutoNumber = "auto"
    checkpoint_bytes_per_s: Annotated[float, Field(gt=0, le=1e18)] = 2e12
    failures: bool = True
    restart_s: Seconds = 900.0
    failures_per_1000_node_days: AutoNumber = "auto"


class MoneySection(_Section):
    """Prices and what energy costs the planet."""

    kind: Annotated[str, _one_of(*MONEY_KINDS)] = "on-demand"
    usd_per_accelerator_hour: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    region: Annotated[str, AfterValidator(_known_region)] = ""
    pue: Annotated[float, Field(ge=1, le=10)] | None = None
    usd_per_kwh: Annotated[float, Field(ge=0, le=1000)] = 0.0
    provider: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    prices: FilePath | None = None
    as_of: Annotated[str, AfterValidator(_known_day)] | None = None


class StackSection(_Section):
    """The software stack."""

    name: Annotated[str, AfterValidator(_known_stack)] = DEFAULT_STACK


class PoolSection(_Section):
    """One of several pools of a service; what it leaves out, [serving] and [parallel] say."""

    cluster: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    role: Annotated[str, _one_of("whole", "prefill", "decode")] = "whole"
    engine: Annotated[str, AfterValidator(_known_engine)] | None = None
    precision: Annotated[str, _one_of(*SERVING_PRECISIONS)] | None = None
    kv_precision: Annotated[str, _one_of("", *KV_PRECISIONS)] | None = None
    tp: Ways | None = None
    pp: Ways | None = None
    dp: Ways | None = None
    ep: Ways | None = None
    replicas: Ways | None = None
    least_replicas: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    load_per_replica: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    max_sequences: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    max_tokens: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    memory_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    usd_per_accelerator_hour: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class ServingSection(_Section):
    """How a model is served, and what is asked of it."""

    engine: Annotated[str, AfterValidator(_known_engine)] = "vllm"
    precision: Annotated[str, _one_of(*SERVING_PRECISIONS)] = "bf16"
    kv_precision: Annotated[str, _one_of("", *KV_PRECISIONS)] = ""
    replicas: Ways | None = None
    prefill_replicas: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    router: Annotated[str, _one_of("", *ROUTERS)] = ""
    least_replicas: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    load_per_replica: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    start_up_s: Seconds = 60.0
    batch: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 0
    concurrency: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 0
    request_rate: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    rates: list[Annotated[float, Field(ge=0, le=1e6)]] = []
    period_s: Annotated[float, Field(gt=0, le=1e9)] = 86400.0
    trace: FilePath = ""
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    requests: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 0
    duration_s: Seconds = 0.0
    burstiness: Annotated[float, Field(ge=0, le=100)] = 1.0
    input_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)] = 1024
    output_len: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 128
    lengths: Annotated[str, _one_of(*LENGTH_KINDS)] = "fixed"
    length_low: Annotated[float, Field(gt=0, le=1)] = 0.8
    length_cv: Annotated[float, Field(ge=0, le=100)] = 1.0
    turns: Annotated[int, Field(ge=1, le=100_000)] = 1
    system_tokens: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    pause_s: Seconds = 10.0
    urgent_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    warm_up: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 0
    until_s: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    slo: Annotated[str, AfterValidator(_known_slo)] = ""
    max_sequences: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    max_tokens: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    chunked_prefill: bool | None = None
    memory_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    block_tokens: Annotated[int, Field(ge=0, le=65536)] = 0
    preemption: Annotated[str, _one_of("", *PREEMPTIONS)] = ""
    prefix_caching: bool = False
    host_cache_tokens: Annotated[int, Field(ge=0, le=10**12)] = 0
    max_queue: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 0
    draft_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    acceptance: Annotated[float, Field(ge=0, le=1)] = 0.7
    sampled_acceptance: bool = False
    draft_layers: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    kv_budget_tokens: Annotated[int, Field(ge=0, le=MAX_SEQ_LEN)] = 0
    kv_layer_budgets: list[Annotated[float, Field(gt=0, le=1e6)]] = []
    kv_full_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    kv_predictor: Name = ""
    exit_layers: list[Annotated[int, Field(ge=1, le=10_000)]] = []
    exit_shares: list[Annotated[float, Field(ge=0, le=1)]] = []
    exit_kv: Annotated[str, _one_of(*EXIT_KV)] = "computed"
    adapters: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    adapter_rank: Annotated[int, Field(ge=1, le=65536)] = 16
    adapter_targets: Annotated[str, _one_of(*TARGETS)] = "attention"
    adapter_slots: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    adapter_skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    users: Annotated[int, Field(ge=1, le=1000)] = 1
    user_skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    fair_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    swap_blocks: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    swap_call_s: Annotated[float, Field(ge=0, le=1)] = 1e-5
    finetune_rank: Annotated[int, Field(ge=0, le=65536)] = 0
    finetune_targets: Annotated[str, _one_of(*TARGETS)] = "attention"
    finetune_seq_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)] = 1024
    finetune_iteration_s: Annotated[float, Field(gt=0, le=1e6)] = 0.05
    pool: Annotated[list[PoolSection], Field(max_length=MAX_POOLS)] = []


class PlanFile(_Section):
    """The whole file, for a training run."""

    name: Name = ""
    model: ModelSection
    cluster: ClusterSection
    parallel: ParallelSection = Field(default_factory=ParallelSection)
    training: TrainingSection
    rollout: RolloutSection | None = None
    serving: ServingSection = Field(default_factory=ServingSection)
    stack: StackSection = Field(default_factory=StackSection)
    run: RunSection = Field(default_factory=RunSection)
    money: MoneySection = Field(default_factory=MoneySection)


class ServiceFile(PlanFile):
    """The whole file, for a service: training may be left out."""

    training: TrainingSection | None = None  # type: ignore[assignment]  # one file serves both


SECTIONS: dict[str, type[_Section]] = {
    "model": ModelSection,
    "cluster": ClusterSection,
    "parallel": ParallelSection,
    "training": TrainingSection,
    "rollout": RolloutSection,
    "serving": ServingSection,
    "serving.pool": PoolSection,
    "stack": StackSection,
    "run": RunSection,
    "money": MoneySection,
}


S = TypeVar("S", bound=_Section)


P = TypeVar("P", bound=PlanFile)


def parse_plan(raw: Mapping[str, Any], mistakes: Mistakes, kind: type[P]) -> P | None:
    """Return the tables of a file as sections, or None with all that is wrong in ``mistakes``.

    ``kind`` says whose question it is: ``PlanFile`` needs a training run, ``ServiceFile`` none.
    """
    tables = dict(raw)
    needed = ("model", "cluster", "training") if kind is PlanFile else ("model", "cluster")
    for section in needed:
        tables.setdefault(section, {})
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        details = error.errors()
        for detail in details[:MAX_MISTAKES]:
            _explain(detail, mistakes)
        if len(details) > MAX_MISTAKES:
            mistakes.lines.append(
                f"{mistakes.source}and {len(details) - MAX_MISTAKES:,} more mistakes"
            )
    return None


def parse_section(kind: type[S], table: object) -> S | None:
    """Return one section by itself, None when it has mistakes (``parse_plan`` says which)."""
    try:
        return kind.model_validate(table)
    except ValidationError:
        return None


def _explain(detail: ErrorDetails, mistakes: Mistakes) -> None:
    """Turn a mistake that pydantic found into one line of ours."""
    path = [str(part) for part in detail["loc"] if isinstance(part, str)]
    # Alternatives of a union append their own names to the path.
    path, pool = path[:2], detail["loc"][2:4]
    key = ".".join(path)
    if path == ["serving", "pool"] and pool and isinstance(pool[0], int):
        key = f"{key}[{pool[0]}]" + "".join(f".{name}" for name in pool[1:])
        path = ["serving.pool", *(str(name) for name in pool[1:])]
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(path[0]) if len(path) > 1 else (*PlanFile.model_fields,)
        if len(path) == 1:
            what = f"{mistakes.source}[{key}]" if isinstance(value, dict) else mistakes.source + key
            mistakes.lines.append(f"{what}: unknown section; {nearest(key, known)}")
        else:
            synonym = _SYNONYMS.get(path[1])
            hint = f"did you mean {synonym!r}?" if synonym in known else nearest(path[1], known)
            mistakes.add(key, None, f"unknown key; {hint}")
        return
    if kind == "missing":
        mistakes.lines.append(
            f"{mistakes.source}{key}: missing; {_EXPECTED.get(key, 'give a value')}"
        )
        return
    rule = _rule(kind, context)
    if rule is None:
        rule = detail["msg"].removeprefix("Value error, ").rstrip(".")
        rule = rule[0].lower() + rule[1:]
    line_count = len(mistakes.lines)
    mistakes.add(key, value, rule)
    if mistakes.lines[-1] in mistakes.lines[:line_count]:
        mistakes.lines.pop()


_EXPECTED = {
    "training.seq_len": "tokens in a sequence, for example 8192 (--seq-len)",
    "training.global_batch_seqs": "sequences in a step, for example 1024 (--global-batch)",
    "rollout.prompts": "prompts in a step, for example 64",
    "rollout.samples": "samples of each prompt, for example 16",
    "rollout.output_len": "mean tokens of a sample, for example 1024",
}
_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "finite_number": "must be finite",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "dict_type": "must be a section of keys",
}


def _rule(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind == "greater_than_equal":
        return f"must be at least {_limit(context['ge'])}"
    if kind == "less_than_equal":
        return f"must be at most {_limit(context['le'])}"
    if kind == "greater_than":
        return f"must be more than {_limit(context['gt'])}"
    if kind == "string_too_short":
        return f"must be at least {_limit(context['min_length'])} character"
    if kind == "string_too_long":
        return f"must be at most {_limit(context['max_length'])} characters"
    return _TYPES.get(kind)


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _keys(section: str) -> tuple[str, ...]:
    return tuple(SECTIONS[section].model_fields) if section in SECTIONS else ()
