"""Profile this machine, train transformers on it, predict them: processes of PyTorch, minutes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="needs PyTorch (extra profile)"
    ),
]


def ridgeline(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: PyTorch's threads and workers stay out of here."""
    code = "import sys; from ridgeline.cli import run; sys.exit(run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.mark.parametrize("manner", ["ddp", "fsdp", "tp"])
def test_two_processes_train_and_leave_traces(manner: str, tmp_path: Path) -> None:
    done = ridgeline(
        *("profile", "--device", "cpu", "--train", "tiny", "--processes", "2", "--steps", "2"),
        *("--manner", manner, "--trace", "traces", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["step_s"] > 0
    names = {path.name for path in (tmp_path / "traces").iterdir()}
    assert names == {"rank0.json", "rank1.json", "config.json"}
    events = json.loads((tmp_path / "traces" / "rank0.json").read_text())["traceEvents"]
    shapes = [e["args"]["Input Dims"] for e in events if e.get("name") == "aten::mm"]
    assert shapes
    assert all(len(shape[0]) == 2 for shape in shapes)


MOST_ERROR = 0.3
"""Median of the transformers on a shared machine; the figures that count are printed."""


def loop(folder: Path, processes: int) -> str:
    """Profile this CPU for a minute, predict four unseen transformers, measure them."""
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline.validation.profiling.loop", "here.toml", str(processes)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode == 1 and "quieten the machine" in done.stderr:
        pytest.skip(f"too noisy to publish a profile: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check(printed: str, processes: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{processes} process(es), load {os.getloadavg()[0]:.1f}:\n{printed}")
    errors = [abs(float(x)) / 100.0 for x in re.findall(r"error ([+-][\d.]+)%", printed)]
    assert len(errors) == 4
    assert statistics.median(errors) < MOST_ERROR


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, loop(folder, 1)


def test_the_loop_in_one_process(
    alone: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    check(alone[1], 1, capsys)


def test_the_loop_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(loop(tmp_path, 2), 2, capsys)


def test_a_cpus_trace_beside_its_profile(alone: tuple[Path, str]) -> None:
    """What --train leaves is what validate --trace takes, the model included."""
    folder, _ = alone
    train = ("profile", "--device", "cpu", "--train", "2x320x5x1500x192x2", "--trace", "traces")
    done = ridgeline(*train, "--steps", "3", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    flags = ("--accelerator", "./here.toml", "--stack", "here.stack.toml", "--json")
    done = ridgeline("validate", "--trace", "traces", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["kind"] == "training"
    assert (found["micro_batch_seqs"], found["seq_len"], found["steps"]) == (2, 192, 3)
    categories = {row["category"]: row for row in found["categories"]}
    # of the wall, which other work on the machine makes longer
    assert 0.1 < categories["gemm"]["predicted_s"] / categories["gemm"]["measured_s"] < 2.0
    assert categories["optimizer"]["measured_s"] > 0.0
