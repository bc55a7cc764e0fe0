"""What the towers of a model take on the first part: weights, activations, gathered layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.simulator.memory.activations import element_bytes, kind_activations
from ridgeline.simulator.memory.facts import MemoryFacts
from ridgeline.simulator.memory.state import largest_matrix, layer_slice
from ridgeline.simulator.plan import Parallelism
from ridgeline.simulator.recompute import known_recompute
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers
from ridgeline.workloads.towers import Tower, outer_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerMemory:
    """Of all towers together, per accelerator: bytes, and parameters before ZeRO."""

    stored: float = 0.0
    """Activations of one micro-batch."""
    weight_half: float = 0.0
    recompute: float = 0.0
    """Recreated while the heaviest layer runs backward."""
    workspace: float = 0.0
    trained: float = 0.0
    experts: float = 0.0
    frozen: float = 0.0
    """Parameters without gradients or optimizer state."""
    unit: float = 0.0
    """Parameters of the largest layer that full sharding gathers at once."""
    ends: float = 0.0
    """Parameters beside layers, which full sharding keeps gathered."""


@lru_cache(maxsize=1024)
def tower_memory(
    model: Model,
    micro_batch_seqs: int,
    parallel: Parallelism,
    recompute: str,
    precision: str,
    facts: MemoryFacts,
) -> TowerMemory:
    """Count what the towers of a model take.

    Every trained tower keeps the activations of its layers as the model's own layers do; a frozen
    one keeps nothing but its output. Its layers are recomputed where all layers are.
    """
    found = TowerMemory()
    for tower in model.towers:
        found = _both(found, _one(tower, micro_batch_seqs, parallel, recompute, precision, facts))
    return found


def _one(
    tower: Tower,
    micro_batch_seqs: int,
    parallel: Parallelism,
    recompute: str,
    precision: str,
    facts: MemoryFacts,
) -> TowerMemory:
    stack = tower.model
    policy = recompute if known_recompute(recompute)[1].mode == "all" else "none"
    stored = half = again = work = dense = experts = unit = 0.0
    pieces = micro_batch_seqs * tower.pieces
    for kind in distinct_layers(stack):
        layer = kind_activations(
            stack, kind.form, tower.tokens, pieces, parallel, policy, precision, facts
        )
        weights = layer_slice(stack, kind.form, parallel.tp, parallel.ep, parallel.expert_tp)
        gathered = weights.total
        if not facts.gathers_layers:
            gathered = largest_matrix(
                stack, kind.form, parallel.tp, parallel.ep, parallel.expert_tp
            )
        stored += kind.count * layer.stored
        half += kind.count * layer.weight_half
        again = max(again, layer.peak_recompute)
        work = max(work, layer.workspace)
        dense += kind.count * weights.dense
        experts += kind.count * weights.experts
        unit = max(unit, gathered)
    ends = float(outer_parameters(stack))
    output = element_bytes(precision) * pieces * tower.tokens * stack.hidden
    projector = float(tower.projector_parameters)
    trained = tower.trained
    return TowerMemory(
        stored=output + (stored if trained else 0.0),
        weight_half=half if trained else 0.0,
        recompute=again if trained else 0.0,
        workspace=work,
        trained=projector + (dense + ends if trained else 0.0),
        experts=experts if trained else 0.0,
        frozen=0.0 if trained else dense + experts + ends,
        unit=unit,
        ends=ends + projector,
    )


def _both(one: TowerMemory, other: TowerMemory) -> TowerMemory:
    return TowerMemory(
        stored=one.stored + other.stored,
        weight_half=one.weight_half + other.weight_half,
        recompute=max(one.recompute, other.recompute),
        workspace=max(one.workspace, other.workspace),
        trained=one.trained + other.trained,
        experts=one.experts + other.experts,
        frozen=one.frozen + other.frozen,
        unit=max(one.unit, other.unit),
        ends=one.ends + other.ends,
    )
