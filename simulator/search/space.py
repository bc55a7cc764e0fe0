"""A space of plans and its candidates: what may vary, and every combination as columns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.legality import unsearched
from ridgeline.simulator.plan import Money, Parallelism, Plan, RunOptions, Training
from ridgeline.simulator.stacks import load_stack
from ridgeline.workloads.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is fixed and what may vary. An empty tuple means every legal value."""

    model: Model
    clusters: tuple[Cluster, ...]
    """Candidates, by kind and count; a plan uses all accelerators of its cluster."""
    training: Training
    """Template: sequence, global batch, tokens, precision and optimizer are fixed; micro-batch,
    recompute, schedule and offload vary."""
    stack: str
    parallel: Parallelism = field(default_factory=Parallelism)
    """Template: the kind of context parallelism, the shard size and the placement are fixed."""
    run: RunOptions = field(default_factory=RunOptions)
    money: Money = field(default_factory=Money)
    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    vpp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    dp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    etp: tuple[int, ...] = ()
    micro_batch_seqs: tuple[int, ...] = ()
    sp: tuple[int, ...] = (1,)
    """Sequence parallelism where there is tensor parallelism: 0, 1 or both."""
    zero_stage: tuple[int, ...] = (0, 1)
    recompute: tuple[str, ...] = ("none", "selective", "full")
    schedules: tuple[str, ...] = ("1f1b", "interleaved")
    offload: tuple[tuple[str, ...], ...] = ((),)
    uneven_stages: bool = False
    """Also stages whose layers do not divide."""

    def __post_init__(self) -> None:
        if problems := unsearched(self.parallel):
            raise InputError(problems)


def usual_space(space: Space) -> Space:
    """Return the space as plans under its stack are usually split, where nobody says otherwise.

    A stack that shards weights as FSDP does holds them over data-parallel ranks in place of
    pipeline stages.
    """
    if load_stack(space.stack).sharding != "fsdp":
        return space
    return replace(space, pp=(1,), zero_stage=(3,), schedules=("1f1b",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Columns of n plans of a space, in the order in which the search counts them.

    ``cluster``, ``recompute``, ``schedule`` and ``offload`` are places in the space's tuples.
    """

    cluster: NDArray[np.int32]
    tp: NDArray[np.int32]
    pp: NDArray[np.int32]
    vpp: NDArray[np.int32]
    dp: NDArray[np.int32]
    cp: NDArray[np.int32]
    ep: NDArray[np.int32]
    etp: NDArray[np.int32]
    """0 where the model has no experts."""
    micro_batch_seqs: NDArray[np.int32]
    sp: NDArray[np.int32]
    """0 or 1."""
    zero_stage: NDArray[np.int32]
    recompute: NDArray[np.int32]
    schedule: NDArray[np.int32]
    offload: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Return some of the candidates."""
        return Candidates(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def plan_at(space: Space, candidates: Candidates, row: int) -> Plan:
    """Return one candidate as a plan."""
    c = {f.name: int(getattr(candidates, f.name)[row]) for f in fields(candidates)}
    return Plan(
        model=space.model,
        cluster=space.clusters[c["cluster"]],
        parallel=replace(
            space.parallel,
            tp=c["tp"],
            pp=c["pp"],
            vpp=c["vpp"],
            dp=c["dp"],
            cp=c["cp"],
            ep=c["ep"],
            etp=c["etp"],
            sp=bool(c["sp"]),
            zero_stage=c["zero_stage"],
        ),
        training=replace(
            space.training,
            micro_batch_seqs=c["micro_batch_seqs"],
            recompute=space.recompute[c["recompute"]],
            schedule=space.schedules[c["schedule"]],
            offload=space.offload[c["offload"]],
            uneven_stages=space.uneven_stages,
            stage_layers=(),
        ),
        stack=space.stack,
        run=space.run,
        money=space.money,
    )
