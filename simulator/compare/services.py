"""The same traffic on several accelerators, each with its own cheapest service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.compare.question import Contender
from ridgeline.simulator.serving.choice.goals import Demand, Goal
from ridgeline.simulator.serving.choice.records import Counts, ServicePlan, plan_row
from ridgeline.simulator.serving.choice.search import choose
from ridgeline.simulator.serving.choice.space import ServiceSpace

SCHEMA_VERSION = 1
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """One accelerator with its cheapest service, or the reason why it has none."""

    name: str
    """As asked: accelerator, or accelerator@provider."""
    accelerator: str
    plan: ServicePlan | None = None
    counts: Counts | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract of a row (``docs/json.md``)."""
        return {
            "name": self.name,
            "accelerator": self.accelerator,
            "status": "ok" if self.plan else "cannot",
            "reason": self.reason,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "counts": None if self.counts is None else asdict(self.counts),
        }

    def to_record(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """Return one flat line with these columns of a plan."""
        flat = {} if self.plan is None else plan_row(self.plan)
        head = {"name": self.name, "status": "ok" if self.plan else "cannot"}
        return head | {"reason": self.reason} | {name: flat.get(name) for name in columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceComparison:
    """Rows from the cheapest an hour to the dearest, then those that cannot serve."""

    model: str
    asked: str
    goals: tuple[Goal, ...]
    rows: tuple[ServiceRow, ...]

    @property
    def feasible(self) -> tuple[ServiceRow, ...]:
        """The rows with a plan."""
        return tuple(row for row in self.rows if row.plan is not None)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import services_html

        return services_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.compare.serve",
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "asked": self.asked,
            "goals": [asdict(goal) for goal in self.goals],
            "rows": [row.to_dict() for row in self.rows],
        }

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as flat lines with the same columns."""
        plans = [row.plan for row in self.rows if row.plan is not None]
        columns = tuple(plan_row(plans[0])) if plans else ()
        return [row.to_record(columns) for row in self.rows]


def compare_services(
    space: ServiceSpace,
    contenders: tuple[Contender, ...],
    demand: Demand,
    *,
    say: Say | None = None,
) -> ServiceComparison:
    """Find the cheapest service of each contender for one demand.

    Parameters
    ----------
    space
        What each chooses from, but for the accelerator.
    contenders
        Accelerators and whose prices they have.
    demand
        Traffic and goals, the same for all.
    say
        Told the name of each contender before its search.

    Returns
    -------
    ServiceComparison
        A contender that cannot keep the goals is a row with the reason. Without a price a row
        stands behind those that have one, by accelerators.
    """
    rows = []
    for contender in contenders:
        if say is not None:
            say(contender.label)
        own = replace(
            space,
            accelerators=(contender.accelerator,),
            money=replace(space.money, provider=contender.provider or space.money.provider),
        )
        row = ServiceRow(name=contender.label, accelerator=contender.accelerator)
        try:
            found = choose(own, demand, runners_up=False)
        except (InputError, InfeasibleError) as error:
            rows.append(replace(row, reason=str(error).replace("\n", "; ")))
        else:
            rows.append(replace(row, plan=found.best, counts=found.counts))
    return ServiceComparison(
        model=space.model.name,
        asked=demand.asked,
        goals=demand.goals,
        rows=tuple(sorted(rows, key=_rank)),
    )


def _rank(row: ServiceRow) -> tuple[bool, bool, float, int]:
    if row.plan is None:
        return True, True, 0.0, 0
    plan = row.plan
    return False, not plan.usd_per_hour, plan.usd_per_hour, plan.accelerators
