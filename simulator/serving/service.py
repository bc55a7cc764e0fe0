"""What serves, on what, and how: one frozen ``Service``."""

from __future__ import annotations

from dataclasses import dataclass, field

from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Money
from ridgeline.simulator.serving.variants import Adapters, Exits, FineTune, KvBudget, Users
from ridgeline.workloads.model import Model

PRECISIONS = (
    "fp32",
    "fp16",
    "bf16",
    "fp8",
    "fp8_block",
    "int8",
    "w4a16",
    "w8a16",
    "nvfp4",
    "mxfp4",
)
"""Of weights and activations; int8 and fp8 are W8A8 (fp8_block with a scale for each 128 x 128
weights), w4a16 is 4-bit weights alone, and so is mxfp4."""
KV_PRECISIONS = ("fp16", "bf16", "fp8", "int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Draft tokens that one verification checks; 0 turns it off."""

    tokens: int = 0
    """Draft tokens per sequence and iteration."""
    acceptance: float = 0.7
    """Probability that a draft token is accepted, given that those before it were."""
    draft_layers: float = 1.0
    """Cost of one draft token in layers of the model (multi-token prediction: one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the scheduler; 0 takes the engine's default."""

    max_sequences: int = 0
    """Running at once on one replica."""
    max_tokens: int = 0
    """Token budget of an iteration."""
    chunked_prefill: bool | None = None
    """None takes the engine's default."""
    memory_fraction: float = 0.0
    block_tokens: int = 0
    """Tokens of one block of KV cache."""
    slot_tokens: int = 0
    """Cache of each sequence under static shapes, tokens."""
    preemption: str = ""
    """recompute or swap."""
    prefix_caching: bool = False
    fair_every: int = 0
    """Decode steps between two looks at what each user got; 0 goes by arrival."""
    swap_blocks: int = 0
    """Blocks of cache that lie together and are moved by one copy; 0 counts their bytes alone."""
    swap_call_s: float = 1e-5
    """Of the host to issue a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A question about serving. One replica takes tp * pp * dp accelerators."""

    model: Model
    cluster: Cluster
    """All accelerators; replicas tile it."""
    engine: str
    """A serving stack of ``engines``."""
    precision: str = "bf16"
    kv_precision: str = ""
    """Empty takes the engine's default for the precision."""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    """Ranks with attention of their own inside a replica (attention data parallelism)."""
    ep: int = 1
    """Ranks over which experts are spread; divides tp * dp."""
    replicas: int = 1
    expert_kernels: str = ""
    """Text in the names of the expert kernels that the server is told to take (vLLM's and
    SGLang's ``--moe-backend``); empty takes the engine's choice."""
    expert_slots: int = 0
    """Experts and copies of busy ones that a load balancer places on the ranks of a layer, at least
    the model's experts; 0 without one: experts lie on the ranks in order."""
    limits: Limits = field(default_factory=Limits)
    speculation: Speculation = field(default_factory=Speculation)
    kv_budget: KvBudget = field(default_factory=KvBudget)
    exits: Exits = field(default_factory=Exits)
    adapters: Adapters = field(default_factory=Adapters)
    finetune: FineTune = field(default_factory=FineTune)
    users: Users = field(default_factory=Users)
    kv_predictor: str = ""
    """Model that reads the prompts and predicts their KV; empty: the model itself reads them."""
    money: Money = field(default_factory=Money)
    name: str = ""

    @property
    def replica_accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.tp * self.pp * self.dp
