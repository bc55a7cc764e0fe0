"""The TOML file of a tuning sweep -> one frozen ``Sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.simulator.budget.sweep_schema import read_sweep_table
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan, read_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep: its method, the plan of a trial and the accelerators of all."""

    method: str
    """hyperband, successive-halving, random or carbs."""
    plan: Plan
    """Of one trial; how long it trains is for the sweep to say."""
    most_tokens: float
    """Of the longest trial."""
    least_tokens: float
    """Of the shortest."""
    eta: int = 3
    trials: int = 0
    """0 takes as many as ``budget_usd`` pays for; of hyperband the method says."""
    budget_usd: float = 0.0
    repeats: int = 1
    """Runs of the whole schedule, each with new configurations."""
    accelerators: int
    """Of the sweep: so many trials run at once as they hold."""
    resume: bool = True
    """A trial that goes on keeps what it has."""
    together: bool = True
    """Brackets share the accelerators; else one waits for the one before."""
    start_up_s: float = 60.0
    """Of each part of a trial: processes, compilation, checkpoint."""


def read_sweep(path: Path) -> Sweep:
    """Read a file with a ``[sweep]`` table, whose ``plan`` is a plan file relative to it.

    Raises
    ------
    InputError
        With all mistakes, one line each.
    """
    tables, where = read_tables(path), f"{path}: "
    wrong = [f"{where}{key}: unknown table; the file has [sweep]" for key in tables
             if key != "sweep"]  # fmt: skip
    table, lines = read_sweep_table(tables.get("sweep"), where)
    wrong += lines
    if wrong or table is None:
        raise InputError(wrong)
    plan = read_plan(path.parent / table.plan)
    count = plan.cluster.count
    accelerators = table.accelerators or count
    if accelerators < count:
        raise InputError(
            f"{where}sweep.accelerators = {accelerators}: a trial takes {count} "
            f"({plan.cluster.name}); give at least as many"
        )
    return Sweep(
        method=table.method,
        plan=plan,
        most_tokens=table.most_tokens,
        least_tokens=table.least_tokens or table.most_tokens,
        eta=table.eta,
        trials=table.trials or 0,
        budget_usd=table.budget_usd or 0.0,
        repeats=table.repeats,
        accelerators=accelerators,
        resume=table.resume,
        together=table.together,
        start_up_s=table.start_up_s,
    )
