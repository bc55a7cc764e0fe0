"""What saving costs: intervals against closed forms, tiers, redundancy against counting."""

from __future__ import annotations

from itertools import combinations
from math import inf, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware.reliability import optimal_interval_s
from ridgeline.simulator.fleet.checkpoints import (
    CheckpointPolicy,
    Tiers,
    exact_interval_s,
    expected_time_s,
)
from ridgeline.simulator.memory import memory_facts, parameter_bytes
from ridgeline.simulator.plan import Training
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.training import checkpoint_state

HOUR = 3600.0
LLAMA = 14 * 405e9
"""Bytes of a checkpoint of Llama 3 405B."""


def llama(kind: str = "synchronous", **fields: object) -> CheckpointPolicy:
    return CheckpointPolicy(kind=kind, **fields)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    pause=st.floats(1e-3, 3600.0),
    mttf=st.floats(600.0, 1e7),
    other=st.floats(0.05, 20.0),
)
def test_the_exact_interval_is_the_best(pause: float, mttf: float, other: float) -> None:
    best = exact_interval_s(pause, mttf)

    def time(interval: float) -> float:
        return expected_time_s(
            work_s=1e6, interval_s=interval, pause_s=pause, restart_s=60.0, mttf_s=mttf
        )

    assert 0 < best <= mttf
    if best * other < 300 * mttf:
        assert time(best) <= time(best * other) * (1 + 1e-9)


def test_young_and_dalys_interval_wastes_no_more_than_two_per_cent_above_the_best() -> None:
    # Young 1974, Daly 2006: sqrt(2 delta M), good while delta is far below M
    for pause in (1.0, 10.0, 60.0, 200.0):
        mttf = 3 * HOUR
        young, best = optimal_interval_s(pause, mttf), exact_interval_s(pause, mttf)
        waste = [
            expected_time_s(work_s=1.0, interval_s=tau, pause_s=pause, restart_s=0.0, mttf_s=mttf)
            - 1.0
            for tau in (young, best)
        ]
        assert waste[0] <= 1.02 * waste[1]
        # and the waste is the textbook's sqrt(2 delta / M) to first order
        assert waste[1] == pytest.approx(sqrt(2 * pause / mttf), rel=0.15)


def test_without_failures_only_the_pauses_are_lost() -> None:
    assert expected_time_s(
        work_s=1000.0, interval_s=100.0, pause_s=1.0, restart_s=9.0, mttf_s=inf
    ) == pytest.approx(1010.0)


def test_bloom_wrote_2_3_tb_in_40_seconds() -> None:
    # BigScience, ml-engineering (fault-tolerance chapter): 384 A100, every 3 h, 0.37% of the time
    policy = llama(interval=3 * HOUR, tiers=Tiers(store_bytes_per_s=2.3e12 / 40))
    costs = policy.costs(2.3e12, 48, 384, 10 * 24 * HOUR)
    assert costs.pause_s == pytest.approx(40.0)
    assert costs.pause_s / (costs.interval_s + costs.pause_s) == pytest.approx(0.0037, abs=1e-4)


def test_a_checkpoint_holds_the_memory_models_weights_and_optimizer() -> None:
    per = parameter_bytes("bf16", "adamw", memory_facts(load_stack("megatron-core")))
    assert per.weights == 2.0
    training = Training(seq_len=1, global_batch_seqs=1, micro_batch_seqs=1)
    assert per.optimizer == checkpoint_state(training)


def test_asynchronous_pauses_for_the_copy_to_the_host_alone() -> None:
    sync = llama().costs(LLAMA, 2048, 16384, 3 * HOUR)
    behind = llama("asynchronous").costs(LLAMA, 2048, 16384, 3 * HOUR)
    assert behind.pause_s == pytest.approx(LLAMA / 16384 / 64e9)
    assert behind.lag_s == pytest.approx(LLAMA / 2e12) == pytest.approx(sync.pause_s)
    assert behind.interval_s < sync.interval_s
    assert behind.interval_s >= behind.lag_s


def test_the_slowest_tier_decides() -> None:
    size, nodes, accelerators = 1e12, 10, 80
    slow_disk = Tiers(host_to_nvme_bytes_per_s=1e9, store_bytes_per_s=1e15)
    costs = llama(tiers=slow_disk).costs(size, nodes, accelerators, HOUR)
    assert costs.pause_s == pytest.approx(size / nodes / 1e9)
    slow_bus = Tiers(gpu_to_host_bytes_per_s=1e8, store_bytes_per_s=1e15)
    costs = llama(tiers=slow_bus).costs(size, nodes, accelerators, HOUR)
    assert costs.pause_s == pytest.approx(size / accelerators / 1e8)


def test_codes_take_less_memory_than_copies_for_the_same_losses() -> None:
    whole = llama("in-memory", copies=3)
    coded = llama("in-memory", data=6, parity=2)
    assert whole.tolerated == coded.tolerated == 2
    held = [p.costs(LLAMA, 2048, 16384, 3 * HOUR).host_bytes for p in (whole, coded)]
    # two sets, the finished and the next; 3 shares against 8/6
    assert held[0] == pytest.approx(2 * 3 * LLAMA / 2048)
    assert held[1] == pytest.approx(2 * 8 / 6 * LLAMA / 2048)
    # the price: more loss at once that it does not survive, in larger groups
    assert coded.survival(48, 3) < whole.survival(48, 3) < 1.0


def test_memory_goes_to_the_store_every_three_hours() -> None:
    costs = llama("in-memory").costs(LLAMA, 2048, 16384, 3 * HOUR)
    assert costs.store_every * costs.interval_s == pytest.approx(3 * HOUR, rel=0.01)
    assert costs.load_s < 0.1 * costs.store_load_s
    slow = llama("in-memory", store_interval_s=1.0).costs(LLAMA, 2048, 16384, 3 * HOUR)
    # not before the last has drained
    assert slow.store_every * slow.interval_s >= slow.store_lag_s


@pytest.mark.parametrize(
    ("policy", "nodes"),
    [
        (CheckpointPolicy(kind="in-memory", copies=2), 8),
        (CheckpointPolicy(kind="in-memory", copies=2), 9),
        (CheckpointPolicy(kind="in-memory", copies=3), 9),
        (CheckpointPolicy(kind="in-memory", copies=3), 10),
        (CheckpointPolicy(kind="in-memory", data=3, parity=2), 10),
        (CheckpointPolicy(kind="in-memory", data=4, parity=1), 12),
    ],
)
def test_survival_is_what_counting_gives(policy: CheckpointPolicy, nodes: int) -> None:
    for lost in range(5):
        ways = kept = 0
        for gone in combinations(range(nodes), lost):
            ways += 1
            groups = [node // policy.group for node in gone]
            kept += all(
                groups.count(group)
                <= min(
                    policy.tolerated,
                    min(nodes, (group + 1) * policy.group) - group * policy.group - 1,
                )
                for group in groups
            )
        assert policy.survival(nodes, lost) == pytest.approx(kept / ways)


def test_pairs_survive_two_losses_unless_they_are_a_pair() -> None:
    # N / 2 of the C(N, 2) ways to lose two nodes are a pair
    assert CheckpointPolicy(kind="in-memory").survival(16, 2) == pytest.approx(1 - 8 / 120)
    assert CheckpointPolicy(kind="in-memory").survival(2048, 1) == 1.0
    assert CheckpointPolicy().survival(2048, 1) == 0.0


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "in memory"}, "did you mean 'in-memory'"),
        ({"interval": "young"}, "did you mean 'young-daly'"),
        ({"interval": 0.0}, "above 0 s"),
        ({"interval": float("nan")}, "above 0 s"),
        ({"copies": 1}, "2 or more"),
        ({"data": 8}, "8\\+0"),
        ({"data": -1, "parity": -1}, "-1\\+-1"),
        ({"store_interval_s": 0.0}, "store interval"),
    ],
)
def test_bad_policies_are_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        CheckpointPolicy(**fields)  # type: ignore[arg-type]


def test_bad_tiers_are_refused() -> None:
    with pytest.raises(InputError, match="store_bytes_per_s = 0"):
        Tiers(store_bytes_per_s=0.0)
