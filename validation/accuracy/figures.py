"""Errors by source that are committed (``data/accuracy.json``), recomputed and compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ridgeline.validation.accuracy.fingerprint import fingerprint
from ridgeline.validation.calibration.leave_out import published_table, shared_table
from ridgeline.validation.training import Predict, Report, ReportRow, make_report, validate_measured

SCHEMA = "ridgeline.accuracy"
MOST_GROWTH = 0.005
"""A mean error that grows by more fails until the figures are regenerated in the same change."""
DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Errors of one source, and the models that they came from."""

    count: int
    skipped: int
    mape: float | None
    median_ape: float | None
    bias: float | None
    inside_range: float | None
    models: str
    """Fingerprint of the models and parameters at the time."""
    shipped: bool
    """The rows are in the tree."""


def figures_path() -> Path:
    """Return where the committed figures are."""
    return Path(str(files("ridgeline.validation") / "data" / "accuracy.json"))


def read_residuals(path: Path | None = None) -> dict[str, Any]:
    """Return the errors of rows that were left out of the fit, the committed ones by default."""
    source = path or figures_path().with_name("residuals.json")
    found: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return found


PRE_TRAINING = ("", "pretrain")
FINE_TUNING = "-fine-tuning"
"""Behind the name of a source: its rows of other tasks."""


def compared_rows(
    predict: Predict | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Report, frozenset[str]]:
    """Return rows of the published table and of the one beside the tree, and the sources shipped.

    Rows of a source come from the published table where it has any. Fine-tuning counts as a source
    of its own: no parameter is fitted to it.
    """
    shipped = validate_measured(published_table(), predict=predict, progress=progress)
    names = frozenset(row.source for row in shipped.rows)
    rows: list[ReportRow] = list(shipped.rows)
    other = shared_table()
    if other is not None:
        from ridgeline.validation.measured import read_measured

        rest = sorted({row.source for row in read_measured(other)} - names)
        rows += validate_measured(other, sources=rest, predict=predict, progress=progress).rows
    told_apart = [_told_apart(row) for row in rows]
    shipped_too = {
        row.source for row in told_apart if row.source.removesuffix(FINE_TUNING) in names
    }
    return make_report("measured steps", told_apart), frozenset(shipped_too)


def _told_apart(row: ReportRow) -> ReportRow:
    if row.task in PRE_TRAINING:
        return row
    return replace(row, source=row.source + FINE_TUNING)


def recomputed(report: Report, shipped: frozenset[str]) -> dict[str, Figures]:
    """Return the figures of every source of a report."""
    models = fingerprint()

    def cut(value: float | None) -> float | None:
        return None if value is None else round(value, DIGITS)

    return {
        group.name: Figures(
            count=group.count,
            skipped=group.skipped,
            mape=cut(group.mape),
            median_ape=cut(group.median_ape),
            bias=cut(group.bias),
            inside_range=cut(group.inside_range),
            models=models,
            shipped=group.name in shipped,
        )
        for group in report.by_source
    }


def read_figures(path: Path | None = None) -> dict[str, Figures]:
    """Return the committed figures by source."""
    text = (path or figures_path()).read_text(encoding="utf-8")
    return {name: Figures(**entry) for name, entry in json.loads(text)["sources"].items()}


def write_figures(figures: Mapping[str, Figures], path: Path | None = None) -> None:
    """Write figures, one line for each source."""
    lines = ",\n".join(
        f'  "{name}": {json.dumps(asdict(figures[name]))}' for name in sorted(figures)
    )
    text = f'{{\n "schema": "{SCHEMA}",\n "sources": {{\n{lines}\n }}\n}}\n'
    (path or figures_path()).write_text(text, encoding="utf-8")


def compare(
    now: Mapping[str, Figures], committed: Mapping[str, Figures], models: str
) -> tuple[list[str], list[str]]:
    """Compare figures with the committed ones.

    Parameters
    ----------
    now
        Figures of the sources that could be recomputed.
    committed
        Figures of the tree.
    models
        Fingerprint of today's models and parameters.

    Returns
    -------
    lines, failures
        One line for each source; those that must not pass: a mean error more than half a point
        above the committed one, fewer rows predicted, a source without committed figures.
    """
    lines: list[str] = []
    failures: list[str] = []
    for name in sorted({*now, *committed}):
        old, new = committed.get(name), now.get(name)
        if old is None:
            failures.append(f"{name}: no committed figures")
        elif new is None:
            if old.mape is None:
                continue
            how = "same models and parameters as the committed figures"
            if old.models != models:
                how = f"models or parameters CHANGED since ({old.models}, now {models})"
            lines.append(f"{name}: NOT RECHECKED, committed {_percent(old.mape)}; {how}")
        elif new.count < old.count:
            failures.append(f"{name}: {new.count} rows predicted, {old.count} before")
        elif new.mape is not None:
            grown = new.mape - (old.mape if old.mape is not None else 0.0)
            line = f"{name}: {_percent(new.mape)}, committed {_percent(old.mape)}"
            lines.append(line)
            if grown > MOST_GROWTH:
                failures.append(f"{line}: grown by more than half a point")
    return lines, failures


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}%"
