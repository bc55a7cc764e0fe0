"""``ridgeline fit --kernels``: from measured tables to kernel sets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.hardware.kernels import KernelSet

SCHEMA_VERSION = 1
NAME_WIDTH = 40


def fit_kernel_tables(
    paths: tuple[Path, ...], *, accelerator: str, out: Path | None, as_json: bool
) -> None:
    """Fit the kernel models of a device to tables, write the sets, print the held-out errors."""
    from ridgeline.cli import output
    from ridgeline.cli.validate import progress_bar
    from ridgeline.errors import InputError
    from ridgeline.hardware import load_accelerator

    if out is not None and out.suffix != ".json" and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder or a .json file")
    device = load_accelerator(accelerator)
    with progress_bar("fitting") as progress:
        sets, notes = _fit(paths, device, progress)
    written = _write(out, device.name, sets, notes, paths) if out is not None else []
    if as_json:
        record = {
            "schema": "ridgeline.fit",
            "schema_version": SCHEMA_VERSION,
            "accelerator": device.name,
            "sets": [asdict(one) for one in sets],
            "notes": notes,
            "written": [str(path) for path in written],
        }
        output.emit(output.to_json(record))
    else:
        _print(output.console(), device.name, sets, notes, written)


def _fit(paths: Sequence[Path], device: Any, progress: Any) -> tuple[list[KernelSet], list[str]]:
    """Fit table by table; tables without a set to fit become notes, unless all are."""
    from ridgeline.errors import InputError
    from ridgeline.validation.fitting import fit_kernels
    from ridgeline.validation.kernels import read_kernel_table
    from ridgeline.validation.kernels.floors import check_units, floors, host_bound

    tables = [read_kernel_table(path) for path in paths]
    for table in tables:
        check_units(table, device)
    sets: list[KernelSet] = []
    notes: list[str] = []
    problems: list[str] = []
    for done, table in enumerate(tables):
        if progress is not None:
            progress(done, len(tables))
        host = host_bound(table, _larger(*floors(table, device)))
        if host.any():
            notes.append(f"{table.path}: {int(host.sum()):,} host-bound rows, not fitted")
        try:
            sets += fit_kernels([table], device, source=str(table.path))
        except InputError as error:
            problems += [f"{table.path}: {problem}" for problem in error.problems]
        notes += [f"{table.path}: {line}" for line in _left_out(table, device)]
    if not sets:
        raise InputError([*problems, *notes])
    return sets, [*notes, *problems]


def _left_out(table: Any, device: Any) -> list[str]:
    """Return why sets of a table were not fitted, where the fit of its kind can say."""
    if table.kind != "gemm":
        return []
    try:
        from ridgeline.validation.fitting.gemm import left_out
    except ImportError:  # without SciPy, of which fit_kernels has already complained
        return []
    return left_out(table, device)


def _larger(one: Any, other: Any) -> Any:
    import numpy as np

    return np.fmax(one, other)


def _write(
    out: Path,
    accelerator: str,
    sets: Sequence[KernelSet],
    notes: Sequence[str],
    inputs: tuple[Path, ...],
) -> list[Path]:
    """Write the sets, each file whole or not at all, and return the files."""
    from ridgeline.cli.output import write_file
    from ridgeline.errors import InputError
    from ridgeline.hardware.kernels import kernel_file, save_kernel_sets

    ops = list(dict.fromkeys(one.op for one in sets))
    single = out.suffix == ".json" and not out.is_dir()
    if single and len(ops) > 1:
        raise InputError(f"--out {out}: the tables have {', '.join(ops)}; give a folder")
    if not single:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {out}: {(error.strerror or str(error)).lower()}") from None
    written = []
    for op in ops:
        target = out if single else out / kernel_file(accelerator, op).name
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "sets.json"
            save_kernel_sets(draft, [one for one in sets if one.op == op], notes)
            text = draft.read_text(encoding="utf-8")
        write_file(target, text, inputs=inputs)
        written.append(target)
    return written


def _print(
    screen: Console,
    accelerator: str,
    sets: Sequence[KernelSet],
    notes: Sequence[str],
    written: Sequence[Path],
) -> None:
    from rich.table import Table
    from rich.text import Text

    from ridgeline.units import percent

    screen.print()
    screen.print(Text(f"Kernel sets of {accelerator}; errors on held-out shapes", style="bold"))
    screen.print()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("set", width=NAME_WIDTH, overflow="fold")
    for title in ("fitted", "held out", "mean", "median", "bias"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in sets:
        table.add_row(
            f"{one.op} {one.name}",
            f"{one.rows:,}",
            f"{one.held_out['rows']:,.0f}",
            percent(one.held_out["mape"]),
            percent(one.held_out["median_ape"]),
            f"{100 * one.held_out['bias']:+.1f}%",
        )
    screen.print(table)
    for line in (*notes, *(f"Written: {path}" for path in written)):
        screen.print()
        screen.print(Text(line))
    screen.print()
