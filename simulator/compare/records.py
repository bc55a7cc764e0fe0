"""What a comparison says: flat frozen records. Rendering reads them and computes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ridgeline.hardware.ownership import Assumption, CashFlow
from ridgeline.simulator.compare.errors import Shares
from ridgeline.simulator.results import TrainingResult

SCHEMA_VERSION = 1
GIB = 2.0**30
WAYS = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sp", "zero_stage")
CHOICES = ("micro_batch_seqs", "recompute", "schedule", "offload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owning:
    """Owning the accelerators of a row instead of renting them."""

    usd_per_useful_hour: float
    """Levelised (``hardware.ownership``)."""
    job_usd: float
    """The job's accelerator-hours at that rate."""
    npv_usd: float
    break_even_utilisation: float | None
    """From which owning costs less than renting; above 1 even a fleet that never rests loses, None
    when rent is less than the electricity of use, or has no price."""
    break_even_month: int | None
    """By which it has; None when renting stays cheaper."""
    assumptions: tuple[Assumption, ...]
    flow: CashFlow

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the cash flow apart."""
        return {
            "usd_per_useful_hour": self.usd_per_useful_hour,
            "job_usd": self.job_usd,
            "npv_usd": self.npv_usd,
            "break_even_utilisation": self.break_even_utilisation,
            "break_even_month": self.break_even_month,
            "assumptions": [asdict(one) for one in self.assumptions],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One accelerator with its best plan, or the reason why it has none."""

    name: str
    """As asked: accelerator, or accelerator@provider."""
    accelerator: str
    stack: str
    result: TrainingResult | None = None
    plans: int = 0
    """Legal plans that the search counted."""
    price_kind: str = ""
    price_date: str = ""
    price_provider: str = ""
    price_source: str = ""
    tokens_per_usd: float | None = None
    tie_usd_per_hour: float | None = None
    """Price at which it costs as much as the cheapest; of the cheapest, as the next."""
    owning: Owning | None = None
    owning_reason: str = ""
    """Why there is nothing to own."""
    reason: str = ""
    """Why it cannot run the job."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract of a row (``docs/json.md``)."""
        base: dict[str, Any] = {
            "name": self.name,
            "accelerator": self.accelerator,
            "stack": self.stack,
            "status": "ok" if self.result else "cannot",
            "reason": self.reason,
        }
        found = self.result
        figures: dict[str, Any] = dict.fromkeys(_FIGURES)
        if found is not None:
            worst = found.worst_memory.total
            figures = {
                "cluster": found.cluster,
                "accelerators": found.accelerators,
                "wall_clock_s": found.wall_clock_s,
                "step_time_s": found.step_time_s,
                "step_time_low_s": found.step_time_low_s,
                "step_time_high_s": found.step_time_high_s,
                "evidence": found.evidence,
                "mfu": found.mfu,
                "tokens_per_s": found.tokens_per_s,
                "cost_usd": found.cost_usd if found.usd_per_accelerator_hour else None,
                "credits_usd": found.credits_usd,
                "tokens_per_usd": self.tokens_per_usd,
                "energy_kwh": found.energy_kwh,
                "co2_kg": found.co2_kg,
                "accelerator_hours": found.accelerator_hours,
                "memory_gib": worst / GIB,
                "memory_headroom": 1.0 - worst / found.memory_limit,
                "usd_per_accelerator_hour": found.usd_per_accelerator_hour or None,
                "tie_usd_per_hour": self.tie_usd_per_hour,
            }
        return {
            **base,
            **figures,
            "price": {
                "kind": self.price_kind,
                "date": self.price_date,
                "provider": self.price_provider,
                "source": self.price_source,
            },
            "plan": None if found is None else _chosen(found),
            "plans_seen": self.plans,
            "owning": None if self.owning is None else self.owning.to_dict(),
            "owning_reason": self.owning_reason,
            "provenance": [] if found is None else [asdict(one) for one in found.provenance],
            "warnings": [] if found is None else list(found.warnings),
        }

    def to_record(self) -> dict[str, Any]:
        """Return one flat line of the main figures, the same keys whatever is missing."""
        full = self.to_dict()
        plan, owning = full["plan"] or {}, full["owning"] or {}
        return {
            **{name: full[name] for name in ("name", "accelerator", "stack", "status", "reason")},
            **{name: full[name] for name in _FIGURES},
            **{f"price_{name}": value for name, value in full["price"].items()},
            **{name: plan.get(name) for name in (*WAYS, *CHOICES[:-1])},
            **{f"owning_{name}": owning.get(name) for name in _OWNING},
        }


_OWNING = (
    *("usd_per_useful_hour", "job_usd", "npv_usd"),
    *("break_even_utilisation", "break_even_month"),
)
_FIGURES = (
    *("cluster", "accelerators", "wall_clock_s", "step_time_s", "step_time_low_s"),
    *("step_time_high_s", "evidence", "mfu", "tokens_per_s", "cost_usd", "credits_usd"),
    *("tokens_per_usd", "energy_kwh", "co2_kg", "accelerator_hours", "memory_gib"),
    *("memory_headroom", "usd_per_accelerator_hour", "tie_usd_per_hour"),
)


def _chosen(found: TrainingResult) -> dict[str, Any]:
    parallel, training = found.plan["parallel"], found.plan["training"]
    return {name: parallel[name] for name in WAYS} | {name: training[name] for name in CHOICES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One row against another that is ranked behind it."""

    by: str
    """cost (USD) or time (seconds)."""
    first: str
    second: str
    probability: float
    """That the first is the smaller."""
    ranked: bool
    correlation: float
    regret: float
    """Expected loss of taking the first where the second may be the smaller."""
    regret_if_wrong: float
    """The same given that it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answer: rows from the best to the worst, then those that cannot run the job."""

    model: str
    by: str
    rows: tuple[Row, ...]
    pairings: tuple[Pairing, ...]
    shares: Shares
    """What errors have in common."""
    warnings: tuple[str, ...]

    @property
    def feasible(self) -> tuple[Row, ...]:
        """The rows with a plan."""
        return tuple(row for row in self.rows if row.result is not None)

    def between(self, by: str, first: str, second: str) -> Pairing | None:
        """Return the pairing of two rows, None where it was not made."""
        return next(
            (
                one
                for one in self.pairings
                if (one.by, one.first, one.second) == (by, first, second)
            ),
            None,
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import comparison_html

        return comparison_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.compare",
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "by": self.by,
            "rows": [row.to_dict() for row in self.rows],
            "pairings": [asdict(one) for one in self.pairings],
            "error_shares": asdict(self.shares),
            "warnings": list(self.warnings),
        }
