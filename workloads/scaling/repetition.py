"""Repeated data: what a token is worth the second time (Muennighoff et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from ridgeline.errors import InfeasibleError
from ridgeline.workloads.scaling.allocation import FLOPS_PER_PARAM_TOKEN, LossSurface, Optimum
from ridgeline.workloads.scaling.bundle import Bundle

_SEARCH_STEPS = 200
"""Of a golden-section search: the interval shrinks below the resolution of a double."""
_GOLDEN = (5.0**0.5 - 1.0) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConstrained:
    """L = E + A / N'^alpha + B / D'^beta with effective parameters and tokens.

    It cannot predict that loss gets worse with epochs, and its R2 over 182 runs is 0.77.
    """

    bundle: Bundle

    def effective_tokens(self, tokens: float, unique: float) -> float:
        """Return D' = U_D + U_D R* (1 - exp(-R / R*)) with R = D / U_D - 1 repeats.

        D itself when there is no repetition; at most (1 + R*) U_D.
        """
        if tokens <= unique:
            return tokens
        star = self.bundle["R_D_star"]
        repeats = tokens / unique - 1.0
        return unique * (1.0 + star * (1.0 - exp(-repeats / star)))

    def effective_params(self, params: float, unique: float) -> float:
        """Return N' = U_N + U_N R* (1 - exp(-R / R*)) with R = N / U_N - 1, U_N <= N.

        U_N is the parameter count that the unique tokens would have in an optimal run.
        """
        base = min(self.unique_params(unique), params)
        star = self.bundle["R_N_star"]
        excess = params / base - 1.0
        return base * (1.0 + star * (1.0 - exp(-excess / star)))

    def unique_params(self, unique: float) -> float:
        """Return U_N, with U_N / U_D as the paper's constants give it: G^2 at alpha = beta."""
        b = self.bundle
        scale = (b["alpha"] * b["A"] / (b["beta"] * b["B"])) ** (1.0 / (b["alpha"] + b["beta"]))
        return float((unique * scale) ** (b["beta"] / b["alpha"]) * scale)

    def loss(self, params: float, tokens: float, unique: float | None = None) -> float:
        """Return the loss, nats per token; without ``unique`` every token is new."""
        if unique is None:
            return LossSurface(bundle=self.bundle).loss(params, tokens)
        return LossSurface(bundle=self.bundle).loss(
            self.effective_params(params, unique), self.effective_tokens(tokens, unique)
        )

    def optimal(self, flops: float, unique: float | None = None) -> Optimum:
        """Return the best N and D for C, of ``unique`` tokens where they are limited.

        Raises
        ------
        InfeasibleError
            When there are no unique tokens.
        """
        free = LossSurface(bundle=self.bundle).optimal(flops)
        if unique is None or free.tokens <= unique:
            return free
        if unique <= 0:
            raise InfeasibleError("no unique tokens: nothing can be trained on no data")
        product = flops / FLOPS_PER_PARAM_TOKEN

        def loss_at(log_params: float) -> float:
            params = exp(log_params)
            return self.loss(params, product / params, unique)

        low, high = log(free.params) - log(1e4), log(free.params) + log(1e4)
        for _ in range(_SEARCH_STEPS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            if loss_at(left) <= loss_at(right):
                high = right
            else:
                low = left
        params = exp((low + high) / 2.0)
        return Optimum(
            law=self.bundle.name,
            flops=flops,
            params=params,
            tokens=product / params,
            loss=self.loss(params, product / params, unique),
        )

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return ("A", "B", "E", "alpha", "beta", "R_D_star", "R_N_star")
