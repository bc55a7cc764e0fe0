"""A fleet many times over: other arrivals and failures, what-ifs, interrupts, going on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator.fleet.arrivals import drawn
from ridgeline.simulator.fleet.fleetfile import read_fleet
from ridgeline.simulator.fleet.many import interval, play_many
from ridgeline.simulator.fleet.results import FleetResult, play_fleet
from ridgeline.simulator.fleet.store import RunStore
from ridgeline.simulator.fleet.what_if import KEYS, changed_fleets, what_if

ROOT = Path(__file__).resolve().parent.parent
POOL = (
    '[[pool]]\nname = "p"\naccelerator = "h100-sxm"\nnodes = 16\nusd_per_accelerator_hour = 2.0\n'
    "failures_per_1000_node_days = 50\n"
)
JOBS = (
    '[[arrivals]]\nname = "r"\nrate_per_h = 2.0\njobs = 150\naccelerators = [4, 8, 32]\n'
    "mean_h = 3.0\ncheckpoint_gb = 100\n"
    '[[job]]\nname = "base"\naccelerators = 64\nhours = 50.0\ncheckpoint_gb = 1000.0\n'
    '[[job]]\nname = "tune"\naccelerators = 8\nhours = 5.0\nafter = ["base"]\n'
)


def write(tmp_path: Path, text: str = POOL + JOBS) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_seed_has_arrivals_of_its_own_and_the_same_listed_jobs(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path))
    assert [job.name for job in fleet.jobs] == ["base", "tune"]
    first, again, other = drawn(fleet, 1), drawn(fleet, 1), drawn(fleet, 2)
    submitted = [[job.submitted_s for job in one.jobs] for one in (first, again, other)]
    assert submitted[0] == submitted[1] != submitted[2]
    assert submitted[0] == sorted(submitted[0])
    for one in (first, other):
        tune = next(job for job in one.jobs if job.name == "tune")
        assert [one.jobs[parent].name for parent in tune.after] == ["base"]
    # other failures leave the jobs of a seed as they are
    stronger = replace(fleet, pools=(replace(fleet.pools[0], failures=None),))
    assert [job.submitted_s for job in drawn(stronger, 1).jobs] == submitted[0]


def test_arrivals_are_poisson_with_the_sizes_and_lengths_of_their_table(tmp_path: Path) -> None:
    text = JOBS.replace("jobs = 150", "jobs = 20000\nweights = [1, 2, 1]\nusers = 4")
    jobs = drawn(read_fleet(write(tmp_path, POOL + text))).jobs
    mine = [job for job in jobs if job.name.startswith("r/")]
    gaps = np.diff([job.submitted_s for job in mine])
    assert gaps.mean() == pytest.approx(1800.0, rel=0.03)
    assert gaps.std() == pytest.approx(1800.0, rel=0.03)
    assert np.mean([job.work for job in mine]) == pytest.approx(3 * 3600.0, rel=0.03)
    assert np.mean([job.accelerators == 8 for job in mine]) == pytest.approx(0.5, abs=0.02)
    assert len({job.user for job in mine}) == 4


def test_intervals_hold_what_single_queues_of_theory_wait(tmp_path: Path) -> None:
    # M/M/1 at load 0.5: the mean wait is as long as a job; the interval is of arrivals, too
    text = (
        '[[pool]]\nname = "p"\naccelerator = "h100-sxm"\nnodes = 1\nper_node = 1\n'
        'failures = "none"\n[[arrivals]]\nname = "r"\nrate_per_h = 0.5\njobs = 4000\n'
        "accelerators = [1]\nmean_h = 1.0\nstart_s = 0.0\n"
    )
    many = play_many(read_fleet(write(tmp_path, text)), 8)
    waits = many.figures["mean_wait_s"]
    assert waits.low < 3600.0 < waits.high
    assert 0.0 < waits.high - waits.low < 1200.0
    assert len({run.mean_wait_s for run in many.runs}) == 8


def test_an_interval_of_one_has_no_bounds() -> None:
    assert interval([2.0]).low == -float("inf")
    assert interval([1.0, float("inf")]).high == float("inf")


def test_a_store_gives_back_what_was_played_to_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path)
    fleet = read_fleet(path)
    plain = play_many(fleet, 4, workers=1)
    assert play_many(fleet, 4, workers=2) == plain
    with closing(RunStore(tmp_path / "runs", fleet)) as store:
        assert play_many(fleet, 2, store=store).runs == plain.runs[:2]
        assert sorted(store.read()) == [0, 1]
        # the rest is played, the first two are not
        assert play_many(fleet, 4, store=store, workers=2) == plain
        assert sorted(store.read()) == [0, 1, 2, 3]
    for run_ in plain.runs:
        assert FleetResult.from_dict(json.loads(json.dumps(run_.to_dict()))) == run_
    with closing(RunStore(tmp_path / "runs", replace(fleet, policy="easy"))) as other:
        assert not other.read()
    path.with_name("text").write_text("no database, but long enough to be looked at\n" * 100)
    with pytest.raises(InputError, match="store of runs"):
        RunStore(path.with_name("text"), fleet)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(
        [sys.executable, "-m", "ridgeline", "cluster", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_half_way_writes_what_it_has(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = write(tmp_path, 'policy = "naive_fleet:Slow"\n' + POOL + JOBS)
    series = tmp_path / "series.csv"
    with started(str(path), "--json", "--series", str(series)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "playing\n"
        time.sleep(0.5)
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["interrupted: what was played until then"]
    found = json.loads(out)
    assert found["complete"] is False
    assert sum(found["states"].values()) == 152
    assert found["states"]["not submitted"] > 0
    assert sum(found["uses"].values()) == pytest.approx(1.0)
    assert len(series.read_text().splitlines()) == len(found["series"]) + 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_monte_carlo_goes_on_to_the_same_bytes(
    tmp_path: Path, number: signal.Signals, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = 'policy = "naive_fleet:Slow"\noptions = { seconds = 0.002 }\n'
    path, store = write(tmp_path, slow + POOL + JOBS), tmp_path / "runs"
    flags = [str(path), "--json", "--seeds", "6"]
    with started(*flags, "--store", str(store), "--jobs", workers) as process:
        until = time.monotonic() + 60.0
        while known(store) < 1 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        if number == signal.SIGTERM:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 130
        process.wait(timeout=60)
    before = known(store)
    assert 1 <= before < 6
    if number == signal.SIGTERM:
        found = json.loads(out)
        assert (found["complete"], found["seeds"]) == (False, 6)
        assert len(found["runs"]) == before
    assert run(["cluster", *flags, "--store", str(store)]) == 0
    resumed = capsys.readouterr().out
    assert known(store) == 6
    assert run(["cluster", *flags]) == 0
    assert capsys.readouterr().out == resumed


def known(store: Path) -> int:
    if not store.exists():
        return 0
    with closing(sqlite3.connect(store)) as file:
        try:
            count: int = file.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
    return count


def test_a_what_if_compares_a_fleet_with_itself_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    asked = "spares=10%,checkpoint=in-memory,failures=0"
    assert run(["cluster", str(path), "--json", "--what-if", asked]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = {row["change"]: row["figures"] for row in record["what_if"]}
    assert list(rows) == [*asked.split(","), "all together"]
    own = play_fleet(read_fleet(path, {"pool.failures_per_1000_node_days": 0.0})).result
    without = rows["failures=0"]
    assert without["goodput"]["value"] == own.goodput
    assert without["cost_usd"]["value"] == own.cost_usd
    assert without["goodput"]["difference"] == pytest.approx(own.goodput - record["goodput"])
    assert without["goodput"]["low"] is None
    # no failures: the long job ends sooner and an hour of work that lasts costs less
    assert without["usd_per_useful_hour"]["difference"] < 0
    assert run(["cluster", str(path), "--seeds", "3", "--what-if", "failures=0"]) == 0
    page = capsys.readouterr().out
    assert "What if" in page
    assert "±" in page
    assert max(map(len, page.splitlines())) <= 80


def test_a_what_if_over_seeds_is_paired(tmp_path: Path) -> None:
    path = write(tmp_path)
    base = play_many(read_fleet(path), 4)
    same, complete = what_if(base.runs, changed_fleets(path, "policy=fifo"))
    assert complete
    for figure in same[0].figures.values():
        assert (figure.difference, figure.low, figure.high) == (0.0, 0.0, 0.0)


def test_what_ifs_that_mean_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    for text, lines in (
        ("spears=2%", ["--what-if spears: unknown; did you mean 'spares'?"]),
        ("spares=2%,spares=3%", ["--what-if spares: given twice"]),
        ("spares=200%", ["--what-if spares=200%: must be 0 or more and at most 100, and finite"]),
        (
            "checkpoint=tape,nodes=4",
            [
                (
                    f"--what-if checkpoint=tape: {path}: checkpoint.kind = 'tape': must be "
                    "'synchronous', 'asynchronous' or 'in-memory'"
                ),
                (
                    f"--what-if nodes=4: {path}: job 'base': needs 64 accelerators, and pool "
                    "'p' has 32 beside spares; shrink it or name another pool"
                ),
            ],
        ),
    ):
        assert run(["cluster", str(path), "--what-if", text]) == 2
        assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in lines]
    for wrong in (["--csv", "--what-if", "spares=2%"], ["--store", "x"]):
        assert run(["cluster", str(path), *wrong]) == 2


def test_every_word_of_a_what_if_changes_the_fleet(tmp_path: Path) -> None:
    path = write(tmp_path)
    values = {
        "spares": "5%", "checkpoint": "asynchronous", "interval": "1h", "copies": "3",
        "code": "4+1", "store-interval": "1h", "fleet": "rsc-1", "failures": "1", "shape": "0.7",
        "switch-share": "50%", "repair": "4h", "detect": "1min", "requeue": "1min",
        "stragglers": "2%", "slow-links": "1", "reclaims": "5", "reclaim-wait": "2h",
        "nodes": "20", "policy": "easy", "placement": "spread",
    }  # fmt: skip
    assert set(values) == set(KEYS)
    documented = (ROOT / "docs/fleet.md").read_text(encoding="utf-8")
    base = POOL.replace("failures_per_1000_node_days = 50\n", "reclaims_per_1000_node_days = 1\n")
    path.write_text(base + JOBS, encoding="utf-8")
    plain = repr(read_fleet(path))
    for key, value in values.items():
        (fleet,) = changed_fleets(path, f"{key}={value}").values()
        assert repr(fleet) != plain, key
        assert f"`{key}`" in documented
