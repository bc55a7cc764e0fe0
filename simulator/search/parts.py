"""What candidates share, priced once: parts of the model, exchanges of weights, slices.

A price needs few columns of a candidate. Each distinct combination of them is priced by the same
functions as in a single step (``step.simulate_step``), on the first candidate that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.blocks import backward_phases, compositions
from ridgeline.simulator.collectives import Network, network, price_collectives, scaled
from ridgeline.simulator.costs import price_table
from ridgeline.simulator.endings import owned_parameters
from ridgeline.simulator.groups import make_groups
from ridgeline.simulator.operators import table as ops
from ridgeline.simulator.operators.build import Parts, build_table, pads_experts, routed_parts
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search._kernels import GATHER, REDUCE, REGATHER
from ridgeline.simulator.search.space import Candidates, Space
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.weights import price_weights
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
T = TypeVar("T")

_WIDEST = 1 << 62


_CODES = {
    "gpipe": _kernels.GPIPE,
    "1f1b": _kernels.ONE_F_ONE_B,
    "interleaved": _kernels.INTERLEAVED,
    "zb-h1": _kernels.ZERO_BUBBLE,
    "dualpipe": _kernels.DUALPIPE,
}


def schedule_codes(space: Space) -> NDArray[np.int32]:
    """Return the kernels' code of every schedule of a space."""
    return np.array([_CODES[name] for name in space.schedules], np.int32)


def micro_batches(space: Space, c: Candidates) -> Ints:
    """Return the micro-batches of a step on one data-parallel rank, int64[n]."""
    each = c.dp.astype(np.int64) * c.micro_batch_seqs
    return (space.training.global_batch_seqs // each).astype(np.int64)


def regular_plans(space: Space, c: Candidates) -> NDArray[np.bool_]:
    """Return which candidates have a schedule that the kernels know: GPipe, 1F1B, interleaved."""
    code = schedule_codes(space)[c.schedule]
    turns = (code != _kernels.GPIPE) & (c.pp > 1) & (micro_batches(space, c) % c.pp == 0)
    regular: NDArray[np.bool_] = (code <= _kernels.INTERLEAVED) & ((c.vpp == 1) | turns)
    if space.model.towers:
        return np.zeros_like(regular)  # what a tower keeps on the first stage is counted in a play
    return regular


def fabrics(clusters: tuple[Cluster, ...]) -> list[int]:
    """Return for each cluster the first one whose parts and collectives have the same prices.

    How many accelerators the outermost tier joins does not enter a price.
    """
    known: list[tuple[int, Cluster]] = []
    same: list[int] = []
    for index, cluster in enumerate(clusters):
        outermost = tuple(replace(tier, size=0) for tier in cluster.tiers[-1:])
        tiers = (*cluster.tiers[:-1], *outermost)
        fabric = replace(cluster, name="", count=0, per_node=0, sources=(), tiers=tiers)
        twin = next((i for i, other in known if other == fabric), index)
        if twin == index:
            known.append((index, fabric))
        same.append(twin)
    return same


def stack_network(cluster: Cluster, stack: Stack) -> Network:
    """Return the network as a stack's collectives find it."""
    return scaled(network(cluster), stack.node_bandwidth, stack.network_bandwidth)


def price_columns(
    space: Space,
    stack: Stack,
    fabric: Ints,
    operations: Sequence[int],
    columns: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
    sharing: float = 1.0,
) -> Floats:
    """Price collectives of n candidates, float64[operations, n] in seconds.

    Parameters
    ----------
    fabric
        int64[n], from ``fabrics``.
    operations, columns
        Each collective of a candidate, as bytes, ranks and stride, n each.
    sharing
        As in ``price_collectives``, of all.
    """
    n = len(fabric)
    moved = np.stack([np.broadcast_to(column[0], n) for column in columns])
    ranks = np.stack([np.broadcast_to(column[1], n) for column in columns])
    stride = np.stack([np.broadcast_to(column[2], n) for column in columns])
    operation = np.repeat(np.array(operations, np.int8)[:, None], n, axis=1)
    seconds = np.zeros((len(operations), n))
    for which in np.unique(fabric).tolist():
        rows = fabric == which
        shape = operation[:, rows].shape
        seconds[:, rows] = price_collectives(
            stack_network(space.clusters[which], stack),
            operation[:, rows].ravel(),
            moved[:, rows].ravel(),
            ranks[:, rows].ravel(),
            stride[:, rows].ravel(),
            sharing=np.full(operation[:, rows].size, sharing),
        ).reshape(shape)
    return seconds


def distinct_rows(
    columns: Sequence[NDArray[np.integer[Any] | np.bool_]],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where each distinct row of some columns (>= 0) comes first, and every row's number."""
    code = np.zeros(len(columns[0]), np.int64)
    width = 1
    for column in columns:
        span = int(column.max(initial=0)) + 1
        if width * span > _WIDEST:
            code = np.unique(code, return_inverse=True)[1]
            width = len(code)
        code = code * span + column
        width *= span
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first, inverse


@dataclass(slots=True)
class Shelf(Generic[T]):
    """Things made once for each distinct row of some columns, and kept."""

    made: list[T] = field(default_factory=list)
    place: dict[tuple[int, ...], int] = field(default_factory=dict)

    def places(
        self, columns: Sequence[NDArray[np.integer[Any] | np.bool_]], make: Callable[[int], T]
    ) -> Ints:
        """Return the place in ``made`` of every row, int64[n]; ``make(row)`` fills gaps."""
        first, inverse = distinct_rows(columns)
        keys = zip(*(column[first].tolist() for column in columns), strict=True)
        found = np.empty(len(first), np.int64)
        for i, (key, row) in enumerate(zip(keys, first.tolist(), strict=True)):
            if key not in self.place:
                self.place[key] = len(self.made)
                self.made.append(make(row))
            found[i] = self.place[key]
        return found[inverse]


class Rows:
    """An array to which rows are added; it grows by doubling."""

    def __init__(self, *shape: int) -> None:
        self._room = np.zeros((16, *shape))
        self.count = 0

    def add(self, row: Floats) -> None:
        """Add a row; what it is shorter along its last axis is zero."""
        if self.count == len(self._room):
            self._room = np.concatenate([self._room, np.zeros_like(self._room)])
        self._room[self.count, ..., : row.shape[-1]] = row
        self.count += 1

    @property
    def array(self) -> Floats:
        """All rows, float64[count, ...]."""
        return self._room[: self.count]


@dataclass(frozen=True, slots=True)
class Units:
    """What slices are made of, numbered: every part alone, then a multi-token-prediction head."""

    table: Parts
    parts: tuple[tuple[int, ...], ...]

    @property
    def roots(self) -> int:
        """Number of the first unit that is an end of the model, not a layer."""
        return self.table.embedding

    def sums(self, by_part: Floats) -> Floats:
        """Add values by part up to values by unit, along the last axis."""
        return np.stack([by_part[..., list(unit)].sum(axis=-1) for unit in self.parts], axis=-1)


def most_units(model: Model) -> int:
    """Return the most units that a model has under any recomputation."""
    towers = sum(len(distinct_layers(tower.model)) + 1 for tower in model.towers)
    return 2 * len(distinct_layers(model)) + 3 + towers


def make_units(plan: Plan, stack: Stack) -> Units:
    """Return the units of a plan's model; of the plan, only its recomputation decides."""
    _, parts = build_table(make_shape(plan, stack), plan.training.recompute)
    alone = tuple((part,) for part in range(parts.head + 1))
    heads = compositions(plan, parts)[-1].units[-1:] if parts.prediction >= 0 else ()
    towers = tuple((part,) for part in parts.towers)
    return Units(parts, alone + heads + towers)


@dataclass(frozen=True, slots=True)
class PartPrices:
    """Seconds of units in one pass."""

    seconds: Floats
    """float64[2, units], forward and whole backward."""
    hidden: Floats
    """float64[2, units], what the other pass of a pair may hide of it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Seconds to exchange the weights of units, and the parameters to update."""

    wires: Floats
    """float64[5, units], rows of ``_kernels``; the first two are zero."""
    owned: Floats
    """float64[units], on one accelerator."""
    per_layer: bool


def price_parts(plan: Plan, stack: Stack, units: Units) -> PartPrices:
    """Price the operator table of a plan and add it up by unit."""
    table, parts = build_table(make_shape(plan, stack), plan.training.recompute)
    routed = routed_parts(plan.model, parts)
    net = stack_network(plan.cluster, stack)
    costs = price_table(
        table, plan.cluster.accelerator, net, stack, routed, padded=pads_experts(plan.model)
    )
    phases = ((ops.FORWARD,), backward_phases(split=False))

    def by_pass(values: list[list[float]]) -> Floats:
        array = np.array(values)
        return units.sums(np.stack([array[:, list(which)].sum(axis=1) for which in phases]))

    return PartPrices(by_pass(costs.total_s), by_pass(costs.expert_exchange_s))


def price_exchange(plan: Plan, stack: Stack, units: Units) -> Exchange:
    """Price the exchange of weights and gradients of a plan by unit."""
    groups = make_groups(plan.parallel)
    net = stack_network(plan.cluster, stack)
    exchange = price_weights(plan, units.table, groups, net, stack)
    by_part = np.zeros((5, len(exchange.gather)))
    by_part[GATHER], by_part[REGATHER] = exchange.gather, exchange.regather
    by_part[REDUCE] = exchange.reduce
    owned = np.array(owned_parameters(plan, units.table, groups))
    return Exchange(units.sums(by_part), units.sums(owned), exchange.per_layer)


def lay_out(plan: Plan, units: Units) -> tuple[NDArray[np.int32], ...]:
    """Return the numbers of the units of every slice of a plan, in model order."""
    number = {unit: place for place, unit in enumerate(units.parts)}
    return tuple(
        np.array([number[unit] for unit in composition.units], np.int32)
        for composition in compositions(plan, units.table)
    )
