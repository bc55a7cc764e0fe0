"""Schedules: every pass once and in a legal order, the published memory peaks, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.simulator.schedule import (
    BACKWARD,
    FIRST,
    FORWARD,
    KINDS,
    LAST,
    PAIRED,
    WEIGHT,
    WHOLE,
    make_schedule,
    peak_in_flight,
)


@st.composite
def schedules(draw):
    kind = draw(st.sampled_from(KINDS))
    pp = draw(st.integers(1, 6))
    vpp = {"interleaved": draw(st.integers(1, 4)), "zb-v": 2}.get(kind, 1)
    micro_batches = draw(st.integers(1, 12))
    if kind == "interleaved" and vpp > 1:
        micro_batches *= pp
    if kind == "dualpipe":
        pp *= 2
        micro_batches = 2 * pp + 2 * draw(st.integers(0, 6))
    return make_schedule(kind, pp, vpp, micro_batches)


def passes_of(schedule, device):
    low, high = schedule.device_ptr[device : device + 2]
    arrays = (schedule.pass_kind, schedule.vstage, schedule.micro_batch, schedule.variant)
    return list(zip(*(a[low:high].tolist() for a in arrays), strict=True))


@settings(max_examples=80, deadline=None)
@given(schedules())
def test_every_pass_once_on_its_device_and_in_order(schedule):
    seen = []
    for device in range(schedule.devices):
        done = set()
        for kind, v, m, variant in passes_of(schedule, device):
            assert schedule.vstage_device[v] == device
            assert (kind, v, m) not in done
            done.add((kind, v, m))
            if kind == BACKWARD:
                assert (FORWARD, v, m) in done
                if schedule.split_backward and variant & WHOLE:
                    done.add((WEIGHT, v, m))
            if kind == WEIGHT:
                assert (BACKWARD, v, m) in done
        seen.extend(done)
    # in DualPipe one half of the micro-batches takes each direction
    copies = schedule.vstages // schedule.parts
    kinds = 3 if schedule.split_backward else 2
    assert len(seen) == kinds * schedule.parts * schedule.micro_batches
    for part in range(schedule.parts):
        homes = np.flatnonzero(schedule.vstage_part == part)
        assert len(homes) == copies
        for kind in range(kinds):
            found = sorted(m for k, v, m in seen if k == kind and v in homes)
            assert found == list(range(schedule.micro_batches))


@settings(max_examples=40, deadline=None)
@given(schedules())
def test_variants_mark_the_first_and_the_last(schedule):
    for v in range(schedule.vstages):
        mine = [p for p in passes_of(schedule, schedule.vstage_device[v]) if p[1] == v]
        for kind in (FORWARD, BACKWARD, WEIGHT):
            flags = [variant & FIRST for k, _, _, variant in mine if k == kind]
            assert flags == [FIRST, *[0] * (len(flags) - 1)][: len(flags)]
        yields = [
            variant
            for k, _, _, variant in mine
            if k == WEIGHT or (k == BACKWARD and (not schedule.split_backward or variant & WHOLE))
        ]
        # the gradients of a vstage are complete exactly once
        assert [bool(x & LAST) for x in yields] == [False] * (len(yields) - 1) + [True]
        forwards = [variant for k, _, _, variant in mine if k == FORWARD]
        assert [bool(x & LAST) for x in forwards] == [False] * (len(forwards) - 1) + [True]


@settings(max_examples=40, deadline=None)
@given(schedules())
def test_pairs_are_a_forward_and_a_backward_side_by_side(schedule):
    for device in range(schedule.devices):
        order = passes_of(schedule, device)
        at = 0
        while at < len(order):
            if order[at][3] & PAIRED:
                assert [order[at][0], order[at + 1][0]] == [FORWARD, BACKWARD]
                assert order[at + 1][3] & PAIRED
                assert order[at][1] != order[at + 1][1]
                at += 1
            at += 1


def test_links_follow_the_model():
    schedule = make_schedule("interleaved", 2, 2, 4)
    assert schedule.vstage_device.tolist() == [0, 1, 0, 1]
    assert schedule.vstage_prev.tolist() == [-1, 0, 1, 2]
    assert schedule.vstage_next.tolist() == [1, 2, 3, -1]
    dual = make_schedule("dualpipe", 4, 1, 8)
    assert dual.vstage_device.tolist() == [0, 1, 2, 3, 3, 2, 1, 0]
    assert dual.vstage_part.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert dual.vstage_prev.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6]
    assert dual.vstage_next.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


@pytest.mark.parametrize(("p", "m"), [(1, 3), (4, 2), (4, 4), (8, 24)])
def test_peak_of_gpipe_and_1f1b(p, m):
    """GPipe holds all m; 1F1B at most p - i on stage i (Narayanan et al. 2021, section 2.2.1)."""
    one = np.ones(p)
    assert peak_in_flight(make_schedule("gpipe", p, 1, m), one).tolist() == [m] * p
    expected = [min(p - i, m) for i in range(p)]
    assert peak_in_flight(make_schedule("1f1b", p, 1, m), one).tolist() == expected


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 4), (8, 2, 32)])
def test_peak_of_interleaved(p, v, m):
    """The warm-up of arXiv:2104.04473 and one more: 2 (p - i - 1) + (v - 1) p + 1 chunks.

    On the first stage that is p v (1 + (p - 1)/(p v)), Korthikanti et al. 2022, section 4.2.3.
    """
    peak = peak_in_flight(make_schedule("interleaved", p, v, m), np.ones(p * v))
    expected = [min(m * v, 2 * (p - i - 1) + (v - 1) * p + 1) for i in range(p)]
    assert peak.tolist() == expected
    if m > p:
        assert peak[0] == pytest.approx(p * v * (1 + (p - 1) / (p * v)))


@pytest.mark.parametrize(("p", "m"), [(1, 3), (4, 2), (4, 8), (8, 24)])
@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_peak_of_zb_h1_is_that_of_1f1b(p, m, kept):
    """ZB-H1 stays within 1F1B's peak over the stages (Qi et al. 2023, section 2.3)."""
    held, weight = np.ones(p), np.full(p, kept)
    peak = peak_in_flight(make_schedule("zb-h1", p, 1, m), held, weight)
    reference = peak_in_flight(make_schedule("1f1b", p, 1, m), held)
    assert peak.max() == reference.max()
    if not kept:
        assert peak.tolist() == reference.tolist()


@pytest.mark.parametrize(("p", "m"), [(2, 4), (8, 20), (16, 64)])
def test_peak_of_dualpipe(p, m):
    """PP + 1 activations of one part: DeepSeek-AI 2024, arXiv:2412.19437, table 2."""
    schedule = make_schedule("dualpipe", p, 1, m)
    assert peak_in_flight(schedule, np.ones(2 * p)).tolist() == [p + 1] * p


def test_same_input_same_bytes():
    one, two = (make_schedule("dualpipe", 8, 1, 20) for _ in range(2))
    assert one.pass_kind.tobytes() == two.pass_kind.tobytes()
    assert one.variant.tobytes() == two.variant.tobytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("1f1c", 4, 1, 8), "did you mean '1f1b'"),
        (("1f1b", 0, 1, 8), "pp = 0: must be at least 1"),
        (("1f1b", 4, 1, 0), "micro-batches = 0: must be at least 1"),
        (("1f1b", 4, 2, 8), "vpp = 2: only schedule 'interleaved'"),
        (("interleaved", 4, 2, 10), "multiple of pp = 4; nearest: 8 or 12"),
        (("interleaved", 4, 2, 3), "multiple of pp = 4; nearest: 4"),
        (("dualpipe", 5, 1, 20), "even pp; nearest: 4 or 6"),
        (("dualpipe", 8, 1, 12), "2 \\* pp = 16; nearest: 16"),
        (("dualpipe", 8, 1, 17), "nearest: 18"),
        (("1f1b", 64, 1, 10**9), "too many to lay out"),
    ],
)
def test_illegal_combinations_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        make_schedule(*arguments)
