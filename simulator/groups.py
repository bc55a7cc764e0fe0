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
    """Lay the groups out.

    Experts take the ranks of a stage in ascending order: etp, then ep, then edp (Megatron-Core).
    Where a group cannot have one stride, because another dimension lies between the two that it
    spans, it gets the stride of its reach, which promises no faster links than it has.
    """
    sizes = {"tp": parallel.tp, "cp": parallel.cp, "dp": parallel.dp, "pp": parallel.pp}
    strides: dict[str, int] = {}
    reach = inside = 1
    for name in parallel.placement:
        strides[name] = reach
        if name == "pp":
            inside = reach
        reach *= sizes[name]
    copies = parallel.dp * parallel.cp
    split = [name for name in ("cp", "dp") if sizes[name] > 1]
    copies_reach = max((strides[name] * sizes[name] for name in split), default=copies)
    copies_stride = copies_reach // copies
    shard = min(parallel.shard_size or copies, copies)

    def among_stage(size: int, position: int) -> Group:
        """Return ranks that are ``position`` apart when only those of the stage are counted."""
        near = position * size <= inside
        return Group(size, position if near else position * parallel.pp)

    etp = parallel.expert_tp
    return Groups(
        tp=Group(parallel.tp, strides["tp"]),
        cp=Group(parallel.cp, strides["cp"]),
        dp=Group(copies, copies_stride),
        pp=Group(parallel.pp, strides["pp"]),
        etp=among_stage(etp, 1),
        ep=among_stage(parallel.ep, etp),
        edp=among_stage(parallel.expert_dp, etp * parallel.ep),
        shard=Group(shard, copies_stride),
        replicate=Group(copies // shard, copies_stride * shard),
        world=Group(parallel.world, 1),
    )
