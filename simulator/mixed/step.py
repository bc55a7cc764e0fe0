"""A step on several kinds of accelerators: each kind is priced, the slowest sets the pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from ridgeline.simulator.memory import memory_facts, stage_memory
from ridgeline.simulator.mixed.plan import MixedPlan, micro_batches_in_step
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import MemoryShare
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Priced, assemble, price_step
from ridgeline.simulator.weights import WeightExchange


@dataclass(frozen=True, slots=True, kw_only=True)
class KindStep:
    """What a step is for one kind."""

    plan: Plan
    seconds: float
    """Of a step if no other kind held it up (across dp), or of the whole step (across pp)."""
    memory: tuple[MemoryShare, ...]
    """Of its stages."""

    @property
    def fits(self) -> bool:
        """Whether its stages have the memory."""
        limit = self.plan.cluster.accelerator.memory_bytes
        return max(share.total for share in self.memory) <= limit


def _slowest(exchanges: Sequence[WeightExchange]) -> WeightExchange:
    """Return the exchange that all take part in: each collective as slow as its slowest member."""
    columns = {
        field.name: [
            max(seconds)
            for seconds in zip(*(getattr(e, field.name) for e in exchanges), strict=True)
        ]
        for field in fields(WeightExchange)
        if field.name != "per_layer"
    }
    return WeightExchange(per_layer=exchanges[0].per_layer, **columns)


class MixedPrices:
    """Steps of a mixed plan by share or by layers; operators are priced once."""

    def __init__(self, mixed: MixedPlan, kernels: Kernels | None = None) -> None:
        self.mixed = mixed
        self._kernels = kernels
        self._stack = load_stack(mixed.plans[0].stack)
        self._known: dict[tuple[int, int], KindStep] = {}
        self._alike: dict[int, tuple[Priced, ...]] = {}

    @cached_property
    def micro_batches(self) -> int:
        """Micro-batches that all run, where they meet in each."""
        return micro_batches_in_step(self.mixed)

    def _priced(self, micro_batch_seqs: tuple[int, ...]) -> tuple[Priced, ...]:
        """Return every kind with its own micro-batch."""
        return tuple(
            price_step(
                replace(plan, training=replace(plan.training, micro_batch_seqs=size)),
                self._stack,
                self._kernels,
            )
            for plan, size in zip(self.mixed.plans, micro_batch_seqs, strict=True)
        )

    def kind_step(self, kind: int, share: int) -> KindStep:
        """Return the step of one kind with ``share`` sequences for each of its ranks."""
        key = (kind, share)
        if key not in self._known:
            t = self.mixed.plans[kind].training
            size = share // self.micro_batches if self.mixed.in_step else t.micro_batch_seqs
            if size not in self._alike:
                self._alike[size] = self._priced((size,) * len(self.mixed.plans))
            alike = self._alike[size]
            # weights are exchanged by all kinds, whatever their share
            priced = replace(alike[kind], exchange=_slowest([one.exchange for one in alike]))
            plan = priced.plan
            batch = share * plan.parallel.dp
            plan = replace(plan, training=replace(plan.training, global_batch_seqs=batch))
            step = assemble(replace(priced, plan=plan))
            memory = stage_memory(plan, step.schedule, memory_facts(self._stack))
            self._known[key] = KindStep(plan=plan, seconds=step.seconds, memory=memory)
        return self._known[key]

    def pipeline_steps(self, layers: tuple[int, ...]) -> tuple[KindStep, ...]:
        """Return the step by kind of a pipeline across them with ``layers`` by virtual stage."""
        size = self.mixed.plans[0].training.micro_batch_seqs
        if size not in self._alike:
            self._alike[size] = self._priced((size,) * len(self.mixed.plans))
        cut = [
            replace(
                one,
                plan=replace(one.plan, training=replace(one.plan.training, stage_layers=layers)),
            )
            for one in self._alike[size]
        ]
        ranks = self.mixed.ranks
        home = np.repeat(np.arange(len(ranks), dtype=np.int32), ranks)
        step = assemble(cut[0], "stage", cut[1:], home)
        facts = memory_facts(self._stack)
        found = []
        for kind, one in enumerate(cut):
            shares = stage_memory(one.plan, step.schedule, facts)
            mine = tuple(share for share, k in zip(shares, home.tolist(), strict=True) if k == kind)
            found.append(KindStep(plan=one.plan, seconds=step.seconds, memory=mine))
        return tuple(found)
