"""Replay traces and long days on a 70B model on 8 H100 with chunked prefill.

The Azure traces of 2023 (28,185 requests, an hour each) are read from the folder that is given;
without it, traffic of the same number, rate and lengths is drawn. Beside them: a closed loop of
50,000 requests of 1,024 + 128 tokens at concurrency 32, and a day of a million requests on 8
replicas.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import (
    closed_loop,
    diurnal_arrivals,
    gamma_arrivals,
    open_loop,
)
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.traces import read_trace
from ridgeline.workloads.traffic.traffic import Traffic

REPEATS = 5
AZURE = (
    ("azure_llm_2023_code.csv.gz", 8819, 2.57, 2048.0, 28.0),
    ("azure_llm_2023_conv.csv.gz", 19366, 5.53, 1155.0, 211.0),
)
"""File, requests, requests a second, mean prompt and mean output of each published trace."""
DAY_RATES = (4.0, 3.0, 3.0, 5.0, 10.0, 15.0, 18.0, 20.0, 19.0, 17.0, 14.0, 10.0)
"""Requests a second every two hours: a million a day."""


def service(replicas: int = 1) -> Service:
    """Return Llama 3 70B in fp8 on replicas of 8 H100."""
    return Service(
        model=load_model("llama3-70b"),
        cluster=make_cluster(f"{8 * replicas}xh100-sxm"),
        engine="vllm",
        precision="fp8",
        tp=8,
        replicas=replicas,
    )


def traces(folder: Path | None) -> list[Traffic]:
    """Return both Azure traces, or traffic like theirs where they are not there."""
    found = []
    for name, count, rate, prompt, output in AZURE:
        if folder is not None and (folder / name).exists():
            found.append(read_trace(folder / name))
            continue
        inputs = Lengths(mean=prompt, kind="log-normal", most=16_000)
        outputs = Lengths(mean=output, kind="log-normal", most=2000)
        found.append(open_loop(gamma_arrivals(rate, count), inputs, outputs))
    return found


def _day(hours: float) -> Traffic:
    return open_loop(
        diurnal_arrivals(DAY_RATES, 3600.0 * hours),
        Lengths(mean=1100, kind="log-normal", most=16_000),
        Lengths(mean=210, kind="log-normal", most=2000),
    )


def _cpu_s(work: Callable[[], object], repeats: int = REPEATS) -> float:
    spent = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        spent.append(time.process_time() - before)
    return statistics.median(spent)


def run(data: str = "") -> dict[str, float]:
    """Measure in CPU seconds after compilation, median of repeats; ``data`` holds the traces."""
    folder = Path(data) if data else None
    one, eight = service(), service(8)
    serve(one, closed_loop(4, 8, Lengths(mean=10), Lengths(mean=10)))
    azure = traces(folder)
    requests = sum(map(len, azure))
    replay_s = _cpu_s(lambda: [serve(one, traffic) for traffic in azure])
    loop = closed_loop(32, 50_000, Lengths(mean=1024), Lengths(mean=128))
    loop_s = _cpu_s(lambda: serve(one, loop))
    quarter, day = _day(6.0), _day(24.0)
    quarter_s = _cpu_s(lambda: serve(eight, quarter), 1)
    day_s = _cpu_s(lambda: serve(eight, day), 1)
    return {
        "azure_traces_found": float(folder is not None and (folder / AZURE[0][0]).exists()),
        "azure_requests": requests,
        "azure_replay_cpu_s": replay_s,
        "requests_per_cpu_s": requests / replay_s,
        "closed_loop_50k_cpu_s": loop_s,
        "day_requests": len(day),
        "million_requests_cpu_s": day_s * 1e6 / len(day),
        "six_hours_us_per_request": 1e6 * quarter_s / len(quarter),
        "day_us_per_request": 1e6 * day_s / len(day),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
