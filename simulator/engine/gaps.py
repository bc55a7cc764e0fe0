"""Where the time of every device goes: computing, waiting for communication, bubble.

A gap of a COMPUTE stream ends when a task starts. What it waited for is its binding predecessor.
From there the chain of bindings is followed back for as long as it consists of communication
(any stream but COMPUTE, and joins): the part of the gap that the chain covers is *exposed
communication*; the rest, spent on waiting for another device to compute, is *bubble*. So is the
gap at the end of a device that finishes early, unless the step ends with communication, which is
then followed back in the same way. Exposed time is booked on the tasks of the chain, each for
the part of the gap during which it ran.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.engine import _kernels
from ridgeline.simulator.engine.play import Timeline
from ridgeline.simulator.tasks.graph import STREAMS_PER_DEVICE, TaskGraph

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Seconds of each of D devices; busy + exposed over streams + bubble is the makespan."""

    busy: Float64
    """float64[D], COMPUTE stream at work."""
    exposed: Float64
    """float64[D, 8], COMPUTE stream waiting for communication, by the kind of its stream; the
    column of COMPUTE is zero."""
    bubble: Float64
    """float64[D], COMPUTE stream waiting for other devices or out of work."""
    exposed_by_task: Float64
    """float64[N], the same exposed seconds on the tasks that caused them, on whatever device."""


def busy_and_gaps(graph: TaskGraph, timeline: Timeline, devices: int) -> Usage:
    """Account for every second of every device.

    Parameters
    ----------
    graph
        From ``expand``: device d owns the streams 8 d to 8 d + 7.
    timeline
        The graph played.
    devices
        D.
    """
    assert graph.num_streams >= devices * STREAMS_PER_DEVICE
    by_time = np.empty(0, np.int64)
    while True:
        busy = np.zeros(devices)
        exposed = np.zeros((devices, STREAMS_PER_DEVICE))
        by_task = np.zeros(graph.tasks)
        ordered = _kernels.account(
            STREAMS_PER_DEVICE,
            graph.seconds,
            graph.stream,
            timeline.start,
            timeline.end,
            timeline.binding,
            timeline.makespan,
            by_time,
            busy,
            exposed,
            by_task,
        )
        if ordered:
            break
        assert not by_time.size, "tasks overlap on a stream"
        # streams that reorder, and paired passes, run their tasks out of the order of ids
        by_time = np.lexsort((timeline.end, timeline.start))
    bubble = timeline.makespan - busy - exposed.sum(axis=1)
    return Usage(busy=busy, exposed=exposed, bubble=bubble, exposed_by_task=by_task)
