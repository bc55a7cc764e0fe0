"""What is asked: money, time and hardware, and what else is fixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Money, RunOptions
from ridgeline.workloads.model import Model
from ridgeline.workloads.scaling.allocation import Diffusion
from ridgeline.workloads.scaling.laws import DEFAULT_LAW, LANGUAGE_LAWS, load_law
from ridgeline.workloads.scaling.repetition import DataConstrained

DATA_LAW = "muennighoff-2023"
"""The default where training data are limited: the one law that knows of repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Tokens that the trained model will serve over its life, and where."""

    prompt_tokens: float
    output_tokens: float
    accelerator: Accelerator
    usd_per_accelerator_hour: float
    notes: tuple[str, ...] = ()
    """What stands in for something that was not given."""

    @property
    def tokens(self) -> float:
        """All of them."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetQuestion:
    """Which model to train for this money, in this time, on this hardware."""

    clusters: tuple[Cluster, ...]
    shapes: tuple[Model, ...]
    """In order of size."""
    budget_usd: float = inf
    deadline_s: float = inf
    stack: str
    seq_len: int = 4096
    global_batch_seqs: int = 0
    """0 takes the batch of the laws (``batch.choose_batch``)."""
    precision: str = "bf16"
    optimizer: str = "adamw"
    recompute: tuple[str, ...] = ("none", "selective", "full")
    """What plans may recompute."""
    schedules: tuple[str, ...] = ("1f1b", "interleaved")
    """Pipeline schedules that plans may have."""
    law: str = DEFAULT_LAW
    compared_laws: tuple[str, ...] = LANGUAGE_LAWS
    unique_tokens: float = inf
    """Training data there is; beyond it tokens repeat."""
    serving: Serving | None = None
    run: RunOptions = field(default_factory=RunOptions)
    money: Money = field(default_factory=Money)

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name):g}: must be more than 0"
            for name in ("budget_usd", "deadline_s", "unique_tokens", "seq_len")
            if not getattr(self, name) > 0
        ]
        if self.budget_usd == inf and self.deadline_s == inf:
            problems.append("neither budget nor deadline: give --budget, --deadline or both")
        if self.serving is not None and self.budget_usd == inf:
            problems.append(
                "serve tokens without a budget: give --budget, which training and serving share"
            )
        if not self.clusters:
            problems.append("no cluster: give --on, for example 512xh100-sxm")
        if not self.shapes:
            problems.append("no shapes: give at least one model")
        law = load_law(self.law)
        if self.unique_tokens < inf and not isinstance(law, DataConstrained):
            problems.append(f"law {self.law!r}: knows nothing of repeated data; {DATA_LAW} does")
        if isinstance(law, Diffusion):
            problems.append(
                f"law {self.law!r}: is about diffusion transformers, the shapes are language models"
            )
        if problems:
            raise InputError(problems)
