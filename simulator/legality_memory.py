"""What of the memory tricks cannot be combined: optimizers, weight formats, offload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ridgeline.hardware.hosts import host_names
from ridgeline.simulator.legality_split import batch_holds
from ridgeline.simulator.optimizers import BY_MATRIX, RANKED, RULES
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import OPTIMAL

if TYPE_CHECKING:
    from ridgeline.simulator.search.space import Space

_STREAMING = ("gpipe", "1f1b", "interleaved")
"""Schedules whose backward passes hand over whole gradients."""


def memory_problems(plan: Plan) -> Iterator[str]:
    """Yield why the memory tricks of a plan cannot be run, one line each."""
    yield from _optimizer(plan)
    yield from _weights(plan)
    yield from _layerwise(plan)
    yield from _host(plan)
    yield from _chosen_recompute(plan)


def _chosen_recompute(plan: Plan) -> Iterator[str]:
    training, parallel = plan.training, plan.parallel
    if training.recompute != OPTIMAL:
        return
    if parallel.vpp > 1 or training.schedule not in ("gpipe", "1f1b"):
        yield (
            "training.recompute = 'optimal': is chosen for one chunk of the model a stage, and "
            "whole backward passes; set parallel.vpp = 1 and training.schedule = '1f1b' or 'gpipe'"
        )
    if "activations" in training.offload:
        yield (
            "training.recompute = 'optimal': activations that are offloaded take no memory; leave "
            "'activations' out of training.offload, or take 'none'"
        )
    if training.lora_rank or plan.model.num_mtp_layers:
        what = "adapters" if training.lora_rank else "multi-token prediction"
        yield f"training.recompute = 'optimal': is not modelled with {what}; 'full' and others are"


def space_problems(space: Space) -> list[str]:
    """Return which memory tricks of a space a search refuses, one line each."""
    training = space.training
    found = [
        (training.optimizer in BY_MATRIX, f"training.optimizer = {training.optimizer!r}"),
        (not training.master_weights, "training.master_weights = false"),
        (training.int8_weights, "training.int8_weights = true"),
        (training.layerwise_update, "training.layerwise_update = true"),
        (training.offload_to != "host", f"training.offload_to = {training.offload_to!r}"),
        (training.host_update != "after", f"training.host_update = {training.host_update!r}"),
        (
            any("*" in name or name == OPTIMAL for name in space.recompute),
            "recompute: a mix by layer, or its choice,",
        ),
        (any("parameters" in names for names in space.offload), "offload: 'parameters'"),
        (
            any(space.offload) and any(cluster.host is not None for cluster in space.clusters),
            "cluster.host: offload to a host by its profile",
        ),
    ]
    return [f"{key} is not searched; price a plan with train" for given, key in found if given]


def _optimizer(plan: Plan) -> Iterator[str]:
    training = plan.training
    name, rank = training.optimizer, training.optimizer_rank
    if name not in RULES:
        return  # said elsewhere
    if name in RANKED and rank < 1:
        yield (
            f"training.optimizer_rank = {rank}: {name} projects gradients to a rank; give one, "
            f"for example {max(1, plan.model.hidden // 4)} (a quarter of the hidden size)"
        )
    if name in RANKED and rank > plan.model.hidden:
        yield (
            f"training.optimizer_rank = {rank}: above the hidden size; "
            f"{plan.model.hidden} is the most"
        )
    if name not in RANKED and rank:
        yield (
            f"training.optimizer_rank = {rank}: {name} has none; leave it out, or take "
            f"{' or '.join(RANKED)}"
        )
    if name in BY_MATRIX and training.lora_rank:
        yield (
            f"training.optimizer = {name!r}: is not modelled for adapters, whose matrices are of "
            f"low rank already; 'adamw' is"
        )
    if name in BY_MATRIX and "optimizer" in training.offload:
        yield (
            f"training.offload = 'optimizer': the step of {name} is not modelled on a CPU; "
            f"'adamw' is"
        )


def _weights(plan: Plan) -> Iterator[str]:
    training = plan.training
    if not training.master_weights:
        if training.precision not in ("bf16", "fp16"):
            yield (
                f"training.master_weights = false: weights of their own are 16-bit ones; precision "
                f"is {training.precision!r}, 'bf16' has them"
            )
        if training.lora_rank:
            yield "training.master_weights = false: is not modelled for adapters; leave it out"
    if not training.int8_weights:
        return
    if training.master_weights:
        yield (
            "training.int8_weights = true: fp32 weights beside int8 ones would save nothing; "
            "set training.master_weights = false"
        )
    if plan.parallel.zero_stage or training.lora_rank:
        what = "adapters" if training.lora_rank else "sharded states"
        yield f"training.int8_weights = true: is not modelled for {what}; zero_stage = 0 is"


def _layerwise(plan: Plan) -> Iterator[str]:
    training, parallel = plan.training, plan.parallel
    if not training.layerwise_update:
        return
    if parallel.zero_stage or parallel.pp > 1 or training.lora_rank or training.offload:
        yield (
            "training.layerwise_update = true: is modelled for whole weights on one stage, without "
            "adapters and offload; set zero_stage = 0, pp = 1, offload = []"
        )
    elif batch_holds(plan) and plan.micro_batches > 1:
        most = plan.parallel.dp * training.micro_batch_seqs
        yield (
            f"training.layerwise_update = true: gradients are not kept, so that "
            f"{plan.micro_batches} micro-batches cannot add theirs up; global_batch_seqs = {most} "
            f"is one"
        )


def _host(plan: Plan) -> Iterator[str]:
    training, parallel, host = plan.training, plan.parallel, plan.cluster.host
    offload = training.offload
    needs = [
        ("parameters" in offload, "offload = 'parameters'"),
        (training.offload_to == "nvme", "offload_to = 'nvme'"),
        (training.host_update != "after", f"host_update = {training.host_update!r}"),
    ]
    if host is None:
        for given, key in needs:
            if given:
                yield (
                    f"training.{key}: needs to know the host; name one as cluster.host: "
                    f"{', '.join(host_names())}, or a file of your own"
                )
        return
    if training.offload_to == "nvme":
        if not host.nvme_bytes:
            yield f"training.offload_to = 'nvme': {host.name} has no drives; 'host' is its memory"
        if not {"optimizer", "parameters"} & set(offload):
            yield (
                "training.offload_to = 'nvme': drives take optimizer state and parameters; name "
                "one of them in training.offload"
            )
    if training.host_update == "delayed" and training.offload_to == "nvme":
        yield (
            "training.host_update = 'delayed': is not modelled on drives, which the passes of the "
            "next step read from too; 'backward' overlaps them"
        )
    if training.host_update != "after" and "optimizer" not in offload:
        yield (
            f"training.host_update = {training.host_update!r}: the accelerator updates; add "
            f"'optimizer' to training.offload"
        )
    for item in ("gradients", "parameters"):
        if item in offload and "optimizer" not in offload:
            yield (
                f"training.offload = {item!r}: the host has no use for them unless it updates; add "
                f"'optimizer'"
            )
    if "parameters" in offload and (parallel.zero_stage != 3 or parallel.pp > 1):
        yield (
            "training.offload = 'parameters': weights come layer by layer, as under full sharding; "
            "set parallel.zero_stage = 3, pp = 1"
        )
    moved = {"optimizer", "gradients", "parameters"} & set(offload)
    if moved and training.schedule not in _STREAMING:
        yield (
            f"training.schedule = {training.schedule!r}: with offload to {host.name} is not "
            f"modelled; {', '.join(_STREAMING)} are"
        )
    if moved and training.lora_rank:
        yield "training.offload: to a host by its profile is not modelled for adapters"
