"""The plan that a rule of thumb gives, to say what a search is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.search.space import Candidates, Space

RULE = (
    "tensor parallelism over the node, the fewest pipeline stages that fit, data parallelism "
    "for the rest, the smallest micro-batch, a distributed optimizer"
)

Fits = Callable[[Candidates], NDArray[np.bool_]]
Rows = NDArray[np.intp]


def heuristic_rows(space: Space, candidates: Candidates, fits: Fits) -> Rows:
    """Return the candidate that the rule picks on each cluster where one of its plans fits.

    Parameters
    ----------
    space, candidates
        All of the space.
    fits
        Says which candidates keep to the memory that they have.

    Notes
    -----
    Context parallelism and micro-batch are the smallest, ZeRO stage 1 or the nearest there is, the
    schedule the first that does not interleave. Then the fewest stages come first, the least
    recomputation (in the order of the space) second, the fewest ways of experts last.
    """
    ruled = [
        _ranked(cluster.per_node, candidates, np.flatnonzero(candidates.cluster == index))
        for index, cluster in enumerate(space.clusters)
    ]
    rows = np.concatenate([np.zeros(0, np.intp), *ruled])
    rows = rows[fits(candidates.take(rows))]
    _, first = np.unique(candidates.cluster[rows], return_index=True)
    return rows[first]


def _ranked(per_node: int, candidates: Candidates, rows: Rows) -> Rows:
    """Return those of ``rows`` that the rule allows, the one it likes best first."""
    within = np.where(candidates.tp <= per_node, -candidates.tp, candidates.tp)
    for rank in (
        within,
        candidates.cp,
        candidates.micro_batch_seqs,
        np.abs(candidates.zero_stage - 1),
        candidates.vpp,
        candidates.schedule,
        candidates.offload,
    ):
        if len(rows):
            rows = rows[rank[rows] == rank[rows].min()]
    c = candidates.take(rows)
    return rows[np.lexsort((rows, c.etp, c.ep, c.recompute, c.pp))]
