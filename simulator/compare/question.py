"""What a comparison is asked: one job, the accelerators, and what limits each choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Money, RunOptions, Training
from ridgeline.simulator.stacks import load_stack, usual_stack
from ridgeline.workloads.model import Model

GOALS = ("cost", "time")
"""Stack of TPUs; the others do not run there."""
MOST_CONTENDERS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One of those compared."""

    accelerator: str
    provider: str = ""
    """Whose prices; empty for anybody's."""

    @property
    def label(self) -> str:
        """What the user called it."""
        return f"{self.accelerator}@{self.provider}" if self.provider else self.accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareQuestion:
    """The same job on several accelerators, each with its own best plan."""

    model: Model
    training: Training
    """Template: micro-batch, recompute and schedule are chosen for each."""
    contenders: tuple[Contender, ...]
    count: int = 0
    """Accelerators of each; 0 to choose, from one node doubling up to ``max_count``."""
    max_count: int = 1024
    budget_usd: float = inf
    deadline_s: float = inf
    memory_headroom: float = 0.0
    """Share of the memory to leave free."""
    goal: str = ""
    """cost or time, what each plan minimises and the ranking is by; by default time under a budget
    alone, else cost."""
    stack: str = ""
    """Of all; by default the usual one of each accelerator."""
    run: RunOptions = field(default_factory=RunOptions)
    money: Money = field(default_factory=Money)
    owning: tuple[tuple[str, float], ...] = ()
    """Fields of ``Ownership`` in place of the defaults."""

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        labels = [contender.label for contender in self.contenders]
        problems = [
            f"--on {label}: given twice" for label in sorted(set(labels)) if labels.count(label) > 1
        ]
        if not 1 <= len(labels) <= MOST_CONTENDERS:
            problems.append(f"--on: give 1 to {MOST_CONTENDERS} accelerators, not {len(labels)}")
        if self.goal not in ("", *GOALS):
            problems.append(f"--by {self.goal!r}: must be one of {', '.join(GOALS)}")
        if not self.count and self.budget_usd == inf and self.deadline_s == inf:
            problems.append("how many: give --count, or --budget or --deadline to choose by")
        if problems:
            raise InputError(problems)

    @property
    def by(self) -> str:
        """The goal with its default resolved."""
        if self.goal:
            return self.goal
        return "time" if self.budget_usd < inf and self.deadline_s == inf else "cost"


def parse_contenders(text: str) -> tuple[Contender, ...]:
    """Return the contenders of a list such as ``h100-sxm,h100-sxm@Lambda,tpu-v5p``.

    Raises
    ------
    InputError
        For unknown accelerators, all together.
    """
    found: list[Contender] = []
    problems: list[str] = []
    for part in text.split(","):
        name, at, provider = (piece.strip() for piece in part.partition("@"))
        if at and not provider:
            problems.append(f"--on {part.strip()!r}: no provider behind the @")
            continue
        try:
            found.append(Contender(accelerator=load_accelerator(name).name, provider=provider))
        except InputError as error:
            problems += [f"--on: {line}" for line in error.problems]
    if problems:
        raise InputError(problems)
    return tuple(found)


def stack_of(accelerator: Accelerator, asked: str = "") -> str:
    """Return the stack that was asked for, or the usual one of an accelerator."""
    if asked:
        return load_stack(asked).name if not asked.endswith(".toml") else asked
    return usual_stack(accelerator)


def clusters_of(accelerator: Accelerator, count: int, max_count: int) -> tuple[Cluster, ...]:
    """Return the clusters to choose from: one of ``count``, or nodes doubling to ``max_count``.

    Raises
    ------
    InputError
        The accelerator does not come in this number; when it is to be chosen, in none.
    """
    if count:
        return (cluster_of(accelerator, count),)
    found: list[Cluster] = []
    reason: InputError | None = None
    size = 1
    while size <= max_count:
        try:
            cluster = cluster_of(accelerator, size)
        except InputError as error:
            reason = error
        else:
            if size >= min(accelerator.per_node, max_count):
                found.append(cluster)
        size *= 2
    if not found:
        raise reason or InputError(f"--max-count {max_count}: must be at least 1")
    return tuple(found)


def cluster_of(accelerator: Accelerator, count: int) -> Cluster:
    """Return a cluster of so many; a TPU that comes in smaller slices only, as several of them.

    Raises
    ------
    InputError
        It does not come in this number.
    """
    try:
        return make_cluster(f"{count}x{accelerator.name}")
    except InputError:
        if not accelerator.torus_dims or count % 2:
            raise
        try:
            half = cluster_of(accelerator, count // 2)
        except InputError:
            half = None
        if half is None or half.torus is None:
            raise
        shape = "x".join(str(ways) for ways in half.torus.dims)
        return make_cluster(f"{accelerator.name}:{shape}*{count // half.torus.size}")
