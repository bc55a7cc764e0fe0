"""Calibrate a stack on a user's own cluster: few parameters, few logged steps, a stack file.

The maximum of the posterior: every logarithmic error of a step has noise of ``NOISE`` with the
tails of Student's t (Lange, Little and Taylor 1989, JASA 84), every parameter a normal prior around
the stack's default, as wide as it differs between known stacks and clusters
(``data/user_calibration.toml``). Solved by Gauss-Newton on the simulator's own derivatives, so the
same rows give the same file to the bit.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.legality import problems as plan_problems
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import Calibration, Stack, load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.uncertainty import plan_kind, step_range
from ridgeline.validation.calibration.tunables import with_field
from ridgeline.validation.measured import MeasuredRow, read_measured
from ridgeline.validation.rows import row_plan
from ridgeline.validation.spelling import Skip
from ridgeline.validation.steptime import measured_step_time

Float64 = NDArray[np.float64]

NOISE = 0.035
"""Relative noise of a measured step with what no model of this kind explains."""
FREEDOM = 2.5
"""Degrees of freedom of Student's t: a step far off pulls no more than one a little off. With this
noise it leaves the least error, of 1 to 8 tried, on the tables of ``user_shown --others``."""
ROUNDS = 8
FARTHEST = 2.0
"""Widths of the prior that one round may move."""
STEP = 0.1
"""Finite difference in widths of the prior."""
MATTERS = 1e-3
"""A parameter moves only if one width of its prior changes a step by more than this share."""
FOLDS = 10
TRUST = 3.0
"""Steps that the published range of measured stacks counts for in the range of a calibrated one."""
NORMAL_80 = 1.2816
"""Standard deviations that hold 80% of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that a user's steps may move."""

    field: str
    ratio: bool
    """Spread of the logarithm, otherwise of the value."""
    spread: float
    lower: float
    upper: float
    source: str


@dataclass(frozen=True, slots=True)
class UserStep:
    """One of the user's steps."""

    id: str
    plan: Plan
    seconds: float


@dataclass(frozen=True, slots=True)
class UserFit:
    """A calibrated stack, and how well it does."""

    stack: Stack
    base: str
    values: dict[str, tuple[float, float]]
    """Field -> (default, fitted)."""
    before: Float64
    """predicted / measured - 1 by step, with the defaults."""
    after: Float64
    held_out: Float64
    """The same when the step's fold is left out of the fit (linearised around the fit)."""


@lru_cache(maxsize=1)
def user_parameters() -> tuple[Parameter, ...]:
    """Return what may move, with the widths of the priors."""
    text = (files("ridgeline.validation") / "data" / "user_calibration.toml").read_text("utf-8")
    return tuple(
        Parameter(
            field=entry["field"],
            ratio=entry["scale"] == "ratio",
            spread=float(entry["spread"]),
            lower=float(entry["lower"]),
            upper=float(entry["upper"]),
            source=entry["source"],
        )
        for entry in tomllib.loads(text)["parameter"]
    )


def read_user_steps(
    path: str | Path,
    *,
    stack: str = "",
    source: str = "",
    accelerator: str = "",
    timed: bool = True,
) -> tuple[UserStep, ...]:
    """Read logged steps of one stack on one cluster.

    Parameters
    ----------
    path
        Table of ``read_measured``.
    stack
        Stack of every row instead of the one that its framework names.
    source, accelerator
        Only these rows.
    timed
        Whether every row needs its step time; otherwise what its stack predicts stands for it.

    Raises
    ------
    InputError
        No rows, rows that cannot be simulated (each with its reason), or rows of several
        clusters or stacks.
    """
    rows = read_measured(path)
    if not rows:
        raise InputError(f"{path}: no rows; a calibration needs at least one, better three")
    rows = _only(rows, "source", source, path)
    rows = _only(rows, "accelerator", accelerator, path)
    base = load_stack(stack).name if stack else ""
    steps: list[UserStep] = []
    skipped: list[str] = []
    for row in rows:
        step = _step(row, stack if base else "", timed=timed)
        if isinstance(step, Skip):
            skipped.append(f"{path}:{row.line}: {row.id}: cannot be simulated: {step.reason}")
        else:
            steps.append(step)
    if skipped:
        raise InputError(skipped)
    kept = {"source": sorted({row.source for row in rows})}
    kept["stack"] = sorted({step.plan.stack for step in steps})
    kept["accelerator"] = sorted({step.plan.cluster.accelerator.name for step in steps})
    kept["network"] = sorted({_fabric(step.plan) for step in steps} - {""})
    mixed = [
        f"{path}: rows of {len(found)} {what}s: {', '.join(found)}; calibrate one at a time "
        f"({_ADVICE[what]})"
        for what, found in kept.items()
        if len(found) > 1
    ]
    if mixed:
        raise InputError(mixed)
    return tuple(steps)


_ADVICE = {
    "source": "--source NAME",
    "stack": "--stack NAME, or one file for each",
    "accelerator": "--accelerator NAME",
    "network": "one file for each",
}


def _only(
    rows: tuple[MeasuredRow, ...], column: str, wanted: str, path: str | Path
) -> tuple[MeasuredRow, ...]:
    if not wanted:
        return rows
    known = sorted({str(getattr(row, column)) for row in rows})
    if wanted not in known:
        raise InputError(f"{path}: no row of {column} {wanted!r}; {nearest(wanted, known)}")
    return tuple(row for row in rows if getattr(row, column) == wanted)


def _fabric(plan: Plan) -> str:
    """Return what joins the nodes in words; empty for a plan inside one."""
    tiers = plan.cluster.tiers
    if len(tiers) < 2:
        return ""
    return f"{tiers[-1].bytes_per_s / 1e9:.4g} GB/s per accelerator"


def _step(row: MeasuredRow, stack: str, *, timed: bool) -> UserStep | Skip:
    planned = row_plan(row)
    if isinstance(planned, Skip):
        return planned
    plan = replace(planned.plan, stack=stack) if stack else planned.plan
    if lines := plan_problems(plan):
        return Skip("; ".join(lines))
    if not timed:
        return UserStep(row.id, plan, simulate_step(plan, load_stack(plan.stack)).seconds)
    measured = measured_step_time(row, plan)
    return measured if isinstance(measured, Skip) else UserStep(row.id, plan, measured.seconds)


def _moved(stack: Stack, parameters: Sequence[Parameter], z: Float64) -> Stack:
    """Return the stack with parameters ``z`` widths of their priors from its own."""
    moved = stack
    for one, width in zip(parameters, z.tolist(), strict=True):
        default = float(getattr(stack, one.field))
        by = one.spread * width
        value = default * math.exp(by) if one.ratio else default + by
        low, high = min(one.lower, default), max(one.upper, default)
        moved = with_field(moved, one.field, min(max(value, low), high))
    return moved


def _bounds(stack: Stack, parameters: Sequence[Parameter]) -> tuple[Float64, Float64]:
    """Return bounds in widths of the prior; a default outside its bounds stays legal."""
    edges = []
    for one in parameters:
        default = float(getattr(stack, one.field))
        for edge in (min(one.lower, default), max(one.upper, default)):
            distance = math.log(edge / default) if one.ratio else edge - default
            edges.append(distance / one.spread)
    pairs = np.array(edges).reshape(-1, 2)
    return pairs[:, 0] - 1e-6, pairs[:, 1] + 1e-6


def _log_errors(steps: Sequence[UserStep], stack: Stack) -> Float64:
    return np.array([math.log(simulate_step(s.plan, stack).seconds / s.seconds) for s in steps])


def _pull(errors: Float64) -> Float64:
    """Return signed roots of twice the negative log-likelihood of Student's t."""
    out: Float64 = np.sign(errors) * np.sqrt(
        (FREEDOM + 1.0) * np.log1p((errors / NOISE) ** 2 / FREEDOM)
    )
    return out


def _gentle(errors: Float64) -> Float64:
    """Return signed roots of a convex loss, by which a start far off finds the way."""
    size = errors / NOISE
    out: Float64 = np.sign(size) * np.sqrt(2.0 * (np.sqrt(1.0 + size**2) - 1.0))
    return out


def _cost(errors: Float64, z: Float64) -> float:
    return float(np.sum(_pull(errors) ** 2) + np.sum(z**2))


def _solve(errors: Float64, slope: Float64, z: Float64, low: Float64, high: Float64) -> Float64:
    """Return the best parameters of the linearised steps."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("calibration needs SciPy: pip install 'ridgeline[fit]'") from None

    def run(loss: Callable[[Float64], Float64], start: Float64) -> Float64:
        inside = np.clip(start, low + 1e-7, high - 1e-7)

        def misfit(new: Float64) -> Float64:
            return np.concatenate([loss(errors + slope @ (new - z)), new])

        solved = least_squares(misfit, inside, bounds=(low, high))
        found: Float64 = solved.x
        return found

    wide = run(_gentle, z)
    candidates = [run(_pull, z), run(_pull, wide)]
    return min(candidates, key=lambda new: _cost(errors + slope @ (new - z), new))


def _slopes(
    steps: Sequence[UserStep],
    stack: Stack,
    parameters: Sequence[Parameter],
    z: Float64,
    high: Float64,
    errors: Float64,
) -> Float64:
    slope = np.empty((len(steps), len(parameters)))
    for k in range(len(parameters)):
        h = STEP if z[k] + STEP <= high[k] else -STEP
        moved = z.copy()
        moved[k] += h
        slope[:, k] = (_log_errors(steps, _moved(stack, parameters, moved)) - errors) / h
    return slope


def calibrate(
    steps: Sequence[UserStep], *, base: Stack | None = None, label: str = "the user's steps"
) -> UserFit:
    """Fit the stack-on-this-cluster parameters to steps of one stack on one cluster.

    Parameters
    ----------
    steps
        As few as three.
    base
        Where to start and what to shrink toward; the steps' own stack by default.
    label
        What the sources of the fitted values say of the rows.

    Returns
    -------
    UserFit
        Parameters on which no step depends are left out.

    Raises
    ------
    InputError
        Without steps, or without SciPy (extra ``fit``).
    """
    if not steps:
        raise InputError("calibration: no measured step to fit to")
    start = load_stack(steps[0].plan.stack) if base is None else base
    first = _log_errors(steps, start)
    parameters = tuple(p for p in user_parameters() if _matters(p, steps, start, first))
    low, high = _bounds(start, parameters)
    z, errors = np.zeros(len(parameters)), first
    slope = _slopes(steps, start, parameters, z, high, errors)
    for _ in range(ROUNDS):
        goal = z + np.clip(_solve(errors, slope, z, low, high) - z, -FARTHEST, FARTHEST)
        stride = 1.0
        while stride > 0.05:  # shorten a step that the curvature makes worse
            new = z + stride * (goal - z)
            found = _log_errors(steps, _moved(start, parameters, new))
            if _cost(found, new) < _cost(errors, z):
                break
            stride /= 2.0
        else:
            break
        done = float(np.max(np.abs(new - z))) < STEP / 10.0
        z, errors = new, found
        slope = _slopes(steps, start, parameters, z, high, errors)
        if done:
            break
    fitted = _moved(start, parameters, z)
    # four digits are more than the steps can tell
    for p in parameters:
        fitted = with_field(fitted, p.field, float(f"{getattr(fitted, p.field):.4g}"))
    errors = _log_errors(steps, fitted)
    held = _held_out(errors, slope, z, low, high)
    below, above = _range(held)
    record = Calibration(
        rows=len(steps),
        stack=start.name if start.calibration is None else start.calibration.stack,
        accelerator=steps[0].plan.cluster.accelerator.name,
        kinds=tuple(sorted({plan_kind(s.plan) for s in steps})),
        below=below,
        above=above,
    )
    values = {
        p.field: (float(getattr(start, p.field)), getattr(fitted, p.field)) for p in parameters
    }
    sources = {**start.sources, **dict.fromkeys(values, f"fitted to {label}")}
    return UserFit(
        stack=replace(fitted, sources=sources, calibration=record),
        base=start.name,
        values=values,
        before=np.expm1(first),
        after=np.expm1(errors),
        held_out=np.expm1(held),
    )


def most_telling(steps: Sequence[UserStep], base: Stack, count: int = 3) -> tuple[UserStep, ...]:
    """Return the steps whose times would make the predictions of all steps surest.

    Chosen one by one, before any time is known: each next one takes most from the summed variance
    of all predictions under the priors (a greedy I-optimal design; Atkinson, Donev and Tobias
    2007, chapter 10). It tells which runs to log.
    """
    first = _log_errors(steps, base)
    parameters = tuple(p for p in user_parameters() if _matters(p, steps, base, first))
    high = _bounds(base, parameters)[1]
    slope = _slopes(steps, base, parameters, np.zeros(len(parameters)), high, first) / NOISE
    information = np.eye(len(parameters))
    chosen: list[int] = []
    for _ in range(min(count, len(steps))):
        left = [k for k in range(len(steps)) if k not in chosen]
        spread = [
            float(np.trace(slope @ np.linalg.inv(information + np.outer(j, j)) @ slope.T))
            for j in slope[left]
        ]
        best = left[int(np.argmin(spread))]
        chosen.append(best)
        information = information + np.outer(slope[best], slope[best])
    return tuple(steps[k] for k in chosen)


def _matters(one: Parameter, steps: Sequence[UserStep], stack: Stack, errors: Float64) -> bool:
    for width in (1.0, -1.0):
        moved = _log_errors(steps, _moved(stack, (one,), np.array([width])))
        if float(np.max(np.abs(moved - errors))) > MATTERS:
            return True
    return False


def _held_out(errors: Float64, slope: Float64, z: Float64, low: Float64, high: Float64) -> Float64:
    """Return the errors of steps whose fold is left out, linearised around the fit."""
    held = np.empty(len(errors))
    folds = np.arange(len(errors)) % min(len(errors), FOLDS)
    for fold in np.unique(folds):
        out = folds == fold
        new = _solve(errors[~out], slope[~out], z, low, high)
        held[out] = errors[out] + slope[out] @ (new - z)
    return held


def _range(held: Float64) -> tuple[float, float]:
    """Return how far below and above the prediction four in five steps are expected.

    Held-out errors pooled with the published range of measured stacks, which counts for ``TRUST``
    steps: sd^2 = (TRUST s0^2 + sum e^2) / (TRUST + n), and never less than the noise. An error
    that Student's t treats as an outlier counts for four noises.
    """
    low, high = step_range("measured")
    usual = math.log(high / low) / (2.0 * NORMAL_80)
    size = np.minimum(np.abs(held), np.maximum(4.0 * NOISE, 4.0 * np.median(np.abs(held))))
    pooled = (TRUST * usual**2 + float(np.sum(size**2))) / (TRUST + len(held))
    half = NORMAL_80 * max(NOISE, math.sqrt(pooled))
    return round(1.0 - math.exp(-half), 4), round(math.exp(half) - 1.0, 4)
