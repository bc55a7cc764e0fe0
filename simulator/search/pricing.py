"""Prices of candidates: the exact step time of regular plans in closed form, and lower bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, SEND_RECV
from ridgeline.simulator.endings import update_seconds
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search.parts import (
    Exchange,
    PartPrices,
    Rows,
    Shelf,
    Units,
    fabrics,
    lay_out,
    make_units,
    micro_batches,
    most_units,
    price_columns,
    price_exchange,
    price_parts,
    regular_plans,
    schedule_codes,
)
from ridgeline.simulator.search.roofline import roofline_seconds
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """What the kernels take for n candidates."""

    kind: NDArray[np.int32]
    pp: NDArray[np.int32]
    vpp: NDArray[np.int32]
    micro_batches: Ints
    layout: Ints
    part: Ints
    exchange: Ints
    gathers: NDArray[np.int32]
    reduces: NDArray[np.int32]
    blocking: Bools
    per_layer: Bools
    reduce_after: Bools
    gather_after: Bools
    send: Floats
    tied: Floats
    norm: Floats
    device_ptr: Ints
    optimizer: Floats


class Pricer:
    """Prices the candidates of one space; keeps what it has priced for the next block.

    The prices of a candidate do not depend on the others that it is priced with, nor on what was
    priced before.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._stack = load_stack(space.stack)
        self._fabric = np.array(fabrics(space.clusters), np.int64)
        doublings = [np.log2(max(1.0, c.count / c.per_node)) for c in space.clusters]
        self._jitter = 1.0 + self._stack.scale_jitter * np.array(doublings)
        self._kind = schedule_codes(space)
        self._moves = np.array(["activations" in names for names in space.offload])
        self._units: dict[int, Units] = {}
        self._parts = Shelf[PartPrices]()
        self._exchanges = Shelf[Exchange]()
        self._layouts = Shelf[tuple[NDArray[np.int32], ...]]()
        most = most_units(space.model)
        self._seconds, self._hidden = Rows(2, most), Rows(2, most)
        self._weights, self._owned = Rows(5, most), Rows(most)

    def step_seconds(self, candidates: Candidates) -> Floats:
        """Return the step time of every candidate.

        Parameters
        ----------
        candidates
            Legal plans of the space.

        Returns
        -------
        float64[n]
            Seconds, as ``simulate_step`` gives them (the sums are taken in another order). NaN
            where the plan is not regular (zb-h1, dualpipe, activations moved to the host): such
            a plan has to be played.
        """
        out = np.full(len(candidates), np.nan)
        rows = np.flatnonzero(
            regular_plans(self.space, candidates) & ~self._moves[candidates.offload]
        )
        if not len(rows):
            return out
        chosen = candidates.take(rows)
        c = self._columns(chosen)
        layout_ptr, slice_ptr, units, roots, most = self._slices()
        makespan = np.empty(len(rows))
        _kernels.price(
            c.kind, c.pp, c.vpp, c.micro_batches, c.layout, c.part, c.exchange, c.gathers,
            c.reduces, c.blocking, c.per_layer, c.reduce_after, c.gather_after, c.send, c.tied,
            c.norm, c.device_ptr, c.optimizer, layout_ptr, slice_ptr, units, roots,
            self._seconds.array,
            self._weights.array,
            self._stack.overlap_slowdown, most, makespan,
        )  # fmt: skip
        out[rows] = makespan * self._jitter[chosen.cluster] + self._stack.host_step_s
        return out

    def lower_bound(self, candidates: Candidates) -> Floats:
        """Return seconds that no step of a candidate is under, regular or not, float64[n].

        Parts are priced; schedules are not played.

        Notes
        -----
        Device d computes one pass at a time, so that its passes take at least their sum
        m (F + B). Before its first forward, one micro-batch has to pass the d stages before it;
        where the last pass is a backward of stage d (GPipe, 1F1B, interleaved), its gradient
        still has to pass the same stages. A send that blocks keeps the device from computing.
        So for all d

            T >= sum_{u<d} (F_u + s) + m (F + B) + [blocking] (m sends - 1) s + sum_{u<d} (B_u + s)

        (ZB-H1 ends with weight gradients: without the last sum. DualPipe enters at both ends and
        hides the expert exchange of a pair: m/2 of each direction without exchange, nothing
        else.) The stream of gradients carries every gather and reduction that runs beside the
        passes, and in 1F1B and GPipe no reduction starts before the last backward. Behind all
        this come, one after the other, reductions that do not overlap, the norm of the gradient,
        and the slowest optimizer step. Jitter and host time are the same functions as in the
        step. The result is lowered by a share of 1e-10 for rounding.
        """
        if not len(candidates):
            return np.zeros(0)
        c = self._columns(candidates)
        layout_ptr, slice_ptr, units, roots, most = self._slices()
        makespan = np.empty(len(candidates))
        _kernels.bound(
            c.kind, c.pp, c.vpp, c.micro_batches, c.layout, c.part, c.exchange, c.gathers,
            c.reduces, c.blocking, c.reduce_after, c.send, c.norm, c.device_ptr, c.optimizer,
            layout_ptr, slice_ptr, units, roots,
            self._seconds.array,
            self._hidden.array,
            self._weights.array,
            most, makespan,
        )  # fmt: skip
        whole = makespan * self._jitter[candidates.cluster] + self._stack.host_step_s
        return whole * (1.0 - _kernels.ROUNDING)

    def roofline_bound(self, candidates: Candidates) -> Floats:
        """Return a weaker bound than ``lower_bound`` that prices no parts, float64[n] in seconds.

        ``roofline.roofline_seconds`` with the jitter and the host time of the step.
        """
        whole = roofline_seconds(
            self.space, self._stack, candidates, self._fabric[candidates.cluster]
        )
        whole = whole * self._jitter[candidates.cluster] + self._stack.host_step_s
        return whole * (1.0 - _kernels.ROUNDING)

    def _plan(self, candidates: Candidates, row: int) -> Plan:
        """Return a candidate as a plan, less what enters no price of its parts."""
        plan = plan_at(self.space, candidates, row)
        return replace(plan, training=replace(plan.training, schedule="1f1b", offload=()))

    def _units_of(self, recompute: int, plan: Plan) -> Units:
        if recompute not in self._units:
            self._units[recompute] = make_units(plan, self._stack)
        return self._units[recompute]

    def _columns(self, c: Candidates) -> _Columns:
        stack = self._stack
        fabric = self._fabric[c.cluster]
        recompute = c.recompute.tolist()
        for again in np.unique(c.recompute).tolist():
            row = recompute.index(again)
            self._units_of(again, self._plan(c, row))
        # exchanges differ by the number of parts alone, not by what is computed again
        parts_of = np.zeros(len(self.space.recompute), np.int64)
        for again, units in self._units.items():
            parts_of[again] = units.roots

        def units_at(row: int) -> Units:
            return self._units[recompute[row]]

        part = self._parts.places(
            [fabric, c.tp, c.sp, c.cp, c.ep, c.etp, c.micro_batch_seqs, c.recompute],
            lambda row: price_parts(self._plan(c, row), stack, units_at(row)),
        )
        exchange = self._exchanges.places(
            [fabric, c.tp, c.cp, c.dp, c.ep, c.etp, c.zero_stage, c.pp == 1, parts_of[c.recompute]],
            lambda row: price_exchange(self._plan(c, row), stack, units_at(row)),
        )
        for made in self._parts.made[self._seconds.count :]:
            self._seconds.add(made.seconds)
            self._hidden.add(made.hidden)
        for new in self._exchanges.made[self._owned.count :]:
            self._weights.add(new.wires)
            self._owned.add(new.owned)
        layout = self._layouts.places(
            [c.recompute, c.pp * c.vpp],
            lambda row: lay_out(self._plan(c, row), units_at(row)),
        )
        per_layer = np.array([made.per_layer for made in self._exchanges.made])[exchange]
        kind = self._kind[c.schedule]
        sharded = ~per_layer & (c.zero_stage >= 1)
        never, once, always = _kernels.NEVER, _kernels.ONCE, _kernels.ALWAYS
        gathers = np.where(sharded & stack.parameter_overlap, once, never)
        # sharded gradients (stage 2) leave after every micro-batch
        overlapped = np.where(c.zero_stage == 2, always, once)
        reduces = overlapped if stack.gradient_overlap else np.full(len(c), never)
        device_ptr = np.zeros(len(c) + 1, np.int64)
        np.cumsum(c.pp, out=device_ptr[1:])
        send, tied, norm = self._wires(c, fabric)
        return _Columns(
            kind=kind,
            pp=c.pp,
            vpp=c.vpp,
            micro_batches=micro_batches(self.space, c),
            layout=layout,
            part=part,
            exchange=exchange,
            gathers=np.where(per_layer, always, gathers).astype(np.int32),
            reduces=np.where(per_layer, always, reduces).astype(np.int32),
            blocking=(c.vpp == 1) | (not stack.transfer_overlap),
            per_layer=per_layer,
            reduce_after=~per_layer & (not stack.gradient_overlap),
            gather_after=sharded & (not stack.parameter_overlap),
            send=send,
            tied=tied,
            norm=norm,
            device_ptr=device_ptr,
            optimizer=self._optimizer(c, fabric, layout, exchange, device_ptr),
        )

    def _wires(self, c: Candidates, fabric: Ints) -> tuple[Floats, Floats, Floats]:
        """Return the seconds of a send, of tied embeddings and of the gradient's norm.

        As ``endings.transfer_seconds`` and ``endings.step_tails`` have them, with the strides of
        the placement that a plan of a space has: the pipeline outermost.
        """
        model, training, stack = self.space.model, self.space.training, self._stack
        element = 4.0 if training.precision in ("fp32", "tf32") else 2.0
        one = np.array(1)
        stride = c.tp.astype(np.int64) * c.cp * c.dp
        moved = c.micro_batch_seqs * (training.seq_len // c.cp) * model.hidden * element
        table = model.vocab * model.hidden / c.tp * stack.gradient_bytes
        shared = (c.pp > 1) & model.tied_embeddings
        seconds = price_columns(
            self.space,
            stack,
            fabric,
            (SEND_RECV, ALL_GATHER, ALL_REDUCE, ALL_REDUCE),
            (
                (moved / c.tp, c.pp, stride),
                (moved, np.where(c.sp > 0, 1, c.tp), one),
                (table, np.where(shared, 2, 1), np.maximum(stride * (c.pp - 1), 1)),
                (np.array(8.0), stride * c.pp, one),
            ),
        )
        send = np.where(c.pp > 1, seconds[0] + seconds[1], 0.0)
        return send, seconds[2], seconds[3]

    def _optimizer(
        self, c: Candidates, fabric: Ints, layout: Ints, exchange: Ints, device_ptr: Ints
    ) -> Floats:
        """Return the optimizer's seconds of every device, in the order of ``device_ptr``."""
        layout_ptr, slice_ptr, units, _, _ = self._slices()
        held = np.zeros(int(device_ptr[-1]))
        owned = self._owned.array
        _kernels.hold(
            c.pp, c.vpp, layout, exchange, device_ptr, layout_ptr, slice_ptr, units, owned, held
        )
        seconds = np.empty(len(held))
        group = fabric * len(self.space.offload) + c.offload
        of_device = np.repeat(group, c.pp)
        for which in np.unique(group).tolist():
            row = int(np.argmax(group == which))
            devices = of_device == which
            plan = plan_at(self.space, c, row)
            seconds[devices] = update_seconds(plan, self._stack, held[devices])
        return seconds

    def _slices(self) -> tuple[Ints, Ints, NDArray[np.int32], Ints, int]:
        """Return all layouts as flat arrays: first slice, first unit, units, roots; most units."""
        made = self._layouts.made
        layout_ptr = np.zeros(len(made) + 1, np.int64)
        np.cumsum([len(slices) + 1 for slices in made], out=layout_ptr[1:])
        slice_ptr = np.zeros(int(layout_ptr[-1]), np.int64)
        flat = [unit for slices in made for unit in slices]
        base, at, most = 0, 0, 1
        for slices in made:
            lengths = [len(unit) for unit in slices]
            slice_ptr[at] = base
            slice_ptr[at + 1 : at + 1 + len(lengths)] = base + np.cumsum(lengths)
            base += sum(lengths)
            at += len(lengths) + 1
            most = max(most, sum(lengths), len(lengths))
        roots = [self._units[recompute].roots for recompute, *_ in self._layouts.place]
        return layout_ptr, slice_ptr, np.concatenate(flat), np.array(roots, np.int64), most
