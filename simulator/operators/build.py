"""Build the operator table of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.operators.ends import embedding, head, prediction_projection
from ridgeline.simulator.operators.layer import layer
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import Builder, OperatorTable
from ridgeline.simulator.recompute import known_recompute, policies_of
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import distinct_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which part of the table a layer is, and the parts at the ends."""

    kinds: tuple[tuple[int, bool], ...]
    """(index of a representative layer, recomputed) by part."""
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
    policies: list[str] = []
    for index in (kind.index_of_first for kind in distinct_layers(model)):
        for name in policies_of(recompute):
            policy, _ = known_recompute(name)
            b.part = len(kinds)
            kinds.append((index, policy.anything))
            policies.append(name)
            layer(b, s, index, policy)
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
        policies=tuple(policies),
        embedding=n,
        head=n + 1,
        prediction=prediction,
    )
    return b.build(), parts
