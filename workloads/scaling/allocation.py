"""Laws of training compute: the loss of N parameters on D tokens, and the best N and D for C.

C is in FLOP with C = 6 N D, N parameters as the bundle counts them, D tokens, losses in nats per
token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

from ridgeline.workloads.scaling.bundle import Bundle

FLOPS_PER_PARAM_TOKEN = 6.0
"""Training: two for the forward pass and four for the backward pass (Kaplan et al. 2020, 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best split of a compute budget under one law."""

    law: str
    flops: float
    params: float
    tokens: float
    loss: float | None
    """None when the law says only how to split, not what loss comes of it."""

    @property
    def tokens_per_param(self) -> float:
        """D / N."""
        return self.tokens / self.params


class AllocationLaw(Protocol):
    """What every law of training compute can say."""

    @property
    def bundle(self) -> Bundle:
        """Its constants."""
        ...

    def optimal(self, flops: float) -> Optimum:
        """Return the best N and D for a budget of training FLOP."""
        ...

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        ...


class LossLaw(AllocationLaw, Protocol):
    """A law that says what loss N parameters reach on D tokens."""

    def loss(self, params: float, tokens: float) -> float:
        """Return the loss, nats per token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSurface:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq 2)."""

    bundle: Bundle

    def loss(self, params: float, tokens: float) -> float:
        """Return the loss, nats per token."""
        b = self.bundle
        return float(b["E"] + b["A"] / params ** b["alpha"] + b["B"] / tokens ** b["beta"])

    def optimal(self, flops: float) -> Optimum:
        """Return the minimum of L on 6 N D = C.

        N = G (C/6)^a and D = (C/6)^b / G with a = beta / (alpha + beta), b = 1 - a and
        G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022, eq 4).
        """
        b = self.bundle
        alpha, beta = b["alpha"], b["beta"]
        scale = (alpha * b["A"] / (beta * b["B"])) ** (1.0 / (alpha + beta))
        product = flops / FLOPS_PER_PARAM_TOKEN
        params = scale * product ** (beta / (alpha + beta))
        tokens = product / params
        return Optimum(
            law=b.name,
            flops=flops,
            params=params,
            tokens=tokens,
            loss=self.loss(params, tokens),
        )

    def tokens_for(self, params: float, loss: float) -> float:
        """Return the tokens that bring N parameters to a loss; infinite when none do."""
        b = self.bundle
        left = loss - b["E"] - b["A"] / params ** b["alpha"]
        return (b["B"] / left) ** (1.0 / b["beta"]) if left > 0 else inf

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return ("A", "B", "E", "alpha", "beta")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """N = k C^a and D = C / (6 N): isoFLOP minima joined by a line in logarithms."""

    bundle: Bundle

    def optimal(self, flops: float) -> Optimum:
        """Return N on the line and the tokens that the budget leaves it."""
        params = self.bundle["params_coefficient"] * flops ** self.bundle["params_exponent"]
        return _split(self.bundle, flops, params)

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return ("params_coefficient", "params_exponent")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredPowerLaw:
    """N = N_1 (C / C_1)^p: Kaplan's exponent through a point that another paper computed.

    Kaplan's own prefactor is known from memory only, and belongs to C_min, which is C / 2 at the
    critical batch; the anchor is stated for all compute.
    """

    bundle: Bundle

    def optimal(self, flops: float) -> Optimum:
        """Return N on the line and the tokens that the budget leaves it."""
        b = self.bundle
        params = b["anchor_params"] * (flops / b["anchor_flops"]) ** b["params_exponent"]
        return _split(b, flops, params)

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return ("anchor_params", "anchor_flops", "params_exponent")


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRatio:
    """D = r N; with ``scale``, ``exponent`` and ``offset`` the loss of such runs too.

    L = (C / scale)^exponent + offset (Dey et al. 2023, eq 1).
    """

    bundle: Bundle

    def optimal(self, flops: float) -> Optimum:
        """Return N and D with C = 6 r N^2."""
        b = self.bundle
        params = (flops / (FLOPS_PER_PARAM_TOKEN * b["tokens_per_param"])) ** 0.5
        return _split(b, flops, params, self.loss_of(flops))

    def loss_of(self, flops: float) -> float | None:
        """Return the loss of a run of C FLOP at the ratio, None when the law has none."""
        b = self.bundle
        if not any(constant.name == "scale" for constant in b.constants):
            return None
        return float((flops / b["scale"]) ** b["exponent"] + b["offset"])

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return tuple(constant.name for constant in self.bundle.constants)


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanJoint:
    """L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, eq 1.5)."""

    bundle: Bundle

    def loss(self, params: float, tokens: float) -> float:
        """Return the loss, nats per token; ``params`` without embeddings."""
        b = self.bundle
        return float((self._size_term(params) + b["D_c"] / tokens) ** b["alpha_D"])

    def optimal(self, flops: float) -> Optimum:
        """Return the minimum of L on 6 N D = C.

        With s = alpha_N / alpha_D and k = 6 D_c / C the inner sum is (N_c / N)^s + k N, which is
        smallest at N^(s + 1) = s N_c^s / k. This is the split of converged models at one batch,
        not Kaplan's allocation of C_min, which trains larger models on fewer tokens.
        """
        b = self.bundle
        s = b["alpha_N"] / b["alpha_D"]
        k = FLOPS_PER_PARAM_TOKEN * b["D_c"] / flops
        params = (s * b["N_c"] ** s / k) ** (1.0 / (s + 1.0))
        tokens = flops / (FLOPS_PER_PARAM_TOKEN * params)
        return _split(b, flops, params, self.loss(params, tokens))

    def tokens_to_not_overfit(self, params: float) -> float:
        """Return D = 5e3 N^0.74, below which repetition costs over 2 % of loss (section 4)."""
        b = self.bundle
        return float(b["overfit_tokens"] * params ** b["overfit_exponent"])

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return ("alpha_N", "alpha_D", "N_c", "D_c")

    def _size_term(self, params: float) -> float:
        b = self.bundle
        return float((b["N_c"] / params) ** (b["alpha_N"] / b["alpha_D"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanSingle:
    """L = (X_c / X)^alpha_X where only X limits (Kaplan et al. 2020, eq 1.1 to 1.3)."""

    bundle: Bundle

    def loss_of_params(self, params: float) -> float:
        """Return the loss of N parameters (without embeddings) on ample data."""
        return float((self.bundle["N_c"] / params) ** self.bundle["alpha_N"])

    def loss_of_tokens(self, tokens: float) -> float:
        """Return the loss of a large model stopped early on D tokens."""
        return float((self.bundle["D_c"] / tokens) ** self.bundle["alpha_D"])

    def loss_of_flops(self, flops: float) -> float:
        """Return the loss of C FLOP at one fixed batch."""
        pf_days = flops / self.bundle["pf_day"]
        return float((self.bundle["C_c"] / pf_days) ** self.bundle["alpha_C"])

    def loss_of_least_flops(self, flops: float) -> float:
        """Return the loss of C_min FLOP far below the critical batch; its C_c is memory only."""
        pf_days = flops / self.bundle["pf_day"]
        return float((self.bundle["C_c_min"] / pf_days) ** self.bundle["alpha_C_min"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """N, D, loss and FID as powers of C for diffusion transformers (Liang et al. 2024)."""

    bundle: Bundle

    def optimal(self, flops: float) -> Optimum:
        """Return N and D on their lines; 6 N D is about C where the law was fitted."""
        b = self.bundle
        return Optimum(
            law=b.name,
            flops=flops,
            params=b["params_coefficient"] * flops ** b["params_exponent"],
            tokens=b["tokens_coefficient"] * flops ** b["tokens_exponent"],
            loss=b["loss_coefficient"] * flops ** b["loss_exponent"],
        )

    def fid(self, flops: float) -> float:
        """Return the Frechet distance of generated images, in CLIP features."""
        return float(self.bundle["fid_coefficient"] * flops ** self.bundle["fid_exponent"])

    def used(self) -> tuple[str, ...]:
        """Return the names of the constants behind ``optimal``."""
        return tuple(c.name for c in self.bundle.constants if not c.name.startswith("fid"))


def _split(bundle: Bundle, flops: float, params: float, loss: float | None = None) -> Optimum:
    return Optimum(
        law=bundle.name,
        flops=flops,
        params=params,
        tokens=flops / (FLOPS_PER_PARAM_TOKEN * params),
        loss=loss,
    )
