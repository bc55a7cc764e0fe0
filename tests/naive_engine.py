"""The engine as SimPy processes: one dispatch event per stream, one timeout per task."""

from __future__ import annotations

import simpy


def play(seconds, stream, predecessors, priority, in_order):
    """Return (start, end) lists; None for tasks that never ran."""
    env = simpy.Environment()
    tasks = range(len(seconds))
    start = [None] * len(seconds)
    end = [None] * len(seconds)
    waiting = {s: [] for s in range(len(in_order))}
    for task in sorted(tasks, key=lambda t: (priority[t], t)):
        waiting[stream[task]].append(task)
    running = set()
    asked = set()

    def is_ready(task):
        return all(end[p] is not None for p in predecessors[task])

    def run(task):
        start[task] = env.now
        yield env.timeout(seconds[task])
        end[task] = env.now
        running.discard(stream[task])
        for other in waiting:
            ask(other)

    def dispatch(s):
        # a delay of zero queues behind every end already due at this time
        yield env.timeout(0)
        asked.discard(s)
        if s in running:
            return
        line = waiting[s][:1] if in_order[s] else waiting[s]
        for task in line:
            if is_ready(task):
                waiting[s].remove(task)
                running.add(s)
                env.process(run(task))
                return

    def ask(s):
        if s not in asked and waiting[s]:
            asked.add(s)
            env.process(dispatch(s))

    for s in waiting:
        ask(s)
    env.run()
    return start, end
