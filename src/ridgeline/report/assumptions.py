"""Every assumption with its source: the plan as resolved, the device, the links, the stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.profiles import describe
from ridgeline.report.records import Block, Section, Table, Text
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.stacks import load_stack
from ridgeline.units import figures
from ridgeline.workloads.model import Model


def training_assumptions(plan: Plan, result: TrainingResult) -> Section:
    """Return what a prediction of training assumes."""
    blocks: list[Block] = []
    if result.warnings:
        blocks.append(Text(lines=result.warnings, tone="warn", listed=True))
    blocks += [
        provenance_table([(note.kind, note.text) for note in result.provenance]),
        settings_table(result.plan),
        model_table(plan.model),
        device_table(plan.cluster.accelerator),
        links_table(plan.cluster),
        stack_table(plan.stack),
    ]
    return Section(
        key="assumptions",
        title="Every assumption and its source",
        lead="What was not given was resolved to these values.",
        blocks=tuple(blocks),
    )


def provenance_table(notes: Sequence[tuple[str, str]]) -> Table:
    """Return what stands behind the numbers."""
    return Table(
        caption="What stands behind the numbers", columns=("what", "source"), rows=tuple(notes)
    )


def settings_table(settings: Mapping[str, Any], caption: str = "The plan, resolved") -> Table:
    """Return nested settings as rows of dotted names."""
    rows = tuple(_flat(settings))
    return Table(caption=caption, columns=("setting", "value"), rows=rows, folded=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain(value)


def plain(value: object) -> str:
    """Return a setting as a reader expects it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) if value is not None and value != "" else "none"


def model_table(model: Model) -> Table:
    """Return the shape of a model."""
    return settings_table(asdict(model), f"The model: {model.name}")


def device_table(accelerator: Accelerator) -> Table:
    """Return every number of a device's profile with its source."""
    rows = tuple(
        (
            field,
            f"{value:,.6g}" if isinstance(value, float) else plain(value),
            unit,
            source if confirmed else f"{source} (unconfirmed)",
        )
        for field, value, unit, source, confirmed in describe(accelerator)
    )
    return Table(
        caption=f"The accelerator: {accelerator.name}",
        columns=("fact", "value", "unit", "source"),
        rows=rows,
        numeric=(1,),
        folded=True,
    )


def links_table(cluster: Cluster) -> Table:
    """Return the links of a cluster, innermost first."""
    rows = []
    if cluster.torus is not None:
        torus = cluster.torus
        rows.append(
            (
                "torus " + "x".join(str(side) for side in torus.dims),
                f"{torus.size:,}",
                f"{figures(torus.link_bytes_per_s / 1e9)} a link",
                f"{figures(torus.latency_s * 1e6)}",
                f"{100 * torus.efficiency:.0f}%",
            )
        )
    rows += [
        (
            tier.name,
            f"{tier.size:,}",
            figures(tier.bytes_per_s / 1e9),
            figures(tier.latency_s * 1e6),
            f"{100 * tier.efficiency / tier.oversubscription:.0f}%",
        )
        for tier in cluster.tiers
    ]
    return Table(
        caption=f"The links of {cluster.name}",
        columns=("tier", "accelerators", "GB/s each way", "latency, µs", "usable"),
        rows=tuple(rows),
        numeric=(1, 2, 3, 4),
        folded=True,
        note="; ".join(cluster.sources),
    )


def stack_table(name: str) -> Table:
    """Return every fact of a software stack with its source."""
    stack = load_stack(name)
    sources: Mapping[str, str] = stack.sources
    rows = tuple(
        (field.name, plain(getattr(stack, field.name)), sources.get(field.name, "default"))
        for field in fields(stack)
        if field.name not in ("name", "description", "sources", "calibration")
    )
    return Table(
        caption=f"The software stack: {stack.name}",
        columns=("fact", "value", "source"),
        rows=rows,
        folded=True,
    )
