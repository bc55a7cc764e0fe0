"""What is run, on what, and how it is split: one frozen ``Plan``.

``legality.problems`` refuses what cannot run; ``planfile`` is the TOML boundary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.quotes import OwnQuote
from ridgeline.workloads.model import Model

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "dualpipe")
SCHEDULE_SUFFIX = ".schedule"
"""How the path of a schedule of one's own ends."""
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4")
QUANTISED = ("fp8", "fp4")
"""Of the layers' matrix products alone; the rest is bf16."""
FP4_BYTES = 0.5 + 1 / 16
"""Of an element with its share of a scale: sixteen share one of fp8 (NVFP4, arXiv 2509.25149)."""
OPTIMIZERS = (
    "adam",
    "adamw",
    "sgd",
    "sgd-momentum",
    "lion",
    "adam-8bit",
    "adafactor",
    "muon",
    "galore",
    "apollo",
)
OFFLOAD_TIERS = ("host", "nvme")
HOST_UPDATES = ("after", "backward", "delayed")
PLACEMENT = ("tp", "cp", "dp", "pp")
TASKS = ("pretrain", "sft", "lora", "qlora", "adapters", "ladder")
"""What of the model is trained; the first two train all that is not frozen."""
TRAINED = ("all", "embeddings")
OBJECTIVES = ("next-token", "dpo", "distill", "grpo")
REFERENCES = ("model", "precomputed", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How many ways each dimension is split; the product tp*cp*dp*pp is the accelerator count."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    """Model chunks per pipeline stage."""
    dp: int = 1
    cp: int = 1
    cp_kind: str = "ring"
    """ring or ulysses."""
    ep: int = 1
    etp: int = 0
    """Expert tensor parallelism; 0 means the same as tp."""
    sp: bool = False
    """Sequence parallelism in the regions that tensor parallelism leaves whole."""
    zero_stage: int = 0
    """0 to 3; 1 is Megatron's distributed optimizer, 3 is FSDP full shard, 2 shard-grad-op."""
    shard_size: int = 0
    """Ranks that share one copy under ZeRO or FSDP (hybrid sharding); 0 means all dp*cp ranks."""
    weight_shard_size: int = 0
    """Ranks that share one copy of the weights under ZeRO-3; 0 means those of the optimizer."""
    gradient_shard_size: int = 0
    """The same of the gradients."""
    secondary_shard_size: int = 0
    """Ranks that share a second copy of the weights, from which the backward pass gathers; 0 means
    none."""
    quantized_weights: bool = False
    """Weights are gathered in 8 bits."""
    quantized_gradients: bool = False
    """Gradients are reduced in 4 bits."""
    placement: tuple[str, ...] = PLACEMENT
    """Innermost (fastest links) first."""

    @property
    def expert_tp(self) -> int:
        """Expert tensor parallelism with its default resolved."""
        return self.etp or self.tp

    @property
    def expert_dp(self) -> int:
        """Replicas of an expert: tp*cp*dp / (etp*ep)."""
        return self.tp * self.cp * self.dp // (self.expert_tp * self.ep)

    @property
    def low_bandwidth(self) -> bool:
        """Whether ZeRO-3 saves communication beyond sharding alone (``partitions``)."""
        return bool(
            self.weight_shard_size
            or self.gradient_shard_size
            or self.secondary_shard_size
            or self.quantized_weights
            or self.quantized_gradients
        )

    @property
    def world(self) -> int:
        """Accelerators used."""
        return self.tp * self.cp * self.dp * self.pp


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What of a model is trained beside low-rank adapters, and what a step runs beside training."""

    frozen_layers: int = 0
    """First layers that no gradient reaches, nor the embedding below them."""
    trained: str = "all"
    """all, or embeddings: the input table and the output projection alone."""
    quantised_bits: float = 0.0
    """Bits of a frozen weight of a layer, with its constants (``quantised.nf4_bits``); 0 keeps
    the numbers of training."""
    adapter_width: int = 0
    """m of two bottlenecks in every layer of a frozen model; 0 has none."""
    side_reduction: int = 0
    """r of a ladder's side network, which is 1/r as wide as the frozen model; 0 has none."""
    paged_optimizer: bool = False
    """Optimizer state that finds no room is paged to the host's memory."""
    forward_only: bool = False
    """Nothing is trained: the pass of a reference or a teacher."""
    objective: str = "next-token"
    """One of ``OBJECTIVES``."""
    reference: str = "model"
    """Of dpo and grpo: model (a frozen copy scores every sequence), precomputed, or none."""
    teacher: Model | None = None
    """Of distill; None reads logits that were stored."""
    stored_logits: int = 0
    """Logits of a token that were stored in the teacher's stead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained, how much, in which numbers."""

    seq_len: int
    global_batch_seqs: int
    micro_batch_seqs: int
    tokens: float = 0.0
    """Whole run; 0 when only a step is asked for."""
    precision: str = "bf16"
    optimizer: str = "adamw"
    optimizer_rank: int = 0
    """Of GaLore's and APOLLO's projections; 0 for other optimizers."""
    master_weights: bool = True
    """The optimizer keeps fp32 weights beside 16-bit ones; else it changes the 16-bit ones and
    keeps its state in their format."""
    int8_weights: bool = False
    """The weights of the layers rest in int8 and are widened for use."""
    layerwise_update: bool = False
    """Each layer is updated as soon as its gradients are there, which are then freed."""
    recompute: str = "none"
    """A policy of ``recompute.parse_recompute``."""
    schedule: str = "1f1b"
    stage_layers: tuple[int, ...] = ()
    """Layers of each virtual stage in model order, when not equal."""
    uneven_stages: bool = False
    """Split layers as evenly as they go when they do not divide."""
    flop_convention: str = "causal"
    """causal (half the scores) or full: how attention FLOPs are counted in MFU."""
    offload: tuple[str, ...] = ()
    """Of optimizer, gradients, activations, parameters."""
    offload_to: str = "host"
    """Where optimizer state and parameters lie: host (its memory) or nvme (its drives)."""
    host_update: str = "after"
    """When the host updates: after the backward pass, layer by layer in the backward pass, or
    delayed by a step, beside the passes of the next one."""
    lora_rank: int = 0
    """Of low-rank adapters on frozen weights; 0 trains every weight."""
    lora_targets: str = "attention"
    """Which products get adapters (``adapters.TARGETS``)."""
    sample_len: int = 0
    """Mean tokens of the samples that are packed into a sequence and attend to themselves alone;
    0 for sequences of one sample."""
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def attended_len(self) -> int:
        """Tokens that attend to each other: a sequence, or a packed sample."""
        return min(self.sample_len, self.seq_len) or self.seq_len


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What surrounds the steps of a whole run."""

    batch_warmup_tokens: float = 0.0
    """Tokens over which the batch grows linearly from ``batch_warmup_start_seqs``."""
    batch_warmup_start_seqs: int = 0
    eval_interval_steps: int = 0
    eval_steps: int = 0
    checkpoint_interval_s: float = -1.0
    """-1 picks the Young/Daly optimum; 0 turns checkpoints off."""
    checkpoint_bytes_per_s: float = 2e12
    """Aggregate to storage."""
    failures: bool = True
    restart_s: float = 900.0
    """Detection, requeue and reload until the first new step, s."""
    failures_per_1000_node_days: float = -1.0
    """-1 takes the reliability table's value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """Prices and what energy costs the planet."""

    kind: str = "on-demand"
    """on-demand, negotiated (own quotes only), reserved, spot or owned."""
    usd_per_accelerator_hour: float = 0.0
    """0 takes the price list."""
    region: str = ""
    """Of the carbon table; empty means the world average."""
    pue: float = 0.0
    """0 takes the industry average."""
    usd_per_kwh: float = 0.0
    """Only for kind = owned; 0 takes the method's default."""
    provider: str = ""
    """Whose prices; empty means anybody's."""
    quotes: tuple[OwnQuote, ...] = ()
    """The user's own, which go before the price list."""
    as_of: str = ""
    """Day of the question, YYYY-MM-DD, by which prices are too old and credits expire; empty where
    neither matters."""


OVERLAPS = ("sync", "one-step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What a step of reinforcement learning generates, where, and what follows from it."""

    prompts: int
    """Of a step."""
    samples: int
    """Of each prompt, compared with each other (the group of GRPO)."""
    prompt_len: int
    output_len: float
    """Mean tokens of a sample, those that ``longest`` cuts included."""
    lengths: str = "log-normal"
    """fixed or log-normal (``workloads.traffic.lengths``)."""
    length_cv: float = 1.0
    """Standard deviation over mean, of log-normal lengths."""
    longest: int = 0
    """Tokens at which a sample is cut; 0 is what ``seq_len`` leaves behind the prompt."""
    cluster: Cluster | None = None
    """Of the engine; None shares the training cluster, in turns."""
    engine: str = "vllm"
    precision: str = "bf16"
    tp: int = 1
    pp: int = 1
    replicas: int = 0
    """0 takes as many as the cluster holds."""
    max_sequences: int = 0
    memory_fraction: float = 0.0
    """Of these two 0 takes the engine's."""
    overlap: str = "sync"
    """sync: sampling waits for the new weights; one-step: it runs beside training, with weights
    one step old."""
    updates: int = 1
    """Optimizer steps of ``global_batch_seqs`` that a step's samples are trained in."""
    old_log_probabilities: bool = True
    """Training scores the samples anew before the first update."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A question to the simulator."""

    model: Model
    cluster: Cluster
    parallel: Parallelism
    training: Training
    stack: str
    run: RunOptions = field(default_factory=RunOptions)
    money: Money = field(default_factory=Money)
    name: str = ""
    rollout: Rollout | None = None
    """Of the objective grpo."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one data-parallel rank runs in a step."""
        t = self.training
        return t.global_batch_seqs // (self.parallel.dp * t.micro_batch_seqs)
