"""Arrival processes, lengths, sessions and trace files."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.workloads.traffic.build import (
    closed_loop,
    diurnal_arrivals,
    gamma_arrivals,
    make_traffic,
    open_loop,
)
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.sessions import Sessions, session_traffic
from ridgeline.workloads.traffic.traces import read_trace

# Columns as published: Azure LLM inference trace 2023, Mooncake (arXiv 2407.00079).
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-17 00:00:00.0000000,110,27
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 2353]},
    {"timestamp": 3500, "input_length": 1030, "output_length": 1, "hash_ids": [46, 47, 2366]},
]


def written(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_poisson_gaps_are_exponential():
    gaps = np.diff(gamma_arrivals(20.0, 200_000, seed=1))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.01)
    assert gaps.std() == pytest.approx(1 / 20, rel=0.01)
    # P(gap > t) = exp(-rate t)
    assert np.mean(gaps > 0.1) == pytest.approx(math.exp(-2.0), rel=0.03)


@pytest.mark.parametrize("cv", [0.0, 0.3, 2.0])
def test_gamma_gaps_have_the_variation_asked_for(cv):
    gaps = np.diff(gamma_arrivals(5.0, 300_000, cv=cv, seed=2))
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


def test_a_diurnal_curve_is_followed():
    rates = [1.0, 3.0, 9.0, 3.0]
    times = diurnal_arrivals(rates, 4 * 86400.0, seed=3)
    hours = (times % 86400.0) / 3600.0
    # linear between 00:00, 06:00, 12:00 and 18:00: the mean over [9, 15) is (6 + 9) / 2
    noon = np.sum((hours >= 9) & (hours < 15)) / (4 * 6 * 3600)
    night = np.sum((hours < 3) | (hours >= 21)) / (4 * 6 * 3600)
    assert noon == pytest.approx(7.5, rel=0.02)
    assert night == pytest.approx(1.5, rel=0.04)
    assert times.size == pytest.approx(4.0 * 4 * 86400, rel=0.01)


def test_lengths():
    rng = np.random.default_rng(0)
    drawn = Lengths(mean=1024, kind="uniform", low=0.8).draw(100_000, rng)
    assert (drawn.min(), drawn.max()) == (819, 1024)
    assert drawn.mean() == pytest.approx((819 + 1024) / 2, rel=1e-3)
    drawn = Lengths(mean=500, kind="log-normal", cv=1.5).draw(400_000, rng)
    assert drawn.mean() == pytest.approx(500, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(1.5, rel=0.05)
    assert np.median(drawn) == pytest.approx(500 / math.sqrt(1 + 1.5**2), rel=0.02)
    assert Lengths(mean=500, kind="log-normal", most=600).draw(1000, rng).max() == 600


@given(st.integers(0, 2**32), st.floats(0.1, 100.0), st.floats(0.0, 4.0))
def test_same_seed_same_bytes(seed, rate, cv):
    made = [
        open_loop(
            gamma_arrivals(rate, 50, cv=cv, seed=seed),
            Lengths(mean=100, kind="log-normal"),
            Lengths(mean=20, kind="uniform", low=0.5),
            seed=seed,
        )
        for _ in range(2)
    ]
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        assert getattr(made[0], name).tobytes() == getattr(made[1], name).tobytes()


def test_closed_loop():
    traffic = closed_loop(8, 80, Lengths(mean=64), Lengths(mean=16))
    assert (len(traffic), traffic.concurrency) == (80, 8)
    assert not traffic.arrival_s.any()


def test_sessions_share_what_was_said():
    sessions = Sessions(
        turns=Lengths(mean=3),
        system_tokens=64,
        groups=2,
        said=Lengths(mean=50, kind="log-normal"),
        answers=Lengths(mean=30, kind="log-normal"),
        pause_s=5.0,
    )
    traffic = session_traffic(np.arange(40.0), sessions, seed=7)
    assert len(traffic) == 120
    assert np.sum(traffic.after < 0) == 40
    ids = [
        traffic.block_ids[traffic.block_start[i] : traffic.block_start[i + 1]].tolist()
        for i in range(120)
    ]
    for turn in np.flatnonzero(traffic.after >= 0):
        before = traffic.after[turn]
        spoken = traffic.input_tokens[before] + traffic.output_tokens[before]
        assert traffic.input_tokens[turn] > spoken
        assert ids[turn][: len(ids[before])] == ids[before]
    assert len({tuple(one[:4]) for one in ids}) == 2
    # beyond the system prompt nothing is shared between conversations
    opening = np.flatnonzero(traffic.after < 0)
    assert len({one for i in opening for one in ids[i][4:]}) == sum(
        len(ids[i]) - 4 for i in opening
    )


def test_sessions_end_before_they_grow_too_long():
    sessions = Sessions(turns=Lengths(mean=10), said=Lengths(mean=100), most_tokens=700)
    traffic = session_traffic([0.0, 1.0], sessions)
    assert (traffic.input_tokens + traffic.output_tokens).max() <= 700
    assert len(traffic) == 4
    with pytest.raises(InputError, match="no turn fits"):
        session_traffic([0.0], Sessions(said=Lengths(mean=900), most_tokens=700))


def test_azure_columns(tmp_path):
    plain = read_trace(written(tmp_path, AZURE))
    assert plain.input_tokens.tolist() == [4808, 3180, 110]
    assert plain.output_tokens.tolist() == [10, 8, 27]
    expected = [0.0, 0.052, 5 * 3600 + 42 * 60 + 56.02004]
    np.testing.assert_allclose(plain.arrival_s, expected, atol=1e-6)
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(AZURE.encode()))
    zipped = read_trace(path)
    assert zipped.arrival_s.tobytes() == plain.arrival_s.tobytes()
    assert len(read_trace(path, limit=2)) == 2
    np.testing.assert_allclose(read_trace(path, speed=2.0).arrival_s, plain.arrival_s / 2)


def test_mooncake_lines(tmp_path):
    path = written(tmp_path, "\n".join(json.dumps(line) for line in MOONCAKE), "trace.jsonl")
    traffic = read_trace(path)
    assert traffic.arrival_s.tolist() == [0.0, 3.5]
    assert traffic.block_tokens == 512
    assert traffic.block_ids.tolist() == [46, 47, 2353, 46, 47, 2366]


def test_json_lines_with_text_or_lengths(tmp_path):
    lines = [
        {"timestamp": "2024-01-01T00:00:00Z", "input_tokens": 10, "output_tokens": 0},
        {
            "timestamp": "2024-01-01T01:00:02+01:00",
            "conversations": [
                {"from": "human", "value": "x" * 40},
                {"from": "gpt", "value": "y" * 81},
            ],
        },
    ]
    traffic = read_trace(written(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl"))
    assert traffic.arrival_s.tolist() == [0.0, 2.0]
    assert traffic.input_tokens.tolist() == [10, 10]
    assert traffic.output_tokens.tolist() == [0, 21]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        ("TIMESTAMP,Context\n", "line 1: no column ContextTokens"),
        (AZURE.replace("18:17:04.03", "18:17:01.03"), "line 3: TIMESTAMP comes before"),
        (AZURE.replace("3180", "nan"), "line 3: ContextTokens is 'nan'; must be whole"),
        (AZURE.replace("3180", "0"), "line 3: ContextTokens = 0: must be from 1"),
        (AZURE.replace(",8\n", ",-8\n"), "line 3: GeneratedTokens = -8: must be from 0"),
        (AZURE.replace("3180", "3180.5"), "line 3: ContextTokens is '3180.5'; must be whole"),
        (AZURE.replace("2023-11-16 18:17:04.0319600", "nan"), "line 3: TIMESTAMP is nan"),
        (AZURE.replace("2023-11-16 18:17:04.0319600", "noon"), "line 3: time 'noon' is neither"),
        (AZURE.replace(",3180", ""), "line 3: 2 cells, not 3"),
        ("{}\n", "line 1: no time"),
        ("{]\n", "line 1: not JSON"),
        ('{"timestamp": 1}\n', "line 1: input_tokens is missing"),
        ('{"timestamp": NaN, "input_tokens": 1, "output_tokens": 1}\n', "line 1: timestamp is nan"),
        ('{"timestamp": 1, "conversations": []}\n', "line 1: conversations must list"),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}\n',
            "line 1: hash_ids must be",
        ),
    ],
)
def test_bad_traces_are_refused_in_one_line(tmp_path, text, complaint):
    with pytest.raises(InputError, match="trace") as caught:
        read_trace(written(tmp_path, text))
    assert complaint in str(caught.value)
    assert len(caught.value.problems) == 1


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_trace(tmp_path)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00" * 10)
    with pytest.raises(InputError, match="not UTF-8"):
        read_trace(path)
    path.write_bytes(gzip.compress(AZURE.encode())[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(path)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (([], [], []), "no requests"),
        (([0.0, math.nan], [1, 1], [1, 1]), r"arrival_s\[1\] = nan"),
        (([1.0, 0.5], [1, 1], [1, 1]), r"arrival_s\[1\] = 0.5: comes before"),
        (([-1.0], [1], [1]), r"arrival_s\[0\] = -1.0: must be at least 0"),
        (([0.0], [0], [1]), r"input_tokens\[0\] = 0: must be at least 1"),
        (([0.0], [1], [-1]), r"output_tokens\[0\] = -1: must be at least 0"),
        (([0.0], [1.5], [1]), r"input_tokens\[0\] = 1.5: must be whole"),
        (([0.0], [1, 2], [1]), "has shape"),
    ],
)
def test_bad_columns_are_refused(columns, complaint):
    with pytest.raises(InputError, match=complaint):
        make_traffic(*columns)


@pytest.mark.parametrize(
    "made",
    [
        lambda: gamma_arrivals(0.0, 5),
        lambda: gamma_arrivals(math.nan, 5),
        lambda: gamma_arrivals(1.0, 0),
        lambda: gamma_arrivals(1.0, 5, cv=-1.0),
        lambda: diurnal_arrivals([], 10.0),
        lambda: diurnal_arrivals([0.0], 10.0),
        lambda: diurnal_arrivals([1.0, -1.0], 10.0),
        lambda: diurnal_arrivals([1.0], math.inf),
        lambda: closed_loop(0, 5, Lengths(mean=1), Lengths(mean=1)),
        lambda: closed_loop(1, 0, Lengths(mean=1), Lengths(mean=1)),
        lambda: closed_loop(1, 5, Lengths(mean=math.nan), Lengths(mean=1)),
        lambda: closed_loop(1, 5, Lengths(mean=5, kind="normal"), Lengths(mean=1)),
    ],
)
def test_what_cannot_be_is_refused(made):
    with pytest.raises(InputError):
        made()
