"""Counting lifetime inference: a smaller model trained longer (Sardana et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, log

from ridgeline.errors import InfeasibleError
from ridgeline.workloads.scaling.allocation import FLOPS_PER_PARAM_TOKEN, LossSurface

FLOPS_PER_PARAM_SERVED = 2.0
"""Forward pass alone."""
_GOLDEN = (5.0**0.5 - 1.0) / 2.0
_SEARCH_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """The cheapest model of a given quality over training and serving."""

    params: float
    tokens: float
    loss: float
    training: float
    """FLOP, or whatever the prices are in."""
    serving: float
    saved: float
    """Share of the total that training at the least training cost would have taken."""

    @property
    def total(self) -> float:
        """Training and serving."""
        return self.training + self.serving


def cheapest_over_lifetime(
    law: LossSurface,
    *,
    loss: float,
    served_tokens: float,
    price_of_training: float = 1.0,
    price_of_serving: float = 1.0,
) -> Lifetime:
    """Return the N and D that reach a loss at the least cost of training and serving.

    min over N of p_t 6 N D(N) + p_s 2 N T with L(N, D(N)) = loss and T tokens served
    (Sardana et al. 2023, eq 3; section 4 for prices).

    Parameters
    ----------
    law
        A loss surface; the paper's figures are of the unrounded constants of Hoffmann's third
        approach.
    loss
        Quality wanted, nats per token.
    served_tokens
        Over the life of the model, prompts and answers.
    price_of_training, price_of_serving
        Of one FLOP, in any one unit; both 1 counts FLOP.

    Raises
    ------
    InfeasibleError
        When no model reaches the loss: it is not above the law's irreducible loss.
    """
    floor = law.bundle["E"]
    if loss <= floor:
        raise InfeasibleError(
            f"loss {loss:g}: no model reaches it, {law.bundle.name} ends at {floor:g}"
        )

    def costs(log_params: float) -> tuple[float, float]:
        params = exp(log_params)
        tokens = law.tokens_for(params, loss)
        training = price_of_training * FLOPS_PER_PARAM_TOKEN * params * tokens
        return training, price_of_serving * FLOPS_PER_PARAM_SERVED * params * served_tokens

    # N must exceed (A / (loss - E))^(1 / alpha), where D becomes infinite.
    least = log(law.bundle["A"] / (loss - floor)) / law.bundle["alpha"]
    best = _minimum(lambda x: sum(costs(x)), least, least + log(1e6))
    plain = _minimum(lambda x: costs(x)[0], least, least + log(1e6))
    training, serving = costs(best)
    return Lifetime(
        params=exp(best),
        tokens=law.tokens_for(exp(best), loss),
        loss=loss,
        training=training,
        serving=serving,
        saved=1.0 - (training + serving) / sum(costs(plain)),
    )


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum, infinite at most to its left, is least."""
    for _ in range(_SEARCH_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = function(left), function(right)
        if at_left < at_right or (at_left == at_right and at_left < inf):
            high = right
        else:
            low = left
    return (low + high) / 2.0
