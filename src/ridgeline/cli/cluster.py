"""``ridgeline cluster``: many jobs on a cluster over months."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.html import html_flag, write_fleet, write_many

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.fleet.many import ManyResult
    from ridgeline.simulator.fleet.results import Played

_USES = "{:.1%}"


@click.command(epilog="What a fleet file says: docs/fleet.md.")
@click.argument("fleet", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    metavar="NAME",
    help="fifo, priority, srpt, easy, fair, spot, elastic, or module:Class.",
)
@click.option("--placement", type=click.Choice(["packed", "spread"]))
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Instead of the file's.")
@click.option(
    "--seeds",
    type=click.IntRange(2, 100_000),
    metavar="N",
    help="Play so many seeds: means with 95% intervals.",
)
@click.option(
    "--jobs",
    "workers",
    type=click.IntRange(-1),
    default=1,
    metavar="N",
    help="Processes for --seeds; 1.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, min_open=True),
    metavar="D",
    help="Play so long and no longer.",
)
@click.option(
    "--gantt",
    type=click.Path(path_type=Path),
    metavar="SVG",
    help="Draw who had which accelerators when.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="Write a timeline for Perfetto.",
)
@click.option(
    "--series",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Write jobs and accelerators over time.",
)
@html_flag
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one row for each job.")
@click.pass_context
def cluster(
    ctx: click.Context,
    /,
    fleet: Path,
    seeds: int | None,
    workers: int,
    gantt: Path | None,
    trace: Path | None,
    series: Path | None,
    as_json: bool,
    as_csv: bool,
    **flags: Any,
) -> None:
    """Play jobs, failures and checkpoints on a cluster over months.

    \b
    For example, a year of random jobs with backfill:
      ridgeline cluster examples/fleet_small.toml --policy easy
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if seeds is not None:
        alone = {"--gantt": gantt, "--trace": trace, "--series": series, "--csv": as_csv or None}
        for flag, value in alone.items():
            if value is not None:
                raise InputError(f"{flag}: shows one run; leave out --seeds")
    from ridgeline.cli import output
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from ridgeline.simulator.fleet.fleetfile import read_fleet

    overrides = {key: value for key, value in flags.items() if value is not None}
    with said_while_compiling():
        read = read_fleet(fleet, overrides)
    if seeds is not None:
        from ridgeline.simulator.fleet.many import play_many

        with said_while_compiling():
            many = play_many(read, seeds, workers=workers)
        write_many(many, read, source=fleet)
        if as_json:
            output.emit(output.to_json(many.to_dict()))
        else:
            _print_many(output.console(), many)
        return _say_interrupted(ctx, many.complete)
    from ridgeline.simulator.fleet.results import play_fleet

    with said_while_compiling():
        played = play_fleet(read, keep_nodes=trace is not None)
    write_fleet(played, source=fleet)
    _write(played, fleet, gantt=gantt, trace=trace, series=series)
    if as_json:
        output.emit(output.to_json(played.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(played.to_dict()["jobs"]))
    else:
        _print(output.console(), played)
    return _say_interrupted(ctx, played.result.complete)


def _say_interrupted(ctx: click.Context, complete: bool) -> None:
    if not complete:
        from ridgeline.cli import INTERRUPTED
        from ridgeline.cli.output import note

        note("interrupted: what was played until then")
        ctx.exit(INTERRUPTED)


def _write(
    played: Played, source: Path, *, gantt: Path | None, trace: Path | None, series: Path | None
) -> None:
    import json

    from ridgeline.cli import output
    from ridgeline.simulator.fleet import timeline

    if gantt is not None:
        output.write_file(gantt, timeline.gantt(played), inputs=(source,))
    if trace is not None:
        output.write_file(trace, json.dumps(timeline.perfetto(played)), inputs=(source,))
    if series is not None:
        output.write_file(series, output.to_csv(played.to_dict()["series"]), inputs=(source,))


def _print(console: Console, played: Played) -> None:
    from rich.table import Table

    result = played.result
    console.print(
        f"{result.name}: {result.accelerators:,} accelerators, {result.span_s / 86400:.1f} days, "
        f"policy {result.policy}, seed {result.seed}"
    )
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(result.states.items()))
    for label, value in (
        ("jobs", states or "none"),
        ("goodput", f"{result.goodput:.2%}"),
        ("effective training time", f"{result.ettr:.2%}"),
        ("utilisation", f"{result.utilisation:.2%}"),
        ("MFU over the calendar", f"{result.mfu:.2%}" if result.mfu else "unknown"),
        ("mean wait", f"{result.mean_wait_s / 3600:.2f} h"),
        (
            "mean / p95 completion",
            f"{result.mean_jct_s / 3600:.2f} / {result.p95_jct_s / 3600:.2f} h",
        ),
        ("makespan", f"{result.makespan_s / 86400:.2f} d"),
        ("deadlines met", f"{result.deadlines_met:,} of {result.deadlines:,}"),
        ("planned stops", f"{result.preemptions:,}"),
        ("interruptions", f"{result.interruptions:,}"),
        ("fragmented of free", f"{result.fragmentation:.2%}"),
        ("cost", f"{result.cost_usd:,.0f} USD"),
        ("energy", f"{result.energy_kwh / 1000:,.1f} MWh"),
        *((f"served, {name}", f"{share:.2%}") for name, share in result.served.items()),
    ):
        table.add_row(label, value)
    console.print(table)
    shares = ", ".join(f"{use} {_USES.format(share)}" for use, share in result.uses.items())
    console.print(f"accelerator time: {shares}")


def _print_many(console: Console, many: ManyResult) -> None:
    from rich.table import Table

    console.print(f"{len(many.runs)} seeds; mean and 95% interval")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "mean", "low", "high"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in many.figures.items():
        table.add_row(name, f"{value.mean:,.4g}", f"{value.low:,.4g}", f"{value.high:,.4g}")
    console.print(table)
