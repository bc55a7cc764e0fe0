"""``ridgeline hardware``, ``models`` and ``stacks``: what ships, and its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.completion import complete_accelerator, complete_model, complete_stack

if TYPE_CHECKING:
    from ridgeline.workloads.towers import Tower


@click.group()
def hardware() -> None:
    """List accelerators and named clusters, show one accelerator with its sources."""


@click.group()
def models() -> None:
    """List models and show one."""


@click.group()
def stacks() -> None:
    """List software stacks and show one with its sources."""


json_flag = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@hardware.command("list")
@json_flag
def list_hardware(as_json: bool) -> None:
    """List accelerators, named clusters and hosts."""
    from ridgeline.hardware import accelerator_names, cluster_names, load_accelerator
    from ridgeline.hardware.hosts import host_names

    records = []
    for name in accelerator_names():
        accelerator = load_accelerator(name)
        low = {key: accelerator.peak_flops.get(key, 0.0) / 1e12 for key in ("bf16", "fp8")}
        records.append(
            {
                "name": name,
                "aliases": list(accelerator.aliases),
                "year": accelerator.release_year,
                "memory_gib": round(accelerator.memory_bytes / 2**30, 1),
                "memory_tb_per_s": round(accelerator.memory_bytes_per_s / 1e12, 2),
                "bf16_tflops": round(low["bf16"] or accelerator.peak_flops.get("fp16", 0) / 1e12),
                "fp8_tflops": round(low["fp8"]),
                "scaleup_gb_per_s": round(accelerator.scaleup_bytes_per_s / 1e9),
                "tdp_w": round(accelerator.tdp_w),
            }
        )
    clusters = list(cluster_names())
    if as_json:
        _json({"accelerators": records, "clusters": clusters, "hosts": list(host_names())})
        return
    headings = {
        "name": "name",
        "year": "year",
        "memory_gib": "GiB",
        "memory_tb_per_s": "TB/s",
        "bf16_tflops": "16-bit TF/s",
        "fp8_tflops": "fp8 TF/s",
        "scaleup_gb_per_s": "link GB/s",
        "tdp_w": "W",
    }
    _table(records, headings)
    if clusters:
        _line("\nClusters (as NAME:UNITS): " + ", ".join(clusters))
    _line("\nHosts (as cluster.host): " + ", ".join(host_names()))


@hardware.command("show")
@click.argument("name", shell_complete=complete_accelerator)
@json_flag
def show_hardware(name: str, as_json: bool) -> None:
    """Show an accelerator or a host: every number with its source."""
    from ridgeline.hardware import load_accelerator
    from ridgeline.hardware.hosts import host_names, load_host

    if name in host_names():
        host = load_host(name)
        if as_json:
            _json(asdict(host))
            return
        _sourced(
            [
                (key, _value(value), host.sources[key], key not in host.unconfirmed)
                for key, value in host.stated.items()
            ]
        )
        return
    accelerator = load_accelerator(name)
    if as_json:
        _json(asdict(accelerator))
        return
    from ridgeline.hardware.profiles import describe

    _sourced(
        [
            (field, f"{_value(value)} {unit}".strip(), source, confirmed)
            for field, value, unit, source, confirmed in describe(accelerator)
        ]
    )


def _sourced(facts: list[tuple[str, str, str, bool]]) -> None:
    """Print (fact, value, source, confirmed) with the sources numbered below."""
    numbers: dict[str, int] = {}
    rows = []
    for field, value, source, confirmed in facts:
        number = numbers.setdefault(source, len(numbers) + 1)
        rows.append(
            {
                "fact": field,
                "value": value,
                "source": f"[{number}]" + ("" if confirmed else " unconfirmed"),
            }
        )
    _table(rows, {"fact": "fact", "value": "value", "source": "source"})
    _line("\nSources (unconfirmed: no document at hand confirms the value)\n")
    sources = [{"n": f"[{number}]", "text": text} for text, number in numbers.items()]
    _table(sources, {"n": "", "text": ""})


@models.command("list")
@json_flag
def list_models(as_json: bool) -> None:
    """List the models of the catalogue with their sizes."""
    from ridgeline.workloads import load_model, model_names
    from ridgeline.workloads.parameters import parameters

    records: list[dict[str, Any]] = []
    for name in model_names():
        model = load_model(name)
        count = parameters(model)
        records.append(
            {
                "name": name,
                "parameters": count.total,
                "active_parameters": count.active,
                "layers": model.num_layers,
                "hidden": model.hidden,
                "heads": model.attention.heads,
                "kv_heads": model.attention.kv_heads,
                "experts": model.moe.num_experts if model.moe else 0,
                "vocab": model.vocab,
            }
        )
    if as_json:
        _json(records)
        return
    from ridgeline.units import large

    shown = [
        {
            **record,
            "parameters": large(record["parameters"]),
            "active_parameters": large(record["active_parameters"]),
        }
        for record in records
    ]
    headings = {
        "name": "name",
        "parameters": "params",
        "active_parameters": "active",
        "layers": "layers",
        "hidden": "hidden",
        "heads": "heads",
        "kv_heads": "kv",
        "experts": "experts",
        "vocab": "vocab",
    }
    _table(shown, headings)


@models.command("show")
@click.argument("name", shell_complete=complete_model)
@json_flag
def show_model(name: str, as_json: bool) -> None:
    """Show a model: its shape, its parameters and their source."""
    from ridgeline.workloads import load_model
    from ridgeline.workloads.parameters import parameters

    model = load_model(name)
    count = parameters(model)
    record = asdict(model) | {
        "parameters": count.total,
        "active_parameters": count.active,
    }
    if as_json:
        _json(record)
        return
    if model.towers:
        record["towers"] = "; ".join(_tower(tower) for tower in model.towers)
    _pairs(record, f"{model.name} ({model.family})")


def _tower(tower: Tower) -> str:
    """Return a tower in words."""
    shape = f"{tower.model.num_layers} layers of {tower.model.hidden}"
    tokens = f"{tower.tokens} tokens" if tower.pieces == 1 else f"{tower.pieces} x {tower.tokens}"
    return f"{tower.name}, {shape}, {tokens}{'' if tower.trained else ', frozen'}"


@stacks.command("list")
@json_flag
def list_stacks(as_json: bool) -> None:
    """List the software stacks."""
    from ridgeline.simulator.stacks import load_stack, stack_names

    records = [
        {"name": name, "description": load_stack(name).description} for name in stack_names()
    ]
    if as_json:
        _json(records)
    else:
        _table(records, {"name": "name", "description": "what it is"})


@stacks.command("show")
@click.argument("name", shell_complete=complete_stack)
@json_flag
def show_stack(name: str, as_json: bool) -> None:
    """Show a software stack: every fact with its source."""
    from ridgeline.simulator.stacks import load_stack

    stack = load_stack(name)
    record = asdict(stack)
    if as_json:
        _json(record)
        return
    sources = record.pop("sources")
    _line(f"{stack.name}: {stack.description}\n")
    rows = [
        {"fact": key, "value": _value(value), "source": sources.get(key, "default")}
        for key, value in record.items()
        if key not in ("name", "description")
    ]
    _table(rows, {"fact": "fact", "value": "value", "source": "source"})


def _json(value: Any) -> None:
    from ridgeline.cli.output import emit, to_json

    emit(to_json(value))


def _line(text: str) -> None:
    from ridgeline.cli.output import console

    console().print(text, markup=False, highlight=False)


def _table(records: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> None:
    """Print records under headings: key -> what a person calls it."""
    from rich.table import Table
    from rich.text import Text

    from ridgeline.cli.output import console

    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
        pad_edge=False,
        show_header=any(headings.values()),
    )
    numeric = {
        key for key in headings if all(isinstance(r[key], int | float) for r in records) and records
    }
    for key, heading in headings.items():
        fixed = key in numeric or key in ("name", "fact", "n")
        justify = "right" if key in numeric else "left"
        table.add_column(heading, justify=justify, no_wrap=fixed, overflow="fold")  # type: ignore[arg-type]  # rich's Literal
    for record in records:
        table.add_row(*(Text(_value(record[key])) for key in headings))
    console().print(table)


def _pairs(record: Mapping[str, Any], title: str) -> None:
    rows: list[dict[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += [{"fact": f"{key}.{k}", "value": v} for k, v in value.items() if v]
        elif value not in (None, "", ()) and key not in ("name", "family"):
            rows.append({"fact": key, "value": value})
    _line(f"{title}\n")
    _table([{**row, "value": _value(row["value"])} for row in rows], {"fact": "", "value": ""})


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(_value(item) for item in value)
    return str(value)
