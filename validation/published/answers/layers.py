"""Questions about layers of other kinds: counts, caches, and seconds of their kernels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ridgeline.hardware.profiles import load_accelerator
from ridgeline.hardware.topology import make_cluster
from ridgeline.simulator.operators.convolution import convolution_kernels, kernel_rows
from ridgeline.simulator.operators.layer import mix
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, Builder
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import price_operators
from ridgeline.simulator.serving.capacity import max_batch, sequence_bytes
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import make_shape as serving_shape
from ridgeline.simulator.serving.static import decode_step_seconds, generation_seconds
from ridgeline.simulator.stacks import load_stack
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.forms import Form
from ridgeline.workloads.huggingface import model_from_config
from ridgeline.workloads.model import LinearAttention, Model
from ridgeline.workloads.parameters import parameters

_PHASES = {"forward": FORWARD, "backward": BACKWARD}


def _model(ask: Any) -> Model:
    return load_model(ask) if isinstance(ask, str) else model_from_config(dict(ask))


def _parameters(ask: Mapping[str, Any]) -> float:
    """Return billions of parameters, of the whole model or of one part."""
    return float(getattr(parameters(_model(ask["model"])), ask.get("part", "total"))) / 1e9


def _flops_ratio(ask: Mapping[str, Any]) -> float:
    """Return forward FLOPs of ``model`` over those of ``over``, of the parts named."""

    def counted(one: Any) -> float:
        flops = forward_flops(_model(one), ask["seq_len"], ask.get("convention", "causal"))
        return float(sum(getattr(flops, part) for part in ask["parts"]))

    return counted(ask["model"]) / counted(ask["over"])


def _cache_ratio(ask: Mapping[str, Any]) -> float:
    """Return the cache of a sequence under ``model`` over that under ``over``."""
    cluster = make_cluster(ask["cluster"])

    def kept(one: Any) -> float:
        shape = serving_shape(Service(model=_model(one), cluster=cluster, engine=ask["engine"]))
        return sequence_bytes(shape, float(ask["context"]))

    return kept(ask["model"]) / kept(ask["over"])


def _keys_ratio(ask: Mapping[str, Any]) -> float:
    """Return the tokens of a context over the keys that a sparse query reads of it."""
    blocks = _model(ask["model"]).attention.blocks
    assert blocks is not None
    return float(ask["context"]) / blocks.keys_read(float(ask["context"]))


def _core_ratio(ask: Mapping[str, Any]) -> float:
    """Return seconds of what mixes tokens in a layer of ``over`` over those of ``model``.

    Projections are left out, and where ``rows`` is given all operators named otherwise.
    """
    kept = ask.get("rows", "")
    cluster, stack = make_cluster(ask["cluster"]), load_stack(ask["stack"])

    def seconds(one: Any, words: str) -> float:
        training = Training(
            seq_len=ask["seq_len"], global_batch_seqs=cluster.count, micro_batch_seqs=1
        )
        parallel = Parallelism(dp=cluster.count)
        model = _model(one)
        plan = Plan(
            model=model,
            cluster=cluster,
            parallel=parallel,
            training=training,
            stack=ask["stack"],
        )
        b = Builder(phase=_PHASES[ask["phase"]])
        mix(b, make_shape(plan, stack), 0, model.form(0))
        table = b.build()
        rows = (table.kind, table.dtype, table.dims, table.extra)
        named = [name.startswith(words) for name in table.names]
        return float(price_operators(*rows, cluster.accelerator)[named].sum())

    return seconds(ask["over"], "") / seconds(ask["model"], kept)


def _scan_ms(ask: Mapping[str, Any]) -> float:
    """Return milliseconds of the scan of one layer of linear attention in bf16."""
    heads, dim, tokens = ask["heads"], ask["head_dim"], ask["tokens"]
    linear = LinearAttention(
        kind=ask["kind"],
        key_heads=heads,
        value_heads=heads,
        key_head_dim=dim,
        value_head_dim=dim,
    )
    model = replace(load_model("qwen3-next-80b-a3b"), linear=linear)
    cluster = make_cluster(f"1x{ask['accelerator']}")
    plan = Plan(
        model=model,
        cluster=cluster,
        parallel=Parallelism(),
        training=Training(seq_len=tokens, global_batch_seqs=1, micro_batch_seqs=1),
        stack=ask["stack"],
    )
    shape, b = make_shape(plan, load_stack(ask["stack"])), Builder()
    for phase in ask["phases"]:
        b.phase = _PHASES[phase]
        mix(b, shape, 0, Form(mixer="linear"))
    table = b.build()
    rows = (table.kind, table.dtype, table.dims, table.extra)
    named = [name.startswith("scan") for name in table.names]
    return 1e3 * float(price_operators(*rows, cluster.accelerator)[named].sum())


def _convolution_ms(ask: Mapping[str, Any]) -> float:
    """Return milliseconds of a long convolution over a batch of sequences in fp16."""
    accelerator = load_accelerator(ask["accelerator"])
    channels = float(ask["batch"] * ask["width"])
    kernels = convolution_kernels(
        channels, ask["seq_len"], 2.0, ask["implementation"], gated=ask["gated"]
    )
    rows = [row for kernel in kernels for row in kernel_rows(kernel)]
    dims = np.zeros((len(rows), layout.DIMS), np.int64)
    extra = np.tile([0.0, 1.0, 1.0], (len(rows), 1))
    for place, (_, _, sizes, moved) in enumerate(rows):
        dims[place, : len(sizes)] = sizes
        extra[place, layout.BYTES_MOVED] = moved
    kind = np.array([row[1] for row in rows], np.int8)
    dtype = np.full(len(rows), layout.FP16, np.int8)
    return 1e3 * float(price_operators(kind, dtype, dims, extra, accelerator).sum())


def _throughput_ratio(ask: Mapping[str, Any]) -> float:
    """Return output tokens a second of ``model`` over those of ``over``, each at its best batch.

    Batches are the powers of two whose caches fit.
    """
    cluster = make_cluster(ask["cluster"])

    def best(name: str) -> float:
        service = Service(
            model=load_model(name), cluster=cluster, engine=ask["engine"], tp=ask["tp"]
        )
        prompt, output = ask["input_len"], ask["output_len"]
        most = max_batch(service, prompt + output)
        batches = [2**power for power in range(11) if 2**power <= most]
        rates = [
            batch * output / generation_seconds(service, batch, prompt, output) for batch in batches
        ]
        return float(max(rates))

    return best(ask["model"]) / best(ask["over"])


def _decode_ratio(ask: Mapping[str, Any]) -> float:
    """Return tokens a second of decodes of ``model`` over those of ``over``.

    Each runs as many sequences of the context as its caches hold.
    """
    cluster, context = make_cluster(ask["cluster"]), int(ask["context"])

    def rate(one: Any) -> float:
        service = Service(model=_model(one), cluster=cluster, engine=ask["engine"], tp=ask["tp"])
        batch = max_batch(service, context)
        return batch / decode_step_seconds(service, batch, context)

    return rate(ask["model"]) / rate(ask["over"])


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "parameters": _parameters,
    "flops-ratio": _flops_ratio,
    "cache-ratio": _cache_ratio,
    "keys-ratio": _keys_ratio,
    "attention-speed-up": _core_ratio,
    "scan-ms": _scan_ms,
    "convolution-ms": _convolution_ms,
    "throughput-ratio": _throughput_ratio,
    "decode-ratio": _decode_ratio,
}
"""Kind of question -> what answers it."""
