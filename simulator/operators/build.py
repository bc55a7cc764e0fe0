"""Build the operator table of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.other_ends import tower_ends
from ridgeline.simulator.operators.shape import Shape, tower_shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.recompute import Recompute, known_recompute
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
    # layers of towers are recomputed with all others or not at all
    again = scope.mode == "all"
    for tower, first in zip(model.towers, first_layers(model), strict=True):
        own = tower_shape(s, tower)
        for kind in distinct_layers(tower.model):
            b.part = len(kinds)
            kinds.append((first + kind.index_of_first, again))
            chosen = policy if again else Recompute()
            layer(b, own, kind.index_of_first, chosen, trained=tower.trained)
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
        embedding=n,
        head=n + 1,
        prediction=prediction,
        towers=tuple(ends),
    )
    return b.build(), parts
