"""``ridgeline compare --serve``: one traffic on several accelerators, each with its service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.serve_flags import (
    SERVE_PARAMETERS,
    SHARED_PARAMETERS,
    read_serve,
    refuse_unheeded,
    serve_flags,
)

if TYPE_CHECKING:
    from ridgeline.simulator.compare.services import ServiceComparison

_SPLIT = ("tp", "pp", "dp", "ep", "max_accelerators")


def compare_serve_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of ``compare --serve``."""
    own = (
        click.option(
            "--max-accelerators",
            type=click.IntRange(1, 100_000),
            metavar="N",
            help="Of a service, most; 64.",
        ),
        *(
            click.option(f"--{name}", metavar="NUMBERS", help="Of a replica, only these.")
            for name in _SPLIT[:-1]
        ),
    )
    for option in reversed(own):
        command = option(command)
    return serve_flags(command)


def compare_service(plan: Path | None, flags: dict[str, Any]) -> ServiceComparison:
    """Return the comparison that a plan file and flags ask for.

    Raises
    ------
    InputError
        What is wrong with them.
    """
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling, start_numba

    refuse_unheeded(
        (*SERVE_PARAMETERS, *SHARED_PARAMETERS, *_SPLIT),
        "counts for nothing with --serve; leave one of them out",
    )
    start_numba()
    from ridgeline.simulator.compare.question import parse_contenders
    from ridgeline.simulator.compare.services import compare_services

    contenders = parse_contenders(flags["on"])
    names = tuple(dict.fromkeys(one.accelerator for one in contenders))
    asked = read_serve(plan, flags, names=names)
    with said_while_compiling(SERVING_S):
        return compare_services(asked.space, contenders, asked.demand, say=_say)


def show_services(found: ServiceComparison, *, as_json: bool, as_csv: bool) -> None:
    """Print a comparison of services."""
    from ridgeline.cli import output

    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(found.records()))
    else:
        from ridgeline.cli.plan_serve_report import print_services

        print_services(output.console(), found)


def _say(name: str) -> None:
    """Tell whoever watches which accelerator is searched."""
    from ridgeline.cli.output import note, watched

    if watched():
        note(f"searching the cheapest service on {name}")
