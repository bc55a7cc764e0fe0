"""Does the simulator rank plans as measurements do? Groups of rows of one model and cluster."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from ridgeline.validation.training import ReportRow

CLOSE = 0.03
"""A chosen plan this close to the measured best is as good as the best."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """How well plans are ranked within groups."""

    groups: int
    best: float
    """Share of groups whose simulated best plan is the measured best or within ``CLOSE`` of it."""
    tau: float
    """Mean of Kendall's tau over the groups."""
    missed: tuple[str, ...]
    """Of each group that is not: the row that the simulator picks and what that costs."""


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-a: concordant less discordant pairs over all pairs.

    Pairs tied in either sequence count as neither. Both must have the same length, two or more
    (Kendall 1938, Biometrika 30, 81).
    """
    assert len(first) == len(second) >= 2
    score = pairs = 0
    for i, j in combinations(range(len(first)), 2):
        product = (first[i] - first[j]) * (second[i] - second[j])
        score += (product > 0) - (product < 0)
        pairs += 1
    return score / pairs


def ordering(rows: Iterable[ReportRow], *, same_job: bool = False) -> Ordering | None:
    """Rank plans by seconds per token in groups of one source, model, accelerator and their number.

    Parameters
    ----------
    rows
        Compared rows; those without an error or without tokens are left out.
    same_job
        Also keep tokens of a step and precision equal in a group: only the plan differs.

    Returns
    -------
    Ordering or None
        None when no group has two rows.
    """
    groups: dict[tuple[Hashable, ...], list[ReportRow]] = {}
    for row in rows:
        if row.error is None or not row.tokens:
            continue
        key: tuple[Hashable, ...] = (row.source, row.model, row.accelerator, row.accelerators)
        if same_job:
            key = (*key, row.tokens, row.precision)
        groups.setdefault(key, []).append(row)
    taus: list[float] = []
    missed: list[str] = []
    for members in groups.values():
        if len(members) < 2:
            continue
        measured = [(r.measured_step_time_s or 0.0) / (r.tokens or 1) for r in members]
        predicted = [(r.predicted_step_time_s or 0.0) / (r.tokens or 1) for r in members]
        taus.append(kendall_tau(measured, predicted))
        choice = min(range(len(members)), key=lambda i: (predicted[i], members[i].id))
        loss = measured[choice] / min(measured) - 1.0
        if loss > CLOSE:
            missed.append(f"{members[choice].id} (+{100 * loss:.1f}%)")
    if not taus:
        return None
    return Ordering(len(taus), 1.0 - len(missed) / len(taus), fmean(taus), tuple(sorted(missed)))
