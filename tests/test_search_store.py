"""A search that is killed, spread or shared ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.plan import Training
from ridgeline.simulator.search import search as search_module
from ridgeline.simulator.search.objective import Objective
from ridgeline.simulator.search.search import Progress, search
from ridgeline.simulator.search.space import Space
from ridgeline.workloads import load_model

TESTS = Path(__file__).resolve().parent
COST = Objective(cost=1.0)


def some_space() -> Space:
    """Return a space of a few thousand plans, all of which are priced quickly."""
    return Space(
        model=load_model("llama3-8b"),
        clusters=(make_cluster("16xh100-sxm"), make_cluster("24xa100-sxm-80gb")),
        training=Training(seq_len=4096, global_batch_seqs=96, micro_batch_seqs=1, tokens=1e10),
        stack="megatron-core",
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "BLOCK", 256)
    monkeypatch.setattr(search_module, "WORTH_SPREADING", 0)


def bytes_of(**options: Any) -> str:
    return json.dumps(search(some_space(), objective=COST, **options).answer())


def stop_after(blocks: int) -> Callable[[Progress], None]:
    left = iter(range(blocks))

    def progress(now: Progress) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return progress


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_search_gives_the_best_so_far_and_resumes_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole = bytes_of()
    store = tmp_path / "results.sqlite"
    first = search(some_space(), objective=COST, store=store, progress=stop_after(9))
    assert not first.complete
    assert first.best.result.fits
    again = search(some_space(), objective=COST, store=store, resume=True)
    assert again.complete
    assert 0 < again.resumed < again.counts.seen
    assert json.dumps(again.answer()) == whole


@pytest.mark.usefixtures("small_blocks")
def test_a_finished_search_is_read_from_its_store(tmp_path: Path) -> None:
    store = tmp_path / "results.sqlite"
    whole = bytes_of(store=store)
    again = search(some_space(), objective=COST, store=store, resume=True)
    assert again.resumed == again.counts.seen
    assert json.dumps(again.answer()) == whole


@pytest.mark.usefixtures("small_blocks")
def test_without_resume_a_search_starts_over(tmp_path: Path) -> None:
    store = tmp_path / "results.sqlite"
    bytes_of(store=store)
    assert search(some_space(), objective=COST, store=store).resumed == 0


def test_searches_share_a_store(tmp_path: Path) -> None:
    store = tmp_path / "results.sqlite"
    by_cost = bytes_of(store=store)
    by_time = json.dumps(search(some_space(), store=store).answer())
    assert by_cost != by_time
    assert bytes_of(store=store, resume=True) == by_cost
    with sqlite3.connect(store) as file:
        assert file.execute("SELECT count(DISTINCT search) FROM blocks").fetchone() == (2,)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database at all, but long enough to be taken for one " * 20)
    with pytest.raises(InputError, match=r"notes\.txt: cannot be used as a store"):
        search(some_space(), store=path)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="backend 'spark'"):
        search(some_space(), backend="spark")


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_two_workers_give_the_same_bytes() -> None:
    assert bytes_of(jobs=2) == bytes_of()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_search_store import COST, search, search_module, some_space
search_module.BLOCK = 64
search_module.WORTH_SPREADING = 0
search(some_space(), objective=COST, store=Path(sys.argv[2]), jobs=int(sys.argv[3]), resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_search_resumes_to_the_same_bytes(
    tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "BLOCK", 64)
    whole = bytes_of()
    store = tmp_path / "results.sqlite"
    command = [sys.executable, "-c", KILLED, str(TESTS), str(store), str(jobs)]
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None and blocks_in(store) < 3:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = blocks_in(store)
    again = search(some_space(), objective=COST, store=store, resume=True)
    assert 0 < done * 64 <= again.resumed + 64
    assert again.resumed < again.counts.seen
    assert json.dumps(again.answer()) == whole


def blocks_in(store: Path) -> int:
    if not store.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10) as file:
            return int(file.execute("SELECT count(*) FROM blocks").fetchone()[0])
    except sqlite3.OperationalError:  # before the tables are made
        return 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same_bytes(small_blocks: None) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        spread = bytes_of(backend="dask", address=cluster.scheduler_address)
    assert spread == bytes_of()


def test_a_dask_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9: no dask scheduler answers"),
    ):
        search(some_space(), backend="dask", address="tcp://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_gives_the_same_bytes(small_blocks: None) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        spread = bytes_of(backend="ray")
    finally:
        ray.shutdown()
    assert spread == bytes_of()
