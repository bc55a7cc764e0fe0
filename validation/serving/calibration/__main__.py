"""``python -m ridgeline.validation.serving.calibration``: fit engines, refit with groups left out.

fit
    Fit every engine of a table and print its values; ``--write`` puts them into the shipped files.
ablate
    Take one mechanism away at a time and write the errors of a sample of closed loops and offline
    runs.
leave-out
    Fit, leave out one source, engine and accelerator at a time, and write the errors; then leave
    out rows by what remains measured, and write the ranges of predictions.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.validation.serving.calibration.ablate import ablate
from ridgeline.validation.serving.calibration.engines import (
    MOST_ROWS,
    WAYS,
    Fitted,
    asked_tables,
    fit_all,
    leave_out,
    summary,
    write_values,
)
from ridgeline.validation.serving.calibration.fit import Asked, thinned
from ridgeline.validation.serving.calibration.ranges import (
    left_out_errors,
    ranges_of,
    ranges_toml,
    services_of,
)
from ridgeline.validation.serving.rows import CLOSED, OFFLINE

ABLATION = "serving_ablation.json"
"""In ``validation/data``: errors with one mechanism taken away."""
RANGES = "serving_ranges.json"
"""In ``validation/data``: ranges of predictions and how many left-out services they hold."""
LEFT_OUT = "serving_left_out.json"
"""In ``validation/data``: errors of groups that the parameters never saw."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 2 on bad input."""
    parser = argparse.ArgumentParser(prog="ridgeline.validation.serving.calibration")
    parser.add_argument("command", choices=("fit", "leave-out", "ablate"))
    parser.add_argument("table", type=Path, nargs="+", help="measured services (CSV)")
    parser.add_argument("--without", type=Path, help="rows to leave out (CSV with a column id)")
    parser.add_argument("--engine", action="append", default=[], help="only this one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=MOST_ROWS, help="rows of an engine at most")
    parser.add_argument("--write", action="store_true", help="write what was found")
    given = parser.parse_args(arguments)
    try:
        by_engine = asked_tables(given.table, given.without)
        if given.engine:
            by_engine = {name: by_engine[name] for name in given.engine if name in by_engine}
        if given.command == "ablate":
            _ablate(by_engine, given.rows, write=given.write)
            return 0
        fitted = []
        for one in fit_all(by_engine, given.jobs, given.rows):
            fitted.append(one)
            _show(one)
        if given.command == "fit":
            if given.write:
                folder = Path(str(files("ridgeline.simulator.serving") / "data" / "engines"))
                write_values(folder, fitted)
            return 0
        found: dict[str, Any] = {way: leave_out(fitted, way) for way in WAYS}
        for way, entries in found.items():
            for entry in entries:
                _say(f"{way} {entry['held_out']}: {_line(entry)}")
        if given.write:
            path = Path(str(files("ridgeline.validation") / "data" / LEFT_OUT))
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        _ranges(by_engine, fitted, write=given.write)
    except InputError as error:
        for line in error.problems:
            sys.stderr.write(f"error: {line}\n")
        return 2
    return 0


def _ablate(by_engine: dict[str, list[Asked]], most: int, *, write: bool) -> None:
    rows = [
        one
        for members in by_engine.values()
        for one in thinned([one for one in members if one.question.kind in (CLOSED, OFFLINE)], most)
    ]
    found = ablate(rows)
    for way, entry in found.items():
        _say(f"{way}: {_line(entry)}")
    if write:
        path = Path(str(files("ridgeline.validation") / "data" / ABLATION))
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _ranges(by_engine: dict[str, list[Asked]], fitted: list[Fitted], *, write: bool) -> None:
    ranges = ranges_of(left_out_errors(fitted))
    for grade, metrics in ranges.items():
        for metric, entry in metrics.items():
            _say(f"{grade} {metric}: {entry}")
    if write:
        folder = Path(str(files("ridgeline.validation") / "data"))
        text = json.dumps(ranges, indent=1) + "\n"
        (folder / RANGES).write_text(text, encoding="utf-8")
        path = Path(str(files("ridgeline.simulator.serving") / "data" / "ranges.toml"))
        path.write_text(ranges_toml(ranges, services_of(by_engine)), encoding="utf-8")


def _show(one: Fitted) -> None:
    values = ", ".join(f"{name} {value:.3g}" for name, value in one.values.items())
    _say(f"{one.engine} ({len(one.rows)} rows): {values}")
    _say(f"  before {_line(summary(one.before))}")
    _say(f"  after  {_line(summary(one.after))}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _line(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{metric} {100 * one['mape']:.1f}% ({100 * one['bias']:+.0f}%, {one['count']} rows)"
        for metric, one in found.items()
        if isinstance(one, dict) and "mape" in one
    )


if __name__ == "__main__":
    sys.exit(main())
