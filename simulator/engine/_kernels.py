"""Compiled event loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

Bool = NDArray[np.bool_]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@kernel
def order_streams(
    stream: Int32, by_priority: Int64, seconds: Float64, stream_ptr: Int64, order: Int32
) -> int:
    """List the tasks of every stream in (priority, id) order; return how many durations are bad.

    ``by_priority`` lists all tasks in that order, or is empty when ids ascend in it.
    """
    bad = 0
    for task in range(len(stream)):
        stream_ptr[stream[task] + 1] += 1
        if not 0.0 <= seconds[task] < np.inf:
            bad += 1
    for s in range(len(stream_ptr) - 1):
        stream_ptr[s + 1] += stream_ptr[s]
    cursor = stream_ptr[:-1].copy()
    listed = len(by_priority) > 0
    for position in range(len(stream)):
        task = by_priority[position] if listed else position
        order[cursor[stream[task]]] = task
        cursor[stream[task]] += 1
    return bad


@kernel
def play_in_order(
    seconds: Float64,
    indptr: Int64,
    indices: Int32,
    stream_ptr: Int64,
    order: Int32,
    start: Float64,
    end: Float64,
    binding: Int32,
) -> int:
    """Play streams that all keep their order; return how many tasks ran.

    With the order fixed, a start is the latest end among predecessors and the task before it on
    the stream, whatever the order of visiting. So every stream runs as far as it can, and one
    that must wait is listed at the task it waits for. O(tasks + dependencies), no heap.
    """
    streams = len(stream_ptr) - 1
    cursor = stream_ptr[:-1].copy()
    edge = np.full(streams, -1, np.int64)
    ready = np.zeros(streams, np.float64)
    cause = np.full(streams, -1, np.int32)
    waiter = np.full(len(seconds), -1, np.int32)
    next_waiter = np.full(streams, -1, np.int32)
    stack = np.arange(streams - 1, -1, -1).astype(np.int32)
    height = streams
    played = 0
    end[:] = -1.0
    while height > 0:
        height -= 1
        s = stack[height]
        at = cursor[s]
        time = ready[s]
        bound = cause[s]
        first = edge[s]
        while at < stream_ptr[s + 1]:
            task = order[at]
            if first < 0:
                first = indptr[task]
            blocked = -1
            for e in range(first, indptr[task + 1]):
                before = indices[e]
                if end[before] < 0.0:
                    blocked = before
                    first = e
                    break
                if end[before] > time:
                    time = end[before]
                    bound = before
            if blocked >= 0:
                next_waiter[s] = waiter[blocked]
                waiter[blocked] = s
                break
            start[task] = time
            time += seconds[task]
            end[task] = time
            binding[task] = bound
            bound = task
            first = -1
            at += 1
            played += 1
            woken = waiter[task]
            while woken >= 0:
                stack[height] = woken
                height += 1
                woken = next_waiter[woken]
        cursor[s] = at
        ready[s] = time
        cause[s] = bound
        edge[s] = first
    return played


@kernel
def _push(heap: Int32, base: int, size: int, item: int) -> None:
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if heap[base + parent] <= item:
            break
        heap[base + at] = heap[base + parent]
        at = parent
    heap[base + at] = item


@kernel
def _pop(heap: Int32, base: int, size: int) -> int:
    top = int(heap[base])
    item = heap[base + size - 1]
    at = 0
    while 2 * at + 1 < size - 1:
        child = 2 * at + 1
        if child + 1 < size - 1 and heap[base + child + 1] < heap[base + child]:
            child += 1
        if heap[base + child] >= item:
            break
        heap[base + at] = heap[base + child]
        at = child
    heap[base + at] = item
    return top


@kernel
def _earlier(time_a: float, task_a: int, time_b: float, task_b: int) -> bool:
    return time_a < time_b or (time_a == time_b and task_a < task_b)


@kernel
def play_events(
    seconds: Float64,
    stream: Int32,
    indptr: Int64,
    indices: Int32,
    stream_ptr: Int64,
    order: Int32,
    in_order: Bool,
    start: Float64,
    end: Float64,
    binding: Int32,
) -> int:
    """Play any mix of streams event by event; return how many tasks ran.

    The heap of running tasks holds at most one a stream. All ends at a time are taken before
    any start at it; a task of no length ends in a further round at the same time.
    """
    tasks = len(seconds)
    streams = len(stream_ptr) - 1
    after_ptr = np.zeros(tasks + 1, np.int64)
    for e in range(len(indices)):
        after_ptr[indices[e] + 1] += 1
    for task in range(tasks):
        after_ptr[task + 1] += after_ptr[task]
    fill = after_ptr[:-1].copy()
    after = np.empty(len(indices), np.int32)
    missing = np.empty(tasks, np.int32)
    rank = np.empty(tasks, np.int32)
    for task in range(tasks):
        missing[task] = indptr[task + 1] - indptr[task]
        for e in range(indptr[task], indptr[task + 1]):
            after[fill[indices[e]]] = task
            fill[indices[e]] += 1
    for position in range(tasks):
        rank[order[position]] = position

    cursor = stream_ptr[:-1].copy()
    ready = np.empty(tasks, np.int32)
    ready_count = np.zeros(streams, np.int64)
    busy = np.zeros(streams, np.bool_)
    last = np.full(streams, -1, np.int32)
    for task in range(tasks):
        s = stream[task]
        if missing[task] == 0 and not in_order[s]:
            _push(ready, stream_ptr[s], ready_count[s], rank[task])
            ready_count[s] += 1

    listed = np.ones(streams, np.bool_)
    touched = np.arange(streams).astype(np.int32)
    touched_count = streams
    running = np.empty(streams, np.int32)
    running_count = 0
    now = 0.0
    played = 0
    while True:
        for i in range(touched_count):
            s = touched[i]
            listed[s] = False
            if busy[s]:
                continue
            if in_order[s]:
                if cursor[s] == stream_ptr[s + 1] or missing[order[cursor[s]]] > 0:
                    continue
                task = order[cursor[s]]
                cursor[s] += 1
            else:
                if ready_count[s] == 0:
                    continue
                task = order[_pop(ready, stream_ptr[s], ready_count[s])]
                ready_count[s] -= 1
            bound = last[s]
            latest = end[bound] if bound >= 0 else 0.0
            for e in range(indptr[task], indptr[task + 1]):
                if end[indices[e]] > latest:
                    latest = end[indices[e]]
                    bound = indices[e]
            start[task] = now
            end[task] = now + seconds[task]
            binding[task] = bound
            last[s] = task
            busy[s] = True
            played += 1
            at = running_count
            running_count += 1
            while at > 0:
                parent = (at - 1) // 2
                other = running[parent]
                if not _earlier(end[task], task, end[other], other):
                    break
                running[at] = other
                at = parent
            running[at] = task
        touched_count = 0
        if running_count == 0:
            return played
        now = end[running[0]]
        while running_count > 0 and end[running[0]] == now:
            done = running[0]
            running_count -= 1
            item = running[running_count]
            at = 0
            while 2 * at + 1 < running_count:
                child = 2 * at + 1
                if child + 1 < running_count and _earlier(
                    end[running[child + 1]], running[child + 1], end[running[child]], running[child]
                ):
                    child += 1
                if not _earlier(end[running[child]], running[child], end[item], item):
                    break
                running[at] = running[child]
                at = child
            running[at] = item
            s = stream[done]
            busy[s] = False
            if not listed[s]:
                listed[s] = True
                touched[touched_count] = s
                touched_count += 1
            for e in range(after_ptr[done], after_ptr[done + 1]):
                task = after[e]
                missing[task] -= 1
                if missing[task] > 0:
                    continue
                s = stream[task]
                if not in_order[s]:
                    _push(ready, stream_ptr[s], ready_count[s], rank[task])
                    ready_count[s] += 1
                if not listed[s]:
                    listed[s] = True
                    touched[touched_count] = s
                    touched_count += 1


@kernel
def account(
    per_device: int,
    seconds: Float64,
    stream: Int32,
    start: Float64,
    end: Float64,
    binding: Int32,
    makespan: float,
    by_time: Int64,
    busy: Float64,
    exposed: Float64,
    by_task: Float64,
) -> bool:
    """Book every gap of the COMPUTE streams (kind 0) on the chain of communication behind it.

    ``by_time`` lists the tasks in the order of their starts, or is empty to try the ids; returns
    whether that was their order.
    """
    devices, tasks = len(busy), len(seconds)
    free = np.zeros(devices, np.float64)
    listed = len(by_time) > 0
    latest = -1
    # the round after the tasks takes the gap before the end of the step, device by device
    for position in range(tasks + devices):
        if position < tasks:
            task = by_time[position] if listed else position
            if end[task] == makespan and latest < 0:
                latest = task
            device = stream[task] // per_device
            if stream[task] % per_device != 0 or device >= devices:
                continue
            stop, cause = start[task], binding[task]
            busy[device] += seconds[task]
        else:
            device = position - tasks
            task, stop, cause = -1, makespan, latest
        begin = free[device]
        if stop < begin:
            return False
        while cause >= 0 and begin < stop and end[cause] > begin:
            kind = stream[cause] % per_device
            owner = stream[cause] // per_device
            if kind == 0 and owner < devices:
                break
            spent = min(end[cause], stop) - max(start[cause], begin)
            exposed[device, kind] += spent
            by_task[cause] += spent
            cause = binding[cause]
        if task >= 0:
            free[device] = end[task]
    return True
