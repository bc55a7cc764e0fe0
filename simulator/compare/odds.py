"""How likely one of two uncertain amounts is the smaller, and what taking the wrong one costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import NormalDist

from ridgeline.simulator.compare.errors import COVERED, Shares, Spread, correlation

RANKED = COVERED
"""Two are ranked when one is the smaller with at least this probability, that of a range."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """A against B, in seconds or dollars."""

    smaller: float
    """Probability that A is the smaller."""
    correlation: float
    """Of their log-errors."""
    regret: float
    """Expected loss of taking A where B may be smaller: E[max(A - B, 0)]."""
    regret_if_wrong: float
    """The same given that B is the smaller; 0 where it cannot be."""

    @property
    def ranked(self) -> bool:
        """Whether either is the smaller with enough probability."""
        return max(self.smaller, 1.0 - self.smaller) >= RANKED


def odds(
    first: float, first_spread: Spread, second: float, second_spread: Spread, shares: Shares
) -> Odds:
    """Compare two predicted amounts.

    ln A and ln B are jointly normal with means m = ln(predicted) + center and variance of the
    difference s^2 = sa^2 + sb^2 - 2 rho sa sb, so that P(A < B) = Phi((mB - mA) / s). The regret is
    the value of the option to exchange one for the other (Margrabe 1978, The Journal of Finance 33,
    177): E[max(A - B, 0)] = E[A] Phi(d) - E[B] Phi(d - s) with d = ln(E[A] / E[B]) / s + s / 2.

    Parameters
    ----------
    first, second
        Predicted, positive.
    first_spread, second_spread
        Their errors.
    shares
        What of the errors may be common.
    """
    assert first > 0.0, first
    assert second > 0.0, second
    rho = correlation(first_spread, second_spread, shares)
    sa, sb = first_spread.sigma, second_spread.sigma
    # the second form is 0 where the first would be a difference of rounding
    s = sqrt(max(0.0, (sa - sb) ** 2 + 2.0 * (1.0 - rho) * sa * sb))
    mean_a = log(first) + first_spread.center
    mean_b = log(second) + second_spread.center
    expected_a, expected_b = exp(mean_a + sa * sa / 2.0), exp(mean_b + sb * sb / 2.0)
    if s == 0.0:
        smaller = 0.5 if mean_a == mean_b else float(mean_a < mean_b)
        loss = max(0.0, expected_a - expected_b)
        return Odds(
            smaller=smaller,
            correlation=rho,
            regret=loss,
            regret_if_wrong=loss if smaller < 1.0 else 0.0,
        )
    d = log(expected_a / expected_b) / s + s / 2.0
    wrong = _NORMAL.cdf((mean_a - mean_b) / s)
    regret = max(0.0, expected_a * _NORMAL.cdf(d) - expected_b * _NORMAL.cdf(d - s))
    return Odds(
        smaller=1.0 - wrong,
        correlation=rho,
        regret=regret,
        regret_if_wrong=regret / wrong if wrong > 1e-12 else 0.0,
    )


def tie_price(price: float, own: float, other: float) -> float:
    """Return the price at which a cost in proportion to it equals another cost.

    Parameters
    ----------
    price, own
        The price of an accelerator-hour now, and the cost of the job at it.
    other
        The cost to meet.
    """
    return price * other / own if own > 0.0 else inf
