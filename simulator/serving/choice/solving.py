"""What problems cost to solve on the cheapest service of each of several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.serving.choice.records import SCHEMA_VERSION, ServicePlan, plan_row
from ridgeline.simulator.serving.sampling import Curve, Solved, Solver, Tariff, solve, solve_share


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvingPlan:
    """A model, its service, and what an answer costs there."""

    model: str
    plan: ServicePlan
    curve: Curve
    solver: Solver

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "model": self.model,
            "coverage": [list(point) for point in self.curve.points],
            "tariff": asdict(self.solver.tariff),
            "plan": self.plan.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Solving:
    """What efforts cost and solve, the cheapest to a solved problem first."""

    plans: tuple[SolvingPlan, ...]
    solved: tuple[Solved, ...]
    problems: int
    asked: str
    left_out: tuple[str, ...]
    """Who cannot, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        return {
            "schema": "ridgeline.plan.serve.solve",
            "schema_version": SCHEMA_VERSION,
            "asked": self.asked,
            "problems": self.problems,
            "solved": [asdict(row) for row in self.solved],
            "plans": [plan.to_dict() for plan in self.plans],
            "left_out": list(self.left_out),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return what is solved as flat lines, each with the plan behind it."""
        plans = {plan.model: plan_row(plan.plan) for plan in self.plans}
        return [asdict(row) | plans[row.name] for row in self.solved]


def solver_on(
    model: str, plan: ServicePlan, curve: Curve, input_len: float, output_len: float, effort: str
) -> Solver:
    """Return a model on its service as a solver.

    The bill of the service, all that is rented, is shared by prompts and answers as the replicas'
    time is, and samples of a problem share its prompt.

    Raises
    ------
    InputError
        No price is known.
    """
    if not plan.usd_per_hour:
        raise InputError(f"money: no price is known of {plan.accelerator}; give one (--price)")
    bill = plan.result.bill
    rented = plan.accelerators / plan.used
    tariff = Tariff.of_tokens(
        bill.usd_per_million_input_tokens * rented,
        bill.usd_per_million_output_tokens * rented,
        input_len,
        output_len,
    )
    return Solver(name=model, tariff=tariff, curve=curve, effort=effort)


def solving(
    plans: Sequence[SolvingPlan],
    *,
    share: float = 0.0,
    efforts: Sequence[float] = (),
    problems: int = 1,
    asked: str = "",
    lost: Sequence[str] = (),
) -> Solving:
    """Return what a share of problems costs to solve with each, or what efforts cost and solve.

    Parameters
    ----------
    plans
        Models on their services.
    share
        Of the problems to solve; 0 asks for the efforts alone.
    efforts
        Samples, or tokens of reasoning.
    problems
        How many.
    asked
        The traffic in words.
    lost
        Models without a service, and why.

    Raises
    ------
    InfeasibleError
        No row is left.
    """
    rows: list[Solved] = []
    left_out = list(lost)
    for plan in plans:
        try:
            if share:
                rows.append(solve_share(plan.solver, share, problems))
            rows += [solve(plan.solver, amount, problems) for amount in efforts]
        except (InputError, InfeasibleError) as error:
            left_out.append(f"{plan.model}: {error}")
    if not rows:
        raise InfeasibleError("nothing is solved: " + "; ".join(left_out))
    rows.sort(key=lambda row: (row.usd_per_solved, row.name, row.amount))
    return Solving(
        plans=tuple(plans),
        solved=tuple(rows),
        problems=problems,
        asked=asked,
        left_out=tuple(left_out),
    )
