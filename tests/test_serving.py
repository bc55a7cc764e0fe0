"""The event loop of serving against a SimPy twin, closed forms and laws of queues."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import naive_serving
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.serving import play as playing
from ridgeline.simulator.serving.play import (
    FINISHED,
    NOT_ARRIVED,
    REJECTED,
    RUNNING,
    Autoscaler,
    Pool,
    play,
    play_pools,
)
from ridgeline.simulator.serving.policy import Policy
from ridgeline.simulator.serving.results import check_conservation
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.traffic.build import closed_loop, gamma_arrivals, make_traffic, open_loop
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.sessions import Sessions, session_traffic


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
    if rng.random() < 0.3:
        made = replace(
            made,
            data_ranks=int(rng.choice([2, 4, 8])),
            rank_linear_s=0.7 * made.mixed_linear_s,
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


# Closed forms


@pytest.mark.slow
def test_md1_at_batch_one():
    # M/D/1 (Pollaczek-Khinchine): W = s rho / (2 (1 - rho)) in line
    service, rho, n = 0.1, 0.7, 200_000
    arrivals = gamma_arrivals(rho / service, n, seed=5)
    traffic = open_loop(arrivals, Lengths(mean=10), Lengths(mean=1))
    played = play(constant(service), Policy(max_sequences=1), traffic)
    line = played.admitted_s - played.arrival_s
    assert line.mean() == pytest.approx(service * rho / (2 * (1 - rho)), rel=0.03)
    np.testing.assert_allclose(played.latency_s - line, service)


@pytest.mark.slow
def test_mm1_at_batch_one():
    # M/M/1: W = 1 / (mu - lambda) in the system; outputs are geometric, in steps of 1 ms
    mean, rho, n = 0.1, 0.6, 200_000
    rng = np.random.default_rng(8)
    outputs = rng.geometric(1e-3 / mean, n)
    arrivals = gamma_arrivals(rho / mean, n, seed=9)
    traffic = make_traffic(arrivals, np.ones(n, int), outputs)
    played = play(constant(1e-3, kv_tokens=1_000_000), Policy(max_sequences=1), traffic)
    assert played.latency_s.mean() == pytest.approx(1 / (1 / mean - rho / mean), rel=0.04)


def test_a_lone_request_takes_the_sum_of_its_iterations():
    traffic = make_traffic([0.0], [1000], [9])
    made = tables(front_s=0.03, front_serial_s=0.01)
    played = play(made, Policy(max_tokens=400), traffic)
    chunks = [
        naive_serving.iteration_seconds(made, [], [(new, prior)], 8192)
        for new, prior in ((400, 0), (400, 400), (200, 800))
    ]
    steps = [naive_serving.iteration_seconds(made, [1001 + i], [], 8192) for i in range(8)]
    assert played.ttft_s[0] == pytest.approx(0.04 + sum(chunks))
    assert played.latency_s[0] == pytest.approx(0.04 + sum(chunks) + sum(steps))
    assert played.gap_mean_s == pytest.approx(sum(steps) / 8)
    assert played.gap_quantile_s(0.5) == pytest.approx(steps[0], rel=0.005)


@pytest.mark.parametrize("kind", ["mixed", "prefill-first", "static"])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("caching", [False, True])
def test_laws_hold_whatever_the_policy(kind, preemption, caching):
    policy = Policy(
        kind=kind,
        preemption=preemption,
        prefix_caching=caching,
        max_tokens=256,
        max_sequences=16,
        host_cache_tokens=640 if caching else 0,
    )
    sessions = Sessions(
        turns=Lengths(mean=4),
        system_tokens=48,
        said=Lengths(mean=60, kind="log-normal"),
        answers=Lengths(mean=40, kind="log-normal", most=200),
        pause_s=0.5,
        most_tokens=900,
    )
    traffic = session_traffic(gamma_arrivals(5.0, 60, seed=1), sessions, seed=2)
    made = tables(kv_tokens=2000)
    pool = Pool(tables=made, policy=policy, replicas=2)
    for router in playing.ROUTERS:
        played = play_pools((pool,), traffic, router=router)
        check_conservation(played)
        assert played.finished.all()
        assert (played.most_blocks <= played.blocks).all()
        assert bool(played.cached_tokens.any()) == caching
        again = play_pools((pool,), traffic, router=router)
        assert again.end_s.tobytes() == played.end_s.tobytes()
        if preemption == "swap" and kind == "mixed" and not caching:
            assert played.preemptions.sum() > 0


@pytest.mark.parametrize("seed", range(30))
def test_replicas_in_turn_are_replicas_alone(seed):
    made, policy, traffic = random_case(seed)
    if traffic.concurrency or (traffic.after >= 0).any():
        traffic = replace(traffic, concurrency=0, after=np.full(len(traffic), -1))
    pool = Pool(tables=made, policy=policy, replicas=3)
    together = play_pools((pool,), traffic, router="round-robin")
    keep = together.state == FINISHED
    for r in range(3):
        mine = np.flatnonzero(keep & (together.replica == r))
        if mine.size == 0:
            continue
        alone = play(
            made,
            policy,
            make_traffic(
                traffic.arrival_s[mine],
                traffic.input_tokens[mine],
                traffic.output_tokens[mine],
                priority=traffic.priority[mine],
            ),
        )
        np.testing.assert_allclose(together.end_s[mine], alone.end_s, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_running_ahead_changes_nothing(seed):
    # ticks of an autoscaler that never acts cut every run of iterations short
    made, policy, traffic = random_case(100 + seed)
    idle = Autoscaler(least=2, load_per_replica=1e9)
    pools = (Pool(tables=made, policy=policy, replicas=2, autoscaler=idle),)
    fine = play_pools(pools, traffic, router="least-loaded", scale_every_s=1e-3)
    free = play_pools((replace(pools[0], autoscaler=Autoscaler()),), traffic, router="least-loaded")
    for name in ("arrival_s", "admitted_s", "first_token_s", "end_s", "busy_s", "block_s"):
        assert getattr(fine, name).tobytes() == getattr(free, name).tobytes()
    assert fine.gap_counts.tobytes() == free.gap_counts.tobytes()
    assert fine.log.start_s.tobytes() == free.log.start_s.tobytes()


def split(made, **transfer):
    prefill = Pool(tables=made, role="prefill", **transfer)
    return (prefill, Pool(tables=made, role="decode"))


def test_disaggregated_is_aggregated_when_transfer_is_free_and_load_is_none():
    traffic = make_traffic([0.0, 100.0, 200.0], [300, 9000, 40], [20, 300, 1])
    whole = play(tables(), Policy(), traffic)
    apart = play_pools(split(tables()), traffic)
    np.testing.assert_allclose(apart.first_token_s, whole.first_token_s, rtol=1e-12)
    np.testing.assert_allclose(apart.end_s, whole.end_s, rtol=1e-12)


def test_kv_takes_its_time_over_the_link():
    traffic = make_traffic([0.0, 0.0], [1000, 1000], [2, 2])
    pools = split(tables(), transfer_s_per_token=1e-4, transfer_latency_s=0.5)
    played = play_pools(pools, traffic)
    step = naive_serving.iteration_seconds(tables(), [1001], [], 8192)
    gaps = played.end_s - played.first_token_s
    assert sorted(gaps) == pytest.approx([0.6 + step, 0.7 + step])


def test_decoding_replicas_take_turns_of_their_own():
    count = 80
    traffic = make_traffic(np.arange(count) * 0.05, np.full(count, 300), np.full(count, 40))
    pools = (
        Pool(tables=tables(), role="prefill"),
        Pool(tables=tables(), role="decode", replicas=4),
    )
    played = play_pools(pools, traffic, router="round-robin")
    assert np.bincount(played.replica).tolist() == [0, 20, 20, 20, 20]


def test_the_pool_that_decodes_may_send_the_first_token():
    traffic = make_traffic(np.zeros(6), np.full(6, 400), np.full(6, 50))
    prefill = Pool(tables=tables(), role="prefill")
    one = Pool(tables=tables(), role="decode", policy=Policy(max_sequences=2))
    early = play_pools((prefill, one), traffic)
    late = play_pools((prefill, replace(one, speaks=True)), traffic)
    np.testing.assert_array_equal(early.end_s, late.end_s)
    # the last two wait for a place until four others have ended
    waited = np.sort(late.first_token_s - early.first_token_s)
    assert (waited >= 0.0).all()
    assert waited[-2:].min() > 0.9 * 2 * np.sort(early.end_s - early.first_token_s)[0]
    assert (late.tpot_s <= early.tpot_s).all()
    check_conservation(late)


def test_a_better_router_is_seen_in_the_cache():
    n = 400
    groups = np.random.default_rng(3).integers(0, 20, n)
    ids = (groups[:, None] * 100 + np.arange(64)).ravel()
    traffic = make_traffic(
        gamma_arrivals(10.0, n, seed=4),
        np.full(n, 64 * 16 + 10),
        np.full(n, 20),
        block_start=np.arange(n + 1) * 64,
        block_ids=ids,
    )
    pool = Pool(tables=tables(kv_tokens=12_000), policy=Policy(prefix_caching=True), replicas=4)
    hits = {
        router: play_pools((pool,), traffic, router=router).cached_tokens.sum()
        for router in playing.ROUTERS
    }
    assert hits["prefix-aware"] > 1.3 * hits["round-robin"]


def test_a_shared_prefix_is_computed_once():
    ids = np.tile(np.arange(10), 2)
    traffic = make_traffic([0.0, 10.0], [160, 160], [4, 4], block_start=[0, 10, 20], block_ids=ids)
    played = play(tables(), Policy(prefix_caching=True), traffic)
    # the last token is computed anew: its logits are needed
    assert played.cached_tokens.tolist() == [0, 144]
    assert played.ttft_s[1] == pytest.approx(
        naive_serving.iteration_seconds(tables(), [], [(16, 144)], 8192)
    )


def test_speculation_takes_fewer_iterations():
    traffic = make_traffic([0.0], [100], [101])
    played = play(constant(0.01, tokens_per_step=2.5), Policy(draft_tokens=3), traffic)
    assert played.iterations[0] == 1 + 40
    steps = np.array([57])
    played = play(constant(0.01), Policy(draft_tokens=3), traffic, steps=steps)
    assert played.iterations[0] == 1 + 57


def test_autoscaling_starts_and_stops():
    traffic = make_traffic(
        np.concatenate([np.linspace(0, 20, 400), [200.0]]), np.full(401, 100), np.full(401, 200)
    )
    pool = Pool(
        tables=tables(),
        replicas=4,
        autoscaler=Autoscaler(least=1, load_per_replica=8.0, start_up_s=5.0),
    )
    scaled = play_pools((pool,), traffic, router="least-loaded", scale_every_s=1.0)
    fixed = play_pools((replace(pool, autoscaler=Autoscaler()),), traffic, router="least-loaded")
    assert scaled.finished.all()
    assert len(set(scaled.replica.tolist())) == 4
    assert scaled.on_s.sum() < 0.6 * fixed.on_s.sum()
    assert fixed.on_s == pytest.approx([fixed.end_time_s] * 4)
    # 400 requests in 20 s meet one replica, then more
    assert scaled.latency_s.mean() > fixed.latency_s.mean()


# Hard input


@pytest.mark.slow
def test_overload_ends_and_says_who_waited():
    traffic = open_loop(gamma_arrivals(200.0, 3000), Lengths(mean=500), Lengths(mean=100))
    played = play(tables(kv_tokens=20_000), Policy(), traffic)
    assert played.finished.all()
    assert played.preemptions.sum() > 0
    limited = play(tables(kv_tokens=20_000), Policy(max_queue=50), traffic)
    assert (limited.state == REJECTED).sum() > 1000
    assert limited.ttft_s[limited.finished].mean() < 0.2 * played.ttft_s.mean()


def test_cut_off():
    traffic = make_traffic([0.0, 0.1, 5.0], [100, 100, 100], [1000, 1, 1])
    played = play(tables(), Policy(), traffic, until_s=1.0)
    assert played.state.tolist() == [RUNNING, FINISHED, NOT_ARRIVED]
    assert played.end_time_s == 1.0
    assert played.in_system_s == pytest.approx(1.0 + played.latency_s[1])


def test_too_long_and_nothing_to_say():
    traffic = make_traffic(
        [0.0, 0.0, 0.0, 1.0], [5000, 10, 10, 10], [10, 0, 2000, 3], after=[-1, -1, -1, 0]
    )
    played = play(tables(kv_tokens=1600), Policy(), traffic)
    assert played.state.tolist() == [REJECTED, FINISHED, REJECTED, REJECTED]
    assert [playing.REASONS[r] for r in played.reason] == [
        "prompt and output are longer than the KV cache",
        "",
        "prompt and output are longer than the KV cache",
        "an earlier turn of the session was rejected",
    ]
    assert math.isnan(played.first_token_s[1])
    assert played.end_s[1] > 0


def test_same_bytes_whatever_the_log():
    made, policy, traffic = random_case(11)
    first = play(made, policy, traffic, log_lines=0)
    second = play(made, policy, traffic, log_lines=64)
    assert first.end_s.tobytes() == second.end_s.tobytes()
    assert len(first.log.start_s) == 0
    assert 16 <= len(second.log.start_s) <= 64


def test_what_cannot_be_is_refused():
    traffic = make_traffic([0.0], [10], [10])
    with pytest.raises(InputError, match="is not known"):
        play(tables(), Policy(kind="mix"), traffic)
    with pytest.raises(InputError, match="max_tokens"):
        play(tables(), Policy(max_tokens=0), traffic)
    with pytest.raises(InputError, match="router"):
        play_pools((Pool(tables=tables()),), traffic, router="random")
    with pytest.raises(InputError, match="prefill and one decode"):
        play_pools((Pool(tables=tables(), role="decode"),), traffic)
    with pytest.raises(InputError, match="steps"):
        play(tables(), Policy(), traffic, steps=np.array([0]))
    with pytest.raises(InfeasibleError, match="less than one block"):
        play(tables(kv_tokens=5), Policy(), traffic)
    turns = make_traffic([0.0, 0.0], [1, 1], [1, 1], after=[-1, 0], concurrency=1)
    with pytest.raises(InputError, match="later turns"):
        play(tables(), Policy(), turns)


@pytest.mark.slow
def test_cost_is_linear_in_requests():
    counts = []
    for n in (1000, 4000):
        traffic = closed_loop(16, n, Lengths(mean=200), Lengths(mean=50))
        counts.append(int(play(tables(), Policy(), traffic).iterations[0]) / n)
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_closed_loop_keeps_its_concurrency():
    traffic = closed_loop(7, 70, Lengths(mean=200, kind="uniform"), Lengths(mean=50))
    played = play(tables(), Policy(), traffic)
    for time in played.arrival_s:
        inside = (played.arrival_s <= time) & (played.end_s > time)
        assert inside.sum() <= 7
    assert np.sum(played.arrival_s == 0.0) == 7
