"""Compiled expansion of a schedule into tasks: measure first, then fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

Bool = NDArray[np.bool_]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

FORWARD, BACKWARD, WEIGHT, HEAD, TAIL = 0, 1, 2, 3, 4
PAIRED = 4
COMPUTE, TRANSFER = 0, 3
STREAMS = 8


@kernel
def measure(
    device_ptr: Int64,
    pass_kind: Int8,
    vstage: Int32,
    micro_batch: Int32,
    variant: Int8,
    sends: Bool,
    op_ptr: Int64,
    op_dep_a: Int32,
    op_dep_b: Int32,
    block_of: Int32,
    head: Int32,
    tail: Int32,
    first: Int64,
    device_of: Int32,
    kind_of: Int8,
    vstage_of: Int32,
    batch_of: Int32,
    template_of: Int32,
    block_at: Int32,
) -> tuple[int, bool, int]:
    """Lay out the blocks of every device: head, passes in order, tail.

    ``block_at[kind, vstage, micro-batch]`` finds a forward or backward again. Returns an upper
    bound of the dependencies (joins aside), whether any passes are paired, and the number of
    passes without a template.
    """
    templates = len(op_ptr) - 1
    edges_of = np.zeros(templates, np.int64)
    roots_of = np.zeros(templates, np.int64)
    for t in range(templates):
        for op in range(op_ptr[t], op_ptr[t + 1]):
            waits = int(op_dep_a[op] >= 0) + int(op_dep_b[op] >= 0)
            edges_of[t] += max(waits, 1)
            roots_of[t] += int(waits == 0)
    edges, missing, block, task = 0, 0, 0, 0
    paired = False
    for device in range(len(device_ptr) - 1):
        begin = device_ptr[device] - 1
        stop = device_ptr[device + 1]
        for at in range(begin, stop + 1):
            first[block] = task
            device_of[block] = device
            if at in (begin, stop):
                kind_of[block] = HEAD if at == begin else TAIL
                vstage_of[block] = -1
                batch_of[block] = -1
                t = head[device] if at == begin else tail[device]
                if t >= 0 and at == stop:
                    edges += STREAMS * roots_of[t] + op_ptr[t + 1] - op_ptr[t]
            else:
                kind, v, m = pass_kind[at], vstage[at], micro_batch[at]
                kind_of[block] = kind
                vstage_of[block] = v
                batch_of[block] = m
                t = block_of[kind, v, variant[at]]
                if t < 0:
                    missing += 1
                if kind != WEIGHT:
                    block_at[kind, v, m] = block
                    task += int(sends[kind, v])
                edges += 2
                if variant[at] & PAIRED and t >= 0:
                    paired = True
                    edges += 1 + roots_of[t]
            template_of[block] = t
            if t >= 0:
                task += op_ptr[t + 1] - op_ptr[t]
                edges += edges_of[t]
            block += 1
    first[block] = task
    return edges, paired, missing


@kernel
def _zip_pair(
    forward: int,
    forward_ops: int,
    backward: int,
    backward_ops: int,
    seconds: Float64,
    stream: Int32,
    device: int,
    priority: Int64,
    last: Int32,
) -> None:
    """Interleave the issue order of two passes so that both progress at an equal share.

    Progress is the share of a pass's compute seconds already issued; the forward goes first.
    """
    whole = np.zeros(2, np.float64)
    done = np.zeros(2, np.float64)
    base = (forward, backward)
    ops = (forward_ops, backward_ops)
    for side in range(2):
        for task in range(base[side], base[side] + ops[side]):
            if stream[task] == device * STREAMS + COMPUTE:
                whole[side] += seconds[task]
    issued = np.zeros(2, np.int64)
    place = forward
    while issued[0] < ops[0] or issued[1] < ops[1]:
        side = 0
        if issued[0] == ops[0] or (issued[1] < ops[1] and done[0] * whole[1] > done[1] * whole[0]):
            side = 1
        task = base[side] + issued[side]
        local = stream[task] - device * STREAMS
        if local == COMPUTE:
            done[side] += seconds[task]
        priority[task] = place
        last[local] = task
        place += 1
        issued[side] += 1


@kernel
def find_inputs(
    vstage_prev: Int32,
    vstage_next: Int32,
    path_prev: Int32,
    path_next: Int32,
    sends: Bool,
    exit_op: Int32,
    first: Int64,
    kind_of: Int8,
    vstage_of: Int32,
    batch_of: Int32,
    template_of: Int32,
    block_at: Int32,
    source_of: Int32,
) -> None:
    """Find for every block the task whose end brings its input, -1 for none."""
    paths = len(path_prev) > 0
    for block in range(len(kind_of)):
        kind, v, m = kind_of[block], vstage_of[block], batch_of[block]
        giver, given = v, BACKWARD
        if kind == FORWARD:
            giver, given = path_prev[v, m] if paths else vstage_prev[v], FORWARD
        elif kind == BACKWARD:
            giver = path_next[v, m] if paths else vstage_next[v]
            if giver < 0:
                giver, given = v, FORWARD
        if giver < 0:
            source_of[block] = -1
            continue
        origin = block_at[given, giver, m]
        if giver != v and sends[given, giver]:
            source_of[block] = first[origin + 1] - 1
        else:
            source_of[block] = first[origin] + exit_op[template_of[origin]]


@kernel
def fill(
    device_ptr: Int64,
    variant: Int8,
    sends: Bool,
    transfer_seconds: Float64,
    blocking: bool,
    op_ptr: Int64,
    op_seconds: Float64,
    op_stream: Int8,
    op_dep_a: Int32,
    op_dep_b: Int32,
    op_barrier: Bool,
    exit_op: Int32,
    barriers: int,
    first: Int64,
    device_of: Int32,
    kind_of: Int8,
    vstage_of: Int32,
    template_of: Int32,
    source_of: Int32,
    seconds: Float64,
    stream: Int32,
    indptr: Int64,
    indices: Int32,
    priority: Int64,
) -> int:
    """Write the tasks block after block, then the joins; return how many dependencies.

    ``priority`` holds the ids on entry (or is empty when no passes are paired).
    """
    blocks = len(first) - 1
    devices = len(device_ptr) - 1
    joins = first[blocks]
    join_waits = np.full((barriers, devices, STREAMS), -1, np.int32)
    last = np.full(STREAMS, -1, np.int32)
    gate = -1
    at, edge = 0, 0
    for block in range(blocks):
        device, kind, t = device_of[block], kind_of[block], template_of[block]
        v, base = vstage_of[block], first[block]
        source, mate_source, mate, sending, pair = -1, -1, -1, False, False
        if kind == HEAD:
            last[:] = -1
            gate = -1
        elif kind != TAIL:
            pair = variant[at] & PAIRED != 0
            at += 1
            source = source_of[block]
            sending = kind != WEIGHT and sends[kind, v]
            if pair:
                mate = block + 1 if kind == FORWARD else block - 1
                mate_source = source_of[mate]
        if t < 0:
            continue
        low, ops = op_ptr[t], op_ptr[t + 1] - op_ptr[t]
        barrier = 0
        for k in range(ops):
            task, op = base + k, low + k
            local = op_stream[op]
            a, b = op_dep_a[op], op_dep_b[op]
            seconds[task] = op_seconds[op]
            stream[task] = device * STREAMS + local
            indptr[task] = edge
            begin = edge
            if a >= 0:
                indices[edge] = base + a
                edge += 1
            if b >= 0:
                indices[edge] = base + b
                edge += 1
            if kind == TAIL:
                if a < 0 and b < 0:
                    for s in range(STREAMS):
                        if last[s] >= 0:
                            indices[edge] = last[s]
                            edge += 1
                if op_barrier[op]:
                    join_waits[barrier, device, : edge - begin] = indices[begin:edge]
                    indices[edge] = joins + barrier
                    edge += 1
                    barrier += 1
            elif local == COMPUTE:
                if a < 0 and b < 0:
                    if source >= 0:
                        indices[edge] = source
                        edge += 1
                    if mate_source >= 0:
                        indices[edge] = mate_source
                        edge += 1
                if gate >= 0:
                    indices[edge] = gate
                    edge += 1
                    gate = -1
            if kind != TAIL:
                last[local] = task
        if kind == HEAD and ops > 0:
            gate = base + exit_op[t]
        if sending:
            task = base + ops
            seconds[task] = transfer_seconds[v, kind]
            stream[task] = device * STREAMS + TRANSFER
            indptr[task] = edge
            indices[edge] = base + exit_op[t]
            edge += 1
            if pair:
                indices[edge] = first[mate] + exit_op[template_of[mate]]
                edge += 1
            last[TRANSFER] = task
        if pair and kind == BACKWARD:
            partner = template_of[mate]
            _zip_pair(
                first[mate],
                op_ptr[partner + 1] - op_ptr[partner],
                base,
                ops,
                seconds,
                stream,
                device,
                priority,
                last,
            )
            sending = sending or sends[FORWARD, vstage_of[mate]]
        # the forward of a pair leaves its transfer to be waited for behind the pair
        if blocking and sending and not (pair and kind == FORWARD):
            gate = last[TRANSFER]
    for barrier in range(barriers):
        task = joins + barrier
        seconds[task] = 0.0
        stream[task] = devices * STREAMS
        indptr[task] = edge
        for device in range(devices):
            for s in range(STREAMS):
                if join_waits[barrier, device, s] >= 0:
                    indices[edge] = join_waits[barrier, device, s]
                    edge += 1
    indptr[len(seconds)] = edge
    return edge


@kernel
def sum_rows(
    first: Int64, template_of: Int32, op_ptr: Int64, values: Float64, out: Float64
) -> None:
    """Add up ``values`` by operator; what belongs to none goes to the last place of ``out``."""
    for block in range(len(template_of)):
        t = template_of[block]
        ops = op_ptr[t + 1] - op_ptr[t] if t >= 0 else 0
        for k in range(first[block + 1] - first[block]):
            row = op_ptr[t] + k if k < ops else len(out) - 1
            out[row] += values[first[block] + k]
    for task in range(first[-1], len(values)):
        out[-1] += values[task]
