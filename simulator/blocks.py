"""Templates of passes: what a stage runs for one micro-batch, forward or backward.

Three granularities that agree: ``stage`` (a pass is one task wherever nothing inside it overlaps),
``layer`` (a task for each layer), ``operator`` (a task for each operator and collective).
Where weights are exchanged while a pass runs, it is always at least layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.costs import Costs
from ridgeline.simulator.host import HostCosts
from ridgeline.simulator.memory.activations import recomputes_layer
from ridgeline.simulator.operators.build import Parts, layer_key
from ridgeline.simulator.operators.table import (
    BACKWARD,
    COLLECTIVE,
    FORWARD,
    GROUPS,
    RECOMPUTE,
    WEIGHT,
)
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.stages import stage_layers
from ridgeline.simulator.tasks import (
    COMPUTE,
    COPY,
    DISK,
    FETCH,
    GRADIENT,
    HOST,
    NETWORK,
    Block,
)
from ridgeline.simulator.tuning import only_forward
from ridgeline.simulator.weights import WeightExchange
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import first_layers

EXPERT_EXCHANGE = GROUPS.index("ep")
GRANULARITIES = ("stage", "layer", "operator")


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Parts of the operator table that one slice of the model runs, in model order.

    ``compositions`` gives slices that run the same the same object, so that telling slices apart
    goes by identity.
    """

    units: tuple[tuple[int, ...], ...]
    """Each unit is a layer, or an end of the model, as parts."""


def compositions(plan: Plan, parts: Parts) -> tuple[Composition, ...]:
    """Return the composition of every slice of the model."""
    t = plan.training
    forward = tuple(only_forward(t, index) for index in range(plan.model.num_layers))
    return _compose(plan.model, t.recompute, stage_layers(plan), parts, forward)


@lru_cache(maxsize=1024)
def _compose(
    model: Model,
    recompute: str,
    spans: tuple[tuple[int, int], ...],
    parts: Parts,
    forward: tuple[bool, ...],
) -> tuple[Composition, ...]:
    kind_of = {
        (layer_key(model, index), policy, parts.only_forward[part]): part
        for part, ((index, _), policy) in enumerate(zip(parts.kinds, parts.policies, strict=True))
        if index < model.num_layers
    }
    keys = [layer_key(model, index) for index in range(model.num_layers)]
    made: list[Composition] = []
    known: dict[tuple[tuple[int, ...], ...], Composition] = {}
    for part, (first, count) in enumerate(spans):
        units: list[tuple[int, ...]] = []
        if part == 0:
            units += _towers(model, parts)
            units.append((parts.embedding,))
        for offset in range(count):
            policy = recomputes_layer(recompute, first + offset, offset)
            units.append((kind_of[keys[first + offset], policy, forward[first + offset]],))
        if part == len(spans) - 1:
            units.append((parts.head,))
            last = 0
            if parts.prediction >= 0:
                _, scope = known_recompute(recompute)
                final = scope.policy_at(len(keys) - 1) if scope.shares else parts.policies[0]
                last = kind_of[keys[-1], final, forward[-1]]
            units += [(parts.prediction, last, parts.head)] * model.num_mtp_layers
        made.append(known.setdefault(tuple(units), Composition(tuple(units))))
    return tuple(made)


def _towers(model: Model, parts: Parts) -> list[tuple[int, ...]]:
    """Return the units of towers, which run before the first layer: ends, then layer by layer."""
    units: list[tuple[int, ...]] = []
    own = [(index, part) for part, (index, _) in enumerate(parts.kinds)]
    starts = first_layers(model)
    for tower, first, end in zip(model.towers, starts, parts.towers, strict=True):
        units.append((end,))
        places = {index - first: part for index, part in own if index >= first}
        part_of = {
            layer_key(tower.model, index): part
            for index, part in places.items()
            if index < tower.model.num_layers
        }
        keys = (layer_key(tower.model, index) for index in range(tower.model.num_layers))
        units += [(part_of[key],) for key in keys]
    return units


def slice_seconds(
    costs: Costs, composition: Composition, phases: Sequence[int]
) -> NDArray[np.float64]:
    """Return seconds by group of one pass over a slice."""
    counts = np.zeros(len(costs.seconds))
    for part, times in Counter(part for unit in composition.units for part in unit).items():
        counts[part] = times
    total: NDArray[np.float64] = counts @ costs.seconds[:, list(phases)].sum(axis=1)
    return total


class BlockBuilder:
    """A block under construction: each operator waits for up to two earlier ones."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float, int, int, int, bool]] = []

    def add(
        self,
        label: str,
        seconds: float,
        stream: int,
        a: int = -1,
        b: int = -1,
        *,
        barrier: bool = False,
    ) -> int:
        """Add an operator and return its index."""
        self._rows.append((label, seconds, stream, a, b, barrier))
        return len(self._rows) - 1

    def build(self, leaves: int = -1) -> LabelledBlock:
        """Close the block, whose output is ready with operator ``leaves`` (-1: the last)."""
        # a tail may have nothing to do
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * 6
        labels, seconds, stream, dep_a, dep_b, barrier = columns
        block = Block(
            seconds=seconds,
            stream=stream,
            dep_a=dep_a,
            dep_b=dep_b,
            exit=leaves,
            barrier=barrier if any(barrier) else (),
        )
        return LabelledBlock(block, labels)


@dataclass(frozen=True, slots=True)
class LabelledBlock:
    """A block and what a timeline calls its operators."""

    block: Block
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A pass over a slice, ready to become a template."""

    costs: Costs
    exchange: WeightExchange
    granularity: str
    overlap_slowdown: float
    num_layer_parts: int
    """Parts of the table below this are layers, from it on the ends of the model."""
    composition: Composition
    phases: tuple[int, ...]
    gathers: bool
    """Weights are gathered before each unit."""
    prefetch: bool
    """The next gather waits until its unit is one away (fsdp), not for the start of the step."""
    gathers_ahead: bool
    """The next unit's weights are gathered before the gradients of this one are reduced."""
    reduces: bool
    """Gradients are reduced behind each unit."""
    paired: bool
    """Runs beside a pass of the other direction, which hides its expert exchange."""
    copy_s: tuple[float, ...]
    """[parts] seconds to move the kept activations of a part to the host, or back; or empty."""
    fetch_stream: int = COPY
    """On which stream they come back."""
    host: HostCosts | None = None
    """What the host holds beside them."""
    leaves: bool = False
    """Gradients leave for the host behind each unit."""
    adds: bool = False
    """The host adds them to those of earlier micro-batches."""
    updates: bool = False
    """The host updates each unit as its gradients come."""

    def build(self) -> LabelledBlock:
        """Return the template."""
        ops = BlockBuilder()
        copies = bool(self.copy_s) and self.phases[0] != WEIGHT
        streams = self.host is not None and any(self.host.fetch) and self.phases[0] != WEIGHT
        hosted = streams or self.leaves
        if self.granularity == "stage" and not (self.gathers or self.reduces or copies or hosted):
            whole = [part for unit in self.composition.units for part in unit]
            ops.add(_name(self.phases), self._total(whole), COMPUTE)
            return ops.build()
        units = list(self.composition.units)
        gather, reduce = self._exchange(units)
        totals = {unit: self._total(unit) for unit in set(units)}
        if FORWARD not in self.phases:
            units, gather, reduce = units[::-1], gather[::-1], reduce[::-1]
        ends: list[int] = []
        enter = ops.add("enter", 0.0, COMPUTE)
        before = enter
        arrived = [-1] * len(units)
        updates = None
        if self.updates and self.host is not None:
            updates = HostUpdates(ops, self.host, units, late=copies)

        def fetch(i: int) -> None:
            if i >= len(units):
                return
            wait = ends[i - 2] if self.prefetch and i >= 2 else -1
            if streams:
                wait = arrived[i] = self._fetch_weights(ops, units[i], wait)
            if gather[i] > 0.0:
                arrived[i] = ops.add("gather weights", gather[i], GRADIENT, wait)

        ahead = 1 if self.gathers_ahead else 0
        for i in range(ahead):
            fetch(i)
        for i, unit in enumerate(units):
            copy_s = sum(self.copy_s[part] for part in unit) if copies else 0.0
            if copy_s and FORWARD not in self.phases:
                wait = ends[i - 2] if i >= 2 else -1
                fetched = ops.add("fetch activations", copy_s, self.fetch_stream, wait)
                before = ops.add("fetched", 0.0, COMPUTE, before, fetched)
            fetch(i + ahead)
            wire = gather[i] + reduce[i]
            before = self._chain(ops, unit, totals[unit], before, arrived[i], wire)
            ends.append(before)
            if copy_s and FORWARD in self.phases:
                ops.add("offload activations", copy_s, COPY, before)
            ready = before
            if reduce[i] > 0.0:
                ready = ops.add("reduce gradients", reduce[i], GRADIENT, before)
            if self.leaves:
                self._send_gradients(ops, unit, ready, updates)
        return ops.build(before)

    def _fetch_weights(self, ops: BlockBuilder, unit: tuple[int, ...], wait: int) -> int:
        """Bring the weights of a unit up from the host, whose memory they pass from drives."""
        assert self.host is not None
        if read := sum(self.host.fetch_read[part] for part in unit):
            wait = ops.add("read weights", read, DISK, wait)
        return ops.add("fetch weights", sum(self.host.fetch[part] for part in unit), FETCH, wait)

    def _send_gradients(
        self, ops: BlockBuilder, unit: tuple[int, ...], ready: int, updates: HostUpdates | None
    ) -> None:
        """Send the gradients of a unit down, where they are added up or used at once."""
        host = self.host
        assert host is not None
        sent = ops.add("offload gradients", sum(host.out[part] for part in unit), COPY, ready)
        if updates is not None:
            updates.add(sent)
        elif self.adds:
            ops.add("add gradients", sum(host.accumulate[part] for part in unit), HOST, sent)
        elif rest := sum(host.rest[part] for part in unit):
            ops.add("write gradients", rest, DISK, sent)

    def _sums(self, parts: Sequence[int]) -> tuple[float, float]:
        """Return all seconds of the parts, and those of their expert exchange."""
        totals, experts = self.costs.total_s, self.costs.expert_exchange_s
        places = [(part, phase) for part in parts for phase in self.phases]
        return sum(totals[p][f] for p, f in places), sum(experts[p][f] for p, f in places)

    def _total(self, parts: Sequence[int]) -> float:
        """Add parts up; in a pair the expert exchange runs behind the other pass."""
        total, exchange = self._sums(parts)
        return max(total - exchange, exchange) if self.paired else total

    def _hidden_exchange(self, parts: Sequence[int]) -> float:
        """Return the share of the expert exchange that the other pass of a pair hides."""
        total, exchange = self._sums(parts)
        if not self.paired or exchange == 0.0:
            return 0.0
        return min(1.0, (total - exchange) / exchange)

    def _exchange(self, units: list[tuple[int, ...]]) -> tuple[list[float], list[float]]:
        """Seconds of gathering and of reducing by unit, in model order.

        Under fsdp the ends of the model are one root unit: gathered before anything else, kept,
        and reduced last.
        """
        e = self.exchange
        weights = e.gather if FORWARD in self.phases else e.regather
        gather = [sum(weights[part] for part in u) if self.gathers else 0.0 for u in units]
        reduce = [sum(e.reduce[part] for part in u) if self.reduces else 0.0 for u in units]
        if e.per_layer:
            root = [i for i, unit in enumerate(units) if unit[0] >= self.num_layer_parts]
            together = sum(gather[i] for i in root) if FORWARD in self.phases else 0.0
            last = sum(reduce[i] for i in root)
            for i in root:
                gather[i] = reduce[i] = 0.0
            gather[0] += together
            reduce[0] += last
        return gather, reduce

    def _chain(
        self,
        ops: BlockBuilder,
        unit: tuple[int, ...],
        total: float,
        before: int,
        arrived: int,
        wire: float,
    ) -> int:
        """Append the compute of one unit behind ``before`` (and its weights), return its end."""
        slowed = self.overlap_slowdown * min(wire, total)
        if self.granularity != "operator":
            return ops.add(_name(self.phases), total + slowed, COMPUTE, before, arrived)
        table = self.costs.table
        wait = arrived
        hidden = self._hidden_exchange(unit)
        for part in unit:
            for phase in self.phases:
                for row in np.flatnonzero((table.part == part) & (table.phase == phase)):
                    stream = NETWORK if table.kind[row] == COLLECTIVE else COMPUTE
                    seconds = float(self.costs.chained[row])
                    if table.group[row] == EXPERT_EXCHANGE:
                        seconds *= 1.0 - hidden
                    before = ops.add(table.names[row], seconds, stream, before, wait)
                    wait = -1
        host = float(sum(self.costs.host[part, phase] for part in unit for phase in self.phases))
        if host + slowed > 0.0:
            before = ops.add("host and contention", host + slowed, COMPUTE, before, wait)
        return before


class HostUpdates:
    """Updates of units on the host, one behind the other, in a block under construction.

    The state of a unit comes from drives one unit ahead and goes back a unit later, so that what
    the drives have still to read need not wait for the processor. Updated weights come back at
    once, or, ``late``, behind all that a backward pass has still to fetch.
    """

    def __init__(
        self,
        ops: BlockBuilder,
        host: HostCosts,
        units: Sequence[tuple[int, ...]],
        *,
        late: bool = False,
    ) -> None:
        self.ops, self.host, self.units, self.late = ops, host, units, late
        self.reads = [-1] * (len(units) + 1)
        self.done: list[int] = []
        self.back = -1
        """Latest copy of updated weights."""

    def add(self, ready: int = -1) -> None:
        """Append the update of the next unit behind ``ready`` (-1: behind the last update)."""
        ops, host, i = self.ops, self.host, len(self.done)
        unit = self.units[i]
        if i == 0:
            self._read(0)
        self._read(i + 1)
        if ready < 0 and self.done:
            ready = self.done[-1]
        seconds = sum(host.update[part] for part in unit)
        update = ops.add("update", seconds, HOST, ready, self.reads[i])
        self.done.append(update)
        final = i == len(self.units) - 1
        for behind in (range(i + 1) if final else ()) if self.late else (i,):
            self._fetch(behind)
        if i > 0:
            self._write(i - 1)
        if final:
            self._write(i)

    def _fetch(self, i: int) -> None:
        if seconds := sum(self.host.back[part] for part in self.units[i]):
            self.back = self.ops.add("fetch updated weights", seconds, FETCH, self.done[i])

    def _write(self, i: int) -> None:
        if seconds := sum(self.host.write[part] for part in self.units[i]):
            self.ops.add("write state", seconds, DISK, self.done[i])

    def _read(self, i: int) -> None:
        if i >= len(self.units):
            return
        if seconds := sum(self.host.read[part] for part in self.units[i]):
            wait = self.done[i - 2] if i >= 2 else -1
            self.reads[i] = self.ops.add("read state", seconds, DISK, wait)


def _name(phases: tuple[int, ...]) -> str:
    if FORWARD in phases:
        return "forward"
    return "weight gradient" if BACKWARD not in phases else "backward"


def backward_phases(*, split: bool) -> tuple[int, ...]:
    """Return the phases of a BACKWARD pass; the weight half leaves it when it is split."""
    return (RECOMPUTE, BACKWARD) if split else (RECOMPUTE, BACKWARD, WEIGHT)
