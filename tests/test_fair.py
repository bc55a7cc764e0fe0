"""Users that take turns by what they got, and what switching between them costs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import naive_serving
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.play import play
from ridgeline.simulator.serving.policy import Policy
from ridgeline.simulator.serving.service import Limits, Service
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import make_traffic
from test_serving import random_case

BASE = Service(
    model=load_model("llama3.1-8b"), cluster=make_cluster("1xa100-sxm-80gb"), engine="vllm"
)


@pytest.mark.parametrize("block", range(10))
def test_turns_agree_with_simpy_to_the_iteration(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        made, policy, traffic = random_case(seed)
        rng = np.random.default_rng(500 + seed)
        policy = replace(policy, fair_every=int(rng.integers(1, 12)))
        traffic = replace(traffic, priority=np.zeros(len(traffic), np.int64))
        users = rng.integers(0, 4, len(traffic))
        requests, log = naive_serving.play(made, policy, traffic, users=users)
        played = play(made, policy, traffic, users=users, log_lines=100_000)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(played.log.start_s, [line[0] for line in log], **close)
        assert played.preemptions.tolist() == [r["preemptions"] for r in requests], seed
        for column, key in ((played.first_token_s, "first"), (played.end_s, "end")):
            expected = [math.nan if r[key] is None else r[key] for r in requests]
            np.testing.assert_allclose(column, expected, **close)


def flooded(light: int = 12) -> tuple[object, np.ndarray]:
    """Return one user's flood at once, and another's few requests while it lasts."""
    heavy = 120
    times = np.concatenate([np.zeros(heavy), np.linspace(2.0, 20.0, light)])
    users = np.concatenate([np.zeros(heavy, np.int64), np.ones(light, np.int64)])
    order = np.argsort(times, kind="stable")
    count = heavy + light
    traffic = make_traffic(times[order], [500] * count, [200] * count)
    return traffic, users[order]


def test_a_flood_does_not_hold_up_others() -> None:
    tables, policy = iteration_tables(BASE), Policy(max_sequences=8)
    traffic, users = flooded()
    first = play(tables, policy, traffic, users=users)  # type: ignore[arg-type]
    fair = play(tables, replace(policy, fair_every=10), traffic, users=users)  # type: ignore[arg-type]
    other = users == 1
    assert fair.preemptions.sum() > 0 == first.preemptions.sum()
    # who asks for little waits ten steps at most, and for a prompt or two
    step_s = float(first.tpot_s[other].mean())
    assert fair.ttft_s[other].max() < 25 * step_s
    assert first.ttft_s[other].min() > 10.0 * fair.ttft_s[other].max()
    assert fair.finished.all()


def test_two_who_ask_alike_get_alike() -> None:
    tables, policy = iteration_tables(BASE), Policy(max_sequences=8, fair_every=10)
    count = 160
    # the first user's requests all come before the second's
    users = (np.arange(count) >= count // 2).astype(np.int64)
    traffic = make_traffic(np.arange(count) * 1e-4, [400] * count, [150] * count)
    whole = play(tables, policy, traffic, users=users)
    half = float(np.median(whole.end_s))
    ended = [int(np.sum((whole.end_s <= half) & (users == user))) for user in (0, 1)]
    assert abs(ended[0] - ended[1]) <= 8


@pytest.mark.parametrize("blocks", [1, 4, 64])
def test_copies_of_a_switch_are_counted(blocks: int) -> None:
    plain = iteration_tables(BASE)
    limits = Limits(swap_blocks=blocks, swap_call_s=2e-5)
    grouped = iteration_tables(replace(BASE, limits=limits))
    rate = BASE.cluster.accelerator.host_bytes_per_s
    tokens = 16 * blocks * 10
    moved = tokens * plain.kv_bytes_per_token
    # keys and values of 32 layers, ten groups of blocks each
    expected = moved / rate + 2 * 32 * 10 * 2e-5
    assert moved / grouped.swap_bytes_per_s == pytest.approx(expected)
    assert plain.swap_bytes_per_s == rate


def test_what_cannot_be_is_refused() -> None:
    tables, traffic = iteration_tables(BASE), make_traffic([0.0], [10], [5])
    with pytest.raises(InputError, match="at least 0"):
        play(tables, Policy(fair_every=-1), traffic)
    with pytest.raises(InputError, match="static batch"):
        play(tables, Policy(kind="static", fair_every=2), traffic)
    with pytest.raises(InputError, match="leave others out"):
        play(tables, Policy(fair_every=2), replace(traffic, priority=np.ones(1, np.int64)))
    with pytest.raises(InputError, match="needs users"):
        iteration_tables(replace(BASE, limits=Limits(fair_every=5)))


PLAN = """
[model]
name = "llama3.1-8b"
[cluster]
spec = "1xa100-sxm-80gb"
[serving]
request_rate = 20
requests = 120
output_len = 64
users = 5
user_skew = 1.0
fair_every = 10
"""


def test_infer_answers(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    assert run(["infer", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sum(use["requests"] for use in record["users"]) == 120
    assert sum(use["tokens"] for use in record["users"]) == 120 * (1024 + 64)
    assert record["plan"]["pools"][0]["policy"]["fair_every"] == 10
    assert run(["infer", str(path)]) == 0
    assert "by user" in capsys.readouterr().out
    path.write_text(PLAN.replace("users = 5\nuser_skew = 1.0", "users = 1"))
    assert run(["infer", str(path)]) == 2
    assert "fair_every = 10: needs users" in capsys.readouterr().err
    path.write_text(PLAN + "urgent_share = 0.5\n")
    assert run(["infer", str(path)]) == 2
    assert "leave others out" in capsys.readouterr().err
    path.write_text(PLAN + "replicas = 1\nprefill_replicas = 1\n")
    assert run(["infer", str(path), "--cluster", "2xa100-sxm-80gb"]) == 2
    assert "policy.fair_every" in capsys.readouterr().err
