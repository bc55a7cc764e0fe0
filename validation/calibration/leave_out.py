"""Leave rows out, refit what they inform, predict them: the honest error of the simulator."""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.uncertainty import Counts, evidence_grade, plan_kind
from ridgeline.validation.calibration.fit import MeasuredStep, fit, log_errors
from ridgeline.validation.calibration.tunables import Tunable, load_tunables
from ridgeline.validation.measured import read_measured
from ridgeline.validation.rows import row_plan
from ridgeline.validation.spelling import Skip
from ridgeline.validation.steptime import measured_step_time

SCHEMA = "ridgeline.residuals"
WAYS = ("source", "model", "accelerator", "stack", "datasheet")
"""What leaves together; datasheet is an accelerator, or a stack, with all kernels measured."""
MODEL_FOLDS = 8
"""Refits in which models leave, each model of a source in one of them: the source stays."""
ROUNDS = 4
"""Evaluations of a refit, which starts from the shipped values."""
DOUBTED = 0.25
"""Weight of a row of tier B: its source leaves recomputation or the like unsaid, and what is
assumed in its place may be wrong. Such rows are predicted like any other."""
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows that leave together."""

    way: str
    name: str
    ids: frozenset[str]


def shared_table() -> Path | None:
    """Return the measured table beside the repository that does not ship, None without it."""
    path = Path(__file__).resolve().parents[2] / "../shared/data/training/measured.csv"
    return path.resolve() if path.is_file() else None


def published_table() -> Path:
    """Return the measured table that ships."""
    return Path(str(files("ridgeline.validation") / "data" / "published.csv"))


@lru_cache(maxsize=1)
def wrong_rows() -> dict[str, str]:
    """Return ids of rows that are certainly wrong, with the reason."""
    text = (files("ridgeline.validation") / "data" / "wrong_rows.toml").read_text(encoding="utf-8")
    return {entry["id"]: entry["reason"] for entry in tomllib.loads(text)["row"]}


def measured_steps(path: str | Path) -> tuple[MeasuredStep, ...]:
    """Return the pre-training steps of a table that can be simulated and are not known wrong."""
    found: list[MeasuredStep] = []
    for row in read_measured(path):
        if row.task not in ("", "pretrain") or row.id in wrong_rows():
            continue
        planned = row_plan(row)
        if isinstance(planned, Skip):
            continue
        seconds = measured_step_time(row, planned.plan)
        if isinstance(seconds, Skip):
            continue
        try:
            simulate_step(planned.plan, load_stack(planned.plan.stack))
        except (InputError, InfeasibleError):
            continue
        weight = DOUBTED if row.tier == "B" else 1.0
        found.append(
            MeasuredStep(row.id, row.source, row.model, planned.plan, seconds.seconds, weight)
        )
    return tuple(found)


def folds(steps: Sequence[MeasuredStep], way: str) -> tuple[Fold, ...]:
    """Return what leaves together: each source, accelerator or stack; models of all sources.

    ``datasheet`` has the accelerators with kernels of their own (the others rest on their data
    sheet when they leave as ``accelerator``) and, for an unknown stack on an unknown accelerator,
    the stacks.
    """
    if way not in WAYS:
        raise InputError(f"leave-out {way!r}: must be one of {', '.join(WAYS)} or none")
    if way == "datasheet":
        return tuple(
            Fold(way, f"{part} {fold.name}", fold.ids)
            for part in ("accelerator", "stack")
            for fold in folds([s for s in steps if _fitted(s)], part)
        )
    names = {
        "source": lambda s: s.source,
        "accelerator": lambda s: s.plan.cluster.accelerator.name,
        "stack": lambda s: s.plan.stack,
        "model": _model_fold(steps),
    }
    members: dict[str, set[str]] = {}
    for step in steps:
        members.setdefault(names[way](step), set()).add(step.id)
    return tuple(Fold(way, name, frozenset(members[name])) for name in sorted(members))


def _fitted(step: MeasuredStep) -> bool:
    return step.plan.cluster.accelerator.efficiency.rung == "fitted"


def _model_fold(steps: Sequence[MeasuredStep]) -> Callable[[MeasuredStep], str]:
    """Return the fold of a step: models of a source go round the folds in turn."""
    models: dict[str, list[str]] = {}
    for source, model in sorted({(s.source, s.model) for s in steps}):
        models.setdefault(source, []).append(model)
    shift = {source: k for k, source in enumerate(sorted(models))}

    def fold(step: MeasuredStep) -> str:
        place = models[step.source].index(step.model) + shift[step.source]
        return f"models {place % MODEL_FOLDS + 1} of {MODEL_FOLDS}"

    return fold


def shipped_value(tunable: Tunable) -> float:
    """Return the value of a tunable that the files carry."""
    target = tunable.targets[0]
    if tunable.kind == "cluster":
        tiers = make_cluster(f"{target}:2").tiers
        return next((t.efficiency for t in tiers if t.name == tunable.field), tunable.prior)
    device = tunable.kind == "device"
    record: Any = load_accelerator(target).efficiency if device else load_stack(target)
    name, _, key = tunable.field.partition(".")
    value = getattr(record, name)
    if key:
        return float(value.get(key, value.get("default", 1.0)))
    return float(value)


@cache
def on_paper(name: str) -> Accelerator:
    """Return an accelerator as if no kernel had been measured on it: data sheet and class."""
    text = (files("ridgeline.hardware") / "data" / "accelerators" / f"{name}.toml").read_text(
        encoding="utf-8"
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_text(text.partition("\n[efficiency")[0] + "\n", encoding="utf-8")
        return load_accelerator(str(path))


def _forget_kernels(step: MeasuredStep) -> MeasuredStep:
    cluster = step.plan.cluster
    cluster = replace(cluster, accelerator=on_paper(cluster.accelerator.name))
    return replace(step, plan=replace(step.plan, cluster=cluster))


def counts(steps: Iterable[MeasuredStep]) -> Counter[tuple[str, str, str]]:
    """Return steps by stack, accelerator and kind of plan."""
    return Counter(_key(step.plan) for step in steps)


def _key(plan: Plan) -> tuple[str, str, str]:
    return plan.stack, plan.cluster.accelerator.name, plan_kind(plan)


def leave_out(
    steps: Sequence[MeasuredStep],
    fold: Fold,
    tunables: Sequence[Tunable],
    *,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Refit without the rows of a fold and predict them.

    Only tunables that the fold's rows depend on are refitted, to all remaining rows that depend on
    any of them, from the shipped values. A tunable that no remaining row depends on goes to its
    prior. The other tunables of the remaining rows keep the shipped values.

    Returns
    -------
    dict
        ``held_out``, ``values`` (tunable to value), ``priors`` (tunables without a remaining row)
        and ``rows``: id to [predicted / measured - 1, grade of the evidence that remains].
    """
    out = [s for s in steps if s.id in fold.ids]
    rest = [s for s in steps if s.id not in fold.ids]
    moved = [t for t in tunables if any(t.touches(s.plan) for s in out)]
    if fold.way == "datasheet":
        out = [_forget_kernels(s) for s in out]
        moved = [t for t in moved if t.kind != "device"]
    near = [s for s in rest if any(t.touches(s.plan) for t in moved)]
    known = [t for t in moved if any(t.touches(s.plan) for s in near)]
    values = {t.name: t.prior for t in moved}
    if known:
        found = fit(near, known, start=[shipped_value(t) for t in known], rounds=rounds)
        fitted = zip(found.tunables, found.values, strict=True)
        values |= {t.name: float(value) for t, value in fitted}
    errors = np.expm1(log_errors(out, moved, [values[t.name] for t in moved]))
    left = counts(rest)
    grades = [_grade(s, left, forget=fold.way == "datasheet") for s in out]
    return {
        "held_out": fold.name,
        "values": values,
        "priors": sorted(t.name for t in moved if t not in known),
        "rows": {
            s.id: [round(float(error), DIGITS), grade]
            for s, error, grade in zip(out, errors, grades, strict=True)
        },
    }


def _grade(step: MeasuredStep, left: Counts, *, forget: bool) -> str:
    accelerator = step.plan.cluster.accelerator
    if forget:
        left = {key: count for key, count in left.items() if key[1] != accelerator.name}
    return evidence_grade(accelerator, step.plan.stack, plan_kind(step.plan), left)


_STEPS: dict[str, tuple[MeasuredStep, ...]] = {}


def _start(path: str) -> None:
    _STEPS["all"] = measured_steps(path)


def _work(fold: Fold, rounds: int) -> dict[str, Any]:
    return leave_out(_STEPS["all"], fold, load_tunables(), rounds=rounds)


def run_folds(
    path: Path, todo: Sequence[Fold], *, jobs: int = 2, rounds: int = ROUNDS
) -> Iterator[tuple[Fold, dict[str, Any]]]:
    """Yield folds with their results as they come, from ``jobs`` processes."""
    context = get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start, initargs=(str(path),)
    ) as pool:
        # the largest refits last would leave one process idle
        waiting = {
            pool.submit(_work, f, rounds): f for f in sorted(todo, key=lambda f: -len(f.ids))
        }
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def read_results(path: Path, models: str) -> dict[str, Any]:
    """Return results so far, empty ones without a file or when it is of other models."""
    empty: dict[str, Any] = {"schema": SCHEMA, "models": models, "left_out": {}}
    if not path.is_file():
        return empty
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("models") == models else empty


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results whole or not at all: a line for each fold's rows and values."""
    lines: list[str] = []
    for way in (w for w in WAYS if w in results["left_out"]):
        entries = sorted(results["left_out"][way], key=lambda e: str(e["held_out"]))
        shown = ",\n".join(
            "  {\n"
            + ",\n".join(f'   "{key}": {_compact(entry[key])}' for key in sorted(entry))
            + "\n  }"
            for entry in entries
        )
        lines.append(f' "{way}": [\n{shown}\n ]')
    text = (
        f'{{\n"schema": "{SCHEMA}",\n"models": "{results["models"]}",\n"left_out": {{\n'
        + ",\n".join(lines)
        + "\n}\n}\n"
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
