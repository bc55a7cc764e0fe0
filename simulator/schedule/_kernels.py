"""Compiled builders of pipeline schedules. Every order is written device after device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

FORWARD, BACKWARD, WEIGHT = 0, 1, 2
FIRST, LAST, PAIRED, WHOLE = 1, 2, 4, 8


@kernel
def _put(
    kinds: Int8, vstages: Int32, batches: Int32, at: int, kind: int, vstage: int, batch: int
) -> int:
    kinds[at] = kind
    vstages[at] = vstage
    batches[at] = batch
    return at + 1


@kernel
def order_gpipe(pp: int, micro_batches: int, kinds: Int8, vstages: Int32, batches: Int32) -> None:
    """All forwards, then all backwards, latest micro-batch first."""
    at = 0
    for device in range(pp):
        for batch in range(micro_batches):
            at = _put(kinds, vstages, batches, at, FORWARD, device, batch)
        for batch in range(micro_batches - 1, -1, -1):
            at = _put(kinds, vstages, batches, at, BACKWARD, device, batch)


@kernel
def order_1f1b(
    pp: int, micro_batches: int, split: bool, kinds: Int8, vstages: Int32, batches: Int32
) -> None:
    """One forward, one backward; under ``split`` device i runs each W i micro-batches late."""
    at = 0
    for device in range(pp):
        warm = min(micro_batches, pp - 1 - device)
        forward, weight = 0, 0
        while forward < warm:
            at = _put(kinds, vstages, batches, at, FORWARD, device, forward)
            forward += 1
        for backward in range(micro_batches):
            if forward < micro_batches:
                at = _put(kinds, vstages, batches, at, FORWARD, device, forward)
                forward += 1
            at = _put(kinds, vstages, batches, at, BACKWARD, device, backward)
            if split and backward - weight >= device:
                at = _put(kinds, vstages, batches, at, WEIGHT, device, weight)
                weight += 1
        while split and weight < micro_batches:
            at = _put(kinds, vstages, batches, at, WEIGHT, device, weight)
            weight += 1


@kernel
def order_interleaved(
    pp: int, chunks: int, micro_batches: int, kinds: Int8, vstages: Int32, batches: Int32
) -> None:
    """Chunks take turns every ``pp`` micro-batches; vstage = chunk * pp + device."""
    at = 0
    total = micro_batches * chunks
    turn = pp * chunks
    for device in range(pp):
        warm = min(total, (pp - device - 1) * 2 + (chunks - 1) * pp)
        for step in range(total + warm):
            if step < total:
                chunk = step % turn // pp
                batch = step // turn * pp + step % pp
                at = _put(kinds, vstages, batches, at, FORWARD, chunk * pp + device, batch)
            if step >= warm:
                back = step - warm
                chunk = chunks - 1 - back % turn // pp
                batch = back // turn * pp + back % pp
                at = _put(kinds, vstages, batches, at, BACKWARD, chunk * pp + device, batch)


@kernel
def order_dualpipe(
    pp: int, micro_batches: int, kinds: Int8, vstages: Int32, batches: Int32, flags: Int8
) -> None:
    """Two mirrored pipelines; vstages 0..pp-1 run down the devices, pp..2pp-1 run up.

    On a device, side 0 is the direction whose entry is nearer. ``flags`` receives PAIRED and
    WHOLE.
    """
    half = micro_batches // 2
    waiting_vstage = np.empty(micro_batches, np.int32)
    waiting_batch = np.empty(micro_batches, np.int32)
    side_vstage = np.empty(2, np.int64)
    side_batch = np.empty(2, np.int64)
    forward = np.empty(2, np.int64)
    backward = np.empty(2, np.int64)
    at = 0
    for device in range(pp):
        depth = min(device, pp - 1 - device)
        mirrored = 1 if device >= pp // 2 else 0
        side_vstage[mirrored] = device
        side_batch[mirrored] = 0
        side_vstage[1 - mirrored] = 2 * pp - 1 - device
        side_batch[1 - mirrored] = half
        forward[:] = 0
        backward[:] = 0
        pushed, popped = 0, 0
        away = pp // 2 - depth - 1
        main = half - pp + depth + 1
        near = depth + 1
        lengths = (2 * away, 2 * near, 3 * away, 4 * main, 3 * away, 2 * near, 2 * away, near)
        for phase in range(8):
            for i in range(lengths[phase]):
                kind, side, flag = FORWARD, 0, 0
                if phase == 1:
                    side = i % 2
                elif phase == 2:
                    side = 1
                    kind = (BACKWARD, WEIGHT, FORWARD)[i % 3]
                elif phase == 3:
                    # F0 with B1, then F1 with B0; the middle devices keep the first two apart
                    kind = (FORWARD, BACKWARD)[i % 2]
                    side = (0, 1, 1, 0)[i % 4]
                    flag = PAIRED if away > 0 or i > 1 else 0
                    if kind == BACKWARD:
                        flag |= WHOLE
                elif phase == 4:
                    kind = (BACKWARD, FORWARD, BACKWARD)[i % 3]
                    side = (1, 1, 0)[i % 3]
                    flag = (WHOLE, PAIRED, PAIRED | WHOLE)[i % 3]
                elif phase == 5:
                    kind = BACKWARD
                    side = 1 - i % 2
                    # the later half of these leave their W for the end
                    flag = WHOLE if i < near else 0
                elif phase == 6:
                    kind = (WEIGHT, BACKWARD)[i % 2]
                elif phase == 7:
                    kind = WEIGHT
                if kind == WEIGHT:
                    vstage, batch = waiting_vstage[popped], waiting_batch[popped]
                    popped += 1
                elif kind == FORWARD:
                    vstage, batch = side_vstage[side], side_batch[side] + forward[side]
                    forward[side] += 1
                else:
                    vstage, batch = side_vstage[side], side_batch[side] + backward[side]
                    backward[side] += 1
                    if flag & WHOLE == 0:
                        waiting_vstage[pushed] = vstage
                        waiting_batch[pushed] = batch
                        pushed += 1
                flags[at] = flag
                at = _put(kinds, vstages, batches, at, kind, vstage, batch)


@kernel
def mark_variants(
    vstage_count: int, split: bool, kinds: Int8, vstages: Int32, variants: Int8
) -> None:
    """Add FIRST and LAST to the flags in ``variants``.

    LAST of a pass that yields weight gradients is the last such pass of its vstage, be it a
    WEIGHT or a whole BACKWARD: only then are the gradients complete.
    """
    seen = np.zeros((3, vstage_count), np.bool_)
    for at in range(len(kinds)):
        if not seen[kinds[at], vstages[at]]:
            seen[kinds[at], vstages[at]] = True
            variants[at] |= FIRST
    seen[:] = False
    for at in range(len(kinds) - 1, -1, -1):
        role = int(kinds[at])
        if role == BACKWARD and (not split or variants[at] & WHOLE):
            role = WEIGHT
        if not seen[role, vstages[at]]:
            seen[role, vstages[at]] = True
            variants[at] |= LAST


@kernel
def peak_bytes(
    split: bool,
    device_ptr: Int64,
    kinds: Int8,
    vstages: Int32,
    variants: Int8,
    bytes_held: Float64,
    weight_bytes: Float64,
    peak: Float64,
) -> None:
    """Walk each device's order and keep the largest sum of live activations."""
    for device in range(len(peak)):
        live, most = 0.0, 0.0
        for at in range(device_ptr[device], device_ptr[device + 1]):
            vstage = vstages[at]
            if kinds[at] == FORWARD:
                live += bytes_held[vstage]
                most = max(most, live)
            elif kinds[at] == WEIGHT:
                live -= weight_bytes[vstage]
            elif split and variants[at] & WHOLE == 0:
                live -= bytes_held[vstage] - weight_bytes[vstage]
            else:
                live -= bytes_held[vstage]
        peak[device] = most
