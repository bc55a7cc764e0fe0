"""Process groups: how many ranks and how far apart, from the placement order of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.plan import Parallelism


@dataclass(frozen=True, slots=True)
class Group:
    """``size`` ranks that are ``stride`` accelerators apart."""

    size: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """All process groups of a plan."""

    tp: Group
    cp: Group
    dp: Group
    """Ranks that hold the same dense weights: data times context parallel."""
    pp: Group
    ep: Group
    etp: Group
    edp: Group
    """Ranks that hold the same experts."""
    shard: Group
    """Ranks over which ZeRO or FSDP shards one copy of the dense weights."""
    replicate: Group
    """Copies of a shard group under hybrid sharding."""
    world: Group


def make_groups(parallel: Parallelism) -> Groups:
    """Lay the groups out; experts follow Megatron's order etp, ep, edp inside a stage."""
    sizes = {"tp": parallel.tp, "cp": parallel.cp, "dp": parallel.dp, "pp": parallel.pp}
    strides: dict[str, int] = {}
    reach = 1
    for name in parallel.placement:
        strides[name] = reach
        reach *= sizes[name]
    copies = parallel.dp * parallel.cp
    copies_stride = min(strides["dp"], strides["cp"]) if parallel.cp > 1 else strides["dp"]
    shard = min(parallel.shard_size or copies, copies)
    inner = strides["tp"] if parallel.tp > 1 else min(strides["cp"], strides["dp"])
    etp = parallel.expert_tp
    return Groups(
        tp=Group(parallel.tp, strides["tp"]),
        cp=Group(parallel.cp, strides["cp"]),
        dp=Group(copies, copies_stride),
        pp=Group(parallel.pp, strides["pp"]),
        etp=Group(etp, inner),
        ep=Group(parallel.ep, inner * etp),
        edp=Group(parallel.expert_dp, inner * etp * parallel.ep),
        shard=Group(shard, copies_stride),
        replicate=Group(copies // shard, copies_stride * shard),
        world=Group(parallel.world, 1),
    )
