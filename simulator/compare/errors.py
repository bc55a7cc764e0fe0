"""What the errors of two predictions have in common, from left-out residuals (``errors.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log
from statistics import NormalDist
from typing import Any

COVERED = 0.8
"""Share of measured steps that a range holds (``validation.accuracy.ranges``)."""
TAIL = NormalDist().inv_cdf((1.0 + COVERED) / 2.0)
"""Standard deviations from the middle of such a range to its ends, 1.2816."""
COMPONENTS = ("stack", "accelerator", "pair", "cluster", "plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of the variance of a log-error by what two predictions must share to have it."""

    stack: float
    accelerator: float
    pair: float
    """Stack and accelerator together."""
    cluster: float
    plan: float
    """What one plan alone has; the five add up to 1."""


@cache
def error_data() -> dict[str, Any]:
    """Return ``errors.toml``: of components their shares, and how differences come out."""
    text = (files("ridgeline.simulator") / "compare" / "errors.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def shipped_shares() -> Shares:
    """Return the shares that the residuals of validation give."""
    return Shares(**{name: float(error_data()[name]["share"]) for name in COMPONENTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The logarithm of true over predicted: normal, and what its error belongs to."""

    center: float
    sigma: float
    stack: str
    accelerator: str
    cluster: str
    """Whose machines: the provider, and the kind of cluster."""
    plan: str
    """Everything that the simulator was told; equal for one prediction alone."""


def spread_of(
    low: float, high: float, *, stack: str, accelerator: str, cluster: str, plan: str
) -> Spread:
    """Return the spread of a prediction whose true value is in [low, high] four times in five.

    Parameters
    ----------
    low, high
        Bounds over the prediction. The logarithm is normal with the tenth and the ninetieth
        percentile there: center = (ln high + ln low) / 2, sigma = (ln high - ln low) / 2.563.
    """
    assert 0.0 < low <= high, (low, high)
    return Spread(
        center=(log(high) + log(low)) / 2.0,
        sigma=(log(high) - log(low)) / (2.0 * TAIL),
        stack=stack,
        accelerator=accelerator,
        cluster=cluster,
        plan=plan,
    )


def correlation(first: Spread, second: Spread, shares: Shares) -> float:
    """Return the correlation of two log-errors: the shares of the components that both have.

    A component is the same when all that it belongs to is: the pair needs stack and accelerator,
    the cluster these and the machines, the plan stack, accelerator and what was simulated.
    """
    stack = first.stack == second.stack
    accelerator = first.accelerator == second.accelerator
    both = stack and accelerator
    common = (
        (shares.stack, stack),
        (shares.accelerator, accelerator),
        (shares.pair, both),
        (shares.cluster, both and first.cluster == second.cluster),
        (shares.plan, both and first.plan == second.plan),
    )
    return min(1.0, sum(share for share, holds in common if holds))
