"""Take samples round by round: every case once a round, so that a disturbance hits one sample each.

On a CPU with one thread a rank, seconds are those that the rank's process held a core, gloo's own
threads included: the same as the wall on a machine left alone, but for the wait for peers, and not
disturbed by what else runs. Everything else is wall time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from ridgeline.validation.profiling import cases as c
from ridgeline.validation.profiling.programs import Program, Programs

LOOP_S = 0.001
"""A loop repeats its program for about so long; a program that takes longer runs once."""
LOOPS = 5
"""A sample of short programs is the median of so many loops."""
COLLECTIVE_LOOPS = 9
"""The same of a collective, of which the least disturbed loop counts."""
MOST_REPEATS = 2000
Clock = Callable[[], float]
Report = Callable[[int, int, float], None]
"""Called behind a round with its number, how many samples were taken and seconds passed."""
_GRAPHED = (c.GEMM, c.ATTENTION, c.NORM, c.ACTIVATION, c.ADD, c.STACK, c.COPY, c.GRAPH_LAUNCH)


class Ranks:
    """What the processes of a profile agree on; the default is a process alone."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Wait for the others."""

    def slowest(self, value: float) -> float:
        """Return the largest value of all ranks."""
        return value


def clock(device: torch.device, threads: int) -> Clock:
    """Return what tells the time of a rank with so many threads."""
    return time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter


def rough_flops(programs: Programs, dtypes: Sequence[str], now: Clock) -> dict[str, float]:
    """Return a rough matrix rate by dtype, FLOP/s, to a power of two."""
    found = {}
    for dtype in dtypes:
        program = programs.make(c.Case(kind=c.GEMM, dtype=dtype, dims=(512, 512, 512)))
        program.run()
        least = min(_loop(program, 1, now, programs.device) for _ in range(3))
        found[dtype] = 2.0 ** round(math.log2(2.0 * 512**3 / least))
    return found


def _loop(program: Program, repeats: int, now: Clock, device: torch.device) -> float:
    """Return seconds a call of an eager loop."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = now()
    for _ in range(repeats):
        program.run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (now() - start) / (repeats * program.calls)


def _replayed(program: Program, repeats: int) -> float:
    """Return seconds a call when a CUDA graph replays them: the device's own time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            program.run()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    first.record()
    graph.replay()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) * 1e-3 / (repeats * program.calls)


def sample(programs: Programs, case: c.Case, now: Clock, ranks: Ranks) -> float:
    """Return seconds of one call on the slowest rank, warmed up."""
    program = programs.make(case)
    program.run()
    ranks.barrier()
    wire = case.kind in c.COLLECTIVES
    once = _loop(program, 1, now, programs.device)
    if wire:  # every rank must run one equally often
        once = ranks.slowest(once)
    wanted = LOOP_S // max(1e-9, once * program.calls)
    repeats = int(min(MOST_REPEATS, max(1.0, wanted)))
    if programs.device.type == "cuda" and case.kind in _GRAPHED:
        return ranks.slowest(_replayed(program, repeats))
    seconds = []
    for _ in range(COLLECTIVE_LOOPS if wire else LOOPS if repeats > 1 else 1):
        if wire:  # a rank that comes late makes its peers spin or sleep
            ranks.barrier()
        seconds.append(_loop(program, repeats, now, programs.device))
    return ranks.slowest(min(seconds) if wire else statistics.median(seconds))


def run_rounds(
    programs: Programs,
    cases: Sequence[c.Case],
    ranks: Ranks,
    *,
    threads: int,
    seconds: float,
    add: Callable[[str, float], None],
    report: Report,
) -> None:
    """Run whole rounds until the next would pass ``seconds``; the first may be cut short."""
    now = clock(programs.device, threads)
    begin = time.perf_counter()
    number, longest = 0, 0.0
    while True:
        start = time.perf_counter()
        for case in cases:
            add(case.key, sample(programs, case, now, ranks))
            if number == 0 and ranks.slowest(time.perf_counter() - begin) > seconds:
                return
        number += 1
        passed = time.perf_counter() - begin
        longest = max(longest, time.perf_counter() - start)
        report(number, number * len(cases), passed)
        if ranks.slowest(passed + longest) > seconds:
            return
