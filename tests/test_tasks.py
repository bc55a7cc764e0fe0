"""Expansion of schedules: against its slow twin, and against closed forms of the bubble."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_tasks
from ridgeline.simulator.engine import busy_and_gaps, play
from ridgeline.simulator.schedule import FORWARD, VARIANTS, make_schedule
from ridgeline.simulator.tasks import (
    COMPUTE,
    GRADIENT,
    HEAD,
    NETWORK,
    STREAMS_PER_DEVICE,
    TAIL,
    TRANSFER,
    Block,
    expand,
    stack,
    stage_templates,
    sum_by_operator,
)

CASES = [
    ("gpipe", 3, 1, 4),
    ("1f1b", 1, 1, 3),
    ("1f1b", 4, 1, 6),
    ("interleaved", 2, 2, 4),
    ("interleaved", 1, 3, 2),
    ("zb-h1", 3, 1, 5),
    ("dualpipe", 4, 1, 10),
    ("dualpipe", 2, 1, 4),
]


def uniform(kind, pp, vpp, m, f=1.0, b=2.0, w=1.0, transfer=0.0, overlap=0.0, blocking=False):
    schedule = make_schedule(kind, pp, vpp, m)
    ones = np.ones(schedule.vstages)
    templates = stage_templates(schedule, f * ones, b * ones, w * ones, overlap)
    return expand(schedule, templates, np.full((schedule.vstages, 2), transfer), blocking)


def usage_of(*args, **options):
    graph = uniform(*args, **options)
    return busy_and_gaps(graph, play(graph), args[1])


def names_of(graph):
    """Return the names that the twin gives to the tasks; joins have none."""
    blocks, names = graph.blocks, []
    for k in range(len(blocks.kind)):
        template = blocks.template[k]
        ops = np.diff(blocks.op_ptr)[template] if template >= 0 else 0
        kind, v, m = int(blocks.kind[k]), int(blocks.vstage[k]), int(blocks.micro_batch[k])
        for op in range(blocks.first[k + 1] - blocks.first[k]):
            if kind in (HEAD, TAIL):
                names.append(("head" if kind == HEAD else "tail", int(blocks.device[k]), op))
            elif op < ops:
                names.append(("pass", kind, v, m, op))
            else:
                names.append(("send", kind, v, m))
    return names


@st.composite
def operators(draw, streams=(COMPUTE, COMPUTE, NETWORK, GRADIENT), barrier=False):
    """A block that begins and ends with COMPUTE, as the output of a pass is computed."""
    count = draw(st.integers(1, 4))
    stream = [COMPUTE, *(draw(st.sampled_from(streams)) for _ in range(count))]
    deps = [[draw(st.integers(-1, op - 1)) for op in range(count + 1)] for _ in range(2)]
    seconds = [draw(st.sampled_from([0.0, 0.25, 1.0, 1.75])) for _ in range(count + 1)]
    exits = [op for op in range(count + 1) if stream[op] == COMPUTE]
    flags = [barrier and op == count for op in range(count + 1)]
    return Block(
        seconds=seconds,
        stream=stream,
        dep_a=deps[0],
        dep_b=deps[1],
        exit=draw(st.sampled_from(exits)),
        barrier=flags,
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_agrees_with_longest_paths(case, data):
    schedule = make_schedule(*case)
    stages, devices = schedule.vstages, schedule.devices
    blocks = data.draw(st.lists(operators(), min_size=3, max_size=5))
    with_head, with_tail = data.draw(st.booleans()), data.draw(st.booleans())
    block_of = data.draw(
        st.lists(st.integers(0, len(blocks) - 1), min_size=3 * stages, max_size=3 * stages)
    )
    block_of = np.repeat(np.reshape(block_of, (3, stages, 1)), VARIANTS, axis=2)
    head = np.full(devices, len(blocks) if with_head else -1)
    tail = np.full(devices, len(blocks) + 1 if with_tail else -1)
    blocks = [*blocks, data.draw(operators()), data.draw(operators(barrier=True))]
    templates = stack(blocks, block_of, head, tail)
    transfers = data.draw(
        st.lists(st.sampled_from([0.0, 0.125, 2.0]), min_size=2 * stages, max_size=2 * stages)
    )
    transfers = np.reshape(transfers, (stages, 2))
    blocking = data.draw(st.booleans())
    graph = expand(schedule, templates, transfers, blocking)
    timeline = play(graph)
    expected = naive_tasks.ends(schedule, templates, transfers, blocking)
    names = names_of(graph)
    assert set(names) == set(expected)
    np.testing.assert_allclose(
        timeline.end[: len(names)], [expected[name] for name in names], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("case", CASES)
def test_ids_ascend_in_issue_order(case):
    """On every stream tasks run in the order of their ids, or of the priorities of pairs."""
    graph = uniform(*case, transfer=0.1)
    timeline = play(graph)
    key = graph.priority if graph.priority.size else np.arange(graph.tasks)
    for stream in range(graph.num_streams):
        mine = np.flatnonzero(graph.stream == stream)
        assert (np.diff(timeline.start[mine[np.argsort(key[mine])]]) >= 0).all()


@pytest.mark.parametrize(("p", "m"), [(1, 1), (2, 5), (4, 4), (8, 24), (5, 3)])
@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
def test_bubble_of_gpipe_and_1f1b(kind, p, m):
    """Bubble fraction (p - 1)/(m + p - 1): Narayanan et al. 2021, arXiv:2104.04473, s. 2.2.

    There over the ideal time, (p - 1)/m; here over the step.
    """
    usage = usage_of(kind, p, 1, m)
    expected = (p - 1) / (m + p - 1)
    np.testing.assert_allclose(usage.bubble / (usage.bubble + usage.busy), expected, atol=1e-12)


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 4), (8, 4, 32), (1, 3, 2)])
def test_bubble_of_interleaved(p, v, m):
    """(p - 1)/(v m + p - 1): Narayanan et al. 2021, arXiv:2104.04473, section 2.2.2."""
    usage = usage_of("interleaved", p, v, m)
    expected = (p - 1) / (v * m + p - 1)
    np.testing.assert_allclose(usage.bubble / (usage.bubble + usage.busy), expected, atol=1e-12)


@pytest.mark.parametrize(("f", "b", "w"), [(1, 1, 1), (1.2, 1.0, 0.8), (1.0, 1.1, 0.9)])
@pytest.mark.parametrize(("p", "m"), [(1, 2), (4, 8), (8, 32)])
def test_bubble_of_zb_h1(p, m, f, b, w):
    """(p - 1)(T_F + T_B - T_W): Qi et al. 2023, arXiv:2401.10241, section 2.3.

    Their T_B is the input-gradient half.
    """
    usage = usage_of("zb-h1", p, 1, m, f=f, b=b + w, w=w)
    np.testing.assert_allclose(usage.bubble, (p - 1) * (f + b - w), atol=1e-9)


@pytest.mark.parametrize("overlap", [0.0, 0.2])
@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (8, 20), (16, 64)])
def test_bubble_of_dualpipe(p, m, overlap):
    """(PP/2 - 1)(F&B + B - 3W): DeepSeek-AI 2024, arXiv:2412.19437, table 2.

    B is a whole backward, F&B a pair. Reached by the worst device when F, W and the
    input-gradient half take equally long; without overlap by every device.
    """
    usage = usage_of("dualpipe", p, 1, m, overlap=overlap)
    expected = (p / 2 - 1) * (3.0 * (1 - overlap) + 2.0 - 3.0)
    assert usage.bubble.max() == pytest.approx(expected, abs=1e-9)
    if not overlap:
        np.testing.assert_allclose(usage.bubble, expected, atol=1e-9)


@pytest.mark.parametrize("w", [0.6, 0.8])
def test_bubble_of_dualpipe_with_short_weight_halves(w):
    """With W shorter than F the table's formula is high, by at most (PP/2 - 1)(F - W)."""
    p, f, b = 8, 1.0, 2.0
    usage = usage_of("dualpipe", p, 1, 20, f=f, b=b, w=w)
    table = (p / 2 - 1) * (f + b + b - 3 * w)
    assert (usage.bubble <= table).all()
    assert (usage.bubble >= table - (p / 2 - 1) * (f - w) - 1e-9).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("blocking", [False, True])
def test_every_second_is_accounted_for(case, blocking):
    graph = uniform(*case, transfer=0.3, blocking=blocking)
    timeline = play(graph)
    usage = busy_and_gaps(graph, timeline, case[1])
    total = usage.busy + usage.exposed.sum(axis=1) + usage.bubble
    np.testing.assert_allclose(total, timeline.makespan, rtol=1e-12)
    assert (usage.bubble >= -1e-9).all()
    assert (usage.exposed[:, COMPUTE] == 0).all()
    assert usage.exposed_by_task.sum() == pytest.approx(usage.exposed.sum(), rel=1e-9)


def test_exposed_communication_is_told_from_the_bubble():
    """Two stages, one micro-batch: F . . B on device 0, . F B . on device 1, sends between."""
    graph = uniform("1f1b", 2, 1, 1, transfer=0.5)
    timeline = play(graph)
    usage = busy_and_gaps(graph, timeline, 2)
    assert timeline.makespan == 7.0
    assert usage.busy.tolist() == [3.0, 3.0]
    # device 0 waits 0.5 to send, 3 for device 1, 0.5 to receive: the chain ends at B of device 1
    assert usage.exposed[:, TRANSFER].tolist() == [0.5, 0.5]
    assert usage.bubble.tolist() == [3.5, 3.5]


def test_communication_behind_the_last_pass_is_exposed():
    """A gradient reduction that nothing hides, on one device."""
    schedule = make_schedule("1f1b", 1, 1, 1)
    block_of = np.zeros((3, 1, VARIANTS), np.int32)
    block_of[1] = 1
    forward = Block(seconds=[1.0], stream=[COMPUTE], dep_a=[-1], dep_b=[-1])
    backward = Block(
        seconds=[2.0, 0.75, 0.5],
        stream=[COMPUTE, GRADIENT, GRADIENT],
        dep_a=[-1, 0, 0],
        dep_b=[-1, -1, -1],
        exit=0,
    )
    graph = expand(schedule, stack([forward, backward], block_of, [-1], [-1]), np.zeros((1, 2)))
    timeline = play(graph)
    usage = busy_and_gaps(graph, timeline, 1)
    assert timeline.makespan == 4.25
    assert usage.exposed[0, GRADIENT] == 1.25
    assert usage.bubble[0] == 0.0
    assert sum_by_operator(graph, usage.exposed_by_task).tolist() == [0.0, 0.0, 0.75, 0.5, 0.0]


@pytest.mark.parametrize("pieces", [2, 5])
@pytest.mark.parametrize("case", [("1f1b", 4, 1, 6), ("interleaved", 2, 2, 4), ("zb-h1", 3, 1, 5)])
def test_granularities_agree(case, pieces):
    """A pass as one operator or as a chain of equal ones takes the same time."""
    schedule = make_schedule(*case)
    stages = schedule.vstages
    none = np.full(schedule.devices, -1)
    transfers = np.full((stages, 2), 0.25)

    def makespan(n):
        blocks = [
            Block(
                seconds=[length / n] * n,
                stream=[COMPUTE] * n,
                dep_a=range(-1, n - 1),
                dep_b=[-1] * n,
            )
            for length in (1.0, 1.25, 0.75)
        ]
        block_of = np.empty((3, stages, VARIANTS), np.int32)
        block_of[:] = np.arange(3)[:, None, None]
        return play(expand(schedule, stack(blocks, block_of, none, none), transfers)).makespan

    assert makespan(pieces) == pytest.approx(makespan(1), rel=1e-12)


def test_blocking_transfers_hold_up_the_sender():
    free = play(uniform("1f1b", 4, 1, 8, transfer=0.5)).makespan
    held = play(uniform("1f1b", 4, 1, 8, transfer=0.5, blocking=True)).makespan
    assert held > free


def test_a_barrier_starts_together_everywhere():
    schedule = make_schedule("1f1b", 3, 1, 2)
    one = Block(seconds=[1.0], stream=[COMPUTE], dep_a=[-1], dep_b=[-1])
    tail = Block(
        seconds=[0.1, 0.2, 0.5],
        stream=[COMPUTE, NETWORK, COMPUTE],
        dep_a=[-1, 0, 1],
        dep_b=[-1, -1, -1],
        barrier=[False, True, False],
    )
    block_of = np.zeros((3, 3, VARIANTS), np.int32)
    graph = expand(schedule, stack([one, tail], block_of, [-1] * 3, [1] * 3), np.zeros((3, 2)))
    timeline = play(graph)
    norm = [timeline.start[graph.stream == d * STREAMS_PER_DEVICE + NETWORK] for d in range(3)]
    # F and B chains of two micro-batches over three stages: 8 s, then the tail
    assert np.concatenate(norm) == pytest.approx([8.1] * 3)
    assert timeline.makespan == pytest.approx(8.8)


def test_the_head_gates_the_first_pass():
    schedule = make_schedule("1f1b", 2, 1, 2)
    head = Block(seconds=[3.0], stream=[GRADIENT], dep_a=[-1], dep_b=[-1])
    one = Block(seconds=[1.0], stream=[COMPUTE], dep_a=[-1], dep_b=[-1])
    block_of = np.zeros((3, 2, VARIANTS), np.int32)
    graph = expand(schedule, stack([one, head], block_of, [1, 1], [-1, -1]), np.zeros((2, 2)))
    timeline = play(graph)
    compute = graph.stream == COMPUTE
    assert timeline.start[compute].min() == 3.0
    usage = busy_and_gaps(graph, timeline, 2)
    # device 1 waits for device 0 to compute, whatever that waited for: a bubble
    assert usage.exposed[:, GRADIENT].tolist() == [3.0, 0.0]


def test_a_missing_template_is_a_programming_error():
    schedule = make_schedule("1f1b", 1, 1, 2)
    one = Block(seconds=[1.0], stream=[COMPUTE], dep_a=[-1], dep_b=[-1])
    block_of = np.zeros((3, 1, VARIANTS), np.int32)
    block_of[FORWARD] = -1
    with pytest.raises(AssertionError, match="2 passes have no template"):
        expand(schedule, stack([one], block_of, [-1], [-1]), np.zeros((1, 2)))
