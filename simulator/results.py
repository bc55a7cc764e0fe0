"""What a prediction says: flat frozen records. Rendering reads them and computes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeShare:
    """One line of where the time of a step goes (average over pipeline stages)."""

    group: str
    """attention, mlp, moe, norm, embedding, head, optimizer, cast, other, or
    exposed tp|ep|cp|dp|pp communication, bubble, host."""
    seconds: float
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShare:
    """Memory by cause on one pipeline stage, bytes per accelerator."""

    stage: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float
    """Communication buckets, logits, workspace."""
    framework: float
    """Context of the runtime and fragmentation."""
    moved: float = 0.0
    """Activations in the host's memory, no part of the total."""

    @property
    def total(self) -> float:
        """Sum over causes, bytes."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.buffers
            + self.framework
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostShare:
    """What the accelerators of one node keep on their host, bytes."""

    name: str
    memory: float
    memory_limit: float
    nvme: float
    nvme_limit: float

    @property
    def fits(self) -> bool:
        """Whether memory and drives hold it."""
        return self.memory <= self.memory_limit and self.nvme <= self.nvme_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What stands behind a number."""

    kind: str
    """kernels | datasheet | training rows ..."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutShare:
    """A step of reinforcement learning beside its updates. Times in seconds."""

    cluster: str
    """Where samples are generated; that of training where both take turns."""
    accelerators: int
    """Of a pool of its own, 0 where there is none."""
    overlap: str
    generation_s: float
    """Until the last sample ends."""
    generation_low_s: float
    generation_high_s: float
    tail_s: float
    """Of it, behind the end of nine in ten samples."""
    scoring_s: float
    """Forward passes of the reference and of the policy before its update."""
    update_s: float
    """All optimizer steps."""
    sync_s: float
    """New weights on their way to the engine."""
    swap_s: float
    """State of training to the host and back, where an accelerator does both."""
    rollout_idle: float
    """Share of a step in which the replicas do nothing."""
    training_idle: float
    """Share of a step in which the training accelerators do nothing."""
    samples: int
    tokens: float
    """Of prompts and samples of a step."""
    output_mean: float
    output_longest: int
    padding: float
    """Share of the trained positions that hold no token."""
    training_usd: float
    rollout_usd: float
    """Of ``cost_usd``, by pool; shared accelerators are in the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A predicted training run. Times in seconds, memory in bytes, fractions 0 to 1."""

    name: str
    model: str
    cluster: str
    accelerators: int
    stack: str
    plan: dict[str, Any]
    step_time_s: float
    step_time_low_s: float
    step_time_high_s: float
    evidence: str = ""
    """What stands behind the step time: measured, related, kernels or datasheet
    (``uncertainty.GRADES``)."""
    mfu: float
    hfu: float
    flop_convention: str
    model_flops_per_step: float
    hardware_flops_per_step: float
    model_tflops_per_accelerator: float
    tokens_per_s: float
    tokens_per_s_per_accelerator: float
    bubble_fraction: float
    exposed_communication_fraction: float
    breakdown: tuple[TimeShare, ...]
    memory: tuple[MemoryShare, ...]
    """By stage."""
    memory_limit: float
    """Bytes an accelerator has for the job."""
    fits: bool
    host: HostShare | None = None
    """Where a plan names its host and moves something to it."""
    steps: int
    wall_clock_s: float
    goodput: float
    """Productive share of the wall clock (failures, checkpoints, evaluation)."""
    accelerator_hours: float
    cost_usd: float
    """Before credits."""
    credits_usd: float = 0.0
    """What credits pay of it."""
    usd_per_accelerator_hour: float
    energy_kwh: float
    co2_kg: float
    provenance: tuple[Provenance, ...]
    warnings: tuple[str, ...]
    rollout: RolloutShare | None = None
    """Of the objective grpo, whose step ``step_time_s`` then is."""

    @property
    def worst_memory(self) -> MemoryShare:
        """The stage that needs most."""
        return max(self.memory, key=lambda share: share.total)

    @property
    def host_shortage(self) -> tuple[str, float, float] | None:
        """What a host lacks (memory or drives), the bytes needed and had; None for nothing."""
        host = self.host
        if host is None or host.fits:
            return None
        if host.memory > host.memory_limit:
            return "memory", host.memory, host.memory_limit
        return "drives", host.nvme, host.nvme_limit

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import training_html

        return training_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        worst = self.worst_memory
        gib = 2.0**30
        plain = asdict(self)
        for key in ("memory", "memory_limit", "host", *(("rollout",) * (self.rollout is None))):
            del plain[key]
        if self.host is not None:
            plain["host"] = {
                "name": self.host.name,
                "memory_gib": self.host.memory / gib,
                "memory_limit_gib": self.host.memory_limit / gib,
                "nvme_gib": self.host.nvme / gib,
                "nvme_limit_gib": self.host.nvme_limit / gib,
            }
        causes = ("weights", "gradients", "optimizer", "activations", "buffers", "framework")
        return {
            "schema": "ridgeline.train",
            "schema_version": SCHEMA_VERSION,
            **plain,
            "memory_gib": {cause: getattr(worst, cause) / gib for cause in causes}
            | {
                "total": worst.total / gib,
                "limit": self.memory_limit / gib,
                "worst_stage": worst.stage,
            },
            "memory_gib_by_stage": [share.total / gib for share in self.memory],
        }
