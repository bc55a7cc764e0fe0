"""Least squares over the rows of one engine: linearise, solve within bounds, repeat.

Residuals are ln(predicted / measured) over the spread that a row of that metric is expected to
have; beside them stand the distances of the parameters from their priors. The loss is soft-L1, so
that a wrong row pulls no more than a constant.
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.serving.engines import Engine
from ridgeline.validation.serving.clients import serving_data
from ridgeline.validation.serving.measured import ServingRow
from ridgeline.validation.serving.predict import Prediction, predict
from ridgeline.validation.serving.report import measured_rate
from ridgeline.validation.serving.rows import OFFLINE, STATIC, Question

Floats = NDArray[np.float64]

SPREADS = {"ttft": 0.25, "tpot": 0.06, "throughput": 0.08}
"""Error of a good row, by metric: what a residual of 1 stands for."""
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """One parameter of an engine that is fitted."""

    name: str
    low: float
    high: float
    prior: float
    sigma: float
    latency_only: bool
    """Moves time to first token alone, so that throughput rows do not tell it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A row and its question."""

    row: ServingRow
    question: Question

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that its source measured on their own."""
        row, kind = self.row, self.question.kind
        if row.ttft_ms and row.tpot_ms:
            return ("ttft", "tpot")
        return ("throughput",) if kind in (OFFLINE, STATIC) and not row.ttft_ms else ("ttft",)


@lru_cache(maxsize=1)
def tunables() -> tuple[Tunable, ...]:
    """Return what may be fitted (``data/serving_tunables.toml``)."""
    return tuple(
        Tunable(
            name=name,
            low=entry["low"],
            high=entry["high"],
            prior=entry["prior"],
            sigma=entry["sigma"],
            latency_only=entry.get("latency_only", False),
        )
        for name, entry in serving_data("serving_tunables.toml").items()
    )


def fitted_of(rows: Sequence[Asked]) -> tuple[Tunable, ...]:
    """Return the tunables that these rows can tell."""
    latency = any("ttft" in one.metrics for one in rows)
    return tuple(one for one in tunables() if latency or not one.latency_only)


def engine_file(base: Engine, values: Mapping[str, Any], folder: Path) -> str:
    """Write an engine with other values to a file of its own and return its path."""
    lines = [f'description = "{base.name}, on trial"']
    changed: Engine = replace(base, **values)
    for one in fields(Engine):
        if one.name in ("name", "description", "sources"):
            continue
        lines.append(
            f'{one.name} = {{ value = {_toml(getattr(changed, one.name))}, source = "trial" }}'
        )
    text = "\n".join(lines) + "\n"
    # a name of its own for each set of values: engines are cached by path
    path = folder / f"{base.name}-{zlib.crc32(text.encode()):08x}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def log_errors(rows: Sequence[Asked], engine: str, *, derived: bool = False) -> Floats:
    """Return ln(predicted / measured) of every metric of every row on an engine, nan where none.

    Parameters
    ----------
    rows
        N rows.
    engine
        Name or path of the engine that stands for all of them.
    derived
        Whether throughput that follows from the two latencies (Little's law) counts too.

    Returns
    -------
    ndarray
        float64[N, 3] in the order of ``SPREADS``.
    """
    found = np.full((len(rows), len(SPREADS)), np.nan)
    for line, one in zip(found, rows, strict=True):
        q = one.question
        prefill = None if q.prefill is None else replace(q.prefill, engine=engine)
        told = predict(replace(q, service=replace(q.service, engine=engine), prefill=prefill))
        if isinstance(told, Prediction):
            line[:] = [_log(one, told, metric, derived=derived) for metric in SPREADS]
    return found


def _log(one: Asked, told: Prediction, metric: str, *, derived: bool) -> float:
    if metric not in one.metrics and not (derived and metric == "throughput"):
        return math.nan
    pairs = {
        "ttft": (told.ttft_s, one.row.ttft_ms and one.row.ttft_ms / 1e3),
        "tpot": (told.tpot_s, one.row.tpot_ms and one.row.tpot_ms / 1e3),
        "throughput": (told.tokens_per_s_per_accelerator, measured_rate(one.row, one.question)),
    }
    predicted, measured = pairs[metric]
    return math.log(predicted / measured) if predicted and measured else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Errors of rows as a linear function of the parameters around a point."""

    names: tuple[str, ...]
    point: Floats
    """[P]"""
    errors: Floats
    """[N, M] at the point."""
    slopes: Floats
    """[P, N, M] by unit of each parameter."""


def linearise(rows: Sequence[Asked], base: Engine, point: Mapping[str, float]) -> Linear:
    """Return the errors around a point by one-sided differences of a fifth of sigma."""
    known = {one.name: one for one in tunables()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        errors = log_errors(rows, engine_file(base, point, folder))
        slopes = []
        for key, value in point.items():
            one = known[key]
            step = one.sigma / 5.0 * (1.0 if value + one.sigma / 5.0 <= one.high else -1.0)
            moved = log_errors(rows, engine_file(base, {**point, key: value + step}, folder))
            slopes.append((moved - errors) / step)
    return Linear(
        names=tuple(point),
        point=np.array(list(point.values())),
        errors=errors,
        slopes=np.array(slopes),
    )


def solve(linear: Linear, keep: NDArray[np.bool_], priors: Mapping[str, float]) -> dict[str, float]:
    """Return the best parameters of a linearised problem over the rows kept.

    Parameters
    ----------
    linear
        From ``linearise``.
    keep
        bool[N], rows that count.
    priors
        Centre of each parameter.
    """
    known = [one for name in linear.names for one in tunables() if one.name == name]
    sigma = np.array([one.sigma for one in known])
    low = np.array([one.low for one in known])
    high = np.array([one.high for one in known])
    centre = np.array([priors[name] for name in linear.names])
    spread = np.array(list(SPREADS.values()))
    errors = (linear.errors / spread)[keep]
    slopes = (linear.slopes / spread)[:, keep]
    usable = np.isfinite(errors) & np.isfinite(slopes).all(axis=0)
    # each row counts once, however many metrics it has
    share = 1.0 / np.sqrt(np.maximum(1, usable.sum(axis=1)))[:, None]
    fixed = (errors * share)[usable]
    slope = (slopes * share)[:, usable]

    def residuals(unit: Floats) -> Floats:
        x = unit * sigma
        return np.concatenate([fixed + (x - linear.point) @ slope, (x - centre) / sigma])

    start = np.clip(linear.point, low, high) / sigma
    start = np.clip(start, low / sigma + 1e-9, high / sigma - 1e-9)
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("calibration needs SciPy: pip install 'ridgeline[fit]'") from None
    found = least_squares(residuals, start, bounds=(low / sigma, high / sigma), loss="soft_l1")
    return dict(zip(linear.names, (found.x * sigma).tolist(), strict=True))


def fit_engine(
    rows: Sequence[Asked], base: Engine, *, rounds: int = ROUNDS
) -> tuple[dict[str, float], Linear]:
    """Fit one engine to its rows; return its values and the problem around the last but one."""
    names = [one.name for one in fitted_of(rows)]
    priors = {one.name: one.prior for one in tunables() if one.name in names}
    point = {
        one.name: min(max(float(getattr(base, one.name)), one.low), one.high)
        for one in tunables()
        if one.name in names
    }
    everyone = np.ones(len(rows), bool)
    linear = linearise(rows, base, point)
    for count in range(rounds):
        point = solve(linear, everyone, priors)
        if count + 1 < rounds:
            linear = linearise(rows, base, point)
    return point, linear


def thinned(rows: Iterable[Asked], most: int) -> list[Asked]:
    """Return at most about ``most`` rows, evenly over models, devices, splits and loads."""
    ordered = sorted(
        rows,
        key=lambda one: (
            one.row.source,
            one.question.service.model.name,
            one.question.service.cluster.accelerator.name,
            one.question.service.precision,
            one.question.service.tp,
            one.question.input_len,
            one.question.output_len,
            one.question.concurrency,
            one.row.id,
        ),
    )
    step = max(1, math.ceil(len(ordered) / most))
    return ordered[step // 2 :: step]
