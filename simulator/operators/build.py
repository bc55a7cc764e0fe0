"""Build the operator table of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.recompute import Recompute, known_recompute
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which part of the table a layer is, and the parts at the ends."""

    kinds: tuple[tuple[int, bool], ...]
    """(index of a representative layer, recomputed) by part."""
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
    for index in (kind.index_of_first for kind in distinct_layers(model)):
        for again in modes:
            b.part = len(kinds)
            kinds.append((index, again))
            layer(b, s, index, policy if again else Recompute())
    n = len(kinds)
    b.part = n
    embedding(b, s)
    b.part = n + 1
    head(b, s)
    if model.num_mtp_layers:
        b.part = n + 2
        prediction_projection(b, s)
    prediction = n + 2 if model.num_mtp_layers else -1
    parts = Parts(kinds=tuple(kinds), embedding=n, head=n + 1, prediction=prediction)
    return b.build(), parts
