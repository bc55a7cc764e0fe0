"""``ridgeline fit --measured``: from a user's logged steps to a stack file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.validation.calibration import UserFit, UserStep

SCHEMA_VERSION = 1


def fit_measured(
    path: Path,
    *,
    stack: str,
    source: str,
    accelerator: str,
    date: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Calibrate, write the stack file, and print what moved and the errors."""
    from ridgeline.errors import InputError

    if out is not None and out.suffix != ".toml":
        raise InputError(f"--out {out}: a stack file ends in .toml")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; give a file")
    if date and not date.isprintable():
        raise InputError(f"--date {date!r}: must be plain text on one line")
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from ridgeline.cli import output
    from ridgeline.simulator.stacks import load_stack
    from ridgeline.validation.calibration import calibrate, read_user_steps
    from ridgeline.validation.calibration.stack_file import stack_file

    steps = read_user_steps(path, stack=stack, source=source, accelerator=accelerator)
    count = f"{len(steps)} row{'' if len(steps) == 1 else 's'}"
    name = "".join(c if c.isprintable() else "?" for c in path.name)
    label = f"{count} of {name}" + (f", {date}" if date else "")
    base = load_stack(stack) if stack else None
    with said_while_compiling():
        found = calibrate(steps, base=base, label=label)
    if out is not None:
        given = Path(stack) if stack.endswith(".toml") else None
        output.write_file(out, stack_file(found, label), inputs=(path, given))
    if as_json:
        output.emit(output.to_json(_record(found, steps, out)))
    else:
        _print(found, steps, label, out)


def _record(found: UserFit, steps: tuple[UserStep, ...], out: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    assert found.stack.calibration is not None
    return {
        "schema": "ridgeline.fit.measured",
        "schema_version": SCHEMA_VERSION,
        "stack": found.base,
        "parameters": [
            {"field": field, "default": default, "fitted": fitted}
            for field, (default, fitted) in found.values.items()
        ],
        "rows": [
            {
                "id": step.id,
                "measured_step_time_s": step.seconds,
                "error_before": float(before),
                "error_after": float(after),
                "error_held_out": float(held_out),
            }
            for step, before, after, held_out in zip(
                steps, found.before, found.after, found.held_out, strict=True
            )
        ],
        "calibration": asdict(found.stack.calibration),
        "written": [] if out is None else [str(out)],
    }


def _print(found: UserFit, steps: tuple[UserStep, ...], label: str, out: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    from ridgeline.cli import output

    screen = output.console()
    screen.print()
    screen.print(Text(f"{found.base} calibrated on {label}", style="bold"))
    screen.print()
    style: dict[str, Any] = {
        "box": None,
        "padding": (0, 1, 0, 0),
        "header_style": "dim",
        "pad_edge": False,
    }
    table = Table(**style)
    table.add_column("parameter", width=26, overflow="fold")
    for title in ("default", "fitted"):
        table.add_column(title, justify="right", min_width=9)
    for field, (default, fitted) in found.values.items():
        table.add_row(field, f"{default:.4g}", f"{fitted:.4g}")
    screen.print(table)
    screen.print()
    table = Table(**style)
    table.add_column("step", width=26, overflow="fold")
    for title in ("measured", "before", "after", "held out"):
        table.add_column(title, justify="right", min_width=9)
    for step, *errors in zip(steps, found.before, found.after, found.held_out, strict=True):
        signed = [f"{100 * error:+.1f}%" for error in errors]
        table.add_row(Text(step.id), f"{step.seconds:.4g} s", *signed)
    screen.print(table)
    record = found.stack.calibration
    assert record is not None
    screen.print()
    screen.print(
        Text(
            f"Range of predictions with this stack on {record.accelerator}: "
            f"-{100 * record.below:.0f}% to +{100 * record.above:.0f}%"
        )
    )
    if out is not None:
        screen.print(Text(f"Written: {out}; use it with --stack {out}"))
    screen.print()
