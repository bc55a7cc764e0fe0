"""Schedule and templates -> task graph.

Every pass becomes a block of tasks. A forward waits for the output of the forward before it in
model order, a backward for the gradient from the vstage behind it (at the last vstage for its
own forward), a weight half for its backward. Between devices the output travels as a task on
the sender's TRANSFER stream; on one device there is none.

The two passes of a pair are issued interleaved, so that the communication of one can hide behind
the computation of the other: the next operator comes from the pass of which the smaller share of
compute seconds is issued. As in DualPipe's published schedule, a pair begins when both inputs
have come and sends both outputs at its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.schedule import BACKWARD, FORWARD, Schedule
from ridgeline.simulator.tasks import _kernels
from ridgeline.simulator.tasks.graph import STREAMS_PER_DEVICE, Blocks, TaskGraph
from ridgeline.simulator.tasks.templates import Templates

Float64 = NDArray[np.float64]


def expand(
    schedule: Schedule,
    templates: Templates,
    transfer_seconds: Float64,
    blocking_transfers: bool = False,
) -> TaskGraph:
    """Return the tasks of one step.

    Parameters
    ----------
    schedule
        Order of passes, V vstages on D devices.
    templates
        Operators of every pass that occurs (``Schedule.distinct``).
    transfer_seconds
        float64[V, 2]: seconds to send the output of a vstage's forward and of its backward.
    blocking_transfers
        The next COMPUTE task of the sender also waits for the transfer.

    Notes
    -----
    Ids ascend in issue order on every stream, except within pairs, where ``priority`` gives the
    order. A tail's barrier operators wait, through a join of zero length on a stream of no
    device, for what the same barrier waits for on all devices.
    """
    stages, devices = schedule.vstages, schedule.devices
    assert transfer_seconds.shape == (stages, 2)
    assert templates.block_of.shape[1] == stages
    assert templates.head.shape == templates.tail.shape == (devices,)
    sends = np.zeros((2, stages), np.bool_)
    home = schedule.vstage_device
    sends[FORWARD] = (schedule.vstage_next >= 0) & (home[schedule.vstage_next] != home)
    sends[BACKWARD] = (schedule.vstage_prev >= 0) & (home[schedule.vstage_prev] != home)
    barriers = _barriers(templates)

    blocks = schedule.passes + 2 * devices
    first = np.empty(blocks + 1, np.int64)
    device = np.empty(blocks, np.int32)
    kind = np.empty(blocks, np.int8)
    vstage = np.empty(blocks, np.int32)
    micro_batch = np.empty(blocks, np.int32)
    template = np.empty(blocks, np.int32)
    block_at = np.empty((2, stages, schedule.micro_batches), np.int32)
    edges, paired, missing = _kernels.measure(
        schedule.device_ptr,
        schedule.pass_kind,
        schedule.vstage,
        schedule.micro_batch,
        schedule.variant,
        sends,
        templates.op_ptr,
        templates.op_dep_a,
        templates.op_dep_b,
        templates.block_of,
        templates.head,
        templates.tail,
        first,
        device,
        kind,
        vstage,
        micro_batch,
        template,
        block_at,
    )
    assert missing == 0, f"{missing} passes have no template"
    tasks = int(first[-1]) + barriers
    assert tasks < 2**31, "task ids are 32-bit"
    source = np.empty(blocks, np.int32)
    _kernels.find_inputs(
        schedule.vstage_prev,
        schedule.vstage_next,
        schedule.path_prev,
        schedule.path_next,
        sends,
        templates.exit_op,
        first,
        kind,
        vstage,
        micro_batch,
        template,
        block_at,
        source,
    )
    seconds = np.empty(tasks)
    stream = np.empty(tasks, np.int32)
    indptr = np.empty(tasks + 1, np.int64)
    indices = np.empty(edges + barriers * devices * STREAMS_PER_DEVICE, np.int32)
    priority = np.arange(tasks) if paired else np.empty(0, np.int64)
    written = _kernels.fill(
        schedule.device_ptr,
        schedule.variant,
        sends,
        transfer_seconds,
        blocking_transfers,
        templates.op_ptr,
        templates.op_seconds,
        templates.op_stream,
        templates.op_dep_a,
        templates.op_dep_b,
        templates.op_barrier,
        templates.exit_op,
        barriers,
        first,
        device,
        kind,
        vstage,
        template,
        source,
        seconds,
        stream,
        indptr,
        indices,
        priority,
    )
    assert written <= len(indices), "more dependencies than measured"
    return TaskGraph(
        seconds=seconds,
        stream=stream,
        indptr=indptr,
        indices=indices[:written],
        num_streams=devices * STREAMS_PER_DEVICE + 1,
        priority=priority,
        blocks=Blocks(
            first=first,
            device=device,
            kind=kind,
            vstage=vstage,
            micro_batch=micro_batch,
            template=template,
            op_ptr=templates.op_ptr,
        ),
    )


def _barriers(templates: Templates) -> int:
    """Return how many barriers a tail has; all devices must agree."""
    if not templates.op_barrier.any():
        return 0
    before = np.concatenate([[0], np.cumsum(templates.op_barrier)])
    count = np.diff(before[templates.op_ptr])
    found = {int(count[t]) if t >= 0 else 0 for t in templates.tail}
    assert len(found) == 1, f"devices disagree on the number of barriers: {sorted(found)}"
    return found.pop()


def sum_by_operator(graph: TaskGraph, values: Float64) -> Float64:
    """Add up a value of every task by operator of the templates.

    Parameters
    ----------
    graph
        From ``expand``.
    values
        float64[N], such as the tasks' seconds.

    Returns
    -------
    float64[O + 1]
        By row of the templates; the last place takes transfers and joins.
    """
    assert graph.blocks is not None
    out = np.zeros(int(graph.blocks.op_ptr[-1]) + 1)
    _kernels.sum_rows(graph.blocks.first, graph.blocks.template, graph.blocks.op_ptr, values, out)
    return out
