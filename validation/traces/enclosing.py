"""Which span of a thread encloses a moment most closely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def innermost(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    thread: NDArray[np.int32],
    at: NDArray[np.float64],
    at_thread: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Return the innermost span around each moment, -1 where there is none.

    Parameters
    ----------
    start, end, thread
        [n] spans, nested on their thread.
    at, at_thread
        [m] moments.

    Returns
    -------
    int64[m]
        Place among the spans.
    """
    out = np.full(len(at), -1, np.int64)
    for one in np.unique(at_thread):
        spans = np.flatnonzero(thread == one)
        moments = np.flatnonzero(at_thread == one)
        if not len(spans):
            continue
        # of spans that begin together the longer is outside
        spans = spans[np.lexsort((-end[spans], start[spans]))]
        parent = _parents(end[spans], start[spans])
        place = np.searchsorted(start[spans], at[moments], side="right") - 1
        found = place
        while True:
            outside = (found >= 0) & (end[spans[found]] < at[moments])
            if not outside.any():
                break
            found = np.where(outside, parent[found], found)
        out[moments] = np.where(found >= 0, spans[found], -1)
    return out


def _parents(end: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of the span that encloses each one, -1 for none."""
    parent = np.full(len(end), -1, np.int64)
    ends, starts = end.tolist(), start.tolist()
    open_: list[int] = []
    for i, begin in enumerate(starts):
        while open_ and ends[open_[-1]] <= begin:
            open_.pop()
        parent[i] = open_[-1] if open_ else -1
        open_.append(i)
    return parent
