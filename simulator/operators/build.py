"""Build the operator table of a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.simulator.operators.added import rung
from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.plan import Tuning
from ridgeline.simulator.recompute import Recompute, known_recompute
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
    embedding: int
    head: int
    prediction: int
    """Multi-token-prediction projection, -1 when the model has none."""


def layer_key(model: Model, index: int) -> tuple[bool, int]:
    """Return what makes layers differ: routed or not, and the attention window."""
    return model.is_moe_layer(index), model.window(index)


def build_table(s: Shape, recompute: str) -> tuple[OperatorTable, Parts]:
    """Build each distinct layer kind once (with and without recompute), then the ends."""
    model = s.model
    policy, scope = known_recompute(recompute)
    modes = {"none": (False,), "all": (True,)}.get(scope.mode, (False, True))
    b = Builder()
    kinds: list[tuple[int, bool]] = []
    frozen: list[bool] = []
    for index in (kind.index_of_first for kind in distinct_layers(model)):
        for again, only_forward in _variants(s, modes):
            b.part = len(kinds)
            kinds.append((index, again))
            frozen.append(only_forward)
            policy_here = policy if again else Recompute()
            layer(b, s, index, policy_here, only_forward=only_forward)
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
        embedding=n,
        head=n + 1,
        prediction=prediction,
    )
    return b.build(), parts


def _variants(s: Shape, modes: tuple[bool, ...]) -> list[tuple[bool, bool]]:
    """Return (recomputed, only forward) of each part that a kind of layer needs."""
    tuning = s.tuning
    if tuning.forward_only or tuning.side_reduction:
        return [(again, True) for again in modes]
    forward = [(again, True) for again in modes] if tuning.frozen_layers else []
    return [(again, False) for again in modes] + forward


def _side(s: Shape) -> Shape:
    """Return the shape of a ladder's side network, all of which is trained."""
    narrow = side_model(s.model, s.tuning.side_reduction)
    return replace(s, model=narrow, tuning=Tuning(), frozen=False)
