"""Compiled replay of a run against its failures: from one event to the next, no step simulated."""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import kernel

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

WALL, CHECKPOINT, LOST, SLOW, RESTART, WAIT, FAILURES, REWINDS, FINISHED = 0, 1, 2, 3, 4, 5, 6, 7, 8
COLUMNS = 9


@kernel
def _nodes_ready(at: float, nodes: int, out_s: float, slots: Float64) -> float:
    """Return when so many broken nodes are replaced; ``slots`` says when each spare is free.

    A broken node takes the spare that is free first, or is itself back sooner; once repaired it is
    the spare in that place.
    """
    ready = at
    for _ in range(nodes):
        best = -1
        for slot in range(len(slots)):
            if best < 0 or slots[slot] < slots[best]:
                best = slot
        back = at + out_s
        if best >= 0 and max(at, slots[best]) < back:
            ready = max(ready, max(at, slots[best]))
            slots[best] = back
        else:
            ready = max(ready, back)
    return ready


@kernel
def replay(
    event_ptr: Int64,
    event_at: Float64,
    event_nodes: Int64,
    event_out: Float64,
    event_luck: Float64,
    speed_ptr: Int64,
    speed_at: Float64,
    speed: Float64,
    work: Float64,
    interval: Float64,
    pause: float,
    lag: float,
    load: float,
    store_every: int,
    store_lag: float,
    store_load: float,
    survival: Float64,
    restart: float,
    rewind: Float64,
    spares: int,
    columns: Float64,
) -> None:
    """Play every run to its end or to its last event.

    Parameters
    ----------
    event_ptr, event_at, event_nodes, event_out, event_luck
        Of run r, events ``event_ptr[r]`` to ``event_ptr[r + 1]`` in order of time [s]: nodes that
        break (0 starts the job again, -1 rewinds it), how long they are out [s], a uniform number
        that decides whether memory survives. The last one is the horizon and does nothing.
    speed_ptr, speed_at, speed
        Of run r, from each time on the speed, at most 1.
    work, interval, rewind
        Of run r, work [s at speed 1], work between checkpoints, work that a loss spike undoes.
    pause, lag, load, store_every, store_lag, store_load
        Of :class:`ridgeline.simulator.fleet.checkpoints.CheckpointCosts`.
    survival
        Probability that memory survives the loss of so many nodes; empty without any in memory.
    restart
        From nodes at hand to the load of a checkpoint [s].
    spares
        Spare nodes.
    columns
        By run and column, seconds or counts; filled.
    """
    for run in range(len(work)):
        total, grid = work[run], interval[run]
        slots = np.zeros(spares)
        done, pausing = 0.0, 0.0
        # checkpoints by their place on the grid: the last begun and when it was complete, the last
        # one of the store and when, and those that a failure can count on
        last, last_end = 0, 0.0
        stored, stored_end = 0, 0.0
        near, far = 0, 0
        pauses, lost, slow, restarting, waiting = 0.0, 0.0, 0.0, 0.0, 0.0
        failures, rewinds, gone = 0, 0, 0
        down, ready, resume = False, 0.0, 0.0
        now, finished = 0.0, False
        at_speed = speed_ptr[run]
        for event in range(event_ptr[run], event_ptr[run + 1]):
            until = event_at[event]
            if down:
                stop = min(until, resume)
                waiting += max(0.0, min(stop, ready) - now)
                restarting += max(0.0, stop - max(now, min(stop, ready)))
                now = stop
                down = resume > until
                if not down:
                    gone = 0
            while now < until and not down and not finished:
                while at_speed + 1 < speed_ptr[run + 1] and speed_at[at_speed + 1] <= now:
                    at_speed += 1
                edge = until
                if at_speed + 1 < speed_ptr[run + 1]:
                    edge = min(edge, speed_at[at_speed + 1])
                rate = speed[at_speed]
                if pausing > 0.0:
                    step = min(pausing, edge - now)
                    pauses += step
                    # not by adding, so that an end that was announced is met exactly
                    now = last_end if step == pausing else edge
                    pausing -= step
                    continue
                # whole cycles of work and pause at one speed, none of them the end of the run
                cycle = grid / rate + pause
                if done == last * grid and grid < total:
                    cycles = min(floor((edge - now) / cycle), floor((total - done) / grid) - 1)
                    if cycles > 0:
                        now += cycles * cycle
                        pauses += cycles * pause
                        slow += cycles * grid * (1.0 / rate - 1.0)
                        last += cycles
                        near = max(near, last - 1)
                        done = last * grid
                        last_end = now
                        newest = last // store_every * store_every
                        if newest > stored:
                            far = max(far, newest - store_every)
                            stored, stored_end = newest, now - (last - newest) * cycle
                        continue
                goal = min((last + 1) * grid, total)
                needed = (goal - done) / rate
                if now + needed > edge:
                    part = (edge - now) * rate
                    done += part
                    slow += (edge - now) - part
                    now = edge
                    continue
                slow += needed * (1.0 - rate)
                now += needed
                done = goal
                if goal == total:
                    finished = True
                else:
                    near = max(near, last)
                    last += 1
                    pausing = pause
                    last_end = now + pause
                    if last % store_every == 0:
                        far = max(far, stored)
                        stored, stored_end = last, now + pause
            if finished or event == event_ptr[run + 1] - 1:
                break
            # what strikes now; a job that stands still has no loss that could spike
            if down and event_nodes[event] < 0:
                continue
            if last > near and now >= last_end + lag:
                near = last
            if stored > far and now >= stored_end + store_lag:
                far = stored
            nodes = event_nodes[event]
            kept, back_s = near, load
            if nodes < 0:
                rewinds += 1
                kept = floor(max(0.0, done - rewind[run]) / (grid * store_every)) * store_every
                kept, back_s = min(kept, far), store_load
                far = kept
            else:
                failures += 1
                before = gone
                gone += nodes
                if len(survival) == 0:
                    kept, back_s = far, store_load
                elif nodes > 0:
                    held = survival[min(before, len(survival) - 1)]
                    holds = survival[min(gone, len(survival) - 1)]
                    if event_luck[event] * held >= holds:
                        kept, back_s = far, store_load
                if nodes > 0:
                    ready = max(ready, _nodes_ready(now, nodes, event_out[event], slots))
            ready = max(ready, now)
            saved = kept * grid
            lost += done - saved
            done, pausing = saved, 0.0
            last, near = kept, kept
            # what memory holds drains to the store through a restart, the rest is gone
            if stored > kept:
                stored = far
            down, resume = True, ready + restart + back_s
        columns[run, WALL] = now
        columns[run, CHECKPOINT] = pauses
        columns[run, LOST] = lost
        columns[run, SLOW] = slow
        columns[run, RESTART] = restarting
        columns[run, WAIT] = waiting
        columns[run, FAILURES] = failures
        columns[run, REWINDS] = rewinds
        columns[run, FINISHED] = 1.0 if finished else 0.0
