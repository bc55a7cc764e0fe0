"""Tasks -> timeline.

A stream runs one task at a time and never interrupts it. A task may start once all its
predecessors have ended. A stream that is *in order* starts its tasks strictly by (priority, id),
waiting at the head of the line as a CUDA stream does; any other stream, when free, starts the
ready task of lowest (priority, id). Events have one total order (time, priority, id): all ends
at a time come before any start at it. The same input gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.engine import _kernels
from ridgeline.simulator.tasks.graph import TaskGraph

Bool = NDArray[np.bool_]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


class DeadlockError(RuntimeError):
    """Some tasks wait for each other (a mistake of whoever built the graph, not of a user)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When each of N tasks ran, in seconds from the start of the step."""

    start: Float64
    end: Float64
    makespan: float
    """End of the last task, s; 0 without tasks."""
    binding: Int32
    """int32[N]: whose end set the start: the task before it on its stream, or a predecessor
    where that ended later (the first listed among equals); -1 when nothing held it."""


def play(
    graph: TaskGraph, num_streams: int | None = None, in_order: Bool | None = None
) -> Timeline:
    """Play the tasks.

    Parameters
    ----------
    graph
        Tasks, streams, dependencies.
    num_streams
        Streams, when more than the graph's own.
    in_order
        bool[num_streams], which streams keep their order; all when not given.

    Raises
    ------
    DeadlockError
        When tasks wait for each other; says how many never ran.
    """
    tasks = graph.tasks
    streams = graph.num_streams if num_streams is None else num_streams
    assert tasks < 2**31, "task ids are 32-bit"
    assert in_order is None or in_order.shape == (streams,)
    by_priority = np.empty(0, np.int64)
    if graph.priority.size:
        assert graph.priority.shape == (tasks,)
        by_priority = np.argsort(graph.priority, kind="stable")
    stream_ptr = np.zeros(streams + 1, np.int64)
    order = np.empty(tasks, np.int32)
    bad = _kernels.order_streams(graph.stream, by_priority, graph.seconds, stream_ptr, order)
    assert bad == 0, f"{bad} durations are negative or not finite"
    start = np.empty(tasks)
    end = np.empty(tasks)
    binding = np.empty(tasks, np.int32)
    if in_order is None or in_order.all():
        played = _kernels.play_in_order(
            graph.seconds, graph.indptr, graph.indices, stream_ptr, order, start, end, binding
        )
    else:
        played = _kernels.play_events(
            graph.seconds,
            graph.stream,
            graph.indptr,
            graph.indices,
            stream_ptr,
            order,
            in_order,
            start,
            end,
            binding,
        )
    if played < tasks:
        raise DeadlockError(
            f"{tasks - played} of {tasks} tasks never ran: they wait for each other, through "
            "their dependencies or behind one another on a stream that keeps its order"
        )
    makespan = float(end.max()) if tasks else 0.0
    return Timeline(start=start, end=end, makespan=makespan, binding=binding)
