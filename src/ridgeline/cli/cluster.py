"""``ridgeline cluster``: many jobs on a cluster over months."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.html import html_flag, write_fleet, write_many

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.results import FleetResult, Played
    from ridgeline.simulator.fleet.spec import Fleet
    from ridgeline.simulator.fleet.what_if import Change


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
@click.option(
    "--what-if",
    metavar="CHANGES",
    help="What they bring: spares=2%,checkpoint=in-memory (docs/fleet.md).",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the runs of --seeds in this SQLite file as they end, and go on from it.",
)
@html_flag
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md).")
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
    what_if: str | None,
    store: Path | None,
    as_json: bool,
    as_csv: bool,
    **flags: Any,
) -> None:
    """Play jobs, failures and checkpoints on a cluster over months.

    \b
    For example, a month of jobs with backfill, and what spare nodes would do:
      ridgeline cluster examples/fleet_small.toml --policy easy \\
          --what-if spares=5%
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if seeds is not None:
        alone = {"--gantt": gantt, "--trace": trace, "--series": series, "--csv": as_csv or None}
        for flag, value in alone.items():
            if value is not None:
                raise InputError(f"{flag}: shows one run; leave out --seeds")
    elif store is not None:
        raise InputError("--store: keeps the runs of several seeds; give --seeds")
    if what_if is not None and as_csv:
        raise InputError("--csv: has a row for each job; leave out --what-if")
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from ridgeline.simulator.fleet.fleetfile import read_fleet

    overrides = {key: value for key, value in flags.items() if value is not None}
    changed: dict[str, Fleet] = {}
    with said_while_compiling():
        read = read_fleet(fleet, overrides)
        if what_if is not None:
            from ridgeline.simulator.fleet.what_if import changed_fleets

            changed = changed_fleets(fleet, what_if, overrides)
    if seeds is not None:
        complete = _many(read, fleet, seeds, workers, store, changed, as_json=as_json)
    else:
        from ridgeline.simulator.fleet.results import play_fleet

        played = play_fleet(read, keep_nodes=trace is not None)
        write_fleet(played, source=fleet)
        _write(played, fleet, gantt=gantt, trace=trace, series=series)
        complete = _one(played, changed, as_json=as_json, as_csv=as_csv)
    if not complete:
        from ridgeline.cli import INTERRUPTED
        from ridgeline.cli.output import note

        note("interrupted: what was played until then")
        ctx.exit(INTERRUPTED)


def _one(played: Played, changed: dict[str, Fleet], *, as_json: bool, as_csv: bool) -> bool:
    """Say what one seed says; return whether it was played to the end."""
    from ridgeline.cli import cluster_report, output

    changes, complete = _changes((played.result,), changed, 1)
    if as_json:
        record = played.to_dict()
        if changed:
            record["what_if"] = [change.to_dict() for change in changes]
        output.emit(output.to_json(record))
    elif as_csv:
        output.emit(output.to_csv(played.to_dict()["jobs"]))
    else:
        cluster_report.print_fleet(output.console(), played.to_dict())
        if changed:
            base = played.result.to_dict()
            cluster_report.print_what_if(output.console(), base, [c.to_dict() for c in changes])
    return complete


def _many(
    fleet: Fleet,
    source: Path,
    seeds: int,
    workers: int,
    store: Path | None,
    changed: dict[str, Fleet],
    *,
    as_json: bool,
) -> bool:
    """Say what several seeds say; return whether all were played to the end."""
    from ridgeline.cli import cluster_report, output
    from ridgeline.errors import InputError
    from ridgeline.simulator.fleet.many import play_many
    from ridgeline.simulator.fleet.store import RunStore

    if store is not None and store.exists() and store.samefile(source):
        raise InputError(f"{store}: is the input of this command; give another name")
    kept = None if store is None else RunStore(store, fleet)
    try:
        many = play_many(fleet, seeds, workers=workers, store=kept)
    finally:
        if kept is not None:
            kept.close()
    write_many(many, fleet, source=source)
    changes, complete = _changes(many.runs, changed if many.complete else {}, workers)
    record = many.to_dict()
    if changed:
        record["what_if"] = [change.to_dict() for change in changes]
    if as_json:
        output.emit(output.to_json(record))
    else:
        cluster_report.print_seeds(output.console(), record)
        if changed:
            base = {name: value["mean"] for name, value in record["figures"].items()}
            cluster_report.print_what_if(output.console(), base, record["what_if"])
    return many.complete and complete


def _changes(
    base: Sequence[FleetResult], changed: dict[str, Fleet], workers: int
) -> tuple[tuple[Change, ...], bool]:
    complete = all(run.complete for run in base)
    if not complete or not changed:
        return (), complete
    from ridgeline.simulator.fleet.what_if import what_if

    return what_if(base, changed, workers=workers)


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
