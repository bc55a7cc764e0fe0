"""Build the operator table of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ridgeline.simulator.operators.added import rung
from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.plan import Tuning
from ridgeline.simulator.recompute import Recompute, known_recompute, policies_of
from ridgeline.simulator.tuning import side_model
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which part of the table a layer is, and the parts at the ends."""

    kinds: tuple[tuple[int, bool], ...]
    """(index of a representative layer, recomputed) by part."""
    only_forward: tuple[bool, ...]
    """By layer part: no gradient reaches it, only its forward pass runs."""
    policies: tuple[str, ...]
    """What each of them computes again."""
    embedding: int
    head: int
    prediction: int
    """Multi-token-prediction projection, -1 when the model has none."""


def layer_key(model: Model, index: int) -> tuple[bool, int]:
    """Return what makes layers differ: routed or not, and the attention window."""
    return model.is_moe_layer(index), model.window(index)


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
    n = len(kinds)
    b.part = n
    embedding(b, s)
    b.part = n + 1
    head(b, s)
    if model.num_mtp_layers:
        b.part = n + 2
        prediction_projection(b, s)
    prediction = n + 2 if model.num_mtp_layers else -1
    parts = Parts(
        kinds=tuple(kinds),
        only_forward=tuple(frozen),
        policies=tuple(policies),
        embedding=n,
        head=n + 1,
        prediction=prediction,
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
