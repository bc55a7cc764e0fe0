"""Schedules as data: ZB-V, and orders that a user gives in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.simulator import read_plan, simulate_training
from ridgeline.simulator.schedule import make_schedule, peak_in_flight
from ridgeline.simulator.schedule.described import (
    Description,
    description_text,
    problems,
    read_description,
    v_schedule,
)

LLAMA = {
    "model.name": "llama2-7b",
    "cluster.spec": "8xh100-sxm",
    "parallel.pp": 4,
    "parallel.zero_stage": 1,
    "training.seq_len": 4096,
    "training.global_batch_seqs": 32,
    "training.micro_batch_seqs": 1,
}


def makespan(described: Description) -> int:
    """Play an order with passes of one unit each: when the last one ends."""
    ends: dict[tuple[int, int, int], int] = {}
    last = len(described.home) - 1
    free, at = [0] * len(described.orders), [0] * len(described.orders)
    left = sum(map(len, described.orders))
    while left:
        for device, order in enumerate(described.orders):
            while at[device] < len(order):
                kind, stage, batch = order[at[device]]
                needs = {
                    0: [(0, stage - 1, batch)] if stage else [],
                    1: [(0, stage, batch), *([(1, stage + 1, batch)] if stage < last else [])],
                    2: [(1, stage, batch)],
                }[kind]
                if any(need not in ends for need in needs):
                    break
                start = max([free[device], *(ends[need] for need in needs)])
                ends[kind, stage, batch] = free[device] = start + 1
                at[device] += 1
                left -= 1
    return max(free)


@given(pp=st.integers(2, 8), micro_batches=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_zb_v_is_a_schedule_with_the_memory_of_1f1b(pp: int, micro_batches: int) -> None:
    described = v_schedule(pp, micro_batches)
    assert problems(described) == []
    schedule = make_schedule("zb-v", pp, 2, micro_batches)
    chunk = np.full(schedule.vstages, 0.5)
    assert peak_in_flight(schedule, chunk, chunk).max() <= min(pp, micro_batches) + 1e-9


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_zb_v_idles_only_while_the_pipeline_fills(pp: int) -> None:
    """Of equal passes: 6 m of work a device; ZB-H1 idles p - 1 more (arXiv:2401.10241, table 1)."""
    micro_batches = 4 * pp
    idle = makespan(v_schedule(pp, micro_batches)) - 6 * micro_batches
    assert idle == pp - 1


def test_zb_v_shortens_a_step_beside_1f1b() -> None:
    def seconds(schedule: str, vpp: int) -> float:
        split = {"training.schedule": schedule, "parallel.vpp": vpp}
        return simulate_training(read_plan(None, LLAMA | split)).step_time_s

    assert seconds("zb-v", 2) < seconds("1f1b", 1)


def test_a_described_schedule_gives_the_step_of_the_built_one(tmp_path: Path) -> None:
    built = make_schedule("1f1b", 4, 1, 16)
    orders = []
    for device in range(4):
        mine = range(built.device_ptr[device], built.device_ptr[device + 1])
        orders.append(
            tuple(
                (int(built.pass_kind[i]), int(built.vstage[i]), int(built.micro_batch[i]))
                for i in mine
            )
        )
    path = tmp_path / "mine.schedule"
    described = Description(name="mine", home=(0, 1, 2, 3), orders=tuple(orders))
    path.write_text(description_text(described), encoding="utf-8")
    assert read_description(path).orders == described.orders
    mine_step = simulate_training(read_plan(None, LLAMA | {"training.schedule": str(path)}))
    step = simulate_training(read_plan(None, LLAMA | {"training.schedule": "1f1b"}))
    # sends of a schedule of one's own do not block, as those of Megatron's 1F1B do
    assert mine_step.step_time_s == pytest.approx(step.step_time_s, rel=0.01)
    assert mine_step.memory == step.memory


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs a line"),
        ("stages: 0\n0: F0.0", "B0.0: missing"),
        ("stages: 0\n0: F0.0 B0.0 B0.0", "twice"),
        ("stages: 0\n0: F0.0 B0.0 F1.0", "no such stage"),
        ("stages: 0 1\n0: F0.0 B0.0 F1.0\n1: B1.0", "is elsewhere"),
        ("stages: 0\n0: B0.0 F0.0", "waits for"),
        ("stages: 0 2\n0: F0.0\n1: B0.0", "every device"),
        ("stages: 0\n0: X0.0", "must be such as"),
        ("hello", "line 1"),
        ("stages: 0\n1: F0.0", "from 0 on"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.schedule"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_description(path)


def test_a_schedule_for_other_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.schedule"
    path.write_text(description_text(v_schedule(2, 4)), encoding="utf-8")
    wrong = LLAMA | {"training.schedule": str(path), "parallel.pp": 2, "parallel.vpp": 2}
    with pytest.raises(
        InputError, match=r"micro-batches = 8: the schedule small\.schedule is for 4"
    ):
        simulate_training(read_plan(None, wrong))


def test_zb_v_takes_two_chunks() -> None:
    with pytest.raises(InputError, match="vpp = 2"):
        read_plan(None, LLAMA | {"training.schedule": "zb-v"})
