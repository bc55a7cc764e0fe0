"""The batch of a run, and how much data parallelism it can still use.

The batch of least loss is Step Law's; beyond the critical batch of the final loss (McCandlish et
al. 2018, with the constants of Kaplan et al. 2020) more sequences in a step save hardly any steps,
so that is where data parallelism stops to be useful.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2

from ridgeline.workloads.scaling.allocation import KaplanJoint
from ridgeline.workloads.scaling.batch import BatchTrade, CriticalBatch, StepLaw
from ridgeline.workloads.scaling.bundle import load_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchChoice:
    """A batch and what the laws say of it; in tokens."""

    sequences: int
    tokens: int
    best_tokens: float
    """Step Law's for the run."""
    critical_tokens: float
    """Kaplan's at the loss that his joint law gives the run."""

    @property
    def trade(self) -> BatchTrade:
        """Where the batch lies between fewest steps and fewest tokens."""
        return BatchTrade(batch=self.tokens, critical=self.critical_tokens)


def critical_batch_tokens(nonembedding_params: float, tokens: float) -> float:
    """Return Kaplan's critical batch at the end of a run, on Kaplan's own scale of losses."""
    loss = KaplanJoint(bundle=load_bundle("kaplan-2020-joint")).loss(nonembedding_params, tokens)
    return CriticalBatch(bundle=load_bundle("kaplan-2020-batch")).critical(loss)


def choose_batch(
    *, nonembedding_params: float, tokens: float, seq_len: int, accelerators: int, sequences: int
) -> BatchChoice:
    """Choose the global batch of a run of ``tokens``.

    Parameters
    ----------
    nonembedding_params, tokens
        N without embeddings and D of the run.
    seq_len
        Tokens in a sequence.
    accelerators
        Of the cluster. The batch is a power of two times the odd part of this count, so that data
        parallelism of any degree divides it; a power of two where that is more than the batch.
    sequences
        0 for the nearest such batch to Step Law's and not above the critical one; else this many.
    """
    best = StepLaw(bundle=load_bundle("step-law-2025")).batch(tokens)
    critical = critical_batch_tokens(nonembedding_params, tokens)
    if not sequences:
        wanted = max(1.0, min(best, critical) / seq_len)
        odd = odd_part(accelerators)
        unit = odd if odd <= wanted else 1
        power = max(0, round(log2(wanted / unit)))
        if unit * 2**power * seq_len > critical:
            power = max(0, floor(log2(max(1.0, critical / seq_len / unit))))
        sequences = unit * 2**power
    return BatchChoice(
        sequences=sequences,
        tokens=sequences * seq_len,
        best_tokens=best,
        critical_tokens=critical,
    )


def odd_part(count: int) -> int:
    """Return a count without its factors of two."""
    return count // (count & -count)
