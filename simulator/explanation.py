"""The operator table for a person: every operator of a step on one accelerator, with its price."""

from __future__ import annotations

from typing import Any

from ridgeline.simulator.collectives.layout import NAMES
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.operators.table import COLLECTIVE, GROUPS, PHASES
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.layout import DTYPES, KINDS
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import owner


def explain(plan: Plan, kernels: Kernels | None = None) -> list[dict[str, Any]]:
    """Return the operator table: one record per operator of each distinct layer and of the ends.

    ``seconds`` is the operator alone, ``exposed_s`` what it adds to its pass (less for a collective
    that hides behind computation).
    """
    step = simulate_step(plan, load_stack(plan.stack), kernels=kernels)
    table, costs = step.costs.table, step.costs
    records: list[dict[str, Any]] = []
    for row, name in enumerate(table.names):
        wire = table.kind[row] == COLLECTIVE
        if wire:
            shape = f"{table.message[row] / 1e6:.3g} MB over {table.size[row]}"
        else:
            shape = "x".join(str(d) for d in table.dims[row].tolist()).rstrip("x0") or (
                f"{table.extra[row, 0] / 1e6:.3g} MB"
            )
        records.append(
            {
                "part": part_name(plan.model, step.parts, int(table.part[row])),
                "phase": PHASES[table.phase[row]],
                "operator": name,
                "group": GROUPS[table.group[row]],
                "kind": NAMES[table.operation[row]] if wire else KINDS[table.kind[row]],
                "dtype": "" if wire else DTYPES[table.dtype[row]],
                "shape": shape,
                "seconds": float(costs.alone[row]),
                "exposed_s": float(costs.chained[row]),
            }
        )
    return records


def part_name(model: Model, parts: Parts, part: int) -> str:
    """Return what a part of the operator table is called: a layer, the embedding, the head."""
    if part < len(parts.kinds):
        index, again = parts.kinds[part]
        _, local, tower = owner(model, index)
        layer = f"layer {local}" if tower is None else f"{tower.name}: layer {local}"
        return f"{layer}{' (recomputed)' if again else ''}"
    if part in parts.towers:
        return f"{model.towers[parts.towers.index(part)].name}: ends"
    names = {parts.embedding: "embedding", parts.head: "head", parts.prediction: "prediction"}
    return names[part]
