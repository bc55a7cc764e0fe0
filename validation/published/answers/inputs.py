"""Questions about models of other inputs: FLOPs of an input, sums of runs, services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import capacity
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.static import generation_seconds, prefill_seconds
from ridgeline.validation.published.answers.training import training_field
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.huggingface import model_from_config


def _input_gmacs(ask: Mapping[str, Any]) -> float:
    """Return 1e9 multiply-adds of one input of ``tokens`` tokens."""
    tokens = int(ask["tokens"])
    return forward_flops(load_model(ask["model"]), tokens).total * tokens / 2e9


def _training_sum(ask: Mapping[str, Any]) -> float:
    """Return the sum of a field over runs: ``plan`` with each of ``phases`` in its place."""
    total = 0.0
    for phase in ask["phases"]:
        keys = (*ask["plan"], *(key for key in phase if key not in ask["plan"]))
        plan = {key: {**ask["plan"].get(key, {}), **phase.get(key, {})} for key in keys}
        total += training_field({"field": ask["field"], "plan": plan})
    return total * float(ask.get("scale", 1.0))


def _service_ratio(ask: Mapping[str, Any]) -> float:
    """Return a figure of a static batch of ``model`` over that of ``over``.

    ``field`` is ttft, throughput or weights; both run on the same accelerators and engine.
    """

    def figure(config: Mapping[str, Any]) -> float:
        service = Service(
            model=model_from_config(dict(config)),
            cluster=make_cluster(ask["cluster"]),
            engine=ask["engine"],
        )
        batch, prompt, answer = (int(ask[key]) for key in ("batch", "input_len", "output_len"))
        if ask["field"] == "weights":
            return capacity(service).weight_bytes
        if ask["field"] == "ttft":
            return prefill_seconds(service, batch, prompt)
        return batch * answer / generation_seconds(service, batch, prompt, answer)

    return figure(ask["model"]) / figure(ask["over"])


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "input-gmacs": _input_gmacs,
    "training-sum": _training_sum,
    "service-ratio": _service_ratio,
}
"""Kind of question -> what answers it."""
