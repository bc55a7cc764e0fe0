"""What is promised to users: percentiles of latencies."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.plan_values import SLO_FIGURES, parse_slo
from ridgeline.simulator.serving.play import Played
from ridgeline.simulator.serving.results import Slo
from ridgeline.workloads.traffic.traffic import Traffic

Floats = NDArray[np.float64]
DEFAULT_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A share of all requests keeps a limit."""

    figure: str
    """ttft, tpot or latency."""
    limit_s: float
    share: float = DEFAULT_SHARE
    """Above 0, at most 1: 0.99 is the 99th percentile."""

    @property
    def text(self) -> str:
        """The goal as it is written: ``ttft=500ms@p99``."""
        return f"{self.figure}={limit_text(self.limit_s)}@p{100.0 * self.share:g}"

    def needed(self, requests: int) -> int:
        """Return how many of so many requests must keep the limit."""
        return math.ceil(self.share * requests - 1e-9)

    def reached_s(self, values: Floats) -> float:
        """Return the value that the share keeps: the smallest limit that would be met, s.

        Parameters
        ----------
        values
            [n] of all requests, infinite where one did not end, nan (kept) where it has none.
        """
        ordered = np.sort(np.where(np.isnan(values), 0.0, values))
        return float(ordered[self.needed(len(values)) - 1])


def limit_text(limit_s: float) -> str:
    """Return a limit as ``--slo`` takes it: 32.7ms, 1.5s."""
    return f"{limit_s:g}s" if limit_s >= 1.0 else f"{1e3 * limit_s:g}ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A traffic at its peak, and what is promised to it."""

    traffic: Traffic
    goals: tuple[Goal, ...]
    asked: str
    """The traffic in words."""

    @property
    def slo(self) -> Slo:
        """The limits for each single request, of which goodput counts."""
        return Slo(**{f"{goal.figure}_s": goal.limit_s for goal in self.goals})


def parse_goals(text: str, share: float = DEFAULT_SHARE) -> tuple[Goal, ...]:
    """Return the goals of ``ttft=500ms@p99,tpot=50ms``.

    Parameters
    ----------
    text
        Limits, each with its percentile or without.
    share
        Of those without.

    Raises
    ------
    InputError
        Anything else, a figure twice, or no limit on waiting: without one an overloaded service,
        whose line grows for ever, would do.
    """
    goals = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        limit, at, percentile = (part.strip() for part in piece.partition("@"))
        try:
            figures = parse_slo(limit)
        except ValueError as error:
            raise InputError(f"--slo {piece}: {error}") from None
        own = parse_percentile(percentile, f"--slo {piece}") if at else share
        goals += [Goal(figure=name, limit_s=most, share=own) for name, most in figures.items()]
    figures_given = [goal.figure for goal in goals]
    if not goals:
        raise InputError("--slo: give what is promised, for example ttft=500ms,tpot=50ms")
    if len(set(figures_given)) < len(goals):
        raise InputError(f"--slo {text}: says a figure twice; keep one of each")
    if not {"ttft", "latency"} & set(figures_given):
        raise InputError(
            f"--slo {text}: says nothing of waiting, so that an overloaded service would do; "
            "add ttft= or latency="
        )
    return tuple(sorted(goals, key=lambda goal: SLO_FIGURES.index(goal.figure)))


def parse_percentile(text: str, label: str) -> float:
    """Return the share that ``p99``, ``99`` or ``p99.9`` stands for.

    Raises
    ------
    InputError
        Anything else, with ``label`` in front.
    """
    match = re.fullmatch(r"p?([0-9]{1,2}(?:\.[0-9]+)?|100)", text)
    if match is None or float(match[1]) <= 0.0:
        raise InputError(f"{label}: {text!r} is no percentile such as p50, p90 or p99")
    return float(match[1]) / 100.0


def values_of(played: Played, figure: str) -> Floats:
    """Return a figure of every request, infinite where it did not end, nan where it has none."""
    values = {
        "ttft": played.ttft_s,
        "tpot": played.tpot_s,
        "latency": played.latency_s,
    }[figure]
    return np.where(played.finished, values, np.inf)


def reached(goals: tuple[Goal, ...], played: Played) -> dict[str, float]:
    """Return what each goal's share of the requests keeps, s."""
    return {goal.figure: goal.reached_s(values_of(played, goal.figure)) for goal in goals}


def headroom(goals: tuple[Goal, ...], got: dict[str, float]) -> float:
    """Return the least limit over what is reached; 1 and more keeps all goals."""
    return min(goal.limit_s / max(got[goal.figure], 1e-12) for goal in goals)


def surely_broken(goals: tuple[Goal, ...], played: Played, requests: int, now_s: float) -> bool:
    """Whether a play that was cut off has broken a goal already, however it goes on.

    What happened before the cut does not depend on what comes after it. A request has broken a
    limit when its figure is above it, or when it is still running and already late.

    Parameters
    ----------
    goals
        What is promised.
    played
        Until ``now_s``.
    requests
        Of the whole traffic.
    now_s
        The cut.
    """
    waited = now_s - played.arrival_s
    silent = np.isnan(played.first_token_s) & (played.output_tokens > 0) & ~played.finished
    for goal in goals:
        if goal.figure == "ttft":
            late = np.where(silent, waited, played.ttft_s) > goal.limit_s
        elif goal.figure == "tpot":
            late = played.tpot_s > goal.limit_s
        else:
            late = np.where(played.finished, played.latency_s, waited) > goal.limit_s
        late |= np.asarray(played.state == 1)
        late &= ~np.isnan(played.arrival_s)
        if requests - int(late.sum()) < goal.needed(requests):
            return True
    return False
