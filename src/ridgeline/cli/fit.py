"""``ridgeline fit``: calibrate a device on kernels or traces, or a stack on measured steps."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--kernels",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Measured kernels (docs/kernels.md), plain or gzipped; may be repeated.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Logged training steps of one stack on one cluster (docs/calibration.md).",
)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A profiler's trace, or a folder with one a rank; may be repeated.",
)
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[CSV]...")
@click.option(
    "--accelerator",
    default="",
    metavar="NAME",
    help="What the kernels were measured on; of steps, only those of it.",
)
@click.option("--stack", default="", metavar="NAME", help="Steps: start from this stack.")
@click.option("--source", default="", metavar="NAME", help="Steps: only rows of this source.")
@click.option(
    "--suggest",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps: name the N whose times would tell most of all rows; no time is needed.",
)
@click.option("--date", default="", metavar="DAY", help="Steps: noted beside fitted values.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write kernel sets to this .json file or folder, a stack or profile to this .toml file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the fit as JSON.")
def fit(
    kernels: tuple[Path, ...],
    measured: Path | None,
    traces: tuple[Path, ...],
    more: tuple[Path, ...],
    accelerator: str,
    stack: str,
    source: str,
    suggest: int | None,
    date: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Calibrate a device on kernels or traces, or a stack on your cluster's own steps.

    Needs the extra `fit`.
    """
    from ridgeline.errors import InputError

    if bool(kernels) + bool(traces) + (measured is not None) != 1:
        raise InputError("fit: give --kernels TABLE..., --trace FILE... or --measured STEPS, one")
    if measured is not None:
        if more:
            raise InputError(f"fit: {more[0]}: --measured takes one file")
        if suggest is not None:
            from ridgeline.cli.fit_suggest import suggest_steps

            if out is not None or date:
                raise InputError("fit --suggest: fits nothing; leave out --out and --date")
            suggest_steps(
                measured,
                suggest,
                stack=stack,
                source=source,
                accelerator=accelerator,
                as_json=as_json,
            )
            return
        from ridgeline.cli.fit_measured import fit_measured

        fit_measured(
            measured,
            stack=stack,
            source=source,
            accelerator=accelerator,
            date=date,
            out=out,
            as_json=as_json,
        )
        return
    _refuse_others(
        "--trace" if traces else "--kernels",
        stack=stack,
        source=source,
        suggest=suggest,
        date=date,
    )
    if traces:
        from ridgeline.cli.fit_trace import fit_traces

        fit_traces((*traces, *more), accelerator=accelerator, out=out, as_json=as_json)
        return
    if not accelerator:
        raise InputError("fit --kernels: needs --accelerator, what they were measured on")
    from ridgeline.cli.fit_kernels import fit_kernel_tables

    fit_kernel_tables((*kernels, *more), accelerator=accelerator, out=out, as_json=as_json)


def _refuse_others(given: str, **options: str | int | None) -> None:
    """Refuse options of ``--measured`` beside another measurement."""
    from ridgeline.errors import InputError

    for name, value in options.items():
        if value:
            raise InputError(f"--{name}: goes with --measured, not with {given}")
