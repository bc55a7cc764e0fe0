"""``ridgeline fit``: calibrate from measured tables."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--measured",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Logged training steps of one stack on one cluster (docs/calibration.md).",
)
@click.option("--stack", default="", metavar="NAME", help="Start from this stack.")
@click.option("--source", default="", metavar="NAME", help="Only rows of this source.")
@click.option("--accelerator", default="", metavar="NAME", help="Only rows of this accelerator.")
@click.option("--date", default="", metavar="DAY", help="Noted in the sources of fitted values.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="TOML",
    help="Write the stack to this file, for --stack of later commands.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the fit as JSON.")
def fit(
    measured: Path,
    stack: str,
    source: str,
    accelerator: str,
    date: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Calibrate a software stack on your own cluster from a few logged steps.

    Needs the extra `fit`.
    """
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
