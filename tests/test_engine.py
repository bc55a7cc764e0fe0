"""The engine against its SimPy twin and against what must hold of any timeline."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_engine
from ridgeline.simulator.engine import DeadlockError, play
from ridgeline.simulator.tasks import TaskGraph

FEW = settings(max_examples=60, deadline=None)


def graph_of(seconds, stream, predecessors, num_streams, priority=()):
    indptr = np.cumsum([0, *map(len, predecessors)]).astype(np.int64)
    indices = np.array([p for before in predecessors for p in before], np.int32)
    return TaskGraph(
        seconds=np.array(seconds, float),
        stream=np.array(stream, np.int32),
        indptr=indptr,
        indices=indices,
        num_streams=num_streams,
        priority=np.array(priority, np.int64),
    )


@st.composite
def problems(draw, in_order=None):
    """Random tasks; dependencies point from lower to higher (priority, id), so all can run."""
    streams = draw(st.integers(1, 4))
    count = draw(st.integers(1, 24))
    # few distinct lengths, so that ties and tasks of no length are common
    lengths = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(0.0, 10.0))
    seconds = draw(st.lists(lengths, min_size=count, max_size=count))
    stream = draw(st.lists(st.integers(0, streams - 1), min_size=count, max_size=count))
    priority = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    by_priority = sorted(range(count), key=lambda t: (priority[t], t))
    predecessors = [[] for _ in range(count)]
    for position, task in enumerate(by_priority):
        if position:
            chosen = draw(st.sets(st.integers(0, position - 1), max_size=3))
            predecessors[task] = [by_priority[p] for p in sorted(chosen)]
    policy = draw(st.lists(st.booleans(), min_size=streams, max_size=streams))
    if in_order is not None:
        policy = [in_order] * streams
    return seconds, stream, predecessors, priority, policy


def timeline_of(problem):
    seconds, stream, predecessors, priority, policy = problem
    graph = graph_of(seconds, stream, predecessors, len(policy), priority)
    return play(graph, len(policy), np.array(policy))


@FEW
@given(problems())
def test_agrees_with_simpy(problem):
    start, end = naive_engine.play(*problem)
    timeline = timeline_of(problem)
    np.testing.assert_allclose(timeline.start, start, rtol=0, atol=1e-9)
    np.testing.assert_allclose(timeline.end, end, rtol=0, atol=1e-9)


@FEW
@given(problems(in_order=True))
def test_agrees_with_simpy_in_order(problem):
    start, end = naive_engine.play(*problem)
    timeline = timeline_of(problem)
    np.testing.assert_allclose(timeline.start, start, rtol=0, atol=1e-9)
    np.testing.assert_allclose(timeline.end, end, rtol=0, atol=1e-9)


@FEW
@given(problems(in_order=True))
def test_both_loops_give_the_same_bytes(problem):
    """A stream without tasks that may reorder sends the same graph through the event loop."""
    seconds, stream, predecessors, priority, policy = problem
    graph = graph_of(seconds, stream, predecessors, len(policy), priority)
    fast = play(graph)
    slow = play(graph, len(policy) + 1, np.array([*policy, False]))
    assert fast.start.tobytes() == slow.start.tobytes()
    assert fast.end.tobytes() == slow.end.tobytes()
    assert fast.binding.tobytes() == slow.binding.tobytes()


@FEW
@given(problems())
def test_same_input_same_bytes(problem):
    one, two = timeline_of(problem), timeline_of(problem)
    assert one.end.tobytes() == two.end.tobytes()
    assert one.binding.tobytes() == two.binding.tobytes()


@FEW
@given(problems())
def test_a_start_is_the_end_of_its_binding(problem):
    timeline = timeline_of(problem)
    bound = timeline.binding
    expected = np.where(bound < 0, 0.0, timeline.end[bound])
    np.testing.assert_array_equal(timeline.start, expected)


@FEW
@given(problems())
def test_never_under_critical_path_or_busiest_stream(problem):
    seconds, stream, predecessors, _, policy = problem
    timeline = timeline_of(problem)
    dag = nx.DiGraph()
    for task, before in enumerate(predecessors):
        dag.add_edge("start", task, weight=0.0)
        dag.add_edge(task, "end", weight=seconds[task])
        dag.add_edges_from((p, task, {"weight": seconds[p]}) for p in before)
    assert timeline.makespan >= nx.dag_longest_path_length(dag) - 1e-9
    busiest = np.bincount(stream, seconds, len(policy)).max()
    assert timeline.makespan >= busiest - 1e-9


@FEW
@given(problems(in_order=True), st.data())
def test_shorter_tasks_never_end_later_with_a_fixed_order(problem, data):
    """Not so for streams that reorder: Graham's anomaly (Graham 1969)."""
    seconds, stream, predecessors, priority, policy = problem
    factors = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(seconds), max_size=len(seconds)))
    shorter = [s * f for s, f in zip(seconds, factors, strict=True)]
    before = timeline_of(problem)
    after = timeline_of((shorter, stream, predecessors, priority, policy))
    assert (after.end <= before.end + 1e-9).all()


@FEW
@given(problems(), st.data())
def test_relabelling_changes_nothing(problem, data):
    seconds, stream, predecessors, priority, policy = problem
    count = len(seconds)
    # priorities that differ, or else ids would break ties
    order = np.lexsort((np.arange(count), priority))
    distinct = np.empty(count, np.int64)
    distinct[order] = np.arange(count)
    task_at = data.draw(st.permutations(range(count)))
    stream_at = data.draw(st.permutations(range(len(policy))))
    renamed_policy = [False] * len(policy)
    for s, keeps in enumerate(policy):
        renamed_policy[stream_at[s]] = keeps
    renamed = [[None] * count for _ in range(4)]
    for task in range(count):
        to = task_at[task]
        renamed[0][to] = seconds[task]
        renamed[1][to] = stream_at[stream[task]]
        renamed[2][to] = [task_at[p] for p in predecessors[task]]
        renamed[3][to] = distinct[task]
    before = timeline_of((seconds, stream, predecessors, distinct, policy))
    after = timeline_of((*renamed, renamed_policy))
    np.testing.assert_array_equal(after.end[task_at], before.end)


@FEW
@given(problems(in_order=True), st.data())
def test_two_serial_halves_are_the_task(problem, data):
    seconds, stream, predecessors, priority, policy = problem
    cut = data.draw(st.integers(0, len(seconds) - 1))
    half = len(seconds)
    # the second half takes the next free place in the order of its stream
    order = sorted(range(half), key=lambda t: (priority[t], t))
    place = {task: 2 * i for i, task in enumerate(order)}
    doubled = [place[t] for t in range(half)]
    split = [*seconds, seconds[cut] / 2]
    split[cut] = seconds[cut] / 2
    moved = [[half if p == cut else p for p in before] for before in predecessors]
    before = timeline_of((seconds, stream, predecessors, doubled, policy))
    after = timeline_of(
        (split, [*stream, stream[cut]], [*moved, [cut]], [*doubled, place[cut] + 1], policy)
    )
    assert after.makespan == pytest.approx(before.makespan, rel=1e-12)
    assert after.end[half] == pytest.approx(before.end[cut], rel=1e-12)


def test_head_of_line_blocks_only_in_order():
    """Task 1 is ready but stands behind task 0, which waits for the other stream."""
    graph = graph_of([1.0, 1.0, 5.0], [0, 0, 1], [[2], [], []], 2)
    assert play(graph).start.tolist() == [5.0, 6.0, 0.0]
    free = play(graph, 2, np.array([False, True]))
    assert free.start.tolist() == [5.0, 0.0, 0.0]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_cycle_is_named(keeps):
    graph = graph_of([1.0, 1.0, 1.0], [0, 1, 0], [[], [2], [1]], 2)
    with pytest.raises(DeadlockError, match="2 of 3 tasks never ran"):
        play(graph, 2, np.array([keeps, keeps]))


def test_no_tasks():
    assert play(graph_of([], [], [], 1)).makespan == 0.0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_durations_are_refused(bad):
    with pytest.raises(AssertionError, match="1 durations"):
        play(graph_of([bad, 1.0], [0, 0], [[], []], 1))
