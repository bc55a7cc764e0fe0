"""What each mechanism buys: errors of a sample of rows with one mechanism taken away."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.service import Limits, Speculation
from ridgeline.validation.serving.calibration.engines import summary
from ridgeline.validation.serving.calibration.fit import Asked, engine_file, log_errors
from ridgeline.validation.serving.rows import Question

Floats = NDArray[np.float64]


def _service(**changes: Any) -> Callable[[Question], Question]:
    return lambda q: replace(q, service=replace(q.service, **changes))


def _client(**changes: Any) -> Callable[[Question], Question]:
    return lambda q: replace(q, client=replace(q.client, **changes))


ENGINE_WAYS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "no host time": {"host_s": 0.0, "host_per_sequence_s": 0.0, "host_per_prefill_s": 0.0},
    "no small kernels": {"small_kernel_s": 0.0},
    "quantisation never fused": {"quantise_fused": 0.0},
    "no front end": {"front_s": 0.0, "front_serial_s": 0.0},
    "no eager launches of prompts": {"eager_layer_s": {}},
    "collectives of NCCL alone": {"custom_all_reduce_bytes": 0.0},
    "any expert kernel of the library": {"expert_kernels": ()},
    "cache of outputs taken as they come": {"reserve_output": 0.0},
    "a graph for every batch": {"graph_doubling": 2.0**40},
    "no buffers of experts set aside": {"expert_workspace": 0.0},
    "cache behind windows given back": {"frees_windows": True},
    "tokens gathered in 16 bits": {"gather_quantised": False},
    "latent attention in 16 bits": {"latent_precision": {}},
}
QUESTION_WAYS: Mapping[str, Callable[[Question], Question]] = {
    "16-bit cache": _service(kv_precision="bf16"),
    "engine's default limits": _service(limits=Limits()),
    "expert kernels not as launched": _service(expert_kernels=""),
    "no look-ahead in line (admit at once)": lambda q: replace(q, admit_every=0),
    "speculation off": _service(speculation=Speculation()),
    "lengths as stated": _client(length_low=1.0),
    "median instead of mean": _client(statistic="median"),
}


def ablate(rows: Sequence[Asked]) -> dict[str, Any]:
    """Return the errors of rows by what is taken away."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for way, values in ENGINE_WAYS.items():
            out[way] = summary(_errors(rows, values, Path(name)))
    for way, change in QUESTION_WAYS.items():
        changed = [Asked(one.row, change(one.question)) for one in rows]
        out[way] = summary(_errors(changed, {}, None))
    return out


def _errors(rows: Sequence[Asked], values: Mapping[str, Any], folder: Path | None) -> Floats:
    found = []
    for engine in sorted({one.question.service.engine for one in rows}):
        members = [one for one in rows if one.question.service.engine == engine]
        trial = engine
        if values and folder is not None:
            trial = engine_file(load_engine(engine), values, folder)
        found.append(log_errors(members, trial))
    return np.concatenate(found)
