"""Read and analyse a profiler trace of 340 MB, made from one step: CPU seconds and peak memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ridgeline.validation.traces.analysis import analyse
from ridgeline.validation.traces.reading import read_trace

SIZE = 340_000_000
"""Bytes of the trace."""
LAYERS, KERNELS = 24, 12
"""Of the step that the trace repeats: layers, and kernels in each."""
TWIN_STEPS = 100
"""Steps of the small trace that the standard library's ``json`` reads for comparison."""
_DIMS = [[8192, 4096], [4096, 14336]]


def step_events(number: int) -> list[dict[str, Any]]:
    """Return one step as Kineto writes it: operators, launches, kernels, an all-reduce a layer."""
    begin = 20_000.0 * number
    made = [
        _event("user_annotation", f"ProfilerStep#{number}", begin, 19_000.0, 100, 100, {}),
    ]
    for place in range(LAYERS * KERNELS):
        at = begin + 60.0 * place
        correlation = LAYERS * KERNELS * number + place
        args: dict[str, Any] = {"External id": correlation, "Ev Idx": correlation}
        shapes = {"Input Dims": _DIMS, "Input type": ["c10::BFloat16", "c10::BFloat16"]}
        launch = {"cbid": 211, "correlation": correlation}
        kernel: dict[str, Any] = {
            "device": 0,
            "stream": 7,
            "correlation": correlation,
            "grid": [132, 1, 1],
            "block": [384, 1, 1],
            "registers per thread": 168,
            "est. achieved occupancy %": 19,
        }
        name = "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT"
        if place % KERNELS == KERNELS - 1:
            name = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
            kernel |= {"Collective name": "allreduce", "In msg nelems": 33554432}
            kernel |= {"Out msg nelems": 33554432, "Group size": 8, "dtype": "BFloat16"}
        made += [
            _event("cpu_op", "aten::mm", at, 40.0, 100, 100, args | shapes),
            _event("cuda_runtime", "cudaLaunchKernel", at + 10.0, 5.0, 100, 100, args | launch),
            _event("kernel", name, at + 900.0, 55.0, 0, 7, args | kernel),
        ]
    return made


def _event(
    cat: str, name: str, ts: float, dur: float, pid: int, tid: int, args: dict[str, Any]
) -> dict[str, Any]:
    head = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid}
    return head | {"ts": ts, "dur": dur, "args": args}


def write(path: Path, size: int) -> int:
    """Write a trace of at least ``size`` bytes; return its steps."""
    steps = written = 0
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "deviceProperties": [], "traceEvents": [')
        while written < size:
            text = json.dumps(step_events(steps))[1:-1]
            written += file.write(("," if steps else "") + text)
            steps += 1
        file.write("]}")
    return steps


def run() -> dict[str, float]:
    """Read a trace of 340 MB in a process of its own.

    Returns
    -------
    dict
        ``read_340mb_s`` and ``analyse_s`` are CPU seconds, ``read_340mb_wall_s`` is elapsed;
        ``peak_mib`` is the process's highest resident memory, the interpreter included.
        ``json_load_340mb_s`` is what ``json.load`` alone would take, by a smaller trace of the
        same events.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        steps = write(path, SIZE)
        shown = subprocess.run(
            [sys.executable, __file__, str(path)], check=True, capture_output=True, text=True
        )
        figures: dict[str, float] = json.loads(shown.stdout)
        assert figures["events"] == steps * LAYERS * KERNELS
        write(path, round(SIZE * TWIN_STEPS / steps))
        begin = time.process_time()
        with path.open() as file:
            json.load(file)
        twin = (time.process_time() - begin) * SIZE / path.stat().st_size
    return figures | {"json_load_340mb_s": twin}


def _read(path: Path) -> dict[str, float]:
    wall, begin = time.perf_counter(), time.process_time()
    trace = read_trace(path)
    read, wall = time.process_time() - begin, time.perf_counter() - wall
    analyse((trace,))
    return {
        "read_340mb_s": read,
        "read_340mb_wall_s": wall,
        "analyse_s": time.process_time() - begin - read,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "events": len(trace.events),
    }


if __name__ == "__main__":
    print(json.dumps(_read(Path(sys.argv[1])) if sys.argv[1:] else run(), indent=2))
