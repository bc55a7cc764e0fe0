"""Predict every row of a table of measured serving and summarise the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ridgeline.errors import InputError
from ridgeline.validation.serving.measured import ServingRow, read_ids, read_serving
from ridgeline.validation.serving.predict import Prediction, closed_loop_rate, predict
from ridgeline.validation.serving.rows import Question, row_question
from ridgeline.validation.spelling import Skip

if TYPE_CHECKING:
    import pandas as pd

SCHEMA, SCHEMA_VERSION = "ridgeline.validate.inference", 1
METRICS = ("ttft", "tpot", "throughput")
LATENCY = "latency"
"""Time of one whole request at a given load: the inverse of throughput, and compared as time."""
_LEAST_FOR_WORKERS = 200
"""Rows below which starting other processes costs more than it saves."""
_CHUNK = 24
"""Rows that a worker takes at a time; neighbours share tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReportRow:
    """A measured row with what the simulator says. Figures are None where there is none."""

    id: str
    source: str
    accelerator: str
    engine: str
    """Of the row, as written."""
    stack: str
    """Serving stack that stands for it."""
    model: str
    """Of the catalogue; as written where it is not known."""
    kind: str
    """closed loop, disaggregated, static batch or offline; empty when not known."""
    experts: str
    """dense or moe."""
    left_out: bool
    """Named by the list of rows to leave out."""
    configuration: str
    """Split, precision and load in short."""
    measured_ttft_ms: float | None
    predicted_ttft_ms: float | None
    measured_tpot_ms: float | None
    predicted_tpot_ms: float | None
    measured_throughput_tok_s_per_accel: float | None
    """Of closed loops derived from the two latencies by Little's law."""
    predicted_throughput_tok_s_per_accel: float | None
    status: str
    """ok or skipped."""
    reason: str
    """Why it was skipped; else what was assumed."""

    def error(self, metric: str) -> float | None:
        """Return predicted over measured less 1 for a metric, None without both.

        ``metric`` is one of ``METRICS`` or ``LATENCY``.
        """
        if metric == LATENCY:
            rate = self.error("throughput")
            return None if rate is None else 1.0 / (1.0 + rate) - 1.0
        name = {
            "ttft": "ttft_ms",
            "tpot": "tpot_ms",
            "throughput": "throughput_tok_s_per_accel",
        }[metric]
        measured, predicted = getattr(self, f"measured_{name}"), getattr(self, f"predicted_{name}")
        return None if measured is None or predicted is None else predicted / measured - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of one metric over a group."""

    count: int
    mape: float | None
    median_ape: float | None
    bias: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGroup:
    """A group of rows."""

    name: str
    rows: int
    skipped: int
    ttft: Errors
    tpot: Errors
    throughput: Errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """All rows of a table, and their errors by group."""

    path: str
    without: str
    """List of rows that ``kept`` leaves out, empty without one."""
    rows: tuple[ServingReportRow, ...]

    @property
    def kept(self) -> tuple[ServingReportRow, ...]:
        """Rows that no list leaves out."""
        return tuple(row for row in self.rows if not row.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Return rows and summaries (``docs/json.md``)."""
        rows = [asdict(row) for row in self.rows]
        record = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "without": self.without,
            "rows": rows,
            "summary": {"all": groups_of(self.rows)},
        }
        if self.without:
            record["summary"] = {"all": groups_of(self.rows), "kept": groups_of(self.kept)}
        return record

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a data frame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


GROUPINGS: dict[str, Callable[[ServingReportRow], str]] = {
    "kind": lambda row: row.kind or "(none)",
    "source": lambda row: row.source,
    "accelerator": lambda row: row.accelerator,
    "engine": lambda row: row.stack or row.engine,
    "model": lambda row: row.model,
    "dense or moe": lambda row: row.experts or "(none)",
}
"""What rows are grouped by."""


def groups_of(rows: Iterable[ServingReportRow]) -> dict[str, Any]:
    """Return the errors of rows together and by group, as plain objects."""
    every = tuple(rows)
    return {
        "overall": _plain(summarise("all", every)),
        **{
            name.replace(" ", "_"): {
                group.name: _plain(group) for group in grouped(every, grouping)
            }
            for name, grouping in GROUPINGS.items()
        },
    }


def _plain(group: ServingGroup) -> dict[str, Any]:
    plain = asdict(group)
    del plain["name"]
    return plain


def grouped(
    rows: Iterable[ServingReportRow], grouping: Callable[[ServingReportRow], str]
) -> tuple[ServingGroup, ...]:
    """Return the groups of rows, by name."""
    members: dict[str, list[ServingReportRow]] = {}
    for row in rows:
        members.setdefault(grouping(row), []).append(row)
    return tuple(summarise(name, members[name]) for name in sorted(members))


def summarise(name: str, rows: Iterable[ServingReportRow]) -> ServingGroup:
    """Return the errors of rows together."""
    every = tuple(rows)
    return ServingGroup(
        name=name,
        rows=len(every),
        skipped=sum(row.status != "ok" for row in every),
        ttft=errors_of(every, "ttft"),
        tpot=errors_of(every, "tpot"),
        throughput=errors_of(every, "throughput"),
    )


def errors_of(rows: Iterable[ServingReportRow], metric: str) -> Errors:
    """Return the errors of one metric (``ServingReportRow.error``) over the rows that have it."""
    found = [one for row in rows if (one := row.error(metric)) is not None]
    if not found:
        return Errors(count=0, mape=None, median_ape=None, bias=None)
    sizes = [abs(one) for one in found]
    return Errors(count=len(found), mape=fmean(sizes), median_ape=median(sizes), bias=fmean(found))


def validate_serving(
    path: str | Path,
    *,
    without: str | Path | None = None,
    sources: Iterable[str] = (),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ServingReport:
    """Simulate every row of a table of measured serving and compare.

    Parameters
    ----------
    path
        CSV file of either schema (``read_serving``).
    without
        CSV file with a column ``id``: rows that a second summary leaves out.
    sources
        Only rows of these sources; all when empty.
    workers
        Processes; the report is the same on any number.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    InputError
        A file cannot be read (all mistakes at once), or has no row of a source asked for.
    """
    rows = read_serving(path)
    wanted = tuple(sources)
    unknown = sorted(set(wanted) - {row.source for row in rows})
    if unknown:
        known = ", ".join(sorted({row.source for row in rows}))
        raise InputError(f"{path}: no rows of source {', '.join(unknown)}; it has {known}")
    if workers < 1:
        raise InputError(f"workers = {workers}: must be at least 1")
    left_out = read_ids(without, (row.id for row in rows)) if without is not None else frozenset()
    kept = [row for row in rows if not wanted or row.source in wanted]
    compared: dict[str, ServingReportRow] = {}
    for found in _compare_all(kept, workers):
        compared.update((one.id, one) for one in found)
        if progress is not None:
            progress(len(compared), len(kept))
    return ServingReport(
        path=str(path),
        without=str(without or ""),
        rows=tuple(replace(compared[row.id], left_out=row.id in left_out) for row in kept),
    )


def _compare_all(rows: list[ServingRow], workers: int) -> Iterator[list[ServingReportRow]]:
    """Compare rows, those that share a service next to each other, and yield them in chunks."""
    asked = [(row, row_question(row)) for row in rows]
    asked.sort(key=lambda pair: _order(pair[1]))
    chunks = [asked[start : start + _CHUNK] for start in range(0, len(asked), _CHUNK)]
    if workers == 1 or len(rows) < _LEAST_FOR_WORKERS:
        yield from map(_compare_chunk, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_compare_chunk, chunks)


def _order(question: Question | Skip) -> tuple[str, ...]:
    if isinstance(question, Skip):
        return ("",)
    s = question.service
    split = f"{s.tp} {s.pp} {s.dp} {s.ep} {s.replicas}"
    limits = f"{s.limits} {s.kv_precision}"
    return (s.model.name, s.engine, s.cluster.accelerator.name, s.precision, split, limits)


def _compare_chunk(asked: list[tuple[ServingRow, Question | Skip]]) -> list[ServingReportRow]:
    return [compare(row, question) for row, question in asked]


def compare(row: ServingRow, question: Question | Skip) -> ServingReportRow:
    """Predict one row. A row that cannot be simulated comes back as skipped, with the reason."""
    if isinstance(question, Skip):
        return _report_row(row, None, None, question.reason)
    predicted = predict(question)
    if isinstance(predicted, Skip):
        return _report_row(row, question, None, predicted.reason)
    return _report_row(row, question, predicted, "; ".join(question.assumptions))


def _report_row(
    row: ServingRow, question: Question | None, predicted: Prediction | None, reason: str
) -> ServingReportRow:
    service = question.service if question else None
    ttft = row.ttft_ms and predicted and predicted.ttft_s and 1e3 * predicted.ttft_s
    tpot = row.tpot_ms and predicted and predicted.tpot_s and 1e3 * predicted.tpot_s
    measured = measured_rate(row, question)
    rate = predicted.tokens_per_s_per_accelerator if predicted else None
    moe = service is not None and service.model.moe is not None
    return ServingReportRow(
        id=row.id,
        source=row.source,
        accelerator=service.cluster.accelerator.name if service else row.accelerator,
        engine=row.engine,
        stack=service.engine if service else "",
        model=service.model.name if service else row.model,
        kind=question.kind if question else "",
        experts=("moe" if moe else "dense") if service else "",
        left_out=False,
        configuration=_configuration(question) if question else "",
        measured_ttft_ms=row.ttft_ms,
        predicted_ttft_ms=ttft or None,
        measured_tpot_ms=row.tpot_ms,
        predicted_tpot_ms=tpot or None,
        measured_throughput_tok_s_per_accel=measured,
        predicted_throughput_tok_s_per_accel=rate if measured is not None else None,
        status="ok" if predicted else "skipped",
        reason=reason,
    )


def measured_rate(row: ServingRow, question: Question | None) -> float | None:
    """Return output tokens per second and accelerator.

    Where a row has both latencies, they give it (Little's law): a rate beside them is derived from
    them, or from a generation that stopped early.
    """
    if question is None:
        return row.throughput_tok_s_per_accel
    if row.ttft_ms and row.tpot_ms and question.output_len:
        total = closed_loop_rate(
            question.concurrency, question.output_len, row.ttft_ms / 1e3, row.tpot_ms / 1e3
        )
        return total / question.accelerators
    return row.throughput_tok_s_per_accel


def _configuration(q: Question) -> str:
    s = q.service
    split = f"tp{s.tp}" + (f" pp{s.pp}" if s.pp > 1 else "") + (f" dp{s.dp}" if s.dp > 1 else "")
    split += f" ep{s.ep}" if s.ep > 1 else ""
    return f"{split} {s.precision} {q.input_len}/{q.output_len} at {q.concurrency}"
