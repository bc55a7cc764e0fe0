"""``ridgeline fit --trace``: from profiler traces to the efficiency section of a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ridgeline.validation.traces.fit import TraceFit

SCHEMA_VERSION = 1


def fit_traces(
    paths: tuple[Path, ...], *, accelerator: str, out: Path | None, as_json: bool
) -> None:
    """Fit a device to the kernels of traces, print the section, write the profile."""
    from ridgeline.cli import output
    from ridgeline.cli.numba_start import said_while_compiling
    from ridgeline.errors import InputError
    from ridgeline.hardware import load_accelerator
    from ridgeline.validation.traces.devices import find_accelerator
    from ridgeline.validation.traces.fit import fit_gemms, joined, profile_text
    from ridgeline.validation.traces.gemms import find_gemms
    from ridgeline.validation.traces.reading import read_ranks

    if out is not None and out.suffix != ".toml":
        raise InputError(f"--out {out}: the profile of a device is a .toml file")
    with said_while_compiling():
        runs = [read_ranks(path) for path in paths]
    devices = dict.fromkeys(
        find_accelerator(trace.device_name, trace.device_memory_bytes)
        for traces in runs
        for trace in traces
    )
    named = [name for name in devices if name]
    if not accelerator and len(named) != 1:
        said = f"ran on {', '.join(named)}" if named else "name no device that is known"
        raise InputError(f"fit --trace: the traces {said}; give --accelerator")
    device = load_accelerator(accelerator or named[0])
    shapes = joined([shape for traces in runs for shape in find_gemms(*traces).shapes])
    with said_while_compiling():
        fits, notes = fit_gemms(shapes, device)
    found = list(notes)
    if any(name != device.name for name in named):
        found.insert(0, f"the traces say {', '.join(named)}, fitted as {device.name}")
    products = sum(fit.shapes for fit in fits)
    citation = f"Fitted by ridgeline fit --trace to {products} shapes of a traced run"
    if out is not None:
        if accelerator.endswith(".toml"):
            raise InputError("--out: goes with a device that ships; paste the section instead")
        output.write_file(out, profile_text(device, fits, citation), inputs=paths)
    if as_json:
        record = {
            "schema": "ridgeline.fit.trace",
            "schema_version": SCHEMA_VERSION,
            "accelerator": device.name,
            "fits": [fit.to_dict() for fit in fits],
            "notes": found,
            "written": [str(out)] if out is not None else [],
        }
        output.emit(output.to_json(record))
    else:
        _print(output.console(), device.name, fits, found, out)


def _print(
    screen: Console, device: str, fits: Sequence[TraceFit], notes: list[str], out: Path | None
) -> None:
    from rich.table import Table
    from rich.text import Text

    from ridgeline.units import percent
    from ridgeline.validation.traces.fit import section

    screen.print()
    screen.print(Text(f"Efficiency of {device} by the traces", style="bold"))
    screen.print()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("block")
    for title in ("shapes", "error before", "fitted", "left out"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("fitted parameters", overflow="fold")
    for fit in fits:
        errors = (fit.error_before, fit.error_fitted, fit.error_left_out)
        table.add_row(
            fit.block, str(fit.shapes), *(percent(e) for e in errors), ", ".join(fit.fitted)
        )
    screen.print(table)
    for fit in fits:
        screen.print()
        for line in section(fit, "trace-fit").splitlines():
            screen.print(Text(f"  {line}"))
    if notes:
        screen.print()
        screen.print(Text("Left out", style="bold"))
        for note in notes:
            screen.print(Text(f"  {note}"))
    if out is not None:
        screen.print()
        screen.print(Text(f"wrote {out}; give it as --accelerator {out}"))
    screen.print()
