"""How large a batch is still useful.

Between the fewest steps S_min (an endless batch) and the fewest tokens E_min (a small one) lies a
hyperbola; its corner is the critical batch (McCandlish et al. 2018). Batches are in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.workloads.scaling.bundle import Bundle

REGIMES = ("perfect scaling", "diminishing returns", "maximal data parallelism")
"""Of Shallue et al. 2018: steps fall as 1/B; fall less; fall no more. Their 35 workloads share the
regimes and no constants."""
EDGE = 0.1
"""Share of the critical batch below which, and share of S_min within which, a regime is called
pure: within a tenth the hyperbola is a tenth from its asymptote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTrade:
    """What a batch costs in steps and in tokens, as multiples of the least of each."""

    batch: float
    critical: float

    @property
    def steps_over_least(self) -> float:
        """S / S_min = 1 + B_crit / B, from (S/S_min - 1)(E/E_min - 1) = 1."""
        return 1.0 + self.critical / self.batch

    @property
    def tokens_over_least(self) -> float:
        """E / E_min = 1 + B / B_crit."""
        return 1.0 + self.batch / self.critical

    @property
    def regime(self) -> str:
        """Which of Shallue's ``REGIMES`` the batch lies in."""
        if self.batch <= EDGE * self.critical:
            return REGIMES[0]
        return REGIMES[2] if self.critical <= EDGE * self.batch else REGIMES[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalBatch:
    """B_crit = B_star / L^(1 / alpha_B) of the loss reached (Kaplan et al. 2020, eq 1.4)."""

    bundle: Bundle

    def critical(self, loss: float) -> float:
        """Return the critical batch at a loss on Kaplan's scale, in tokens."""
        return float(self.bundle["B_star"] / loss ** (1.0 / self.bundle["alpha_B"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaw:
    """B = 0.58 D^0.571 and eta = 1.79 N^-0.713 D^0.307 (Step Law 2025)."""

    bundle: Bundle

    def batch(self, tokens: float) -> float:
        """Return the batch of least loss for a run of D tokens, in tokens."""
        return float(self.bundle["batch_coefficient"] * tokens ** self.bundle["batch_exponent"])

    def learning_rate(self, params: float, tokens: float) -> float:
        """Return the peak learning rate of Adam of least loss."""
        b = self.bundle
        power = params ** b["rate_params_exponent"] * tokens ** b["rate_tokens_exponent"]
        return float(b["rate_coefficient"] * power)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """L = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S (Kaplan et al. 2020, eq 1.6); memory only."""

    bundle: Bundle

    def loss(self, params: float, steps: float) -> float:
        """Return the loss after ``steps`` at a batch far above the critical one."""
        b = self.bundle
        return float((b["N_c"] / params) ** b["alpha_N"] + (b["S_c"] / steps) ** b["alpha_S"])


def simple_noise_scale(gradient_variance: float, gradient_norm: float) -> float:
    """Return B_simple = tr(Sigma) / |G|^2 (McCandlish et al. 2018, section 2), in examples.

    Parameters
    ----------
    gradient_variance
        Trace of the covariance of one example's gradient.
    gradient_norm
        Length of the mean gradient.
    """
    return gradient_variance / gradient_norm**2


def learning_rate_at(batch: float, noise_scale: float, largest: float) -> float:
    """Return eps_max / (1 + B_noise / B) (McCandlish et al. 2018, section 2)."""
    return largest / (1.0 + noise_scale / batch)
