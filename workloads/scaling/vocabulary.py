"""How large a vocabulary deserves to be (Tao et al. 2024).

N_v = V d parameters of one embedding, N_nv all others, both in parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from ridgeline.workloads.scaling.bundle import Bundle

_SEARCH_STEPS = 200
_GOLDEN = (5.0**0.5 - 1.0) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyLaw:
    """The paper's three approaches, with the full precision of its code."""

    bundle: Bundle

    def params_of_compute(self, flops: float) -> tuple[float, float]:
        """Return (N_nv, N_v) for a compute budget (approach 1)."""
        b = self.bundle
        return (
            b["nonvocab_coefficient"] * flops ** b["nonvocab_exponent"],
            b["vocab_coefficient"] * flops ** b["vocab_exponent"],
        )

    def compute_of(self, nonvocab_params: float) -> float:
        """Return the compute budget for which approach 1 gives these other parameters."""
        b = self.bundle
        return float(
            (nonvocab_params / b["nonvocab_coefficient"]) ** (1.0 / b["nonvocab_exponent"])
        )

    def params_of_size(self, nonvocab_params: float) -> float:
        """Return N_v for a model size alone (approach 2, from derivatives)."""
        b = self.bundle
        return float(
            b["anchor_vocab_params"]
            * (nonvocab_params / b["anchor_nonvocab_params"]) ** (b["gamma"])
        )

    def loss(self, nonvocab_params: float, vocab: float, hidden: int, flops: float) -> float:
        """Return the loss relative to a unigram model (approach 3), D being what C leaves."""
        b = self.bundle
        millions = nonvocab_params / 1e6
        embedding = (vocab / 1e3) * (hidden / 1e3)
        tokens = flops / 1e15 / (6.0 * (millions + embedding))
        return float(
            -b["E"]
            + b["A1"] / millions ** b["alpha1"]
            + b["A2"] / embedding ** b["alpha2"]
            + b["B"] / tokens ** b["beta"]
        )

    def vocab_of_loss(self, nonvocab_params: float, hidden: int, flops: float) -> float:
        """Return the V of least loss at fixed N_nv, d and C (approach 3)."""
        low, high = log(1e2), log(1e8)
        for _ in range(_SEARCH_STEPS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            if self.loss(nonvocab_params, exp(left), hidden, flops) <= self.loss(
                nonvocab_params, exp(right), hidden, flops
            ):
                high = right
            else:
                low = left
        return exp((low + high) / 2.0)
