"""The least recomputation that memory allows, chosen exactly, stage by stage.

The question is that of Moccasin (Bartan et al. 2023, arXiv:2304.14463): which values to keep and
which to compute again, so that the time of the repeats is least and the peak of memory within its
budget. A layer's operators fall into modules that can be repeated one by one; what a set of them
costs and saves is priced like any policy. The layers of a stage share one budget, so that the
choice is a multiple-choice knapsack: each layer takes one set, seconds add up, and so do bytes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations, groupby

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.collectives import network, scaled
from ridgeline.simulator.costs import price_table
from ridgeline.simulator.knapsack import Group, Option, choose
from ridgeline.simulator.memory.activations import kind_activations
from ridgeline.simulator.memory.facts import memory_facts
from ridgeline.simulator.memory.stage import totals_with
from ridgeline.simulator.operators.build import (
    build_table,
    layer_key,
    pads_experts,
    routed_parts,
)
from ridgeline.simulator.operators.shape import make_shape
from ridgeline.simulator.operators.table import RECOMPUTE
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import MODULES, OPTIMAL, POLICIES, known_recompute
from ridgeline.simulator.roofline.rungs import MODEL_ALONE, Kernels
from ridgeline.simulator.schedule import make_schedule
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.stages import stage_layers
from ridgeline.workloads.forms import Form

PROBE_BYTES = float(1 << 30)
"""Step between the two points that a straight line is laid through."""


def candidate_policies(*, latent: bool) -> tuple[str, ...]:
    """Return every set of modules that can be repeated, and the named policies, each set once.

    ``latent`` says whether attention has latents (MLA) to project up again.
    """
    names = [name for name in MODULES if latent or name != "mla-up"]
    sets = ["+".join(some) for n in range(1, len(names) + 1) for some in combinations(names, n)]
    return (*POLICIES, *(name for name in sets if name not in POLICIES))


def with_chosen_recompute(plan: Plan, stack_: Stack, kernels: Kernels | None = None) -> Plan:
    """Return the plan with ``recompute = "optimal"`` replaced by the mix of layers that it means.

    The budget of a stage is the memory of its accelerator less all but activations. Where even the
    least activations are too many, those are taken, and the plan does not fit.
    """
    if plan.training.recompute != OPTIMAL:
        return plan
    bare = replace(plan, training=replace(plan.training, recompute="none"))
    options = layer_options(bare, stack_, kernels)
    rooms = Rooms(bare, stack_)
    chosen: list[str] = []
    for stage, (first, count) in enumerate(stage_layers(plan)):
        keys = [layer_key(plan.model, index) for index in range(first, first + count)]
        groups = {key: Group(keys.count(key), options[key]) for key in dict.fromkeys(keys)}
        takes = choose(list(groups.values()), partial(rooms.room, stage))
        left = {
            key: [name for name, number in take for _ in range(number)]
            for key, take in zip(groups, takes, strict=True)
        }
        chosen += [left[key].pop(0) for key in keys]
    mix = ",".join(f"{len(list(run))}*{name}" for name, run in groupby(chosen))
    return replace(plan, training=replace(plan.training, recompute=mix))


def layer_options(
    plan: Plan, stack_: Stack, kernels: Kernels | None = None
) -> dict[tuple[Form, int], tuple[Option, ...]]:
    """Return what each distinct layer may repeat, priced and counted."""
    model, training = plan.model, plan.training
    names = candidate_policies(latent=model.attention.kind == "mla")
    shape = make_shape(plan, stack_)
    table, parts = build_table(shape, ",".join(f"1*{name}" for name in names))
    net = scaled(network(plan.cluster), stack_.node_bandwidth, stack_.network_bandwidth)
    routed = routed_parts(model, parts)
    accelerator = plan.cluster.accelerator
    costs = price_table(
        table,
        accelerator,
        net,
        stack_,
        routed,
        kernels or MODEL_ALONE,
        padded=pads_experts(model),
    )
    facts = memory_facts(stack_)
    found: dict[tuple[Form, int], list[Option]] = {}
    for part, ((index, _), policy) in enumerate(zip(parts.kinds, parts.policies, strict=True)):
        layer = kind_activations(
            model,
            model.form(index),
            training.seq_len,
            training.micro_batch_seqs,
            plan.parallel,
            policy,
            training.precision,
            facts,
        )
        repeats = known_recompute(policy)[0].anything
        seconds = float(costs.total_s[part][RECOMPUTE]) if repeats else 0.0
        option = Option(policy, seconds, layer.stored, layer.peak_recompute)
        found.setdefault(layer_key(model, index), []).append(option)
    return {key: tuple(options) for key, options in found.items()}


class Rooms:
    """How many bytes the layers of a stage may keep of one micro-batch."""

    def __init__(self, plan: Plan, stack_: Stack) -> None:
        self.plan, self.facts = plan, memory_facts(stack_)
        parallel, training = plan.parallel, plan.training
        self.schedule = make_schedule(
            training.schedule, parallel.pp, parallel.vpp, plan.micro_batches
        )
        self.known: dict[float, list[float]] = {}

    def room(self, stage: int, recreated: float) -> float:
        """Return the room of a stage whose fullest layer recreates so many bytes.

        The bytes of a stage grow in proportion to what its layers keep, which two points show.
        """
        if recreated not in self.known:
            limit = self.plan.cluster.accelerator.memory_bytes
            none, more = (
                np.array(self._totals(np.full(self.plan.parallel.pp, kept), recreated))
                for kept in (0.0, PROBE_BYTES)
            )
            slope = (more - none) / PROBE_BYTES
            # a share of 1e-12 for rounding, so that what is chosen really fits
            self.known[recreated] = ((limit - none) / slope * (1.0 - 1e-12)).tolist()
        return self.known[recreated][stage]

    def _totals(self, kept: NDArray[np.float64], recreated: float) -> list[float]:
        return totals_with(self.plan, self.schedule, self.facts, kept, recreated)
