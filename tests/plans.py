"""Plans for tests: one line each, small enough to play in a millisecond."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ridgeline.hardware import Cluster, make_cluster
from ridgeline.hardware.cluster import Tier
from ridgeline.simulator.plan import Parallelism, Plan, RunOptions, Training
from ridgeline.workloads import load_model
from ridgeline.workloads.model import Model

PARALLEL = set(Parallelism.__dataclass_fields__)
QUIET = RunOptions(failures=False, checkpoint_interval_s=0.0)
"""A run without checkpoints, failures, evaluation and warm-up."""


def make_plan(
    model: str | Model = "llama2-7b",
    cluster: str | Cluster = "1x8xh100-sxm",
    stack: str = "megatron-core",
    run: RunOptions = QUIET,
    **settings: Any,
) -> Plan:
    """Make a plan; ``settings`` are fields of ``Parallelism`` and ``Training``.

    Data parallelism takes the accelerators that are left, and the batch is two micro-batches for
    each of its ways unless given.
    """
    made = make_cluster(cluster) if isinstance(cluster, str) else cluster
    ways = {key: value for key, value in settings.items() if key in PARALLEL}
    split = Parallelism(**ways)
    if "dp" not in ways:
        split = replace(split, dp=made.count // split.world)
    rest = {key: value for key, value in settings.items() if key not in PARALLEL}
    micro = rest.setdefault("micro_batch_seqs", 1)
    rest.setdefault("seq_len", 4096)
    rest.setdefault("global_batch_seqs", split.dp * micro * rest.pop("micro_batches", 2))
    shape = load_model(model) if isinstance(model, str) else model
    return Plan(
        model=shape,
        cluster=made,
        parallel=split,
        training=Training(**rest),
        stack=stack,
        run=run,
    )


def flat_cluster(spec: str, bytes_per_s: float, latency_s: float = 1e-6) -> Cluster:
    """Join all accelerators of ``spec`` by one plain network, with no faster links inside."""
    made = make_cluster(spec)
    tier = Tier(
        name="network",
        size=made.count,
        bytes_per_s=bytes_per_s,
        latency_s=latency_s,
        efficiency=1.0,
    )
    efficiency = replace(made.accelerator.efficiency, collectives={})
    accelerator = replace(made.accelerator, efficiency=efficiency)
    return replace(made, accelerator=accelerator, per_node=1, tiers=(tier,))
