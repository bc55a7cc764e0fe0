"""What a search says: flat frozen records. Rendering reads them and computes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult

SCHEMA_VERSION = 1
GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many plans met which end; all but ``seen`` and ``played`` add up to ``seen``."""

    seen: int
    """Legal plans of the space."""
    constraint: int = 0
    """Dropped because their cluster breaks a constraint: accelerators, power."""
    memory_bound: int = 0
    """Dropped by the lower bound on memory."""
    memory: int = 0
    """Dropped by their memory."""
    roofline_bound: int = 0
    """Dropped by the lower bound on the step time that prices no kernel: FLOPs over peak and what
    of communication nothing hides. No place among the answers is left to them."""
    time_bound: int = 0
    """Dropped by the lower bound on the step time whose passes are priced."""
    priced: int = 0
    """Step time known exactly, in closed form or by the engine."""
    played: int = 0
    """By the event engine: those priced that are irregular, and the finalists again."""

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan and its simulated run."""

    plan: Plan
    result: TrainingResult
    value: float
    """Of the objective."""
    order: int
    """Place in the order of the space; decides between equal values."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plan's settings and headline figures as plain values."""
        return {"value": self.value, "order": self.order, **headline(self.result)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A plan that no other beats in both time and money."""

    plan: Plan
    time_s: float
    """Of the run, of one step where no tokens are stated."""
    usd: float
    """0 where a cluster of the space has no price; the front then weighs accelerator-hours."""
    result: TrainingResult
    order: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"order": self.order, **headline(self.result)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that a plan spends more on than the best one."""

    cause: str
    """A group of the step's breakdown, accelerators, price, failures ..., or tie."""
    amount: float
    """More than the best: seconds of a step, or a ratio where ``unit`` is x."""
    unit: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """A plan that nearly won, and why it did not."""

    found: Found
    behind: float
    """Value over the best value, minus 1."""
    reasons: tuple[Reason, ...]
    """Largest first."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **self.found.to_dict(),
            "behind": self.behind,
            "reasons": [asdict(reason) for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heuristic:
    """The plan that a rule of thumb gives, and what it wastes against the best."""

    rule: str
    found: Found
    waste: float
    """Value over the best value, minus 1."""
    wasted_s: float
    wasted_usd: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rule": self.rule,
            **self.found.to_dict(),
            "waste": self.waste,
            "wasted_s": self.wasted_s,
            "wasted_usd": self.wasted_usd,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What a change outside the plan does to the choice."""

    change: str
    """For example ``network bandwidth -10%``."""
    flips: bool
    """Another plan of those compared is then better."""
    best: Plan
    value: float
    """Of that plan after the change."""
    loss: float
    """What keeping the old plan would cost: its value over the new best's, minus 1."""
    keeps: bool
    """Whether the old plan then still keeps to the constraints."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "change": self.change,
            "flips": self.flips,
            "plan": settings(self.best),
            "value": self.value,
            "loss": self.loss,
            "keeps": self.keeps,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer of a search."""

    best: Found
    front: tuple[FrontPoint, ...]
    """Fastest first."""
    runners_up: tuple[RunnerUp, ...]
    too_large: tuple[RunnerUp, ...]
    """Plans one change away that would beat the best, had they the memory; best first."""
    heuristic: Heuristic | None
    """None where the rule gives no plan that fits."""
    sensitivity: tuple[Sensitivity, ...]
    counts: Counts
    complete: bool = True
    """False after an interrupt: the best so far."""
    elapsed_s: float = 0.0
    resumed: int = 0
    """Plans whose fate was read from the store."""

    @property
    def plan(self) -> Plan:
        """The best plan."""
        return self.best.plan

    def answer(self) -> dict[str, Any]:
        """Return what depends on the question alone: the same bytes on any number of workers."""
        return {
            "best": self.best.to_dict() | {"training": self.best.result.to_dict()},
            "front": [point.to_dict() for point in self.front],
            "runners_up": [one.to_dict() for one in self.runners_up],
            "too_large": [one.to_dict() for one in self.too_large],
            "heuristic": None if self.heuristic is None else self.heuristic.to_dict(),
            "sensitivity": [one.to_dict() for one in self.sensitivity],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the named plans as rows of a table, each with its part in the answer."""
        parts = (
            ("best", [self.best]),
            ("runner-up", [one.found for one in self.runners_up]),
            ("front", list(self.front)),
            ("too large", [one.found for one in self.too_large]),
            ("heuristic", [] if self.heuristic is None else [self.heuristic.found]),
        )
        return [
            {"part": part, "order": one.order, **headline(one.result)}
            for part, found in parts
            for one in found
        ]

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import search_html

        return search_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan",
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            **self.answer(),
            "counts": asdict(self.counts),
            "elapsed_s": self.elapsed_s,
            "resumed": self.resumed,
        }


def settings(plan: Plan) -> dict[str, Any]:
    """Return what a search varies of a plan, as plain values."""
    parallel, training = plan.parallel, plan.training
    ways = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sp", "zero_stage")
    return {
        "cluster": plan.cluster.name,
        "accelerators": plan.cluster.count,
        **{name: getattr(parallel, name) for name in ways},
        "micro_batch_seqs": training.micro_batch_seqs,
        "recompute": training.recompute,
        "schedule": training.schedule,
        "offload": list(training.offload),
    }


def headline(result: TrainingResult) -> dict[str, Any]:
    """Return a run's settings and main figures as plain values."""
    parallel, training = result.plan["parallel"], result.plan["training"]
    ways = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sp", "zero_stage")
    keys = ("micro_batch_seqs", "recompute", "schedule", "offload")
    return {
        "cluster": result.cluster,
        "accelerators": result.accelerators,
        **{name: parallel[name] for name in ways},
        **{name: training[name] for name in keys},
        "step_time_s": result.step_time_s,
        "mfu": result.mfu,
        "memory_gib": result.worst_memory.total / GIB,
        "wall_clock_s": result.wall_clock_s,
        "accelerator_hours": result.accelerator_hours,
        "cost_usd": result.cost_usd,
        "energy_kwh": result.energy_kwh,
        "co2_kg": result.co2_kg,
    }
