"""What a command costs from the shell: CPU seconds of a fresh process with a warm cache."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "llama3_405b_16k_h100.toml"
REPEATS = 5


def run() -> dict[str, float]:
    """Return the median user and system time of ``--help`` and of ``train``."""
    return {
        "help_cpu_s": _median("--help"),
        "train_cpu_s": _median("train", str(EXAMPLE), "--json"),
    }


def _median(*arguments: str) -> float:
    _cpu_seconds(*arguments)  # fills the caches of Python and Numba
    return statistics.median(_cpu_seconds(*arguments) for _ in range(REPEATS))


def _cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from ridgeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"ridgeline {' '.join(arguments)}: {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
