"""``ridgeline validate``: predicted against measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.html import html_flag, write_measured
from ridgeline.cli.train import FLAGS, overrides_of, plan_flags

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.validation.training import GroupSummary, Report

_OF_A_RUN = ("tokens", "price", "price-kind", "region", "pue")
"""Flags of the plan that a single step has no use for."""


def _trace_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    return plan_flags(command, [flag for flag in FLAGS if flag.name not in _OF_A_RUN])


@click.command()
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Measured training steps (docs/validation.md); by default the published ones that ship.",
)
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only these rows.")
@click.option(
    "--kernels",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Measured kernels or collectives instead (docs/kernels.md), plain or gzipped.",
)
@click.option(
    "--inference",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Measured services instead (docs/serving-accuracy.md).",
)
@click.option(
    "--without",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Rows of --inference that a second summary leaves out: a column id.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes of --inference; two by default, the same report on any number.",
)
@click.option(
    "--published",
    is_flag=True,
    help="Published results of the field instead, recomputed (docs/published.md).",
)
@click.option("--accelerator", metavar="NAME", help="What --kernels or --trace was measured on.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A profiler's trace, or a folder with one a rank (docs/traces-validation.md).",
)
@click.option(
    "--sms",
    type=click.IntRange(1),
    metavar="N",
    help="SMs that the computation of --trace had, where communication reserved the others.",
)
@click.option(
    "--trace-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write measured and simulated timeline for Perfetto.",
)
@_trace_flags
@click.option(
    "--kernel-tables",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Measured kernels to price from where they have the shape; may be repeated.",
)
@click.option(
    "--kernel-sets",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="Sets written by `ridgeline fit` instead of those that ship; may be repeated.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="SVG",
    help="Write a scatter of predicted against measured kernels.",
)
@html_flag
@click.option("--json", "as_json", is_flag=True, help="Print rows and summary as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
def validate(
    measured: Path | None,
    sources: tuple[str, ...],
    kernels: Path | None,
    inference: Path | None,
    without: Path | None,
    workers: int | None,
    published: bool,
    accelerator: str | None,
    kernel_tables: tuple[Path, ...],
    kernel_sets: tuple[Path, ...],
    plot: Path | None,
    trace: Path | None,
    sms: int | None,
    trace_out: Path | None,
    as_json: bool,
    as_csv: bool,
    **flags: Any,
) -> None:
    """Predict what was measured and print the errors.

    Training steps by default (--measured), kernels with --kernels, services with --inference, a
    profiled step with --trace: what the trace shows of model, batch and plan is read out of it;
    flags of the plan override.
    """
    from ridgeline.errors import InputError

    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    from ridgeline.cli.numba_start import start_numba

    start_numba()
    overrides, labels = overrides_of(flags)
    if trace is not None:
        others: dict[str, object] = {
            "--measured": measured,
            "--source": sources,
            "--kernels": kernels,
            "--kernel-tables": kernel_tables,
            "--kernel-sets": kernel_sets,
            "--plot": plot,
            "--inference": inference,
            "--without": without,
            "--workers": workers,
            "--published": published,
        }
        for name, other in others.items():
            if other:
                raise InputError(f"--trace: takes no {name}; choose one measurement")
        from ridgeline.cli.validate_trace import validate_trace

        if accelerator is not None:
            overrides["cluster.accelerator"] = accelerator
        validate_trace(
            trace, overrides, sms=sms, trace_out=trace_out, as_json=as_json, as_csv=as_csv
        )
        return
    of_traces = {"--trace-out": trace_out, "--sms": sms}
    for name in (*labels.values(), *(name for name, value in of_traces.items() if value)):
        raise InputError(f"{name}: goes with --trace FILE")
    given = [
        name
        for name, value in (
            ("--measured", measured),
            ("--kernels", kernels),
            ("--inference", inference),
            ("--published", published or None),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: choose one table")
    if published:
        from ridgeline.cli.published_report import print_published

        for flag, given_too in (("--source", sources), ("--accelerator", accelerator)):
            if given_too:
                raise InputError(f"{flag}: goes with a table of measurements, not --published")
        print_published(as_json=as_json, as_csv=as_csv)
        return
    if inference is None and (without is not None or workers is not None):
        raise InputError("--without and --workers: go with --inference CSV")
    if kernels is not None:
        if sources:
            raise InputError("--kernels: takes no --source; a table of kernels has none")
        if accelerator is None:
            raise InputError("--kernels: needs --accelerator NAME, the device it was measured on")
        _kernels(kernels, accelerator, kernel_tables, kernel_sets, plot, as_json, as_csv)
        return
    for name, value in (
        ("--accelerator", accelerator),
        ("--kernel-tables", kernel_tables),
        ("--kernel-sets", kernel_sets),
        ("--plot", plot),
    ):
        if value:
            raise InputError(f"{name}: goes with --kernels CSV")
    if inference is not None:
        _inference(inference, without, sources, workers or 2, as_json, as_csv)
        return
    from ridgeline.validation import validate_measured

    if measured is None:
        from importlib.resources import files

        measured = Path(str(files("ridgeline.validation") / "data" / "published.csv"))

    with progress_bar("simulating") as progress:
        report = validate_measured(measured, sources=sources, progress=progress)
    from ridgeline.cli import output

    write_measured(report, (measured,))
    record = report.to_dict()
    if as_json:
        output.emit(output.to_json(record))
    elif as_csv:
        output.emit(output.to_csv(record["rows"]))
    else:
        _print(output.console(), report)


def _kernels(
    path: Path,
    accelerator: str,
    tables: tuple[Path, ...],
    sets: tuple[Path, ...],
    plot: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    from ridgeline.cli import output
    from ridgeline.hardware import load_accelerator
    from ridgeline.hardware.kernels import read_kernel_sets
    from ridgeline.validation.kernels import validate_kernels

    own = [one for file in sets for one in read_kernel_sets(file)] if sets else None
    with progress_bar("pricing") as progress:
        report = validate_kernels(
            path,
            load_accelerator(accelerator),
            kernel_tables=tables,
            sets=own,
            progress=progress,
        )
    write_measured(report, (path, *tables, *sets))
    if plot is not None:
        from ridgeline.validation.kernels.plot import svg_plot

        output.write_file(plot, svg_plot(report), inputs=(path, *tables, *sets))
    if as_json:
        output.emit(output.to_json(report.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(report.to_dict()["rows"]))
    else:
        from ridgeline.cli.kernel_report import print_report

        print_report(output.console(), report)


def _inference(
    path: Path,
    without: Path | None,
    sources: tuple[str, ...],
    workers: int,
    as_json: bool,
    as_csv: bool,
) -> None:
    from ridgeline.cli import output
    from ridgeline.validation.serving.report import validate_serving

    with progress_bar("serving") as progress:
        report = validate_serving(
            path, without=without, sources=sources, workers=workers, progress=progress
        )
    write_measured(report, (path, without))
    if as_json:
        output.emit(output.to_json(report.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(report.to_dict()["rows"]))
    else:
        from ridgeline.cli.serving_report import print_report

        print_report(output.console(), report)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback that draws a bar on standard error, None when nobody watches it."""
    from ridgeline.cli.output import watched

    if not watched():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(screen: Console, report: Report) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from ridgeline.units import percent

    def share(value: float | None, *, signed: bool = False) -> str:
        if value is None:
            return ""
        return f"{100 * value:+.1f}%" if signed else percent(value)

    def row(table: Table, group: GroupSummary) -> None:
        table.add_row(
            group.name,
            str(group.count),
            str(group.skipped) if group.skipped else "",
            share(group.mape),
            share(group.median_ape),
            share(group.bias, signed=True),
            share(group.inside_range),
        )

    screen.print()
    screen.print(Text(f"Predicted against measured: {report.path}", style="bold"))
    for title, groups in (
        ("source", report.by_source),
        ("accelerator", report.by_accelerator),
        ("stack", report.by_stack),
        ("precision", report.by_precision),
        ("accelerators", report.by_scale),
        ("plan type", report.by_plan_type),
        ("together", (report.overall,)),
    ):
        screen.print()
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(title, width=20, overflow="fold")
        for heading in ("rows", "skipped", "mean", "median", "bias", "in range"):
            table.add_column(heading, justify="right", min_width=7, no_wrap=True)
        for group in groups:
            row(table, group)
        screen.print(table)
    worst = report.worst()
    if worst:
        screen.print()
        screen.print(Text("Worst rows", style="bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("row", no_wrap=True)
        table.add_column("error", justify="right", no_wrap=True)
        table.add_column("what", overflow="fold")
        for one in worst:
            what = f"{one.model} on {one.accelerators} {one.accelerator}, {one.plan_type}"
            table.add_row(one.id, share(one.error, signed=True), what)
        screen.print(table)
    reasons: dict[str, int] = {}
    for record in report.rows:
        if record.status == "skipped":
            reasons[record.reason] = reasons.get(record.reason, 0) + 1
    if reasons:
        screen.print()
        screen.print(Text("Why rows were skipped", style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(justify="right")
        table.add_column(overflow="fold")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:12]:
            table.add_row(str(count), reason)
        screen.print(Padding(table, (0, 0, 0, 2), expand=False))
    screen.print()
