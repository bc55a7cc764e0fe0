"""The operator table for a person: every operator of a step on one accelerator, with its price."""

from __future__ import annotations

from typing import Any

from ridgeline.simulator.beside import scored_by
from ridgeline.simulator.collectives.layout import NAMES
from ridgeline.simulator.matrix_updates import goes_by_matrix, matrix_work
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.operators.table import COLLECTIVE, GROUPS, PHASES
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.layout import DTYPES, KINDS
from ridgeline.simulator.roofline.rungs import Kernels
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import owner


def explain(plan: Plan, kernels: Kernels | None = None) -> list[dict[str, Any]]:
    """Return the operator table: one record per operator of each distinct layer and of the ends.

    ``seconds`` is the operator alone, ``exposed_s`` what it adds to its pass (less for a collective
    that hides behind computation; 0 for what the host does beside the passes). Frozen models that
    score the step's sequences follow, each part with their name before it.
    """
    records = _records(plan, kernels)
    for name, other in scored_by(plan):
        records += [row | {"part": f"{name}: {row['part']}"} for row in _records(other, kernels)]
    return records


def _records(plan: Plan, kernels: Kernels | None) -> list[dict[str, Any]]:
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
    return records + _updates(step) + _on_host(step)


def _updates(step: Step) -> list[dict[str, Any]]:
    """Return the products of an optimizer that goes by matrix, by part."""
    if not goes_by_matrix(step.plan):
        return []
    work = matrix_work(step.plan, step.stack, step.parts, step.shape.groups)
    name = f"{step.plan.training.optimizer} products"
    return [
        _record(
            part_name(step.plan.model, step.parts, part),
            "update",
            name,
            "optimizer",
            seconds,
            exposed=True,
        )
        for part, seconds in enumerate(work.seconds)
        if seconds > 0.0
    ]


def _on_host(step: Step) -> list[dict[str, Any]]:
    """Return what the host does for each part, beside what the accelerator does."""
    host = step.host
    if host is None:
        return []
    columns = (
        ("read weights", host.fetch_read),
        ("fetch weights", host.fetch),
        ("offload gradients", host.out),
        ("add gradients", host.accumulate),
        ("write gradients", host.rest),
        ("read state", host.read),
        ("update", host.update),
        ("write state", host.write),
        ("fetch updated weights", host.back),
    )
    return [
        _record(
            part_name(step.plan.model, step.parts, part), "host", name, "host", float(column[part])
        )
        for part in range(len(host.update))
        for name, column in columns
        if column[part] > 0.0
    ]


def _record(
    part: str, phase: str, name: str, kind: str, seconds: float, *, exposed: bool = False
) -> dict[str, Any]:
    return {
        "part": part,
        "phase": phase,
        "operator": name,
        "group": kind,
        "kind": kind,
        "dtype": "",
        "shape": "",
        "seconds": seconds,
        "exposed_s": seconds if exposed else 0.0,
    }


def part_name(model: Model, parts: Parts, part: int) -> str:
    """Return what a part of the operator table is called: a layer, the embedding, the head."""
    if part < len(parts.kinds):
        index, again = parts.kinds[part]
        _, local, tower = owner(model, index)
        frozen = parts.only_forward[part] and not all(parts.only_forward)
        what = f"recomputed: {parts.policies[part]}" if len(set(parts.policies)) > 2 else ""
        notes = ", ".join((what or "recomputed",) * again + ("frozen",) * frozen)
        layer = f"layer {local}" if tower is None else f"{tower.name}: layer {local}"
        return f"{layer}{f' ({notes})' if notes else ''}"
    if part in parts.towers:
        return f"{model.towers[parts.towers.index(part)].name}: ends"
    names = {parts.embedding: "embedding", parts.head: "head", parts.prediction: "prediction"}
    return names[part]
