"""Write the generated parts of pages: the README's example and errors, what errors share.

``python docs/generate.py`` rewrites them; ``tests/test_readme.py`` fails when they are stale.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from ridgeline.hardware.kernels import KernelSet, load_kernel_sets
from ridgeline.validation.accuracy.figures import read_figures, read_residuals
from ridgeline.validation.accuracy.page import readme_table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "examples/llama3_405b_16k_h100.toml"
MEASURED = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm")
_FEW_BITS = ("int4_wo", "int8_wo", "sq", "nvfp4", "mxfp4")
# What a line of the table of kernels counts: title, operator, which of its sets.
_KERNELS: tuple[tuple[str, str, Callable[[KernelSet], bool]], ...] = (
    ("GEMM, 16 bits and fp8", "gemm", lambda one: one.dtype not in _FEW_BITS),
    ("GEMM, 4-bit and int8", "gemm", lambda one: one.dtype in _FEW_BITS),
    ("attention, prefill", "prefill", lambda _: True),
    ("attention, decode", "decode", lambda _: True),
    ("expert layers", "moe", lambda _: True),
    ("NCCL collectives", "collective", lambda _: True),
    ("custom all-reduce, graphs", "custom_all_reduce", lambda one: "eager" not in one.kernel),
    ("custom all-reduce, eager", "custom_all_reduce", lambda one: "eager" in one.kernel),
)


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
    """Return the committed errors of measured steps by source, as Markdown."""
    return readme_table(read_figures(), read_residuals())


def kernel_table() -> str:
    """Return held-out errors of the kernel sets that ship, by kind of kernel, as Markdown."""
    lines = [
        "| kernels | sets | held-out rows | median of sets | worst set |",
        "|---|--:|--:|--:|--:|",
    ]
    for title, op, counts in _KERNELS:
        sets = [one for name in MEASURED for one in load_kernel_sets(name, op) if counts(one)]
        errors = [one.held_out["mape"] for one in sets]
        rows = sum(int(one.held_out["rows"]) for one in sets)
        shown = f"{100 * median(errors):.1f}% | {100 * max(errors):.1f}%"
        lines.append(f"| {title} | {len(sets)} | {rows:,} | {shown} |")
    return "\n".join(lines)


def shares_table() -> str:
    """Return what the errors of two steps have in common, as Markdown."""
    found = _errors()
    shared = {
        "stack": "the stack alone",
        "accelerator": "the accelerator alone",
        "pair": "both, of different sources",
        "cluster": "both, of one source",
        "plan": "the rest",
    }
    lines = [
        "| component | two steps share | share | 90% interval | mean product | pairs |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, what in shared.items():
        one = found[name]
        low, high = one["interval"]
        figures = f"{one['share']:.3f} | {low:.3f} to {high:.3f} | {one['product']:.3f}"
        lines.append(f"| {name} | {what} | {figures} | {one['pairs']} |")
    return "\n".join(lines)


def differences_table() -> str:
    """Return how many differences of left-out errors lie in their ranges, as Markdown."""
    held = _errors()["differences"]
    return "\n".join(
        (
            "| the two share | " + " | ".join(held) + " |",
            "|---|" + "--:|" * len(held),
            "| held | " + " | ".join(f"{share:.2f}" for share in held.values()) + " |",
        )
    )


def _errors() -> dict[str, Any]:
    path = ROOT / "simulator" / "compare" / "errors.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "example"): example_output,
    ("README.md", "accuracy"): accuracy_table,
    ("README.md", "kernels"): kernel_table,
    ("docs/compare.md", "shares"): shares_table,
    ("docs/compare.md", "differences"): differences_table,
}
"""By page and mark."""


def replaced(text: str, part: str, body: str) -> str:
    """Return ``text`` with ``body`` between the marks of ``part``."""
    begin, end = f"<!-- {part}: generated -->", f"<!-- {part}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    assert found, f"the page has no mark {begin}"
    assert closed, f"the page has no mark {end}"
    return f"{head}{begin}\n{body}\n{end}{tail}"


def main() -> None:
    """Rewrite the generated parts."""
    for (page, part), make in PARTS.items():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        path.write_text(replaced(text, part, make()), encoding="utf-8")


if __name__ == "__main__":
    main()
