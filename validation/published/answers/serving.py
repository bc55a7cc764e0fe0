"""Questions about services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import capacity, weight_bytes
from ridgeline.simulator.serving.predicted import first_token_flops
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.servicefile import make_question_traffic, read_service
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.static import decode_step_seconds, generation_seconds
from ridgeline.simulator.serving.variants import KvBudget
from ridgeline.validation.published.answers.training import flat
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import forward_flops


def _load_seconds(ask: Mapping[str, Any]) -> float:
    """Return the seconds that all weights of ``model`` take at ``bytes_per_s``."""
    service = Service(
        model=load_model(ask["model"]),
        cluster=make_cluster(ask["cluster"]),
        engine="vllm",
        tp=ask["tp"],
    )
    return float(weight_bytes(make_shape(service)) * service.tp / ask["bytes_per_s"])


def _plan_service(ask: Mapping[str, Any]) -> Service:
    """Return the service of the tables of a plan file."""
    tables = {**ask["plan"], "serving": {"batch": 1, **ask["plan"].get("serving", {})}}
    return read_service(None, flat(tables)).deployed[0].service


def _batch_throughput(ask: Mapping[str, Any]) -> float:
    """Return tokens a second of ``batch`` sequences that are read and generated together."""
    service = _plan_service(ask)
    batch, output = ask["batch"], ask["output_len"]
    return float(batch * output / generation_seconds(service, batch, ask["input_len"], output))


def _step_added(ask: Mapping[str, Any]) -> float:
    """Return the seconds that a decode step takes more than without ``variant``'s field."""
    service = _plan_service(ask)
    plain = replace(service, **{ask["variant"]: getattr(_default(service), ask["variant"])})
    steps = [decode_step_seconds(one, ask["batch"], ask["context"]) for one in (service, plain)]
    return float(steps[0] - steps[1])


def _default(service: Service) -> Service:
    return Service(model=service.model, cluster=service.cluster, engine=service.engine)


def _kv_share(ask: Mapping[str, Any]) -> float:
    """Return bytes of cache of a token over those without a budget."""
    service = _plan_service(ask)
    whole = capacity(replace(service, kv_budget=KvBudget()))
    return float(capacity(service).kv_bytes_per_token / whole.kv_bytes_per_token)


def _first_token_share(ask: Mapping[str, Any]) -> float:
    """Return FLOPs to the first token with ``auxiliary`` over those of ``model`` by itself."""
    base, aux, prompt = load_model(ask["model"]), load_model(ask["auxiliary"]), ask["prompt"]
    alone = forward_flops(base, prompt).total * prompt
    return float(first_token_flops(base, aux, prompt) / alone)


def _finetuning_share(ask: Mapping[str, Any]) -> float:
    """Return fine-tuning beside requests over that without."""
    question = read_service(None, flat(ask["plan"]))
    found = serve(question.deployed, make_question_traffic(question)).result.finetuning
    assert found is not None, "plan.serving.finetune_rank: missing"
    return float(found.share)


def _tail_gain(ask: Mapping[str, Any]) -> float:
    """Return p99 of TTFT of the plan with ``over`` in it, over that of the plan."""
    found = []
    ways: tuple[Mapping[str, Any], ...] = (ask["over"], {})
    for changes in ways:
        tables = {**ask["plan"], "serving": {**ask["plan"]["serving"], **changes}}
        question = read_service(None, flat(tables))
        played = serve(question.deployed, make_question_traffic(question), seed=0)
        found.append(played.result.ttft_s.p99)
    return found[0] / found[1]


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "load-seconds": _load_seconds,
    "batch-throughput": _batch_throughput,
    "step-added": _step_added,
    "kv-share": _kv_share,
    "first-token-share": _first_token_share,
    "finetuning-share": _finetuning_share,
    "tail-gain": _tail_gain,
}
"""Kind of question -> what answers it."""
