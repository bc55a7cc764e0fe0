"""Compiled step times of regular plans: longest paths over the static order of a schedule.

A pass starts when its device is free and its input has come; so every end is a maximum of sums,
linear in the max-plus algebra. While the same passes recur, a state that has advanced by the same
amount everywhere will do so again (Baccelli et al. 1992, Synchronization and Linearity, chapter
3): the rest of the steady rounds is skipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

Bool = NDArray[np.bool_]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]

GPIPE, ONE_F_ONE_B, INTERLEAVED, ZERO_BUBBLE, DUALPIPE = range(5)
FORWARD, BACKWARD, GATHER, REGATHER, REDUCE = range(5)
"""Rows of the seconds of units."""
GATHERED, AGAIN, REDUCED = range(3)
"""Rows of the sums of exchanges by slice that bounds take."""
NEVER, ONCE, ALWAYS = range(3)
"""When weights are gathered, and when gradients are reduced, while passes run."""
WITH_STEP, BY_UNIT, AHEAD = range(3)
"""When a gather may start: with its pass; when the unit before the last one is through; so, and
in a backward before the gradients of the unit in between leave."""

KINDS = 4
"""Kinds of layers that keep different bytes, at most: routed or not, recomputed or not."""

UNIFORM = 1e-11
"""Spread of an advance over the advance below which it counts as the same everywhere. Max-plus
maps do not expand distances, so n skipped rounds err by less than n times the spread."""
ROUNDING = 1e-10
"""Share by which bounds are lowered, for the rounding of what they bound."""


@kernel
def _forward(
    u: Floats, begin: int, end: int, prefetch: int, slowdown: float, compute: float, wire: float
) -> tuple[float, float]:
    """Run a forward unit by unit behind its weights; return when compute and wire are free."""
    before, last, arrived = 0.0, 0.0, 0.0
    for i in range(begin, end):
        gather = u[GATHER, i]
        if gather > 0.0:
            if prefetch != WITH_STEP and i - begin >= 2:
                wire = max(wire, before)
            wire += gather
            arrived = wire
        total = u[FORWARD, i]
        compute = max(compute, arrived) + total + slowdown * min(gather, total)
        before, last = last, compute
    return compute, wire


@kernel
def _backward(
    u: Floats, begin: int, end: int, prefetch: int, slowdown: float, compute: float, wire: float
) -> tuple[float, float]:
    """Run a backward unit by unit: weights come before, gradients leave behind.

    With ``AHEAD`` the weights of the next unit are asked for before this one's gradients leave.
    """
    before, last, arrived = 0.0, 0.0, 0.0
    ahead = 1 if prefetch == AHEAD else 0
    if ahead == 1 and end > begin and u[REGATHER, end - 1] > 0.0:
        wire += u[REGATHER, end - 1]
        arrived = wire
    for i in range(end - 1, begin - 1, -1):
        ready = arrived
        next_ = i - ahead
        if next_ >= begin and u[REGATHER, next_] > 0.0:
            if prefetch != WITH_STEP and next_ <= end - 3:
                wire = max(wire, last if ahead == 1 else before)
            wire += u[REGATHER, next_]
            arrived = wire
        if ahead == 0:
            ready = arrived
        total = u[BACKWARD, i]
        compute = max(compute, ready) + total
        compute += slowdown * min(u[REGATHER, i] + u[REDUCE, i], total)
        before, last = last, compute
        if u[REDUCE, i] > 0.0:
            wire = max(wire, compute) + u[REDUCE, i]
    return compute, wire


@kernel
def _advance(now: Floats, then: Floats) -> float:
    """Return by how much a state has advanced where it is the same everywhere, else 0."""
    low: float = now[0] - then[0]
    high: float = low
    for i in range(1, len(now)):
        step = now[i] - then[i]
        low = min(low, step)
        high = max(high, step)
        if high - low > UNIFORM * high:
            return 0.0
    return low


@kernel
def _skip(
    now: Floats, then: Floats, age: int, limit: int, left: int, whole: int
) -> tuple[int, int, int]:
    """Compare a steady state with a remembered one, and leave out the periods that follow.

    ``age`` rounds have passed since ``then``, which is renewed at ages ``limit`` = 1, 2, 4 and so
    on (Brent's search for a cycle). Returns the rounds left out, of ``left`` ones and in periods
    of a multiple of ``whole``; and the new age and limit (0 once something was left out).
    """
    if age > 0 and age % whole == 0:
        advance = _advance(now, then)
        if advance > 0.0:
            periods = left // age
            for i in range(len(now)):
                now[i] += periods * advance
            return periods * age, 0, 0
    if age == 0 or age >= limit * whole:
        then[:] = now
        return 0, 1, max(1, 2 * limit)
    return 0, age + 1, limit


@kernel
def _play_1f1b(
    pp: int,
    m: int,
    send: float,
    u: Floats,
    ptr: Int64,
    forward: Floats,
    backward: Floats,
    gathers: int,
    reduces: int,
    prefetch: int,
    slowdown: float,
    end: Floats,
) -> None:
    """Play 1F1B; ``end`` float64[pp] receives when every device is free.

    Round j of device d is its forward of micro-batch j + pp - 1 - d, if there is one, and its
    backward of j. A forward's input comes from the round before, so that devices may be visited
    from the last to the first, the way of the gradients. Sends block: a device is free when its
    output arrives, so that one number stands for both.
    """
    line = np.zeros(pp)
    always = gathers == ALWAYS or reduces == ALWAYS
    state = np.zeros((3 if always else 2) * pp)
    then = np.zeros(len(state))
    free = state[:pp]
    came = state[pp : 2 * pp]
    wire = state[2 * pp :] if always else np.zeros(pp)
    for d in range(pp):
        warm = min(m, pp - 1 - d)
        time, flow = 0.0, 0.0
        for k in range(warm):
            time = max(time, line[k])
            if gathers == ALWAYS or (gathers == ONCE and k == 0):
                time, flow = _forward(u, ptr[d], ptr[d + 1], prefetch, slowdown, time, flow)
            else:
                time += forward[d]
            time += send
            line[k] = time
        came[d] = line[warm] if warm < pp else 0.0
        free[d] = time
        wire[d] = flow
    age, limit = 0, 0
    steady = True
    j = 0
    while j < m:
        back = 0.0
        for d in range(pp - 1, -1, -1):
            time = free[d]
            k = j + pp - 1 - d
            if k < m:
                time = max(time, came[d])
                if gathers == ALWAYS or (gathers == ONCE and k == 0):
                    time, wire[d] = _forward(
                        u, ptr[d], ptr[d + 1], prefetch, slowdown, time, wire[d]
                    )
                else:
                    time += forward[d]
                if d < pp - 1:
                    time += send
                    came[d + 1] = time
            time = max(time, back)
            if reduces == ALWAYS or (reduces == ONCE and j == m - 1):
                time, wire[d] = _backward(u, ptr[d], ptr[d + 1], prefetch, slowdown, time, wire[d])
            else:
                time += backward[d]
            if d > 0:
                time += send
            back = time
            free[d] = time
        came[0] = free[0]
        last = min(m - pp, m - 2)
        if steady and 1 <= j < last:
            left, age, limit = _skip(state, then, age, limit, last - j, 1)
            j += left
            steady = limit > 0
        j += 1
    end[:pp] = np.maximum(free, wire)


@kernel
def _play_gpipe(
    pp: int,
    m: int,
    send: float,
    u: Floats,
    ptr: Int64,
    forward: Floats,
    backward: Floats,
    gathers: int,
    reduces: int,
    prefetch: int,
    slowdown: float,
    end: Floats,
) -> None:
    """Play GPipe with sends that block: all forwards, then all backwards."""
    always = gathers == ALWAYS or reduces == ALWAYS
    state = np.zeros((2 if always else 1) * pp)
    then = np.zeros(len(state))
    free = state[:pp]
    wire = state[pp:] if always else np.zeros(pp)
    for direction in range(2):
        age, limit = 0, 0
        steady = True
        j = 0
        while j < m:
            came = 0.0
            for i in range(pp):
                d = i if direction == 0 else pp - 1 - i
                time = max(free[d], came)
                if direction == 0 and (gathers == ALWAYS or (gathers == ONCE and j == 0)):
                    time, wire[d] = _forward(
                        u, ptr[d], ptr[d + 1], prefetch, slowdown, time, wire[d]
                    )
                elif direction == 1 and (reduces == ALWAYS or (reduces == ONCE and j == m - 1)):
                    time, wire[d] = _backward(
                        u, ptr[d], ptr[d + 1], prefetch, slowdown, time, wire[d]
                    )
                else:
                    time += forward[d] if direction == 0 else backward[d]
                if i < pp - 1:
                    time += send
                came = time
                free[d] = time
            if steady and 1 <= j < m - 2:
                left, age, limit = _skip(state, then, age, limit, m - 2 - j, 1)
                j += left
                steady = limit > 0
            j += 1
    end[:pp] = np.maximum(free, wire)


@kernel
def _play_interleaved(
    pp: int,
    chunks: int,
    m: int,
    send: float,
    blocking: bool,
    u: Floats,
    ptr: Int64,
    forward: Floats,
    backward: Floats,
    gathers: int,
    reduces: int,
    prefetch: int,
    slowdown: float,
    end: Floats,
) -> None:
    """Play interleaved 1F1B, whose virtual stage is chunk * pp + device.

    Slot k of a device is its k-th forward, and its k-th backward. Forward k of device d is played
    in tick k + d, behind it backward k - warm(d) with warm(d) = 2 (pp - 1 - d) + (chunks - 1) pp.
    Then every input comes from the tick before: forward k of device d from forward k of d - 1, or
    for the first device from forward k - pp of the last; backwards the other way round.
    """
    total, turn = m * chunks, pp * chunks
    always = gathers == ALWAYS or reduces == ALWAYS
    state = np.zeros((3 + (not blocking) + always) * pp)
    then = np.zeros(len(state))
    free = state[:pp]
    came = state[pp : 2 * pp]
    back = state[2 * pp : 3 * pp]
    sent = np.zeros(pp) if blocking else state[3 * pp : 4 * pp]
    wire = state[len(state) - pp :] if always else np.zeros(pp)
    age, limit = 0, 0
    steady = True
    tick = 0
    while tick < total + 2 * (pp - 1) + (chunks - 1) * pp:
        # of the last device; towards the first, forwards are later slots and backwards earlier
        k = tick - (pp - 1)
        place, chunk = k % pp, k // pp % chunks
        b = tick - (turn - 1)
        late, mirror = b % pp, b // pp % chunks
        wrap, pending = -1.0, -1.0
        for d in range(pp - 1, -1, -1):
            time = free[d]
            if 0 <= k < total:
                v = chunk * pp + d
                if v > 0:
                    time = max(time, came[d])
                if gathers == ALWAYS or (gathers == ONCE and k < turn and place == 0):
                    time, wire[d] = _forward(
                        u, ptr[v], ptr[v + 1], prefetch, slowdown, time, wire[d]
                    )
                else:
                    time += forward[v]
                if v < turn - 1:
                    arrival = time + send
                    if blocking:
                        time = arrival
                    else:
                        arrival = max(time, sent[d]) + send
                        sent[d] = arrival
                    if d < pp - 1:
                        came[d + 1] = arrival
                    else:
                        wrap = arrival
            source = back[d]
            if pending >= 0.0:
                back[d] = pending
            pending = -1.0
            if 0 <= b < total:
                v = (chunks - 1 - mirror) * pp + d
                if v < turn - 1:
                    time = max(time, source)
                if reduces == ALWAYS or (reduces == ONCE and b >= total - turn and late == pp - 1):
                    time, wire[d] = _backward(
                        u, ptr[v], ptr[v + 1], prefetch, slowdown, time, wire[d]
                    )
                else:
                    time += backward[v]
                if v > 0:
                    pending = time + send
                    if blocking:
                        time = pending
                    else:
                        pending = max(time, sent[d]) + send
                        sent[d] = pending
            free[d] = time
            k += 1
            place += 1
            if place == pp:
                place = 0
                chunk = chunk + 1 if chunk + 1 < chunks else 0
            b -= 1
            late -= 1
            if late < 0:
                late = pp - 1
                mirror = mirror - 1 if mirror > 0 else chunks - 1
        if wrap >= 0.0:
            came[0] = wrap
        if pending >= 0.0:
            back[pp - 1] = pending
        if steady and turn + pp - 1 <= tick < total - 2:
            left, age, limit = _skip(state, then, age, limit, total - 2 - tick, turn)
            tick += left
            steady = limit > 0
        tick += 1
    for d in range(pp):
        end[d] = max(free[d], sent[d], wire[d])


@kernel
def hold(
    pp: Int32,
    vpp: Int32,
    layout: Int64,
    exchange: Int64,
    device_ptr: Int64,
    layout_ptr: Int64,
    slice_ptr: Int64,
    units: Int32,
    owned: Floats,
    held: Floats,
) -> None:
    """Add up the parameters that the optimizer of every device of every plan updates."""
    for i in range(len(pp)):
        first = layout_ptr[layout[i]]
        for v in range(pp[i] * vpp[i]):
            at = device_ptr[i] + v % pp[i]
            for unit in range(slice_ptr[first + v], slice_ptr[first + v + 1]):
                held[at] += owned[exchange[i], units[unit]]


@kernel
def _fill_units(
    stages: int,
    first: int,
    roots: int,
    per_layer: bool,
    part: int,
    exchange: int,
    slice_ptr: Int64,
    units: Int32,
    seconds: Floats,
    wires: Floats,
    u: Floats,
    ptr: Int64,
    forward: Floats,
    backward: Floats,
) -> None:
    """Lay out the units of one plan and add them up by slice.

    Under fsdp the units from ``roots`` on, the ends of the model, are one: gathered before
    anything else of their slice, kept, and reduced last.
    """
    base = slice_ptr[first]
    for v in range(stages):
        begin, end = slice_ptr[first + v] - base, slice_ptr[first + v + 1] - base
        ptr[v] = begin
        ptr[v + 1] = end
        forward[v] = 0.0
        backward[v] = 0.0
        root_gather, root_reduce = 0.0, 0.0
        for i in range(begin, end):
            unit = units[base + i]
            u[FORWARD, i] = seconds[part, FORWARD, unit]
            u[BACKWARD, i] = seconds[part, BACKWARD, unit]
            forward[v] += u[FORWARD, i]
            backward[v] += u[BACKWARD, i]
            u[GATHER, i] = wires[exchange, GATHER, unit]
            u[REGATHER, i] = wires[exchange, REGATHER, unit]
            u[REDUCE, i] = wires[exchange, REDUCE, unit]
            if per_layer and unit >= roots:
                root_gather += u[GATHER, i]
                root_reduce += u[REDUCE, i]
                u[GATHER, i] = 0.0
                u[REGATHER, i] = 0.0
                u[REDUCE, i] = 0.0
        if end > begin:
            u[GATHER, begin] += root_gather
            u[REDUCE, begin] += root_reduce


@kernel
def price(
    kind: Int32,
    pp: Int32,
    vpp: Int32,
    micro_batches: Int64,
    layout: Int64,
    part: Int64,
    exchange: Int64,
    gathers: Int32,
    reduces: Int32,
    blocking: Bool,
    prefetch: Int32,
    reduce_after: Bool,
    gather_after: Bool,
    send: Floats,
    tied: Floats,
    norm: Floats,
    device_ptr: Int64,
    optimizer: Floats,
    layout_ptr: Int64,
    slice_ptr: Int64,
    units: Int32,
    roots: Int64,
    seconds: Floats,
    wires: Floats,
    slowdown: float,
    most_units: int,
    out: Floats,
) -> None:
    """Write the makespan of every plan of a regular schedule to ``out``."""
    u = np.zeros((5, most_units))
    ptr = np.zeros(most_units + 1, np.int64)
    forward = np.zeros(most_units)
    backward = np.zeros(most_units)
    end = np.zeros(most_units)
    for i in range(len(out)):
        stages = pp[i] * vpp[i]
        first = layout_ptr[layout[i]]
        _fill_units(
            stages, first, roots[layout[i]], prefetch[i] != WITH_STEP, part[i], exchange[i],
            slice_ptr, units, seconds, wires, u, ptr, forward, backward,
        )  # fmt: skip
        n = ptr[stages]
        when_gather, when_reduce = gathers[i], reduces[i]
        # a group of one sends nothing: such a pass is one sum
        if not u[GATHER, :n].any():
            when_gather = NEVER
        if not (u[REDUCE, :n].any() or u[REGATHER, :n].any()):
            when_reduce = NEVER
        if kind[i] == GPIPE:
            _play_gpipe(
                pp[i], micro_batches[i], send[i], u, ptr, forward, backward,
                when_gather, when_reduce, prefetch[i], slowdown, end,
            )  # fmt: skip
        elif vpp[i] == 1:
            _play_1f1b(
                pp[i], micro_batches[i], send[i], u, ptr, forward, backward,
                when_gather, when_reduce, prefetch[i], slowdown, end,
            )  # fmt: skip
        else:
            _play_interleaved(
                pp[i], vpp[i], micro_batches[i], send[i], blocking[i], u, ptr, forward,
                backward, when_gather, when_reduce, prefetch[i], slowdown, end,
            )  # fmt: skip
        joined, ending = 0.0, 0.0
        for d in range(pp[i]):
            reduce, gather = 0.0, 0.0
            for chunk in range(vpp[i]):
                v = chunk * pp[i] + d
                for at in range(ptr[v], ptr[v + 1]):
                    reduce += u[REDUCE, at] if reduce_after[i] else 0.0
                    gather += u[GATHER, at] if gather_after[i] else 0.0
            shared = tied[i] if d in (0, pp[i] - 1) else 0.0
            joined = max(joined, end[d] + reduce + shared)
            ending = max(ending, optimizer[device_ptr[i] + d] + gather)
        out[i] = joined + norm[i] + ending


@kernel
def bound(
    kind: Int32,
    pp: Int32,
    vpp: Int32,
    micro_batches: Int64,
    layout: Int64,
    part: Int64,
    exchange: Int64,
    gathers: Int32,
    reduces: Int32,
    blocking: Bool,
    reduce_after: Bool,
    send: Floats,
    norm: Floats,
    device_ptr: Int64,
    optimizer: Floats,
    layout_ptr: Int64,
    slice_ptr: Int64,
    units: Int32,
    roots: Int64,
    seconds: Floats,
    hidden: Floats,
    wires: Floats,
    most_units: int,
    out: Floats,
) -> None:
    """Write what no makespan is under to ``out``; ``Pricer.lower_bound`` has the proof.

    ``hidden`` float64[parts, 2, units] is the share of ``seconds`` that a paired pass may hide.
    """
    forward = np.zeros(most_units)
    backward = np.zeros(most_units)
    lines = np.zeros((3, most_units))
    for i in range(len(out)):
        stages, m, dual = pp[i] * vpp[i], float(micro_batches[i]), kind[i] == DUALPIPE
        first, regular = layout_ptr[layout[i]], kind[i] <= INTERLEAVED
        p, e, devices = part[i], exchange[i], pp[i]
        for v in range(stages):
            forward[v], backward[v] = 0.0, 0.0
            lines[:, v] = 0.0
            for at in range(slice_ptr[first + v], slice_ptr[first + v + 1]):
                unit = units[at]
                forward[v] += seconds[p, FORWARD, unit]
                backward[v] += seconds[p, BACKWARD, unit]
                if dual:
                    forward[v] -= hidden[p, FORWARD, unit]
                    backward[v] -= hidden[p, BACKWARD, unit]
                lines[GATHERED, v] += wires[e, GATHER, unit]
                lines[REDUCED, v] += wires[e, REDUCE, unit]
                if unit < roots[layout[i]]:
                    lines[AGAIN, v] += wires[e, REGATHER, unit]
        computed, carried, fill, drain, ending = 0.0, 0.0, 0.0, 0.0, 0.0
        for d in range(devices):
            busy, wire = 0.0, 0.0
            for chunk in range(vpp[i]):
                v = chunk * devices + d
                busy += m * (forward[v] + backward[v])
                if gathers[i] == ALWAYS:
                    wire += m * (lines[GATHERED, v] + lines[AGAIN, v])
                elif gathers[i] == ONCE:
                    wire += lines[GATHERED, v]
                wire += (m if reduces[i] == ALWAYS else float(reduces[i])) * lines[REDUCED, v]
            if dual:
                mirror = devices - 1 - d
                busy = 0.5 * (busy + m * (forward[mirror] + backward[mirror]))
                wire = 0.0
            else:
                busy += fill
            if regular:
                if blocking[i]:
                    sends = 2 * vpp[i] - int(d == 0) - int(d == devices - 1)
                    # the last send of a device but the first is part of the drain
                    busy += (m * sends - int(d > 0)) * send[i]
                if vpp[i] == 1 and reduces[i] == ONCE:
                    wire = max(wire, busy - backward[d] + lines[REDUCED, d])
                busy += drain
            computed = max(computed, busy)
            carried = max(carried, wire)
            fill += forward[d] + send[i]
            drain += backward[d] + send[i]
            ending = max(ending, optimizer[device_ptr[i] + d])
        if reduce_after[i] and regular:
            for chunk in range(vpp[i]):
                computed += lines[REDUCED, chunk * devices]
        out[i] = max(computed, carried) + norm[i] + ending


@kernel
def _most_kept(kind: int, pp: int, chunks: int, m: int, d: int, stored: Floats) -> float:
    """Return the most bytes that device d keeps of the micro-batches in flight.

    Interleaved, from the first backward on the bytes kept recur with every turn of all chunks.
    """
    if kind == GPIPE:
        return float(m * stored[d])
    if chunks == 1:
        return float(min(pp - d, m) * stored[d])
    total, turn = m * chunks, pp * chunks
    warm = min(total, 2 * (pp - 1 - d) + (chunks - 1) * pp)
    live = 0.0
    for group in range((warm + pp - 1) // pp):
        live += min(pp, warm - group * pp) * stored[group % chunks * pp + d]
    most = live
    step, end = warm, min(total, warm + turn)
    while step < end:
        # as long as both chunks stay, each forward and the backward behind it change the sum alike
        count = min(pp - step % pp, pp - (step - warm) % pp, end - step)
        enters = stored[step // pp % chunks * pp + d]
        leaves = stored[(chunks - 1 - (step - warm) // pp % chunks) * pp + d]
        most = max(most, live + enters + max(0.0, (count - 1) * (enters - leaves)))
        live += count * (enters - leaves)
        step += count
    return most


@kernel
def worst_bytes(
    kind: Int32,
    pp: Int32,
    vpp: Int32,
    micro_batches: Int64,
    zero_stage: Int32,
    copies: Int32,
    moved: Bool,
    kept_of: Int64,
    held_of: Int64,
    share_of: Int64,
    layout: Int64,
    layout_ptr: Int64,
    counts: Int64,
    kept: Floats,
    held: Floats,
    share: Floats,
    message: Floats,
    element: float,
    bucket: float,
    gradient: float,
    unsharded: float,
    framework: float,
    fragmentation: float,
    mtp: int,
    out: Floats,
) -> None:
    """Write the bytes of the stage that needs most of every plan; as ``memory.stage_memory``."""
    most_parts = 1
    for i in range(len(layout_ptr) - 1):
        most_parts = max(most_parts, layout_ptr[i + 1] - layout_ptr[i])
    stored = np.zeros(most_parts)
    again = np.zeros(most_parts)
    work = np.zeros(most_parts)
    unit = np.zeros(most_parts)
    dense = np.zeros(most_parts)
    experts = np.zeros(most_parts)
    for i in range(len(out)):
        parts, first = pp[i] * vpp[i], layout_ptr[layout[i]]
        last = parts - 1
        a, h, s = kept[kept_of[i]], held[held_of[i]], share[share_of[i]]
        logits = a[KINDS, 2]
        for v in range(parts):
            stored[v], again[v], work[v], unit[v] = 0.0, 0.0, 0.0, 0.0
            dense[v], experts[v] = 0.0, 0.0
            layers = 0
            for k in range(counts.shape[0]):
                count = counts[k, first + v]
                if count > 0:
                    layers += count
                    stored[v] += count * a[k, 0]
                    again[v] = max(again[v], a[k, 1])
                    work[v] = max(work[v], a[k, 2])
                    unit[v] = max(unit[v], a[k, 3])
                    routed = int(a[k, 4])
                    dense[v] += count * h[routed, 0]
                    experts[v] += count * h[routed, 1]
            if v == 0:
                stored[v] += a[KINDS, 0]
                dense[v] += h[2, 0]
            if v == last:
                stored[v] += a[KINDS, 1] + mtp * (a[KINDS, 3] + a[KINDS, 1])
                dense[v] += h[3, 0]
                experts[v] += h[3, 1]
            if moved[i]:
                # one layer's activations leave while the next layer's are computed
                again[v] += 2.0 * stored[v] / max(layers, 1)
        worst = 0.0
        for d in range(pp[i]):
            live, heads = 0.0, 0.0
            if not moved[i]:
                live = _most_kept(kind[i], pp[i], vpp[i], micro_batches[i], d, stored)
            if d == pp[i] - 1:
                # the loss of a micro-batch is followed by its backward, but for GPipe
                heads = logits * (1 + mtp) * (micro_batches[i] if kind[i] == GPIPE else 1)
            own, routed_own, recreated, widest, largest = 0.0, 0.0, 0.0, 0.0, 0.0
            for chunk in range(vpp[i]):
                v = chunk * pp[i] + d
                own += dense[v]
                routed_own += experts[v]
                recreated = max(recreated, again[v])
                widest = max(widest, work[v])
                largest = max(largest, unit[v])
            edge = (h[2, 0] if d == 0 else 0.0) + (h[3, 0] if d == pp[i] - 1 else 0.0)
            activations = live + recreated
            buffers = max(max(heads - logits, 0.0) + widest, heads - recreated)
            buffers += a[KINDS, 4]
            if copies[i] > 1:
                if zero_stage[i] < 2:
                    buffers += min(bucket, gradient * (own + routed_own))
                else:
                    buffers += element * max(largest, edge)
                    if zero_stage[i] > 2:
                        buffers += element * (unsharded * largest + edge)
            if pp[i] > 1:
                buffers += 4.0 * message[i]
            state = 0.0
            for cause in range(3):
                state += own * s[0, cause] + routed_own * s[1, cause]
            whole = state + activations + buffers
            whole += framework + fragmentation * (activations + buffers)
            worst = max(worst, whole)
        out[i] = worst
