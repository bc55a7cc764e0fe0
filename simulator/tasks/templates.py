"""What a pass is made of: lists of operators with seconds, streams and dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.schedule import (
    BACKWARD,
    FORWARD,
    PAIRED,
    VARIANTS,
    WEIGHT,
    WHOLE,
    Schedule,
)
from ridgeline.simulator.tasks.graph import COMPUTE

Bool = NDArray[np.bool_]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One template: n operators in issue order."""

    seconds: Sequence[float] | Float64
    stream: Sequence[int] | Int8
    """COMPUTE, NETWORK, GRADIENT, COPY, FETCH, HOST or DISK."""
    dep_a: Sequence[int] | Int32
    """Index within the block of an earlier operator it waits for, -1 for none."""
    dep_b: Sequence[int] | Int32
    exit: int = -1
    """Operator whose end sends the output and releases dependent passes; -1 is the last one."""
    barrier: Sequence[bool] | Bool = ()
    """Operators that all devices start together (only in a tail); empty means none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """T templates with O operators in all, V vstages, D devices.

    An operator that waits for no other of its block (both dependencies -1) waits for the input
    of the block when it runs on COMPUTE, and only for its turn on any other stream.
    """

    op_ptr: Int64
    """int64[T + 1]."""
    op_seconds: Float64
    op_stream: Int8
    op_dep_a: Int32
    op_dep_b: Int32
    op_barrier: Bool
    exit_op: Int32
    """int32[T], index within the block."""
    block_of: Int32
    """int32[3, V, VARIANTS]: template of (pass kind, vstage, variant), -1 for none."""
    head: Int32
    """int32[D], -1 for none: starts the step; the first COMPUTE operator of the first pass
    waits for its exit (an operator of no length there lets the rest overlap)."""
    tail: Int32
    """int32[D], -1 for none: ends the step. Operators that wait for no other of the tail wait
    for the last task of each stream of the device."""


def stack(
    blocks: Sequence[Block],
    block_of: Int32,
    head: Sequence[int] | Int32,
    tail: Sequence[int] | Int32,
) -> Templates:
    """Join blocks into templates; ``block_of``, ``head`` and ``tail`` hold indices of blocks."""
    counts = [len(block.seconds) for block in blocks]
    op_ptr = np.zeros(len(blocks) + 1, np.int64)
    np.cumsum(counts, out=op_ptr[1:])
    barrier = np.zeros(int(op_ptr[-1]), np.bool_)
    for block, low, count in zip(blocks, op_ptr, counts, strict=False):
        if len(block.barrier):
            barrier[low : low + count] = block.barrier
    templates = Templates(
        op_ptr=op_ptr,
        op_seconds=np.concatenate([np.asarray(b.seconds, np.float64) for b in blocks]),
        op_stream=np.concatenate([np.asarray(b.stream, np.int8) for b in blocks]),
        op_dep_a=np.concatenate([np.asarray(b.dep_a, np.int32) for b in blocks]),
        op_dep_b=np.concatenate([np.asarray(b.dep_b, np.int32) for b in blocks]),
        op_barrier=barrier,
        exit_op=np.array(
            [n - 1 if b.exit < 0 else b.exit for b, n in zip(blocks, counts, strict=True)],
            np.int32,
        ),
        block_of=np.ascontiguousarray(block_of, np.int32),
        head=np.asarray(head, np.int32),
        tail=np.asarray(tail, np.int32),
    )
    local = np.arange(len(barrier)) - np.repeat(op_ptr[:-1], counts)
    assert (templates.op_dep_a < local).all(), "an operator waits for a later one of its block"
    assert (templates.op_dep_b < local).all(), "an operator waits for a later one of its block"
    return templates


def stage_templates(
    schedule: Schedule,
    forward: Float64,
    backward: Float64,
    weight: Float64 | None = None,
    overlap: float = 0.0,
) -> Templates:
    """Return templates of one operator a pass: a step at stage granularity.

    Parameters
    ----------
    schedule
        Says which passes there are.
    forward, backward
        float64[V], seconds of a forward and of a whole backward of one micro-batch.
    weight
        float64[V], the part of the backward that computes weight gradients, s; needed where the
        schedule splits the backward.
    overlap
        Share by which co-scheduling shortens the two passes of a pair.
    """
    stages = schedule.vstages
    split = np.zeros(stages)
    if schedule.split_backward:
        assert weight is not None, "the schedule splits the backward: give the weight half"
        split = np.asarray(weight, np.float64)
    alone = np.stack([forward, backward, np.asarray(backward) - split, split]).astype(np.float64)
    seconds = np.concatenate([alone.ravel(), alone[:2].ravel() * (1.0 - overlap)])
    index = np.arange(stages, dtype=np.int32)
    flags = np.arange(VARIANTS)
    block_of = np.empty((3, stages, VARIANTS), np.int32)
    pair = np.where(flags & PAIRED, 4 * stages, 0)
    halved = np.where((flags & WHOLE == 0) & schedule.split_backward, 2 * stages, stages)
    block_of[FORWARD] = index[:, None] + pair
    block_of[BACKWARD] = index[:, None] + np.where(flags & PAIRED, 5 * stages, halved)
    block_of[WEIGHT] = index[:, None] + 3 * stages
    count = len(seconds)
    none = np.full(schedule.devices, -1, np.int32)
    return Templates(
        op_ptr=np.arange(count + 1),
        op_seconds=seconds,
        op_stream=np.full(count, COMPUTE, np.int8),
        op_dep_a=np.full(count, -1, np.int32),
        op_dep_b=np.full(count, -1, np.int32),
        op_barrier=np.zeros(count, np.bool_),
        exit_op=np.zeros(count, np.int32),
        block_of=block_of,
        head=none,
        tail=none,
    )
