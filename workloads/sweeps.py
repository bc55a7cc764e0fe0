"""Tuning sweeps as schedules: how many trials are trained how far, and which go on.

Hyperband and successive halving: Li et al. 2018 (arXiv 1603.06560), algorithm 1. Cost-aware local
search: Fetterman et al. 2023 (CARBS, arXiv 2306.08055), whose trials lie around the front of cost
and quality, at every cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ridgeline.errors import InputError

MAX_TRIALS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Trials that are trained to the same length before the best of them go on."""

    trials: int
    resource: float
    """Units that each of them has had at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Rungs one after the other; each waits for all trials of the one before."""

    rungs: tuple[Rung, ...]

    @property
    def trials(self) -> int:
        """Configurations that are tried."""
        return self.rungs[0].trials

    def spent(self, *, resume: bool) -> float:
        """Return the units of all trials.

        Parameters
        ----------
        resume
            Trials that go on keep what they have; else they begin again.
        """
        total, before = 0.0, 0.0
        for rung in self.rungs:
            total += rung.trials * (rung.resource - (before if resume else 0.0))
            before = rung.resource
        return total


def halving(trials: int, least: float, eta: int, rungs: int) -> Bracket:
    """Return successive halving: rung i trains floor(n eta^-i) trials to r eta^i units.

    Parameters
    ----------
    trials
        n, configurations at first.
    least
        r, units of the first rung.
    eta
        One in eta goes on; at least 2.
    rungs
        How many, at least 1.

    Raises
    ------
    InputError
        No trials, or a rung that none is left for.
    """
    _check(trials, eta)
    if rungs < 1 or trials < eta ** (rungs - 1):
        raise InputError(
            f"sweep: {trials} trials are gone before rung {rungs} at eta {eta}; give at least "
            f"{eta ** max(0, rungs - 1)} or a larger least_tokens"
        )
    return Bracket(
        rungs=tuple(Rung(trials=trials // eta**i, resource=least * eta**i) for i in range(rungs))
    )


def depth(most: float, eta: int) -> int:
    """Return floor(log_eta(most)), exact where ``most`` is a power."""
    found, reached = 0, float(eta)
    while reached <= most * (1.0 + 1e-12):
        found, reached = found + 1, reached * eta
    return found


def hyperband(most: float, eta: int = 3) -> tuple[Bracket, ...]:
    """Return the brackets of Hyperband, from the one with most trials to plain random search.

    s from s_max = floor(log_eta R) to 0: n = ceil((s_max + 1)/(s + 1) eta^s) trials from
    r = R eta^-s units on. R = 81 and eta = 3 give 81, 34, 15, 8 and 5 trials (the paper's table 1).

    Parameters
    ----------
    most
        R, units of a trial that goes to the end, in those of the shortest; at least 1.
    eta
        One in eta goes on; at least 2.
    """
    _check(1, eta)
    if not (math.isfinite(most) and most >= 1.0):
        raise InputError(f"sweep: R = {most:g}: the longest trial must be at least the shortest")
    top = depth(most, eta)
    brackets = []
    for s in range(top, -1, -1):
        trials = -(-(top + 1) * eta**s // (s + 1))
        brackets.append(halving(trials, most / eta**s, eta, s + 1))
    return tuple(brackets)


def spread(trials: int, least: float, most: float) -> tuple[Bracket, ...]:
    """Return trials whose lengths are spread evenly over the logarithm, the shortest first.

    Trial i of n has least (most/least)^((i + 1/2)/n) units, on average (most - least) over
    ln(most/least): a search around the whole front of cost and quality.
    """
    _check(trials, 2)
    return tuple(
        Bracket(rungs=(Rung(trials=1, resource=least * (most / least) ** ((i + 0.5) / trials)),))
        for i in range(trials)
    )


def _check(trials: int, eta: int) -> None:
    if not 1 <= trials <= MAX_TRIALS:
        raise InputError(f"sweep: {trials:,} trials: must be from 1 to {MAX_TRIALS:,}")
    if eta < 2:
        raise InputError(f"sweep.eta = {eta}: must be at least 2: one in eta goes on")
