"""Prices of candidates: equal to the played step, and bounds that are never above it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_search
from ridgeline.hardware import make_cluster
from ridgeline.simulator.plan import Training
from ridgeline.simulator.search import _kernels
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.parts import Shelf, distinct_rows, fabrics
from ridgeline.simulator.search.pricing import Pricer
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.workloads import load_model

EVERY = ("gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe")
REGULAR = {"gpipe", "1f1b", "interleaved"}

SPACES = {
    "dense, sends that block": ("llama2-7b", ("2x8xa100-sxm-80gb",), "megatron-2021"),
    "dense, everything overlaps": ("llama2-7b", ("2x8xh100-sxm", "1x8xh100-sxm"), "megatron-core"),
    "dense, nothing overlaps, jitter": ("llama2-13b", ("4x8xh100-sxm",), "nanotron"),
    "fsdp": ("llama2-7b", ("2x8xh100-sxm",), "torchtitan"),
    "full shard by matrix": ("gpt3-6.7b", ("2x8xa100-sxm-80gb",), "deepspeed-zero3"),
    "torus": ("gemma-7b", ("tpu-v5e:4x8",), "maxtext"),
    "experts": ("mixtral-8x7b", ("2x8xh100-sxm",), "megatron-core"),
    "experts behind dense layers": ("deepseek-v2-lite", ("2x8xh100-sxm",), "megatron-lm"),
    "tied embeddings": ("gemma2-2b", ("2x8xh100-sxm",), "megatron-core"),
    "both directions": ("bert-large", ("2x8xh100-sxm",), "megatron-core"),
    "patches and a condition": ("dit-xl-2", ("2x8xh100-sxm",), "torchtitan"),
    "multi-token prediction": ("glm-4.5-air", ("4x8xh100-sxm",), "megatron-core"),
}


def space_of(name: str, **changes) -> Space:
    model, clusters, stack = SPACES[name]
    space = Space(
        model=load_model(model),
        clusters=tuple(make_cluster(cluster) for cluster in clusters),
        training=Training(seq_len=4096, global_batch_seqs=64, micro_batch_seqs=1),
        stack=stack,
        zero_stage=(0, 1, 2, 3),
        schedules=EVERY,
        recompute=("none", "selective", "full", "every-3", "full-2"),
        offload=((), ("optimizer",), ("activations",)),
        uneven_stages=True,
        cp=(1, 2),
    )
    return replace(space, **changes)


def sample(space: Space, count: int, seed: int = 0) -> Candidates:
    """Return candidates at random, as many of every schedule as there are."""
    found = enumerate_plans(space)
    generator = np.random.default_rng(seed)
    rows = [
        generator.permutation(np.flatnonzero(found.schedule == place))[: count // 5]
        for place in range(len(space.schedules))
    ]
    return found.take(np.sort(np.concatenate(rows)))


def played(space: Space, candidates: Candidates) -> np.ndarray:
    stack = load_stack(space.stack)
    return np.array(
        [
            simulate_step(plan_at(space, candidates, i), stack).seconds
            for i in range(len(candidates))
        ]
    )


@pytest.mark.parametrize("name", SPACES)
def test_prices_are_those_of_the_played_step(name):
    space = space_of(name)
    candidates = sample(space, 100)
    pricer = Pricer(space)
    got, want = pricer.step_seconds(candidates), played(space, candidates)
    names = np.array(space.schedules)[candidates.schedule]
    moved = np.array(["activations" in items for items in space.offload])[candidates.offload]
    regular = np.isin(names, list(REGULAR)) & ~moved
    assert regular.sum() >= 20
    np.testing.assert_array_equal(np.isnan(got), ~regular)
    np.testing.assert_allclose(got[regular], want[regular], rtol=1e-9)
    assert (pricer.lower_bound(candidates) <= want).all()
    assert (pricer.roofline_bound(candidates) <= want).all()


def test_bounds_are_ordered_and_tight_on_a_pipeline():
    space = space_of(
        "dense, sends that block",
        clusters=(make_cluster("2x8xa100-sxm-80gb"),),
        schedules=("1f1b",),
        recompute=("none",),
        offload=((),),
        zero_stage=(0,),
        uneven_stages=False,
        cp=(1,),
        training=Training(seq_len=4096, global_batch_seqs=256, micro_batch_seqs=1),
    )
    candidates = enumerate_plans(space)
    pricer = Pricer(space)
    exact = pricer.step_seconds(candidates)
    bound = pricer.lower_bound(candidates)
    roofline = pricer.roofline_bound(candidates)
    assert (roofline <= bound).all()
    assert (bound <= exact).all()
    # the fill, the passes and the drain of a pipeline without stragglers are all there is
    assert np.median(bound / exact) > 0.98
    assert np.median(roofline / exact) > 0.2


def test_prices_do_not_depend_on_the_block():
    space = space_of("experts")
    candidates = sample(space, 60)
    whole = Pricer(space)
    together = (whole.step_seconds(candidates), whole.lower_bound(candidates))
    backwards = np.arange(len(candidates))[::-1]
    other = Pricer(space)
    for rows in np.array_split(backwards, 7):
        part = candidates.take(rows)
        for first, again in zip(
            together, (other.step_seconds(part), other.lower_bound(part)), strict=True
        ):
            assert first[rows].tobytes() == again.tobytes()


def test_blocks_may_be_empty():
    space = space_of("experts")
    none = sample(space, 5).take(np.zeros(0, np.intp))
    pricer = Pricer(space)
    for price in (pricer.step_seconds, pricer.lower_bound, pricer.roofline_bound):
        assert price(none).shape == (0,)


def test_workers_can_make_their_own():
    space = space_of("fsdp")
    candidates = sample(space, 20)
    there = pickle.loads(pickle.dumps(space))
    np.testing.assert_array_equal(
        Pricer(there).step_seconds(candidates), Pricer(space).step_seconds(candidates)
    )


def test_clusters_of_one_fabric_share_their_parts():
    names = ("4x8xh100-sxm", "8x8xh100-sxm", "1x8xh100-sxm", "4x8xa100-sxm-80gb", "16x8xh100-sxm")
    assert fabrics(tuple(make_cluster(name) for name in names)) == [0, 0, 2, 3, 0]


# Kernels ---------------------------------------------------------------------------------------

SECONDS = st.sampled_from([0.5, 1.0, 1.25, 2.0, 7.0])
WIRES = st.sampled_from([0.0, 0.25, 1.0, 3.0])
WHEN = st.integers(0, 2)


@st.composite
def steps(draw):
    """Draw the kernel's arguments for one plan, and the twin's."""
    vpp = draw(st.integers(1, 3))
    kind = "interleaved" if vpp > 1 else draw(st.sampled_from(["gpipe", "1f1b"]))
    pp = draw(st.integers(2 if vpp > 1 else 1, 5))
    m = pp * draw(st.integers(1, 6)) if vpp > 1 else draw(st.integers(1, 40))
    slices = [draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)) for _ in range(pp * vpp)]
    seconds = np.array(draw(st.lists(SECONDS, min_size=6, max_size=6))).reshape(1, 2, 3)
    wires = np.zeros((1, 5, 3))
    wires[0, 2:] = np.array(draw(st.lists(WIRES, min_size=9, max_size=9))).reshape(3, 3)
    prefetch = draw(st.sampled_from([_kernels.WITH_STEP, _kernels.BY_UNIT, _kernels.AHEAD]))
    per_layer = prefetch != _kernels.WITH_STEP
    if not per_layer:
        wires[0, _kernels.REGATHER] = 0.0
    when = (2, 2) if per_layer else (draw(st.integers(0, 1)), draw(WHEN))
    return {
        "kind": kind,
        "pp": pp,
        "vpp": vpp,
        "m": m,
        "slices": slices,
        "seconds": seconds,
        "wires": wires,
        "prefetch": prefetch,
        "when": when,
        "blocking": vpp == 1 or draw(st.booleans()),
        "send": draw(st.sampled_from([0.0, 0.5, 4.0])) if pp > 1 else 0.0,
        "slowdown": draw(st.sampled_from([0.0, 0.3])),
        "after": (draw(st.booleans()), draw(st.booleans())),
    }


def by_kernel(s) -> float:
    lengths = [len(units) for units in s["slices"]]
    slice_ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    code = {"gpipe": _kernels.GPIPE, "1f1b": _kernels.ONE_F_ONE_B}.get(s["kind"], 2)
    one = np.zeros(1, np.int64)
    out = np.empty(1)
    _kernels.price(
        np.array([code], np.int32),
        np.array([s["pp"]], np.int32),
        np.array([s["vpp"]], np.int32),
        np.array([s["m"]], np.int64),
        one,
        one,
        one,
        np.array([s["when"][0]], np.int32),
        np.array([s["when"][1]], np.int32),
        np.array([s["blocking"]]),
        np.array([s["prefetch"]], np.int32),
        np.array([s["after"][0]]),
        np.array([s["after"][1]]),
        np.array([s["send"]]),
        np.array([0.75]),
        np.array([0.125]),
        np.array([0, s["pp"]], np.int64),
        np.arange(s["pp"]) * 0.5,
        np.array([0, len(slice_ptr)], np.int64),
        slice_ptr,
        np.concatenate(s["slices"]).astype(np.int32),
        np.array([2], np.int64),
        s["seconds"],
        s["wires"],
        s["slowdown"],
        max(sum(lengths), len(lengths)),
        out,
    )
    return float(out[0])


def by_walking(s) -> float:
    f, b = s["seconds"][0]
    _, _, gather, regather, reduce = s["wires"][0]

    def units(slice_, *, back):
        rows = [
            [f[u], gather[u], 0.0] if not back else [b[u], regather[u], reduce[u]] for u in slice_
        ]
        if s["prefetch"] != _kernels.WITH_STEP:
            roots = [i for i, u in enumerate(slice_) if u >= 2]
            moved = [sum(rows[i][1] for i in roots), sum(rows[i][2] for i in roots)]
            for i in roots:
                rows[i][1:] = [0.0, 0.0]
            rows[0][1] += 0.0 if back else moved[0]
            rows[0][2] += moved[1]
        return rows[::-1] if back else rows

    slices, pp, vpp = s["slices"], s["pp"], s["vpp"]
    ends = naive_search.device_ends(
        s["kind"],
        pp,
        vpp,
        s["m"],
        s["send"],
        s["blocking"],
        [units(slice_, back=False) for slice_ in slices],
        [units(slice_, back=True) for slice_ in slices],
        s["when"],
        s["prefetch"],
        s["slowdown"],
    )
    mine = [[u for c in range(vpp) for u in slices[c * pp + d]] for d in range(pp)]
    joined = max(
        ends[d] + s["after"][0] * sum(reduce[u] for u in mine[d]) + 0.75 * (d in (0, pp - 1))
        for d in range(pp)
    )
    return (
        joined
        + 0.125
        + max(0.5 * d + s["after"][1] * sum(gather[u] for u in mine[d]) for d in range(pp))
    )


@given(steps())
@settings(max_examples=150, deadline=None)
def test_kernel_plays_as_its_twin(step):
    assert by_kernel(step) == pytest.approx(by_walking(step), rel=1e-9)


@pytest.mark.parametrize("kind", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize("slow", [0, 2, 3])
def test_long_steps_are_extrapolated_exactly(kind, slow):
    vpp = 2 if kind == "interleaved" else 1
    slices = [[1] if v == slow else [0] for v in range(4 * vpp)]
    step = {
        "kind": kind,
        "pp": 4,
        "vpp": vpp,
        "m": 400,
        "slices": slices,
        "seconds": np.array([[[1.0, 1.7, 0.0], [2.0, 3.1, 0.0]]]),
        "wires": np.ones((1, 5, 3)) * 0.3,
        "prefetch": _kernels.WITH_STEP,
        "when": (1, 1),
        "blocking": True,
        "send": 9.0,
        "slowdown": 0.0,
        "after": (False, False),
    }
    step["wires"][0, _kernels.REGATHER] = 0.0
    assert by_kernel(step) == pytest.approx(by_walking(step), rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 9)), min_size=1))
def test_distinct_rows_are_found_where_they_come_first(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    first, inverse = distinct_rows(columns)
    assert {rows[i] for i in first} == set(rows)
    assert len(first) == len(set(rows))
    assert all(rows.index(rows[i]) == i for i in first)
    assert [rows[first[i]] for i in inverse] == rows


def test_columns_too_wide_for_one_number_are_told_apart():
    wide = np.array([0, 2**40, 2**40, 0, 5])
    first, inverse = distinct_rows([wide, wide[::-1].copy(), wide])
    assert len(first) == 5 - (inverse[1] == inverse[2])
    assert inverse[0] != inverse[3]


def test_a_shelf_makes_each_thing_once():
    made = []
    shelf = Shelf()

    def make(row):
        made.append(row)
        return row

    a, b = np.array([1, 1, 2, 1]), np.array([0, 0, 0, 3])
    assert shelf.places([a, b], make).tolist() == [0, 0, 2, 1]
    assert shelf.places([a[2:], b[2:]], make).tolist() == [2, 1]
    assert made == [0, 3, 2]
