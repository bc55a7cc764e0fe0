"""``python -m ridgeline.validation.calibration``: leave-out refits and switched-off mechanisms."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from ridgeline.errors import InputError
from ridgeline.validation.accuracy.fingerprint import fingerprint
from ridgeline.validation.calibration import leave_out as lo
from ridgeline.validation.calibration.fit import MeasuredStep, fit
from ridgeline.validation.calibration.tunables import load_tunables


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--leave-out",
    "ways",
    multiple=True,
    type=click.Choice([*lo.WAYS, "none"]),
    help="What leaves together; none fits to all rows. May be repeated.",
)
@click.option("--ablate", is_flag=True, help="Switch mechanisms off one at a time.")
@click.option("--measured", type=click.Path(path_type=Path), help="Table of measured steps.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--rounds", type=click.IntRange(1), default=lo.ROUNDS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write or go on with.")
def main(
    ways: tuple[str, ...],
    ablate: bool,
    measured: Path | None,
    jobs: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Refit the tunables without some rows and predict these, or show what mechanisms buy."""
    path = measured or lo.shared_table() or lo.published_table()
    if ablate:
        from ridgeline.validation.calibration.ablate import ablate as switch_off
        from ridgeline.validation.calibration.ablate import ablation_table

        click.echo(ablation_table(switch_off(lo.measured_steps(path))))
        return
    if not ways:
        raise InputError("nothing to do: give --leave-out source, model, accelerator, stack, none")
    steps = lo.measured_steps(path)
    click.echo(f"{len(steps)} steps of {path}", err=True)
    if "none" in ways:
        _fit_all(steps, rounds)
    _leave_out(path, steps, tuple(w for w in ways if w != "none"), jobs, rounds, out)


def _fit_all(steps: tuple[MeasuredStep, ...], rounds: int) -> None:
    tunables = [t for t in load_tunables() if any(t.touches(s.plan) for s in steps)]
    found = fit(steps, tunables, start=[lo.shipped_value(t) for t in tunables], rounds=rounds)
    for tunable, value in zip(found.tunables, found.values, strict=True):
        click.echo(
            f"{tunable.name:45s} {value:9.4g}  shipped {lo.shipped_value(tunable):9.4g}  "
            f"prior {tunable.prior:9.4g}"
        )
    mape = 100 * float(abs(found.errors).mean())
    click.echo(f"{len(steps)} rows, in sample: MAPE {mape:.2f}%")


def _leave_out(
    path: Path,
    steps: tuple[MeasuredStep, ...],
    ways: tuple[str, ...],
    jobs: int,
    rounds: int,
    out: Path | None,
) -> None:
    target = out or Path(__file__).resolve().parents[1] / "data" / "residuals.json"
    results = lo.read_results(target, fingerprint())
    started = time.monotonic()
    known = {
        (way, entry["held_out"])
        for way, entries in results["left_out"].items()
        for entry in entries
    }
    todo = [f for way in ways for f in lo.folds(steps, way) if (f.way, f.name) not in known]
    for done, (fold, result) in enumerate(lo.run_folds(path, todo, jobs=jobs, rounds=rounds), 1):
        results["left_out"].setdefault(fold.way, []).append(result)
        lo.write_results(target, results)
        errors = [abs(error) for error, _ in result["rows"].values()]
        click.echo(
            f"{done}/{len(todo)} {time.monotonic() - started:5.0f} s  without {fold.way} "
            f"{fold.name}: {len(errors)} rows, MAPE {100 * sum(errors) / len(errors):.1f}%",
            err=True,
        )


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except InputError as error:
        sys.exit("\n".join(error.problems))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
