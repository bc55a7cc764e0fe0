"""Mixture of experts: what sparsity is worth in loss and in compute."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, log10

from ridgeline.workloads.scaling.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class FineGrained:
    """L = c + (g / G^gamma + a) / N^alpha + b / D^beta (Krajewski et al. 2024)."""

    bundle: Bundle

    def loss(self, params: float, tokens: float, granularity: float) -> float:
        """Return the loss, nats per token.

        Parameters
        ----------
        params
            N.
        tokens
            Trained on.
        granularity
            G = d_ff / d_expert.
        """
        b = self.bundle
        size = (b["g"] / granularity ** b["gamma"] + b["a"]) / params ** b["alpha"]
        return float(b["c"] + size + b["b"] / tokens ** b["beta"])

    def flops(
        self, *, hidden: int, experts: int, granularity: float, layers: int, tokens: float
    ) -> float:
        """Return (12 h^2 c_f + h E G c_r) D L; c_f and c_r are memory only."""
        b = self.bundle
        routing = hidden * experts * granularity * b["c_r"]
        return (12.0 * hidden**2 * b["c_f"] + routing) * tokens * layers


@dataclass(frozen=True, slots=True, kw_only=True)
class JointMoE:
    """One law for dense models and mixtures (Ludziejewski et al. 2025, eq 6).

    L = a e^delta N^(alpha + gamma ln e) + b e^omega D^(beta + zeta ln e) + c, N active parameters,
    e the saturating count of experts.
    """

    bundle: Bundle

    def loss(self, active_params: float, tokens: float, experts: float) -> float:
        """Return the loss, nats per token; 1 expert is a dense model."""
        b = self.bundle
        e = saturating(experts, b["E_start"], b["E_max"])
        size = b["a"] * e ** b["delta"] * active_params ** (b["alpha"] + b["gamma"] * log(e))
        data = b["b"] * e ** b["omega"] * tokens ** (b["beta"] + b["zeta"] * log(e))
        return float(size + data + b["c"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """log L = a log N + b log e + c log N log e + d (Clark et al. 2022), logs base 10."""

    bundle: Bundle

    def loss(self, params: float, experts: float) -> float:
        """Return the loss, nats per token, of the paper's runs."""
        b = self.bundle
        size = log10(params)
        width = log10(saturating(experts, b["E_start"], b["E_max"]))
        return float(10.0 ** (b["a"] * size + b["b"] * width + b["c"] * size * width + b["d"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyLeverage:
    """How many times the compute a dense model of equal loss takes (Tian et al. 2025, eq 13).

    EL = a'^(a + d log10 C + gamma (log2 G)^2 + beta log2 G); the bases of the logarithms follow
    from the paper's own examples.
    """

    bundle: Bundle

    def leverage(self, *, activation: float, granularity: float, flops: float) -> float:
        """Return C_dense / C_moe.

        Parameters
        ----------
        activation
            A = (active + shared) / (routed + shared) experts.
        granularity
            G = 2 h / d_expert.
        flops
            C, non-embedding training FLOP of the mixture.
        """
        b = self.bundle
        ratio = saturating(activation + 1.0, b["A_start"], b["A_max"])
        bits = log(granularity) / log(b["log_base_granularity"])
        power = b["a"] + b["d"] * log(flops) / log(b["log_base_flops"])
        return float(ratio ** (power + b["gamma"] * bits**2 + b["beta"] * bits))

    def best_granularity(self) -> float:
        """Return the G where the exponent is least: leverage is greatest there, at any A < 1."""
        b = self.bundle
        return exp(-b["beta"] / (2.0 * b["gamma"]) * log(b["log_base_granularity"]))


def saturating(count: float, start: float, most: float) -> float:
    """Return e with 1/e = 1/(E - 1 + 1/(1/start - 1/most)) + 1/most (Clark et al. 2022).

    e is ``start`` at E = 1 and tends to ``most``.
    """
    return 1.0 / (1.0 / (count - 1.0 + 1.0 / (1.0 / start - 1.0 / most)) + 1.0 / most)
