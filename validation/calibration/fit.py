"""Fit tunables to measured steps: bounded, robust, pulled to the priors, deterministic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.validation.calibration.tunables import Tunable, applied

Float64 = NDArray[np.float64]

OUTLIER = 0.08
"""Log error beyond which a row pulls only linearly."""
PULL = 0.02
"""Weight of the prior: a tunable moved across all of its bounds costs as much as an error of 2% on
every row."""
STEP = 0.02
"""Finite difference as a fraction of the bounds."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One measured step as the simulator sees it."""

    id: str
    source: str
    model: str
    plan: Plan
    seconds: float
    weight: float = 1.0
    """How much the row counts beside the others of its source."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted values and the errors that they leave."""

    tunables: tuple[Tunable, ...]
    values: Float64
    errors: Float64
    """predicted / measured - 1 by row."""


def predicted(step: MeasuredStep, tunables: Sequence[Tunable], values: Sequence[float]) -> float:
    """Return the step time under tuned values, s."""
    plan, stack = applied(step.plan, load_stack(step.plan.stack), tunables, values)
    return simulate_step(plan, stack).seconds


def log_errors(
    steps: Sequence[MeasuredStep], tunables: Sequence[Tunable], values: Sequence[float]
) -> Float64:
    """Return log(predicted / measured) of every step."""
    return np.array([np.log(predicted(s, tunables, values) / s.seconds) for s in steps])


def _soft(error: Float64) -> Float64:
    """Return the signed root of twice the soft-l1 loss: its square grows linearly far out."""
    size = np.sqrt(2.0 * (np.sqrt(1.0 + (error / OUTLIER) ** 2) - 1.0))
    out: Float64 = np.sign(error) * OUTLIER * size
    return out


def fit(
    steps: Sequence[MeasuredStep],
    tunables: Sequence[Tunable],
    *,
    start: Sequence[float] | None = None,
    rounds: int = 12,
) -> Fit:
    """Move the tunables to where the measured steps want them.

    Least squares on log errors, soft beyond ``OUTLIER``; every source weighs the same however
    many rows it has, and every tunable is pulled to its prior. Tunables that no step depends on
    stay where they are.

    Raises
    ------
    InputError
        Without steps, or without SciPy (extra ``fit``).
    """
    if not steps:
        raise InputError("calibration: no measured step to fit to")
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("calibration needs SciPy: pip install 'ridgeline[fit]'") from None
    active = tuple(t for t in tunables if any(t.touches(s.plan) for s in steps))
    prior = np.array([t.prior for t in active])
    lower = np.array([t.lower for t in active])
    upper = np.array([t.upper for t in active])
    span = upper - lower
    rows = Counter(s.source for s in steps)
    weight = np.sqrt([s.weight / rows[s.source] for s in steps]) / np.sqrt(len(rows))
    pull = PULL / span
    touched = [[i for i, s in enumerate(steps) if t.touches(s.plan)] for t in active]
    last: dict[str, Float64] = {}

    def residuals(values: Float64) -> Float64:
        errors = log_errors(steps, active, values.tolist())
        last["values"], last["errors"] = values.copy(), errors
        return np.concatenate([weight * _soft(errors), pull * (values - prior)])

    def jacobian(values: Float64) -> Float64:
        if not np.array_equal(last["values"], values):
            residuals(values)
        base = _soft(last["errors"])
        out = np.zeros((len(steps) + len(active), len(active)))
        for k, where in enumerate(touched):
            h = STEP * span[k] if values[k] + STEP * span[k] <= upper[k] else -STEP * span[k]
            moved = values.copy()
            moved[k] += h
            errors = log_errors([steps[i] for i in where], active, moved.tolist())
            out[where, k] = weight[where] * (_soft(errors) - base[where]) / h
            out[len(steps) + k, k] = pull[k]
        return out

    first = prior if start is None else np.array([float(v) for v in start])
    if active:
        inside = np.clip(first, lower + 1e-6 * span, upper - 1e-6 * span)
        solved = least_squares(
            residuals, inside, jac=jacobian, bounds=(lower, upper), x_scale=span, max_nfev=rounds
        )
        # four digits are more than the rows can tell, and make the result easy to copy
        values = np.array([float(f"{v:.4g}") for v in solved.x])
    else:
        values = prior
    errors = np.expm1(log_errors(steps, active, values.tolist()))
    return Fit(active, values, errors)
