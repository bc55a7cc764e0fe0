"""The event loop of serving against a SimPy twin, closed forms and laws of queues."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import naive_serving
from ridgeline.simulator.serving.play import (
    REJECTED,
    play,
)
from ridgeline.simulator.serving.policy import Policy
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.traffic.build import (
    make_traffic,
)


def tables(**changes):
    """Tables of an invented replica, of the size of a 70B model on 8 accelerators."""
    tokens = np.array([1.0, 16, 64, 256, 1024, 8192])
    sequences, contexts = np.array([1.0, 16, 256]), np.array([64.0, 1024, 32768])
    new, prior = np.array([16.0, 512, 8192]), np.array([0.0, 1024, 32768])
    made = IterationTables(
        tokens=tokens,
        decode_linear_s=0.008 + 2e-6 * tokens,
        mixed_linear_s=0.008 + 2e-5 * tokens,
        sequences=sequences,
        contexts=contexts,
        decode_attention_s=1e-3 + 5e-9 * np.outer(sequences, contexts),
        new_tokens=new,
        prior_tokens=prior,
        prefill_attention_s=1e-7 * new[:, None] + 1e-10 * np.outer(new, prior),
        host_s=1e-3,
        host_per_sequence_s=1e-5,
        host_per_prefill_s=1e-4,
        eager_floor_s=0.0,
        front_s=0.0,
        front_serial_s=0.0,
        tokens_per_step=1.0,
        kv_tokens=400_000,
        block_tokens=16,
        kv_bytes_per_token=1e5,
        swap_bytes_per_s=5e10,
    )
    return replace(made, **changes)


def constant(seconds, **changes):
    """Tables of a server whose every iteration takes as long."""
    one, zero = np.ones(1), np.zeros((1, 1))
    return tables(
        tokens=one,
        decode_linear_s=np.array([seconds]),
        mixed_linear_s=np.array([seconds]),
        sequences=one,
        contexts=one,
        decode_attention_s=zero,
        new_tokens=one,
        prior_tokens=np.zeros(1),
        prefill_attention_s=zero,
        host_s=0.0,
        host_per_sequence_s=0.0,
        host_per_prefill_s=0.0,
        **changes,
    )


def random_case(seed):
    """Return small tables, a policy and a traffic under which everything happens."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 4, 16]))
    made = tables(
        block_tokens=size,
        kv_tokens=int(rng.integers(12, 120)) * 16,
        eager_floor_s=float(rng.choice([0.0, 0.012])),
        front_s=float(rng.choice([0.0, 0.03])),
        front_serial_s=float(rng.choice([0.0, 0.002])),
    )
    policy = Policy(
        chunked=bool(rng.random() < 0.7),
        max_tokens=int(rng.choice([32, 64, 512])),
        max_sequences=int(rng.choice([2, 8, 32])),
        watermark=float(rng.choice([0.0, 0.01, 0.1])),
        reserve_output=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
    )
    n = int(rng.integers(1, 40))
    prompts, outputs = rng.integers(1, 200, n), rng.integers(0, 60, n)
    priority = rng.integers(0, 3, n) if rng.random() < 0.3 else np.zeros(n, int)
    if rng.random() < 0.4:
        traffic = make_traffic(
            np.zeros(n),
            prompts,
            outputs,
            pause_s=rng.choice([0.0, 0.5], n),
            priority=priority,
            concurrency=int(rng.integers(1, 12)),
        )
    else:
        times = np.cumsum(rng.exponential(rng.choice([0.002, 0.05, 0.5]), n))
        times[rng.random(n) < 0.2] = 0.0
        after = np.full(n, -1)
        if rng.random() < 0.4:
            turns = np.flatnonzero(rng.random(n) < 0.4)
            turns = turns[turns > 0]
            after[turns] = [rng.integers(0, turn) for turn in turns]
        traffic = make_traffic(
            np.sort(times),
            prompts,
            outputs,
            after=after,
            pause_s=rng.choice([0.0, 0.4], n),
            priority=priority,
        )
    return made, policy, traffic


@pytest.mark.parametrize("block", range(20))
def test_agrees_with_simpy_to_the_iteration(block):
    for seed in range(10 * block, 10 * block + 10):
        made, policy, traffic = random_case(seed)
        requests, log = naive_serving.play(made, policy, traffic)
        played = play(made, policy, traffic, log_lines=100_000)
        assert played.log.stride == 1
        assert played.log.start_s.size == len(log)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(played.log.start_s, [line[0] for line in log], **close)
        np.testing.assert_allclose(played.log.seconds, [line[1] for line in log], **close)
        signatures = [
            sum(i + 1 for i in line[2]) + sum((i + 1) * new for i, new in line[3]) for line in log
        ]
        assert played.log.signature.tolist() == signatures, seed
        assert played.log.decoding.tolist() == [len(line[2]) for line in log]
        assert played.log.prompts.tolist() == [len(line[3]) for line in log]
        assert played.log.context_tokens.tolist() == [line[4] for line in log]
        assert played.log.blocks.tolist() == [line[5] for line in log]
        assert played.preemptions.tolist() == [r["preemptions"] for r in requests]
        for column, key in (
            (played.arrival_s, "arrival"),
            (played.admitted_s, "admitted"),
            (played.first_token_s, "first"),
            (played.end_s, "end"),
        ):
            expected = [math.nan if r[key] is None else r[key] for r in requests]
            np.testing.assert_allclose(column, expected, **close)


def test_the_random_cases_preempt_chunk_and_reject():
    preempted = rejected = chunked = 0
    for seed in range(60):
        made, policy, traffic = random_case(seed)
        played = play(made, policy, traffic, log_lines=100_000)
        preempted += int(played.preemptions.sum())
        rejected += int((played.state == REJECTED).sum())
        chunked += int(played.log.prompts.sum()) > len(traffic)
    assert min(preempted, rejected, chunked) > 10
