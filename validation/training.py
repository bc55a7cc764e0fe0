"""Predicted against measured training steps, row by row and in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.uncertainty import plan_kind
from ridgeline.validation.measured import MeasuredRow, read_measured
from ridgeline.validation.rows import row_plan
from ridgeline.validation.spelling import Skip
from ridgeline.validation.steptime import (
    GIB,
    counts_allocations_only,
    measured_peak_memory,
    measured_step_time,
)

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
Predict = Callable[[Plan], TrainingResult]
SCALES = (8, 64, 512, 4096)
"""Upper bounds of the groups by number of accelerators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One measured row beside its prediction; None where there is none."""

    id: str
    source: str
    accelerator: str
    stack: str
    """Stack that the framework was taken for, empty when skipped before."""
    tier: str = ""
    task: str = ""
    model: str = ""
    accelerators: int | None = None
    tokens: int | None = None
    """Tokens of a step, where stated."""
    precision: str = ""
    plan_type: str = ""
    """How the work is split (``uncertainty.plan_kind``), empty when skipped before."""
    evidence: str = ""
    """Grade of what stands behind the prediction."""
    derived: bool
    """The measured step time comes from throughput."""
    measured_step_time_s: float | None
    predicted_step_time_s: float | None
    predicted_step_time_low_s: float | None
    predicted_step_time_high_s: float | None
    measured_peak_memory_gib: float | None
    predicted_peak_memory_gib: float | None
    error: float | None
    """predicted / measured - 1."""
    status: str
    """ok or skipped."""
    reason: str
    """Why skipped; for ok what was assumed, empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """Errors of a group of rows; the statistics are None when no row of it was predicted."""

    name: str
    count: int
    """Rows predicted."""
    skipped: int
    mape: float | None
    """Mean of abs(error)."""
    median_ape: float | None
    bias: float | None
    """Mean of error."""
    inside_range: float | None
    """Share of rows whose measured time lies in the predicted range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows, and summaries by source, accelerator, stack, precision, scale and plan type."""

    path: str
    rows: tuple[ReportRow, ...]
    overall: GroupSummary
    by_source: tuple[GroupSummary, ...]
    by_accelerator: tuple[GroupSummary, ...]
    by_stack: tuple[GroupSummary, ...]
    by_precision: tuple[GroupSummary, ...] = ()
    by_scale: tuple[GroupSummary, ...] = ()
    by_plan_type: tuple[GroupSummary, ...] = ()

    def worst(self, count: int = 10, source: str = "") -> tuple[ReportRow, ...]:
        """Return the rows of a source, or of all, with the largest errors, largest first."""
        found = [r for r in self.rows if r.error is not None and source in ("", r.source)]
        found.sort(key=lambda r: (-abs(r.error or 0.0), r.id))
        return tuple(found[:count])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/validation.md``)."""

        def table(groups: tuple[GroupSummary, ...]) -> dict[str, Any]:
            return {group.name: _statistics(group) for group in groups}

        return {
            "schema": "ridgeline.validate.measured",
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "rows": [asdict(row) for row in self.rows],
            "summary": {
                "all": _statistics(self.overall),
                "source": table(self.by_source),
                "accelerator": table(self.by_accelerator),
                "stack": table(self.by_stack),
                "precision": table(self.by_precision),
                "scale": table(self.by_scale),
                "plan_type": table(self.by_plan_type),
            },
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a data frame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def _statistics(group: GroupSummary) -> dict[str, Any]:
    plain = asdict(group)
    del plain["name"]
    return plain


def validate_measured(
    path: str | Path,
    *,
    predict: Predict | None = None,
    sources: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Simulate every row of a table of measured steps and compare.

    Parameters
    ----------
    path
        CSV file (``read_measured``).
    predict
        From plan to result; the simulator by default.
    sources
        Only rows of these sources; all when empty.
    progress
        Called with (rows done, rows in all) after each row.

    Raises
    ------
    InputError
        The file cannot be read (all mistakes at once), or it has no row of a source asked for.
    """
    rows = read_measured(path)
    wanted = tuple(sources)
    unknown = sorted(set(wanted) - {row.source for row in rows})
    if unknown:
        known = ", ".join(sorted({row.source for row in rows}))
        raise InputError(f"{path}: no rows of source {', '.join(unknown)}; it has {known}")
    if wanted:
        rows = tuple(row for row in rows if row.source in wanted)
    if predict is None:
        from ridgeline.simulator import simulate_training

        predict = simulate_training
    compared: list[ReportRow] = []
    for row in rows:
        compared.append(compare_row(row, predict))
        if progress is not None:
            progress(len(compared), len(rows))
    return make_report(str(path), compared)


def compare_row(row: MeasuredRow, predict: Predict) -> ReportRow:
    """Predict one row. A row that cannot be simulated comes back as skipped, with the reason."""
    planned = row_plan(row)
    if isinstance(planned, Skip):
        return _skipped(row, planned.reason)
    plan = planned.plan
    step = measured_step_time(row, plan)
    if isinstance(step, Skip):
        return _skipped(row, step.reason, plan)
    try:
        result = predict(plan)
    except InputError as error:
        return _skipped(row, "; ".join(error.problems), plan)
    except InfeasibleError as error:
        return _skipped(row, str(error), plan)
    worst, allocated = result.worst_memory, counts_allocations_only(row)
    return ReportRow(
        id=row.id,
        source=row.source,
        accelerator=row.accelerator,
        stack=plan.stack,
        **_facts(row, plan),
        evidence=result.evidence,
        derived=step.derived,
        measured_step_time_s=step.seconds,
        predicted_step_time_s=result.step_time_s,
        predicted_step_time_low_s=result.step_time_low_s,
        predicted_step_time_high_s=result.step_time_high_s,
        measured_peak_memory_gib=measured_peak_memory(row),
        predicted_peak_memory_gib=(worst.total - (worst.framework if allocated else 0.0)) / GIB,
        error=result.step_time_s / step.seconds - 1,
        status="ok",
        reason="; ".join(planned.assumptions),
    )


def _facts(row: MeasuredRow, plan: Plan | None) -> dict[str, Any]:
    """Return what groups rows beside source, accelerator and stack."""
    return {
        "tier": row.tier,
        "task": row.task,
        "model": row.model,
        "accelerators": row.num_accel,
        "tokens": (row.global_batch_seqs or 0) * (row.seq_len or 0) or None,
        "precision": plan.training.precision if plan else "",
        "plan_type": plan_kind(plan) if plan else "",
    }


def _skipped(row: MeasuredRow, reason: str, plan: Plan | None = None) -> ReportRow:
    return ReportRow(
        id=row.id,
        source=row.source,
        accelerator=row.accelerator,
        stack=plan.stack if plan else "",
        **_facts(row, plan),
        derived=row.iter_time_s is None,
        measured_step_time_s=row.iter_time_s,
        predicted_step_time_s=None,
        predicted_step_time_low_s=None,
        predicted_step_time_high_s=None,
        measured_peak_memory_gib=measured_peak_memory(row),
        predicted_peak_memory_gib=None,
        error=None,
        status="skipped",
        reason=reason,
    )


def make_report(path: str, rows: Iterable[ReportRow]) -> Report:
    """Summarise compared rows."""
    kept = tuple(rows)
    return Report(
        path=path,
        rows=kept,
        overall=summarise("all", kept),
        by_source=_groups(kept, lambda row: row.source),
        by_accelerator=_groups(kept, lambda row: row.accelerator),
        by_stack=_groups(kept, lambda row: row.stack or "(none)"),
        by_precision=_groups(kept, lambda row: row.precision or "(none)"),
        by_scale=tuple(sorted(_groups(kept, scale), key=lambda g: _SCALE_NAMES.index(g.name))),
        by_plan_type=_groups(kept, lambda row: row.plan_type or "(none)"),
    )


_BOUNDS = tuple(zip((0, *SCALES[:-1]), SCALES, strict=True))
_SCALE_NAMES = (
    *(f"{low + 1:,} to {high:,}" for low, high in _BOUNDS),
    f"above {SCALES[-1]:,}",
    "(none)",
)


def scale(row: ReportRow) -> str:
    """Return the group of a row by its number of accelerators."""
    if row.accelerators is None:
        return _SCALE_NAMES[-1]
    return _SCALE_NAMES[sum(row.accelerators > bound for bound in SCALES)]


def _groups(
    rows: tuple[ReportRow, ...], key: Callable[[ReportRow], str]
) -> tuple[GroupSummary, ...]:
    members: dict[str, list[ReportRow]] = {}
    for row in rows:
        members.setdefault(key(row), []).append(row)
    return tuple(summarise(name, members[name]) for name in sorted(members))


def summarise(name: str, rows: Iterable[ReportRow]) -> GroupSummary:
    """Return the errors of ``rows`` together."""
    every = tuple(rows)
    errors = [row.error for row in every if row.error is not None]
    if not errors:
        return GroupSummary(
            name=name,
            count=0,
            skipped=len(every),
            mape=None,
            median_ape=None,
            bias=None,
            inside_range=None,
        )
    sizes = [abs(error) for error in errors]
    inside = [
        row.predicted_step_time_low_s <= row.measured_step_time_s <= row.predicted_step_time_high_s
        for row in every
        if row.measured_step_time_s is not None
        and row.predicted_step_time_low_s is not None
        and row.predicted_step_time_high_s is not None
        and row.status == "ok"
    ]
    return GroupSummary(
        name=name,
        count=len(errors),
        skipped=len(every) - len(errors),
        mape=fmean(sizes),
        median_ape=median(sizes),
        bias=fmean(errors),
        inside_range=fmean(inside),
    )
