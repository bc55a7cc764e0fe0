"""Fit every engine of a table, write what was fitted, and refit with groups left out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.validation.serving.calibration.fit import (
    SPREADS,
    Asked,
    Linear,
    engine_file,
    fit_engine,
    log_errors,
    solve,
    thinned,
    tunables,
)
from ridgeline.validation.serving.measured import read_ids, read_serving
from ridgeline.validation.serving.rows import DISAGGREGATED, row_question
from ridgeline.validation.spelling import Skip

Floats = NDArray[np.float64]

MOST_ROWS = 120
"""Rows of an engine that a fit looks at: evenly over models, devices, splits and loads."""
LEAST_ROWS = 12
"""Engines with fewer keep their shipped values."""
WAYS: dict[str, Callable[[Asked], str]] = {
    "source": lambda one: one.row.source,
    "engine": lambda one: one.question.service.engine,
    "accelerator": lambda one: one.question.service.cluster.accelerator.name,
}
"""What is left out, one value at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One engine fitted to the rows that it looked at."""

    engine: str
    values: dict[str, float]
    rows: tuple[Asked, ...]
    linear: Linear
    before: Floats
    """[N, 3] ln(predicted / measured) with the shipped values."""
    after: Floats
    """[N, 3] with the fitted ones."""


def asked_rows(path: Path, without: Path | None) -> dict[str, list[Asked]]:
    """Return the rows of a table that can be simulated, by engine; disaggregated ones left out."""
    rows = read_serving(path)
    left_out = read_ids(without, (row.id for row in rows)) if without else frozenset()
    found: dict[str, list[Asked]] = {}
    for row in rows:
        question = row_question(row)
        if isinstance(question, Skip) or row.id in left_out or question.kind == DISAGGREGATED:
            continue
        found.setdefault(question.service.engine, []).append(Asked(row, question))
    return found


def asked_tables(paths: Iterable[Path], without: Path | None) -> dict[str, list[Asked]]:
    """Return the rows of several tables by engine; ``without`` names rows of the first."""
    found: dict[str, list[Asked]] = {}
    for index, path in enumerate(paths):
        for name, rows in asked_rows(path, without if index == 0 else None).items():
            found.setdefault(name, []).extend(rows)
    return found


def fit_one(task: tuple[str, list[Asked]]) -> Fitted:
    """Fit one engine to its rows."""
    name, rows = task
    base = load_engine(name)
    values, linear = fit_engine(rows, base)
    with tempfile.TemporaryDirectory() as folder:
        after = log_errors(rows, engine_file(base, values, Path(folder)))
    return Fitted(
        engine=name,
        values=values,
        rows=tuple(rows),
        linear=linear,
        before=log_errors(rows, name),
        after=after,
    )


def fit_all(
    by_engine: Mapping[str, list[Asked]], jobs: int, most: int = MOST_ROWS
) -> Iterator[Fitted]:
    """Fit every engine that has rows enough to ``most`` of them, in ``jobs`` processes."""
    tasks = [
        (name, thinned(rows, most))
        for name, rows in sorted(by_engine.items(), key=lambda item: -len(item[1]))
        if len(rows) >= LEAST_ROWS
    ]
    if not tasks:
        raise InputError(f"no engine has {LEAST_ROWS} rows to fit")
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(fit_one, tasks)


def write_values(folder: Path, fitted: Iterable[Fitted]) -> list[Path]:
    """Put fitted values into the engines' files, each with what it was fitted to."""
    written = []
    for one in fitted:
        path = folder / f"{one.engine}.toml"
        text = path.read_text(encoding="utf-8")
        sources = sorted({asked.row.source for asked in one.rows})
        source = f"fitted to {len(one.rows)} rows: {', '.join(sources)} (docs/serving-accuracy.md)"
        for name, value in one.values.items():
            line = f'{name} = {{ value = {float(f"{value:.3g}")}, source = "{source}" }}'
            pattern = re.compile(rf"^{name} = .*$", re.MULTILINE)
            text = pattern.sub(line, text) if pattern.search(text) else text + line + "\n"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def leave_out(fitted: Sequence[Fitted], way: str) -> list[dict[str, Any]]:
    """Return the errors of every group of rows under parameters that never saw it.

    Parameters are solved again, towards the same priors, over the rows of each engine that are not
    of the group, on the problem linearised at the full fit. An engine of which no row is left
    takes the median of the other engines' values, and what they do not tell its prior. Errors are
    those of the simulator with these values, not of the linear problem.
    """
    key = WAYS[way]
    groups = sorted({key(asked) for one in fitted for asked in one.rows})
    everywhere = {
        name: median(one.values[name] for one in fitted if name in one.values)
        for name in (tunable.name for tunable in tunables())
        if any(name in one.values for one in fitted)
    }
    entries = []
    for group in groups:
        errors: list[Floats] = []
        values: dict[str, dict[str, float]] = {}
        for one in fitted:
            held = np.array([key(asked) == group for asked in one.rows])
            if not held.any():
                continue
            found = _without(one, held, fitted, everywhere)
            values[one.engine] = found
            rows = [asked for asked, out in zip(one.rows, held, strict=True) if out]
            with tempfile.TemporaryDirectory() as folder:
                trial = engine_file(load_engine(one.engine), found, Path(folder))
                errors.append(log_errors(rows, trial))
        entries.append({"held_out": group, "values": values, **summary(np.concatenate(errors))})
    return entries


def _without(
    one: Fitted, held: NDArray[np.bool_], fitted: Sequence[Fitted], pooled: Mapping[str, float]
) -> dict[str, float]:
    if held.all():
        others = [other for other in fitted if other.engine != one.engine]
        return {
            name: median([other.values[name] for other in others if name in other.values])
            if any(name in other.values for other in others)
            else pooled[name]
            for name in one.linear.names
        }
    priors = {tunable.name: tunable.prior for tunable in tunables()}
    return solve(one.linear, ~held, priors)


def summary(errors: Floats) -> dict[str, Any]:
    """Return count, mean and median size, and bias of errors, by metric."""
    out: dict[str, Any] = {}
    for column, metric in enumerate(SPREADS):
        found = np.expm1(errors[:, column][np.isfinite(errors[:, column])]).tolist()
        if found:
            sizes = [abs(value) for value in found]
            out[metric] = {
                "count": len(found),
                "mape": round(fmean(sizes), 4),
                "median_ape": round(median(sizes), 4),
                "bias": round(fmean(found), 4),
            }
    return out
