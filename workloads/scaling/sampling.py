"""Laws beside the allocation of compute: repeated sampling, precision, pruning on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from ridgeline.workloads.scaling.allocation import LossSurface
from ridgeline.workloads.scaling.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """c(k) = exp(a k^b), a < 0, b < 0: share of tasks that one of k samples solves.

    Brown et al. 2024, eq 3. The pair belongs to one model on one set of tasks.
    """

    a: float
    b: float

    def share(self, samples: float) -> float:
        """Return the share solved by at least one of ``samples``."""
        return exp(self.a * samples**self.b)

    def samples_for(self, share: float) -> float:
        """Return how many samples reach a share between that of one sample and 1."""
        return float((log(share) / self.a) ** (1.0 / self.b))


def coverage_through(one: float, share: float, samples: float) -> Coverage:
    """Return the law through the share of one sample and the share of ``samples``."""
    a = log(one)
    return Coverage(a=a, b=log(log(share) / a) / log(samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """N_eff = N prod (1 - exp(-P / gamma)) for training in few bits (Kumar et al. 2024)."""

    bundle: Bundle

    def effective_params(
        self, params: float, *, weight_bits: float, activation_bits: float, kv_bits: float
    ) -> float:
        """Return the parameters of a full-precision model as good."""
        b = self.bundle
        for bits, gamma in (
            (weight_bits, b["gamma_w"]),
            (activation_bits, b["gamma_a"]),
            (kv_bits, b["gamma_kv"]),
        ):
            params *= 1.0 - exp(-bits / gamma)
        return params


def mean_params(sizes: Sequence[tuple[float, float]]) -> float:
    """Return the mean of N over the tokens of a run that is pruned on the way.

    Parameters
    ----------
    sizes
        (parameters, share of the tokens) of each piece; shares add up to 1.
    """
    assert abs(sum(share for _, share in sizes) - 1.0) < 1e-9, sizes
    return sum(params * share for params, share in sizes)


def pruned_params(dense: float, final: float, bundle: Bundle) -> float:
    """Return the mean of N when pruning runs evenly from 25 % to 75 % of a run.

    Jin et al. 2025: those shares of the compute were best; here they are taken of the tokens.
    """
    start, end = bundle["prune_start"], bundle["prune_end"]
    return mean_params(
        ((dense, start), ((dense + final) / 2.0, end - start), (final, 1.0 - end)),
    )


def sparse_loss(law: LossSurface, sizes: Sequence[tuple[float, float]], tokens: float) -> float:
    """Return L(mean N, D), nats per token (Jin et al. 2025).

    The paper's own coefficients were not recovered: ``law`` stands in for them.
    """
    return law.loss(mean_params(sizes), tokens)
