"""``ridgeline validate --trace``: a profiled step beside the simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ridgeline.validation.traces.compare import Comparison

MOST_ROWS = 12
MOST_DISAGREEMENTS = 8


def validate_trace(
    path: Path,
    given: Mapping[str, object],
    *,
    sms: int | None,
    trace_out: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Compare a trace, or a table of phases, with its simulation and print it."""
    from ridgeline.cli.html import refuse_html, write_trace
    from ridgeline.validation.traces.phase_table import is_phase_table

    if path.is_file() and is_phase_table(path):
        refuse_html("a table of phases has no page; take --json")
        _phases(path, given, sms=sms, trace_out=trace_out, as_json=as_json, as_csv=as_csv)
        return
    from ridgeline.cli import output
    from ridgeline.cli.numba_start import said_while_compiling
    from ridgeline.validation.traces.compare import compare
    from ridgeline.validation.traces.reading import MODEL, read_ranks

    beside = path / MODEL
    if beside.is_file() and not {"model.name", "model.config"} & set(given):
        given = {**given, "model.config": str(beside)}
    with said_while_compiling():
        traces = read_ranks(path, host=_of_a_cpu(given))
        found = compare(traces, given, sms=sms)
    if trace_out is not None:
        import json

        from ridgeline.validation.traces.perfetto import timelines

        text = json.dumps(timelines(traces[0], found), separators=(",", ":"))
        output.write_file(trace_out, text, inputs=(path,) if path.is_file() else ())
    write_trace(found, path)
    if as_json:
        output.emit(output.to_json({"path": str(path), **found.to_dict()}))
    elif as_csv:
        output.emit(output.to_csv(found.to_dict()["gemms"]))
    else:
        _print(output.console(), path, found)
    if trace_out is not None:
        output.note(f"wrote {trace_out}; open it at https://ui.perfetto.dev")


def _of_a_cpu(given: Mapping[str, object]) -> bool:
    """Whether the flags name a CPU: its traces hold operators of the host alone."""
    from ridgeline.hardware import load_accelerator, make_cluster

    if "cluster.spec" in given:
        return make_cluster(str(given["cluster.spec"])).accelerator.family == "cpu"
    name = given.get("cluster.accelerator")
    return name is not None and load_accelerator(str(name)).family == "cpu"


def _phases(
    path: Path,
    given: Mapping[str, object],
    *,
    sms: int | None,
    trace_out: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    from rich.text import Text

    from ridgeline.cli import output
    from ridgeline.errors import InputError
    from ridgeline.units import duration
    from ridgeline.validation.traces.phase_table import compare_phases

    if trace_out is not None:
        raise InputError("--trace-out: a table of phases has no timeline")
    found = compare_phases(path, given, sms)
    record = found.to_dict()
    if as_json:
        output.emit(output.to_json({"path": str(path), **record}))
        return
    if as_csv:
        output.emit(output.to_csv(record["phases"]))
        return
    screen = output.console()
    screen.print()
    screen.print(Text(f"Simulated against measured phases of a layer: {path}", style="bold"))
    screen.print()
    table = _table("phase", "measured", "simulated", "error")
    for row in (*found.rows, found.compute):
        times = duration(row.measured_s), duration(row.predicted_s)
        table.add_row(row.phase, *times, _share(row.error))
    screen.print(table)
    screen.print()


def _print(screen: Console, path: Path, found: Comparison) -> None:
    from rich.text import Text

    from ridgeline.units import counted, duration

    plan = found.plan
    what = "training step" if found.training else "forward pass"
    screen.print()
    screen.print(Text(f"Simulated against traced {what}: {path}", style="bold"))
    batch = f"{counted(plan.training.micro_batch_seqs, 'sequence')} of {plan.training.seq_len:,}"
    split = ", ".join(
        f"{name} {getattr(plan.parallel, name)}"
        for name in ("tp", "pp", "dp", "cp", "ep")
        if getattr(plan.parallel, name) > 1
    )
    screen.print(
        Text(
            f"{plan.model.name} on {plan.cluster.count} {plan.cluster.accelerator.name}, {batch}, "
            f"{plan.training.precision}, stack {found.stack}" + (f", {split}" if split else "")
        )
    )
    if found.inferred:
        screen.print()
        screen.print(Text("Read out of the trace (flags override)", style="bold"))
        for one in found.inferred:
            screen.print(Text(f"  {one.key} = {one.value}: {one.why}"))
    for line in found.losses:
        screen.print(Text(f"  of the trace was lost: {line}"))
    screen.print()
    table = _table("", "measured", "simulated", "error")
    measured, simulated = found.measured.window_s, found.simulated.total_s
    table.add_row("step", duration(measured), duration(simulated), _share(found.error))
    for category in found.categories:
        table.add_row(
            f"  {category.category}",
            duration(category.measured_s),
            duration(category.predicted_s),
            _share(category.error),
        )
    screen.print(table)
    _gemms(screen, found)
    _collectives(screen, found)
    if found.disagreements:
        screen.print()
        screen.print(Text("Largest disagreements, and what each would mean", style="bold"))
    for gap in found.disagreements[:MOST_DISAGREEMENTS]:
        times = f"{duration(gap.measured_s)} measured, {duration(gap.predicted_s)} simulated"
        screen.print(Text(f"  {gap.what}: {times}"))
        screen.print(Text(f"    {gap.meaning}", style="dim"))
    screen.print()


def _gemms(screen: Console, found: Comparison) -> None:
    from ridgeline.units import duration, figures

    if not found.gemms:
        return
    screen.print()
    table = _table("matrix products", "calls", "measured", "simulated", "error", "TFLOP/s")
    for row in found.gemms[:MOST_ROWS]:
        batch = f"{row.batch}x " if row.batch > 1 else ""
        table.add_row(
            f"{batch}{row.m}x{row.n}x{row.k} {row.dtype} {row.operator}".rstrip(),
            figures(row.calls),
            duration(row.measured_s),
            "" if row.predicted_s is None else duration(row.predicted_s),
            _share(row.error),
            figures(row.tflops_per_s),
        )
    screen.print(table)
    _rest(screen, len(found.gemms))


def _collectives(screen: Console, found: Comparison) -> None:
    from ridgeline.units import duration, figures

    if not found.collectives:
        return
    screen.print()
    table = _table("collectives", "calls", "measured", "simulated", "error", "bus GB/s")
    for row in found.collectives[:MOST_ROWS]:
        table.add_row(
            f"{row.kind} {row.bytes / 1e6:.3g} MB over {row.ranks or '?'}",
            figures(row.calls),
            duration(row.measured_s),
            "" if row.predicted_s is None else duration(row.predicted_s),
            _share(row.error),
            figures(row.bus_gb_per_s) if row.bus_gb_per_s else "",
        )
    screen.print(table)
    _rest(screen, len(found.collectives))


def _rest(screen: Console, count: int) -> None:
    from rich.text import Text

    if count > MOST_ROWS:
        screen.print(Text(f"  ... and {count - MOST_ROWS} more (all: --json)", style="dim"))


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _share(value: Any) -> str:
    return "" if value is None else f"{100 * value:+.1f}%"
