"""What a plan file may say: its sections, their keys, types and ranges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from ridgeline.errors import nearest
from ridgeline.simulator import legality, plan_values
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
    TRAINED,
)
from ridgeline.simulator.serving.service import KV_PRECISIONS
from ridgeline.simulator.serving.service import PRECISIONS as SERVING_PRECISIONS
from ridgeline.simulator.serving.variants import EXIT_KV
from ridgeline.workloads.traffic import MAX_REQUESTS

MAX_ACCELERATORS = 10_000_000
"""A hundred times the largest cluster built; beyond it a number is taken for a slip."""
MAX_SEQ_LEN = 100_000_000
MAX_BATCH = 100_000_000
ROUTERS = ("round-robin", "least-loaded", "prefix-aware")
PREEMPTIONS = ("recompute", "swap")
LENGTH_KINDS = ("fixed", "uniform", "log-normal")
MAX_POOLS = 100
MONEY_KINDS = ("on-demand", "negotiated", "reserved", "spot", "owned")


def _one_of(*known: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"is not known; {nearest(value, known)}")
        return value

    return AfterValidator(check)


Name = Annotated[str, Field(max_length=200)]
FilePath = Annotated[str, Field(max_length=4000)]
Ways = Annotated[int, Field(ge=1, le=MAX_ACCELERATORS)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Tokens = Annotated[float, PlainValidator(plan_values.tokens)]
AutoNumber = Annotated[float | Literal["auto"], PlainValidator(plan_values.auto_or_number)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelSection(_Section):
    """Which model: a name of the catalogue or a Hugging Face ``config.json``."""

    name: Name | None = None
    config: FilePath | None = None
    capacity_factor: Annotated[float, Field(ge=0, le=1000)] | None = None
    expert_load: Annotated[str | list[float] | None, PlainValidator(plan_values.expert_load)] = None
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
    recompute: Annotated[str, AfterValidator(plan_values.known_recompute)] = "none"
    schedule: Annotated[str, AfterValidator(plan_values.known_schedule)] | None = None
    uneven_stages: Annotated[bool | str | list[int], PlainValidator(plan_values.uneven)] = False
    batch_shares: list[Batch] = []
    flop_convention: Annotated[str, _one_of(*legality.FLOP_CONVENTIONS)] = "causal"
    offload: list[Annotated[str, _one_of(*legality.OFFLOADS)]] = []
    offload_to: Annotated[str, _one_of(*OFFLOAD_TIERS)] = "host"
    host_update: Annotated[str, _one_of(*HOST_UPDATES)] = "after"
    task: Annotated[str, AfterValidator(plan_values.known_task)] = "pretrain"
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
    engine: Annotated[str, AfterValidator(plan_values.known_engine)] = "vllm"
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
    region: Annotated[str, AfterValidator(plan_values.known_region)] = ""
    pue: Annotated[float, Field(ge=1, le=10)] | None = None
    usd_per_kwh: Annotated[float, Field(ge=0, le=1000)] = 0.0
    provider: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    prices: FilePath | None = None
    as_of: Annotated[str, AfterValidator(plan_values.known_day)] | None = None


class StackSection(_Section):
    """The software stack."""

    name: Annotated[str, AfterValidator(plan_values.known_stack)] | None = None


class PoolSection(_Section):
    """One of several pools of a service; what it leaves out, [serving] and [parallel] say."""

    cluster: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    role: Annotated[str, _one_of("whole", "prefill", "decode")] = "whole"
    engine: Annotated[str, AfterValidator(plan_values.known_engine)] | None = None
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

    engine: Annotated[str, AfterValidator(plan_values.known_engine)] = "vllm"
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
    slo: Annotated[str, AfterValidator(plan_values.known_slo)] = ""
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
