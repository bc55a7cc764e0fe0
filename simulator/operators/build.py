"""Build the operator table of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.simulator.operators.added import rung
from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.other_ends import tower_ends
from ridgeline.simulator.operators.shape import Shape, tower_shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.plan import Tuning
from ridgeline.simulator.recompute import Recompute, known_recompute, policies_of
from ridgeline.simulator.tuning import side_model
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers
from ridgeline.workloads.towers import first_layers, owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which part of the table a layer is, and the parts at the ends."""

    kinds: tuple[tuple[int, bool], ...]
    """(index of a representative layer, recomputed) by part; those of towers follow the model's
    own, as ``towers.owner`` counts them."""
    only_forward: tuple[bool, ...]
    """By layer part: no gradient reaches it, only its forward pass runs."""
    policies: tuple[str, ...]
    """What each of them computes again."""
    embedding: int
    head: int
    prediction: int
    """Multi-token-prediction projection, -1 when the model has none."""
    towers: tuple[int, ...] = ()
    """Input, final norm and projector of each tower."""


def layer_key(model: Model, index: int) -> tuple[Form, int]:
    """Return what makes layers differ: their form, and the attention window."""
    return model.form(index), model.window(index)


def routed_parts(model: Model, parts: Parts) -> list[bool]:
    """Return by part that is a layer whether it routes to experts."""
    owners = [owner(model, index) for index, _ in parts.kinds]
    return [stack.is_moe_layer(local) for stack, local, _ in owners]


def pads_experts(model: Model) -> bool:
    """Whether the tokens of every expert are padded to a capacity known before the step."""
    return model.moe is not None and model.moe.capacity_factor > 0.0


def build_table(s: Shape, recompute: str) -> tuple[OperatorTable, Parts]:
    """Build each distinct layer kind once under each policy of the plan, then the ends."""
    model = s.model
    b = Builder()
    kinds: list[tuple[int, bool]] = []
    frozen: list[bool] = []
    policies: list[str] = []
    for index in (kind.index_of_first for kind in distinct_layers(model)):
        for name, only_forward in _variants(s, policies_of(recompute)):
            policy, _ = known_recompute(name)
            b.part = len(kinds)
            kinds.append((index, policy.anything))
            frozen.append(only_forward)
            policies.append(name)
            layer(b, s, index, policy, only_forward=only_forward)
            if s.tuning.side_reduction:
                rung(b, s)
                layer(b, _side(s), index, Recompute())
    # layers of towers are recomputed with all others or not at all
    _, scope = known_recompute(recompute)
    inside = recompute if scope.mode == "all" else "none"
    for tower, first in zip(model.towers, first_layers(model), strict=True):
        own = tower_shape(s, tower)
        for kind in distinct_layers(tower.model):
            b.part = len(kinds)
            policy, _ = known_recompute(inside)
            kinds.append((first + kind.index_of_first, policy.anything))
            frozen.append(not tower.trained)
            policies.append(inside)
            layer(b, own, kind.index_of_first, policy, only_forward=not tower.trained)
    n = len(kinds)
    b.part = n
    embedding(b, s)
    b.part = n + 1
    head(b, s)
    if model.num_mtp_layers:
        b.part = n + 2
        prediction_projection(b, s)
    prediction = n + 2 if model.num_mtp_layers else -1
    ends: list[int] = []
    for tower in model.towers:
        b.part = max(n + 1, prediction) + 1 + len(ends)
        ends.append(b.part)
        tower_ends(b, tower_shape(s, tower), tower)
    parts = Parts(
        kinds=tuple(kinds),
        only_forward=tuple(frozen),
        policies=tuple(policies),
        embedding=n,
        head=n + 1,
        prediction=prediction,
        towers=tuple(ends),
    )
    return b.build(), parts


def _variants(s: Shape, policies: Sequence[str]) -> list[tuple[str, bool]]:
    """Return (policy, only forward) of each part that a kind of layer needs."""
    tuning = s.tuning
    if tuning.forward_only or tuning.side_reduction:
        return [(name, True) for name in policies]
    forward = [(name, True) for name in policies] if tuning.frozen_layers else []
    return [(name, False) for name in policies] + forward


def _side(s: Shape) -> Shape:
    """Return the shape of a ladder's side network, all of which is trained."""
    narrow = side_model(s.model, s.tuning.side_reduction)
    return replace(s, model=narrow, tuning=Tuning(), frozen=False)
