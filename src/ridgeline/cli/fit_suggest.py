"""``ridgeline fit --suggest``: which plans to time before calibrating on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.validation.calibration import UserStep

SCHEMA_VERSION = 1


def suggest_steps(
    path: Path, count: int, *, stack: str, source: str, accelerator: str, as_json: bool
) -> None:
    """Print the rows whose step times would make the predictions of all rows surest."""
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from ridgeline.cli import output
    from ridgeline.simulator.stacks import load_stack
    from ridgeline.validation.calibration import most_telling, read_user_steps

    steps = read_user_steps(path, stack=stack, source=source, accelerator=accelerator, timed=False)
    base = load_stack(stack or steps[0].plan.stack)
    with said_while_compiling():
        chosen = most_telling(steps, base, count)
    if as_json:
        record = {
            "schema": "ridgeline.fit.suggested",
            "schema_version": SCHEMA_VERSION,
            "stack": base.name,
            "rows": len(steps),
            "suggested": [_record(step) for step in chosen],
        }
        output.emit(output.to_json(record))
    else:
        _print(chosen, len(steps), base.name)


def _record(step: UserStep) -> dict[str, Any]:
    plan, parallel = step.plan, step.plan.parallel
    return {
        "id": step.id,
        "model": plan.model.name,
        "num_accel": plan.cluster.count,
        "tp": parallel.tp,
        "pp": parallel.pp,
        "dp": parallel.dp,
        "micro_batch_seqs": plan.training.micro_batch_seqs,
    }


def _print(chosen: tuple[UserStep, ...], rows: int, stack: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from ridgeline.cli import output

    screen = output.console()
    screen.print()
    title = f"{len(chosen)} of {rows} to time first, the most telling before the others"
    screen.print(Text(f"{title} ({stack})", style="bold"))
    screen.print()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("step", width=26, overflow="fold")
    table.add_column("model", overflow="fold")
    for name in ("accel", "tp", "pp", "dp", "micro"):
        table.add_column(name, justify="right")
    for step in chosen:
        name, model, *numbers = _record(step).values()
        table.add_row(Text(name), Text(model), *map(str, numbers))
    screen.print(table)
    screen.print()
