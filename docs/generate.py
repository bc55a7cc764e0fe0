"""Write the generated parts of the README: the example's output and the accuracy table.

``python docs/generate.py`` rewrites them; ``tests/test_readme.py`` fails when they are stale.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from ridgeline.validation import validate_measured
from ridgeline.validation.training import GroupSummary

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "examples/llama3_405b_16k_h100.toml"


def example_output() -> str:
    """Return what the README's example prints in an 80-column window."""
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline", "train", EXAMPLE],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "```text\n$ ridgeline train " + EXAMPLE + "\n" + "\n".join(lines) + "\n```"


def accuracy_table() -> str:
    """Return errors of the published measured steps that ship, by source, as Markdown."""
    report = validate_measured(Path(str(files("ridgeline.validation") / "data" / "published.csv")))
    lines = [
        "| source | steps | skipped | mean error | median | bias | in range |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(_line(group) for group in report.by_source if group.count),
        _line(report.overall),
    ]
    return "\n".join(lines)


def _line(group: GroupSummary) -> str:
    shown = [
        "" if value is None else f"{100 * value:.1f}%"
        for value in (group.mape, group.median_ape, group.bias, group.inside_range)
    ]
    return f"| {group.name} | {group.count} | {group.skipped} | " + " | ".join(shown) + " |"


PARTS: dict[str, Callable[[], str]] = {"example": example_output, "accuracy": accuracy_table}


def replaced(text: str, part: str, body: str) -> str:
    """Return ``text`` with ``body`` between the marks of ``part``."""
    begin, end = f"<!-- {part}: generated -->", f"<!-- {part}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    assert found, f"README.md has no mark {begin}"
    assert closed, f"README.md has no mark {end}"
    return f"{head}{begin}\n{body}\n{end}{tail}"


def main() -> None:
    """Rewrite the generated parts."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for part, make in PARTS.items():
        text = replaced(text, part, make())
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
