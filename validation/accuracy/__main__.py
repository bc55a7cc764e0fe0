"""``python -m ridgeline.validation.accuracy``: check or regenerate what is said of accuracy."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ridgeline.validation.accuracy.components import components_toml
from ridgeline.validation.accuracy.figures import (
    compare,
    compared_rows,
    read_figures,
    read_residuals,
    recomputed,
)
from ridgeline.validation.accuracy.fingerprint import ROOT, fingerprint
from ridgeline.validation.accuracy.ranges import uncertainty_toml
from ridgeline.validation.calibration.leave_out import (
    counts,
    measured_steps,
    published_table,
    shared_table,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--ranges", is_flag=True, help="Rewrite simulator/data/uncertainty.toml.")
@click.option("--components", is_flag=True, help="Rewrite simulator/compare/errors.toml.")
@click.option(
    "--residuals",
    type=click.Path(path_type=Path),
    help="Left-out residuals; the committed ones by default.",
)
def main(ranges: bool, components: bool, residuals: Path | None) -> None:
    """Compare errors by source with the committed ones; exit with 1 when one has grown."""
    if ranges or components:
        found = read_residuals(residuals)
        table = shared_table()
        if table is None:
            click.echo("../shared/data is absent: only published steps are counted", err=True)
        steps = measured_steps(table or published_table())
        if ranges:
            _write("simulator/data/uncertainty.toml", uncertainty_toml(found, counts(steps)))
        if components:
            _write("simulator/compare/errors.toml", components_toml(found, steps))
        return
    report, shipped = compared_rows()
    models, left_out = fingerprint(), read_residuals()["models"]
    lines, failures = compare(recomputed(report, shipped), read_figures(), models)
    if left_out != models:
        lines.append(
            "left-out residuals: NOT RECHECKED, models or parameters CHANGED since "
            f"({left_out}, now {models})"
        )
    for line in lines:
        click.echo(line)
    for failure in failures:
        click.echo(f"FAILED {failure}", err=True)
    if failures:
        click.echo("regenerate in the same change: python docs/generate_accuracy.py", err=True)
    sys.exit(1 if failures else 0)


def _write(name: str, text: str) -> None:
    (ROOT / name).write_text(text, encoding="utf-8")
    click.echo(f"wrote {ROOT / name}")


if __name__ == "__main__":
    main()
