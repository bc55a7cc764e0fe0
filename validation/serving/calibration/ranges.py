"""Ranges of predicted services, from the errors of services that were left out of the fit."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.ranges import GRADES, METRICS, Counts, service_grade
from ridgeline.validation.accuracy.ranges import FEWEST, calibrated_range, coverage, widened
from ridgeline.validation.serving.calibration.engines import Fitted
from ridgeline.validation.serving.calibration.fit import (
    SPREADS,
    Asked,
    engine_file,
    log_errors,
    solve,
    tunables,
)

Floats = NDArray[np.float64]

FOLDS = 4
"""Parts of an engine's rows, each left out once, that stand for services like the measured ones."""
TEXTS = {
    "measured": "services of this engine on this accelerator",
    "engine": "services of this engine, on other accelerators",
    "accelerator": "services on this accelerator, of other engines",
    "neither": "neither this engine nor this accelerator",
}

Errors = Mapping[str, Mapping[str, Sequence[float]]]
"""Grade -> metric -> predicted / measured - 1 of left-out services."""


def services_of(by_engine: Mapping[str, Sequence[Asked]]) -> Counts:
    """Return how many rows of a table there are of each engine and accelerator."""
    return Counter(
        (engine, _accelerator(one)) for engine, rows in by_engine.items() for one in rows
    )


def left_out_errors(fitted: Sequence[Fitted]) -> dict[str, dict[str, list[float]]]:
    """Return the errors of services under parameters that saw no more than each grade allows.

    ``measured`` leaves out every fourth row of an engine, ``engine`` all rows of an accelerator,
    ``accelerator`` all of an engine, which takes the median of the others, and ``neither`` both.
    A group of which nothing is left falls to the grade that this makes it. Kernels of an
    accelerator stay measured throughout.
    """
    found: dict[str, dict[str, list[float]]] = {
        grade: {metric: [] for metric in METRICS} for grade in GRADES
    }
    counts = Counter((one.engine, _accelerator(asked)) for one in fitted for asked in one.rows)
    for one in fitted:
        devices = np.array([_accelerator(asked) for asked in one.rows])
        fold = np.arange(len(one.rows)) % FOLDS
        for part in range(FOLDS):
            _add(found["measured"], one, fold == part, _solved(one, fold != part))
        for device in sorted(set(devices)):
            here = devices == device
            if not here.all():
                _add(found["engine"], one, here, _solved(one, ~here))
            _add(found["neither"], one, here, _pooled(one, fitted, str(device)))
            others = {pair: n for pair, n in counts.items() if pair[0] != one.engine}
            if service_grade(one.engine, str(device), others) == "accelerator":
                _add(found["accelerator"], one, here, _pooled(one, fitted, ""))
    return found


def _accelerator(asked: Asked) -> str:
    return asked.question.service.cluster.accelerator.name


def _solved(one: Fitted, kept: NDArray[np.bool_]) -> dict[str, float]:
    return solve(one.linear, kept, {tunable.name: tunable.prior for tunable in tunables()})


def _pooled(one: Fitted, fitted: Sequence[Fitted], device: str) -> dict[str, float]:
    """Return the median of the other engines' values, fitted without a device ("" for none)."""
    values: dict[str, list[float]] = {}
    for other in fitted:
        kept = np.array([_accelerator(asked) != device for asked in other.rows])
        if other.engine == one.engine or not kept.any():
            continue
        for name, value in _solved(other, kept).items():
            values.setdefault(name, []).append(value)
    priors = {tunable.name: tunable.prior for tunable in tunables()}
    return {
        name: median(values[name]) if name in values else priors[name] for name in one.linear.names
    }


def _add(
    found: dict[str, list[float]], one: Fitted, out: NDArray[np.bool_], values: dict[str, float]
) -> None:
    rows = [asked for asked, held in zip(one.rows, out, strict=True) if held]
    with tempfile.TemporaryDirectory() as folder:
        trial = engine_file(load_engine(one.engine), values, Path(folder))
        errors = np.expm1(log_errors(rows, trial, derived=True))
    for column, metric in enumerate(SPREADS):
        found[metric] += errors[:, column][np.isfinite(errors[:, column])].tolist()


def ranges_of(errors: Errors) -> dict[str, dict[str, dict[str, Any]]]:
    """Return [below, above] as fractions of a prediction by grade and metric, and what they hold.

    ``covered`` is the share of the left-out services inside; ``held_out`` that of every second one
    inside a range made from the others. Less evidence never narrows a range.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    better = dict.fromkeys(METRICS, (0.0, 0.0))
    for grade in GRADES:
        found[grade] = {}
        for metric in METRICS:
            rows = errors[grade][metric]
            bounds = better[metric]
            if len(rows) >= FEWEST:
                bounds = widened(calibrated_range(rows), sum(bounds))
            found[grade][metric] = {
                "count": len(rows),
                "range": list(bounds),
                "covered": round(coverage(rows, bounds), 3) if rows else None,
                "held_out": _held_out(rows),
            }
            better[metric] = bounds
    return found


def _held_out(rows: Sequence[float]) -> float | None:
    halves = (rows[::2], rows[1::2])
    if min(map(len, halves)) < FEWEST:
        return None
    shares = [coverage(other, calibrated_range(half)) for half, other in (halves, halves[::-1])]
    return round(sum(shares) / 2, 3)


def ranges_toml(ranges: Mapping[str, Mapping[str, Mapping[str, Any]]], services: Counts) -> str:
    """Return ``simulator/serving/data/ranges.toml``."""
    lines = [
        "# Generated by python -m ridgeline.validation.serving.calibration leave-out; do not edit.",
        "# Ranges of a prediction, as fractions of it: [below, above]. They hold four in five of",
        "# the services that were left out of the fit (validation/data/serving_ranges.json).",
        "",
    ]
    for grade in GRADES:
        entries = ranges[grade]
        told = ", ".join(
            f"{100 * entry['covered']:.0f}% of {entry['count']} for {metric}"
            for metric, entry in entries.items()
            if entry["count"]
        )
        lines += [f"[{grade}]", f'text = "{TEXTS[grade]}"']
        lines += [
            f"{metric} = [{e['range'][0]:g}, {e['range'][1]:g}]" for metric, e in entries.items()
        ]
        lines += [f'source = "left-out services that such ranges hold: {told or "none"}"', ""]
    lines.append("# Measured services by engine and accelerator.")
    engines: dict[str, dict[str, int]] = {}
    for (engine, device), count in sorted(services.items()):
        engines.setdefault(engine, {})[device] = count
    for engine, devices in engines.items():
        lines.append(f'[services."{engine}"]')
        lines += [f"{device} = {count}" for device, count in devices.items()]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
