"""Step times and memory of regular plans by walking every pass of the schedule, one at a time."""

from __future__ import annotations

from ridgeline.simulator.schedule import FORWARD, make_schedule

NEVER, ONCE, ALWAYS = range(3)


def run_units(units, time, wire, prefetch, slowdown):
    """Run (seconds, gather, reduce) after each other; return when compute and wire are free."""
    ends, arrived = [], 0.0
    for i, (seconds, gather, reduce) in enumerate(units):
        if gather:
            if prefetch and i >= 2:
                wire = max(wire, ends[i - 2])
            wire += gather
            arrived = wire
        time = max(time, arrived) + seconds + slowdown * min(gather + reduce, seconds)
        ends.append(time)
        if reduce:
            wire = max(wire, time) + reduce
    return time, wire


def device_ends(kind, pp, vpp, m, send, blocking, forward, backward, when, prefetch, slowdown):
    """Return when every device is free behind its passes.

    ``forward`` and ``backward`` hold for each slice the units of a pass in the order in which it
    runs them, as (seconds, gather, reduce); ``when`` says in which forwards weights are gathered
    and in which backwards gradients are reduced.
    """
    schedule = make_schedule(kind, pp, vpp, m)
    queue = [
        [
            (int(schedule.pass_kind[i]), int(schedule.vstage[i]), int(schedule.micro_batch[i]))
            for i in range(schedule.device_ptr[d], schedule.device_ptr[d + 1])
        ]
        for d in range(pp)
    ]
    last = pp * vpp - 1
    left = {(kind, v): m for kind in (0, 1) for v in range(last + 1)}
    come, free, wire, line = {}, [0.0] * pp, [0.0] * pp, [0.0] * pp
    while any(queue):
        for d in range(pp):
            while queue[d]:
                which, v, batch = queue[d][0]
                entry = v == (0 if which == FORWARD else last)
                if not entry and (which, v, batch) not in come:
                    break
                queue[d].pop(0)
                time = max(free[d], 0.0 if entry else come[which, v, batch])
                units = (forward if which == FORWARD else backward)[v]
                due = left[which, v] == (m if which == FORWARD else 1)
                left[which, v] -= 1
                if when[which] == ALWAYS or (when[which] == ONCE and due):
                    time, wire[d] = run_units(units, time, wire[d], prefetch, slowdown)
                else:
                    time += sum(seconds for seconds, _, _ in units)
                free[d] = time
                to = v + 1 if which == FORWARD else v - 1
                if 0 <= to <= last:
                    if pp > 1:
                        line[d] = max(line[d], time) + send
                        time = line[d]
                    come[which, to, batch] = time
                    if blocking:
                        free[d] = time
    return [max(ends) for ends in zip(free, wire, line, strict=True)]


def most_kept(kind, pp, vpp, m, stored):
    """Return the most bytes that every device keeps of the micro-batches in flight."""
    schedule = make_schedule(kind, pp, vpp, m)
    peaks = []
    for d in range(pp):
        live, most = 0.0, 0.0
        for i in range(schedule.device_ptr[d], schedule.device_ptr[d + 1]):
            held = stored[schedule.vstage[i]]
            live += held if schedule.pass_kind[i] == FORWARD else -held
            most = max(most, live)
        peaks.append(most)
    return peaks
