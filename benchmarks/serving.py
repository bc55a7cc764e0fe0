"""Replay traces and long days on a 70B model on 8 H100 with chunked prefill.

The Azure traces of 2023 (28,185 requests, an hour each) are read from the folder that is given;
without it, traffic of the same number, rate and lengths is drawn. Beside them: a closed loop of
50,000 requests of 1,024 + 128 tokens at concurrency 32, a day of a million requests on 8
replicas, and static estimates.

Where the command ``aisimulate`` (PyPI) is on the path, or the variable AISIMULATE names it, it
answers the same closed loop for Qwen3 32B in fp8 on one H200, beside ours.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.static import generation_seconds
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
STATIC_REPEATS = 300
AZURE = (
    ("azure_llm_2023_code.csv.gz", 8819, 2.57, 2048.0, 28.0),
    ("azure_llm_2023_conv.csv.gz", 19366, 5.53, 1155.0, 211.0),
)
"""File, requests, requests a second, mean prompt and mean output of each published trace."""
DAY_RATES = (4.0, 3.0, 3.0, 5.0, 10.0, 15.0, 18.0, 20.0, 19.0, 17.0, 14.0, 10.0)
"""Requests a second every two hours: a million a day."""


LOOP_REQUESTS, LOOP_CONCURRENCY = 50_000, 32
PEER_CONFIG = """\
traffic:
  source: {{type: synthetic, input_tokens: 1024, output_tokens: 128}}
  load: {{type: concurrency, concurrency: {concurrency}}}
  stop: {{requests: {requests}}}
engine:
  mode: aggregated
  model: Qwen/Qwen3-32B-FP8
  hardware: h200_sxm
  backend: vllm
  workers:
    aggregated: {{}}
"""


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


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peer_cpu_s(command: str, requests: int) -> float:
    """Return the CPU seconds of one prediction of aisimulate, start and all."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "prediction.yaml"
        config.write_text(
            PEER_CONFIG.format(concurrency=LOOP_CONCURRENCY, requests=requests), encoding="utf-8"
        )
        before = _children_cpu_s()
        subprocess.run(
            [command, "predict", "--config", config, "--output-dir", Path(folder) / "out"],
            check=True,
            capture_output=True,
        )
        return _children_cpu_s() - before


def beside_aisimulate() -> dict[str, float | str]:
    """Return CPU seconds of aisimulate and of ``serve`` on one closed loop.

    What aisimulate takes to start and to load its tables is measured on a few requests and taken
    off; ``serve`` prices its tables within its time.
    """
    qwen = Service(
        model=load_model("qwen3-32b"),
        cluster=make_cluster("1xh200-sxm"),
        engine="vllm",
        precision="fp8",
    )
    loop = closed_loop(LOOP_CONCURRENCY, LOOP_REQUESTS, Lengths(mean=1024), Lengths(mean=128))
    found: dict[str, float | str] = {"qwen3_32b_50k_cpu_s": _cpu_s(lambda: serve(qwen, loop))}
    command = shutil.which(os.environ.get("AISIMULATE", "aisimulate"))
    if command is None:
        return found | {"aisimulate_50k_cpu_s": "not installed"}
    start_s = _peer_cpu_s(command, LOOP_CONCURRENCY)
    peer_s = max(0.0, _peer_cpu_s(command, LOOP_REQUESTS) - start_s)
    return found | {"aisimulate_start_cpu_s": start_s, "aisimulate_50k_cpu_s": peer_s}


def _fixed_work() -> None:
    """Do 400 operations on small arrays, of which static estimates mostly consist."""
    values = np.arange(8.0)
    for _ in range(200):
        values = np.maximum(1.0, values * 0.999)


def static_estimates() -> dict[str, float | str]:
    """Return milliseconds of a static estimate of a whole generation, dense and of experts.

    Of prompts of other lengths each (``_ms``), and where the batch is another one too
    (``_new_batch_ms``); ``_fixed_works`` is the former over fixed work that alternates with it,
    which load on the machine slows alike.
    """
    dense = service()
    experts = Service(
        model=load_model("deepseek-v3"),
        cluster=make_cluster("8xh200-sxm"),
        engine="vllm",
        precision="fp8",
        tp=8,
        ep=8,
    )
    found: dict[str, float | str] = {}
    for name, one in (("dense", dense), ("experts", experts)):
        generation_seconds(one, 8, 1024, 128)
        spent_s, fixed_s, new_s = [], [], []
        for n in range(STATIC_REPEATS):
            spent_s.append(_cpu_s(partial(generation_seconds, one, 8, 1000 + n, 128), 1))
            fixed_s.append(_cpu_s(_fixed_work, 1))
            new_s.append(_cpu_s(partial(generation_seconds, one, 9 + n, 1000, 128), 1))
        spent, fixed = statistics.median(spent_s), statistics.median(fixed_s)
        found[f"static_{name}_ms"] = 1e3 * spent
        found[f"static_{name}_new_batch_ms"] = 1e3 * statistics.median(new_s)
        found[f"static_{name}_fixed_works"] = spent / fixed
        found["fixed_work_ms"] = 1e3 * fixed
    return found


def run(data: str = "") -> dict[str, float | str]:
    """Measure in CPU seconds after compilation, median of repeats; ``data`` holds the traces."""
    folder = Path(data) if data else None
    one, eight = service(), service(8)
    serve(one, closed_loop(4, 8, Lengths(mean=10), Lengths(mean=10)))
    azure = traces(folder)
    requests = sum(map(len, azure))
    replay_s = _cpu_s(lambda: [serve(one, traffic) for traffic in azure])
    loop = closed_loop(LOOP_CONCURRENCY, LOOP_REQUESTS, Lengths(mean=1024), Lengths(mean=128))
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
        **beside_aisimulate(),
        **static_estimates(),
        "day_requests": len(day),
        "million_requests_cpu_s": day_s * 1e6 / len(day),
        "six_hours_us_per_request": 1e6 * quarter_s / len(quarter),
        "day_us_per_request": 1e6 * day_s / len(day),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
