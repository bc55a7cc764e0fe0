"""What a plan keeps in the memory and on the drives of its hosts: seconds to move and to update it.

ZeRO-Offload (Ren et al. 2021, arXiv:2101.06840): gradients go down behind the backward pass, the
CPU updates fp32 weights, 16-bit ones come back. ZeRO-Infinity (Rajbhandari et al. 2021,
arXiv:2104.07857): weights come up layer by layer before their use; state may lie on NVMe drives.
Fuyou (Liao et al. 2024, arXiv:2403.06504): each layer is updated while the backward pass of those
before it runs, so that accelerator, host and drives work at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware.hosts import Host
from ridgeline.simulator.groups import Groups
from ridgeline.simulator.matrix_updates import host_traffic
from ridgeline.simulator.memory.facts import memory_facts
from ridgeline.simulator.memory.state import parameter_bytes
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import HostShare, MemoryShare, Provenance
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.weights import part_parameters

UPDATE_FLOPS = 15.0
"""fp32 operations of Adam on one weight, a division and a root among them."""
ACCUMULATE_BYTES = 8.0
"""Read and written per weight to add a gradient to its fp32 sum in host memory, beside itself."""
BUFFERED_UNITS = 2
"""Layers that pass through host memory at once on their way to and from drives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """Seconds by part of the operator table, on the links and the host of one accelerator."""

    manner: str
    """after, backward or delayed (``Training.host_update``)."""
    every: bool
    """Gradients leave after every micro-batch, not only once they are summed."""
    out: list[float]
    """Gradients to the host."""
    accumulate: list[float]
    """Adding them to their sum there."""
    rest: list[float]
    """Gradients to drives, where they wait for the end of the backward pass."""
    read: list[float]
    """Optimizer state, and gradients that rest there, from drives."""
    update: list[float]
    write: list[float]
    """Optimizer state, and weights that rest there, back to drives."""
    back: list[float]
    """Updated weights to the accelerator."""
    fetch: list[float]
    """Weights to the accelerator for one use; zero where they stay on it."""
    fetch_read: list[float]
    """The same from drives."""


def on_host(plan: Plan) -> bool:
    """Whether the host of the plan, by its profile, holds optimizer state or weights."""
    offload = plan.training.offload
    return plan.cluster.host is not None and ("optimizer" in offload or "parameters" in offload)


def node_accelerators(plan: Plan) -> int:
    """Return how many accelerators share a host."""
    return min(plan.cluster.per_node, plan.cluster.count)


def host_link(plan: Plan) -> float:
    """Return what copies between an accelerator and its host reach, a direction [byte/s].

    Without a profile of the host the datasheet's rate.
    """
    link, host = plan.cluster.accelerator.host_bytes_per_s, plan.cluster.host
    return link if host is None else host.link_share(link, node_accelerators(plan))


def price_host(plan: Plan, stack_: Stack, parts: Parts, groups: Groups) -> HostCosts | None:
    """Price what the host holds and does, None where it does neither."""
    host, training = plan.cluster.host, plan.training
    if host is None or not on_host(plan):
        return None
    sharded = plan.parallel.zero_stage >= 1
    dense_share = groups.shard.size if sharded else 1
    expert_share = groups.edp.size if sharded else 1
    local = part_parameters(plan, parts)
    owned = [part.dense / dense_share + part.experts / expert_share for part in local]
    n, link = node_accelerators(plan), host_link(plan)
    updates = "optimizer" in training.offload
    streams = "parameters" in training.offload
    nvme = training.offload_to == "nvme"
    update = update_seconds_each(plan, stack_, host) if updates else 0.0
    state = state_bytes_each(plan, stack_) if updates and nvme else 0.0
    resting = 2.0 if streams and nvme else 0.0
    waiting = stack_.gradient_bytes if updates and gradients_rest(plan) else 0.0
    read_rate, write_rate = host.nvme_read_bytes_per_s / n, host.nvme_write_bytes_per_s / n
    every = "gradients" in training.offload
    memory = host.memory_share(n)

    def times(each: float) -> list[float]:
        return [each * count for count in owned]

    return HostCosts(
        manner=training.host_update,
        every=every,
        out=times(stack_.gradient_bytes / link if updates else 0.0),
        accumulate=times((stack_.gradient_bytes + ACCUMULATE_BYTES) / memory if every else 0.0),
        rest=times(waiting / write_rate if waiting else 0.0),
        read=times((state + waiting) / read_rate if state + waiting else 0.0),
        update=times(update),
        write=times((state + resting) / write_rate if state + resting else 0.0),
        back=times(2.0 / link if updates and not streams else 0.0),
        fetch=times(2.0 / link if streams else 0.0),
        fetch_read=times(resting / read_rate if resting else 0.0),
    )


def gradients_rest(plan: Plan) -> bool:
    """Whether gradients wait for their use on drives: those of one micro-batch, used at the end."""
    training = plan.training
    after = training.host_update == "after"
    return training.offload_to == "nvme" and after and plan.micro_batches == 1


def update_seconds_each(plan: Plan, stack_: Stack, host: Host) -> float:
    """Return the time in which the share of one accelerator updates a weight, s.

    A roofline of two terms: bytes over the bandwidth of host memory, operations over the vector
    peak of its cores.
    """
    n = node_accelerators(plan)
    moved = host_traffic(plan, stack_) / host.memory_share(n)
    return max(moved, UPDATE_FLOPS / host.flops_share(n))


def state_bytes_each(plan: Plan, stack_: Stack) -> float:
    """Return the bytes per parameter of the optimizer's state, fp32 weights included."""
    training = plan.training
    return parameter_bytes(
        training.precision,
        training.optimizer,
        memory_facts(stack_),
        master_weights=training.master_weights,
    ).optimizer


def host_share(
    plan: Plan, stack_: Stack, memory: tuple[MemoryShare, ...], owned: list[float], largest: float
) -> HostShare | None:
    """Return what the accelerators of one node keep on their host, None without its profile.

    Gradients that are used as they come, or rest on drives, do not add up there.

    Parameters
    ----------
    memory
        Of every stage; activations that were moved away are in ``moved``.
    owned
        Parameters that one accelerator of each stage owns after ZeRO.
    largest
        Parameters of the largest layer, of which ``BUFFERED_UNITS`` pass through host memory.
    """
    host, training = plan.cluster.host, plan.training
    if host is None or not training.offload:
        return None
    n = node_accelerators(plan)
    state = state_bytes_each(plan, stack_) if "optimizer" in training.offload else 0.0
    gradients = stack_.gradient_bytes if "optimizer" in training.offload else 0.0
    weights = 2.0 if "parameters" in training.offload else 0.0
    most = max(owned)
    moved = max(share.moved for share in memory)
    at_once = training.host_update == "backward" and plan.micro_batches == 1
    rest = gradients_rest(plan)
    summed = BUFFERED_UNITS * largest if at_once or rest else most
    held, drives = (state + weights) * most, 0.0
    if training.offload_to == "nvme":
        held, drives = BUFFERED_UNITS * (state + weights) * largest, held
        drives += gradients * most if rest else 0.0
    return HostShare(
        name=host.name,
        memory=n * (held + gradients * summed + moved),
        memory_limit=host.memory_bytes,
        nvme=n * drives,
        nvme_limit=host.nvme_bytes,
    )


def host_evidence(plan: Plan) -> tuple[Provenance, ...]:
    """Return what stands behind the host's numbers."""
    host = plan.cluster.host
    if host is None or not plan.training.offload:
        return ()
    doubtful = f"; unconfirmed: {', '.join(host.unconfirmed)}" if host.unconfirmed else ""
    text = f"{host.name}: {host.title}; {host.sources['memory.gb_per_s']}{doubtful}"
    return (Provenance(kind="host", text=text),)
