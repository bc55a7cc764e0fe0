"""What every serving operator needs to know about its service: engine, formats, sizes on a rank.

One replica has tp x pp x dp accelerators. Attention is split over tp and replicated over dp (each
of the dp ranks has sequences of its own); experts lie on ep of the tp x dp ranks of a stage, each
expert's matrices over tp dp / ep of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.serving.engines import Engine, load_engine
from ridgeline.simulator.serving.inputs import input_problems
from ridgeline.simulator.serving.kernel_choice import twin
from ridgeline.simulator.serving.layers import layer_problems
from ridgeline.simulator.serving.quantisation import Format, Scheme, scheme
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.variants import variant_problems
from ridgeline.workloads.model import Model

_BLOCK = 128
"""Rows and columns of weights that share a scale under fp8_block."""
_STAND_INS = {"fp16": "bf16", "bf16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Local sizes of a service."""

    service: Service
    model: Model
    accelerator: Accelerator
    engine: Engine
    scheme: Scheme
    device: str
    """Measured device whose kernel sets stand for the accelerator's, "" for none."""
    heads: int
    """Query heads of a rank."""
    kv_heads: int
    """KV heads of a rank: a head is copied where there are more ranks than heads."""
    ep: int
    """Ranks over which experts are spread."""
    expert_tp: int
    """Ranks that share the matrices of an expert."""
    draft_tokens: int
    """Draft tokens that one verification checks, 0 without speculation."""

    @property
    def passes(self) -> int:
        """Parts into which a replica's tokens are split: pipeline micro-batches x data ranks."""
        return self.service.pp * self.service.dp


def make_shape(service: Service) -> Shape:
    """Derive the local sizes of a service.

    Raises
    ------
    InputError
        An unknown engine or precision, a split that the model or cluster does not allow.
    """
    engine = load_engine(service.engine)
    model, accelerator = service.model, service.cluster.accelerator
    kv_precision = service.kv_precision or default_kv_precision(service, engine)
    formats = scheme(model, service.precision, kv_precision)
    problems = _problems(service) or variant_problems(service)
    if problems:
        raise InputError(problems)
    attention = model.attention
    ep = _expert_ranks(service)
    return Shape(
        service=service,
        model=model,
        accelerator=accelerator,
        engine=engine,
        scheme=replace(
            formats,
            linear=on_device(formats.linear, accelerator),
            attention=on_device(formats.attention, accelerator),
            experts=on_device(formats.experts, accelerator),
            plain=on_device(formats.plain, accelerator),
        ),
        device=twin(accelerator),
        heads=math.ceil(attention.heads / service.tp),
        kv_heads=max(1, math.ceil(attention.kv_heads / service.tp)),
        ep=ep,
        expert_tp=service.tp * service.dp // ep,
        draft_tokens=service.speculation.tokens,
    )


def _expert_ranks(service: Service) -> int:
    """Return the ranks over which experts are spread.

    A format with one scale for a block of 128 x 128 weights cannot cut an expert inside a block:
    engines refuse to (vLLM, SGLang) and run with all ranks of a stage holding whole experts.
    """
    moe, ranks = service.model.moe, service.tp * service.dp
    if moe is None or service.precision != "fp8_block" or ranks > moe.num_experts:
        return service.ep
    inner = moe.ffn_hidden * service.ep / ranks
    return service.ep if inner % _BLOCK == 0 else ranks


def default_kv_precision(service: Service, engine: Engine) -> str:
    """Return the number format of the cache that the engine takes for a precision."""
    plain = "fp16" if service.precision == "fp16" else "bf16"
    return engine.kv_precision.get(service.precision, plain)


def on_device(form: Format, accelerator: Accelerator) -> Format:
    """Return how a device runs a format: weights alone where it cannot multiply it.

    Engines then expand the weights to 16 bits in registers (Marlin kernels of vLLM: fp8 on
    A100, nvfp4 on Hopper).
    """
    peaks = accelerator.peak_flops
    if form.compute in peaks:
        return form
    other = _STAND_INS.get(form.compute)
    if other is not None and other in peaks:
        return replace(form, compute=other)
    half = "bf16" if "bf16" in peaks else "fp16"
    if form.weight_bytes >= 1.0:
        return Format("int8_wo", (), half, form.weight_bytes, 2.0)
    return Format("int4_wo", ("int4_wo", "w4a16_mxfp4"), half, form.weight_bytes, 2.0)


def _problems(service: Service) -> list[str]:
    """Return what is wrong with the splits of a service, one line each."""
    model, moe = service.model, service.model.moe
    problems = [
        f"{name} = {value}: must be at least 1"
        for name, value in (
            ("tp", service.tp),
            ("pp", service.pp),
            ("dp", service.dp),
            ("ep", service.ep),
            ("replicas", service.replicas),
        )
        if value < 1
    ]
    if problems:
        return problems
    needed = service.replica_accelerators * service.replicas
    if needed > service.cluster.count:
        problems.append(
            f"tp x pp x dp x replicas = {needed}: the cluster has {service.cluster.count} "
            "accelerators; give a larger cluster or fewer replicas"
        )
    if service.tp > model.attention.heads:
        problems.append(f"tp = {service.tp}: at most the {model.attention.heads} attention heads")
    if service.pp > model.num_layers:
        problems.append(f"pp = {service.pp}: at most the {model.num_layers} layers")
    if service.ep > 1 and moe is None:
        problems.append(f"ep = {service.ep}: model {model.name} has no experts; leave ep at 1")
    elif service.tp * service.dp % service.ep:
        problems.append(
            f"ep = {service.ep}: must divide tp x dp = {service.tp * service.dp}, "
            "the ranks that hold experts"
        )
    elif moe is not None and service.ep > moe.num_experts:
        problems.append(f"ep = {service.ep}: at most the {moe.num_experts} experts")
    problems += input_problems(service)
    problems += layer_problems(service)
    if service.expert_slots and (moe is None or service.expert_slots < moe.num_experts):
        problems.append(
            f"expert_slots = {service.expert_slots}: 0 without a load balancer of experts, else at "
            f"least the {moe.num_experts if moe else 0} experts of model {model.name}"
        )
    speculation = service.speculation
    if speculation.tokens < 0:
        problems.append(f"speculation.tokens = {speculation.tokens}: must be at least 0")
    if not 0.0 <= speculation.acceptance <= 1.0:
        problems.append(f"speculation.acceptance = {speculation.acceptance}: a share from 0 to 1")
    return problems
