"""``ridgeline infer`` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from ridgeline.cli import run
from ridgeline.simulator.plan_values import parse_slo
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.ranges import service_range

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BASE = ["infer", "--model", "llama3-8b", "--cluster", "1xh100-sxm"]
CLOSED = [*BASE, "--concurrency", "4", "--input-len", "200", "--output-len", "20"]


def answer(capsys, *arguments):
    code = run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_closed_loop_as_json(capsys):
    code, out, err = answer(capsys, *CLOSED, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["schema"] == "ridgeline.infer"
    assert record["requests"] == record["finished"] == 40
    assert record["ttft_s"]["p50"] <= record["ttft_s"]["p99"]
    lasts = record["latency_s"]["mean"] - record["ttft_s"]["mean"]
    assert lasts == pytest.approx(19 * record["tpot_s"]["mean"])
    # tokens of a closed loop: concurrency / latency requests a second, less the ends of the run
    rate = 4 / record["latency_s"]["mean"]
    assert record["requests_per_s"] == pytest.approx(rate, rel=0.05)
    assert record["output_tokens_per_s"] == pytest.approx(20 * record["requests_per_s"])
    bill = record["bill"]
    spent = (
        40 * 200 * bill["usd_per_million_input_tokens"]
        + 40 * 20 * bill["usd_per_million_output_tokens"]
    )
    assert spent / 1e6 == pytest.approx(bill["usd"])


def test_text_reads_in_80_columns(capsys):
    code, out, _ = answer(capsys, *CLOSED, "--slo", "ttft=5s,tpot=1s")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "100.0% of requests within the SLO (TTFT 5.00 s, TPOT 1.00 s)." in out
    assert "TTFT" in out


def test_ranges_are_those_of_what_was_measured(capsys):
    record = json.loads(answer(capsys, *CLOSED, "--json")[1])
    likely = service_range(load_engine("vllm").name, "h100-sxm")
    assert record["evidence"] == likely.grade == "measured"
    for name, factors in (("ttft", likely.ttft), ("tpot", likely.tpot)):
        ends = [record[f"{name}_{end}_s"] for end in ("low", "high")]
        assert ends == pytest.approx([factor * record[f"{name}_s"]["p50"] for factor in factors])
        assert ends[0] < record[f"{name}_s"]["p50"] < ends[1]
    slow, fast = record["output_tokens_per_s_low"], record["output_tokens_per_s_high"]
    assert slow < record["output_tokens_per_s"] < fast
    # dollars a token are dollars a second over tokens a second
    usd = record["bill"]["usd_per_million_tokens"]
    assert record["usd_per_million_tokens_high"] * slow == pytest.approx(
        usd * record["output_tokens_per_s"]
    )
    opened = [*BASE, "--request-rate", "5", "--requests", "20", "--json"]
    record = json.loads(answer(capsys, *opened)[1])
    assert record["output_tokens_per_s_low"] is None
    assert record["tpot_low_s"] < record["tpot_high_s"]


def test_what_was_not_measured_is_said(capsys):
    _, out, _ = answer(capsys, *CLOSED, "--cluster", "1xl4", "--precision", "fp8")
    words = " ".join(out.split())
    assert "measured: services of this engine, on other accelerators" in words


def test_csv_has_one_row(capsys):
    code, out, _ = answer(capsys, *CLOSED, "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert float(row["ttft_s.p99"]) > 0
    assert row["model"] == "llama3-8b"


def test_a_trace_file_and_outputs(capsys, tmp_path):
    trace = tmp_path / "azure.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.98,4808,10\n2023-11-16 18:17:04.03,3180,8\n"
    )
    timeline, requests = tmp_path / "timeline.json", tmp_path / "requests.csv"
    outputs = ["--trace-out", str(timeline), "--requests-out", str(requests)]
    code, _, err = answer(capsys, *BASE, "--trace", str(trace), *outputs)
    assert code == 0
    assert "ui.perfetto.dev" in err
    events = json.loads(timeline.read_text())["traceEvents"]
    assert sum(event["name"] in ("prefill", "mixed", "decode") for event in events) >= 10
    rows = list(csv.DictReader(io.StringIO(requests.read_text())))
    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert [row["input_tokens"] for row in rows] == ["4808", "3180"]


def test_the_same_seed_gives_the_same_bytes(capsys):
    arguments = [*BASE, "--request-rate", "5", "--requests", "50", "--lengths", "log-normal"]
    first = answer(capsys, *arguments, "--json")[1]
    assert answer(capsys, *arguments, "--json")[1] == first
    assert answer(capsys, *arguments, "--json", "--seed", "1")[1] != first


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["infer"], "no plan"),
        (BASE, "give exactly one of batch, concurrency, request_rate, rates and trace"),
        ([*CLOSED, "--batch", "3"], "give exactly one of"),
        ([*CLOSED, "--engine", "vlm"], "--engine 'vlm': unknown; did you mean 'vllm'?"),
        ([*CLOSED, "--slo", "ttft=5"], "--slo 'ttft=5': must be such as"),
        ([*CLOSED, "--tp", "2"], "a replica takes tp x pp x dp = 2 accelerators"),
        ([*CLOSED, "--replicas", "2"], "has room for 1"),
        ([*CLOSED, "--warm-up", "40"], "must be from 0 to less than the 40 requests"),
        ([*CLOSED, "--precision", "bf61"], "did you mean 'bf16'?"),
        ([*BASE, "--trace", "nowhere.csv"], "nowhere.csv: no such file"),
        ([*BASE, "--request-rate", "nan"], "must be finite"),
        ([*CLOSED, "--json", "--csv"], "choose one"),
        ([*BASE, "--request-rate", "inf"], "must be finite"),
        ([*BASE, "--request-rate", "-3"], "must be at least 0"),
        ([*BASE, "--concurrency", "1000000000"], "must be at most 10,000,000"),
        ([*BASE, "--concurrency", "10000000"], "must be from 1 to 10,000,000"),
        ([*BASE, "--batch", "100000000"], "must be at most 10,000,000"),
        ([*BASE, "--request-rate", "5", "--requests", "100000000"], "must be at most 10,000,000"),
        ([*CLOSED, "--requests", "-1"], "must be at least 0"),
        ([*CLOSED, "--input-len", "0"], "must be at least 1"),
        ([*CLOSED, "--output-len", "-1"], "must be at least 0"),
        ([*CLOSED, "--memory-fraction", "nan"], "must be finite"),
        ([*CLOSED, "--draft-tokens", "65"], "must be at most 64"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, complaint):
    code, out, err = answer(capsys, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no requests; a trace needs at least one"),
        (AZURE, "no requests; a trace needs at least one"),
        (AZURE + "5,10,10\n3,10,10\n", "line 3: TIMESTAMP comes before that of the request above"),
        (AZURE + "nan,10,10\n", "line 2: TIMESTAMP is nan; must be finite"),
        (AZURE + "1,10,-1\n", "line 2: GeneratedTokens = -1: must be from 0"),
        (AZURE + "1,0,10\n", "line 2: ContextTokens = 0: must be from 1"),
        (AZURE + "1,nan,10\n", "line 2: ContextTokens is 'nan'; must be whole"),
        (AZURE + "1,10,1e300\n", "line 2: GeneratedTokens is '1e300'; must be whole"),
    ],
)
def test_a_trace_that_cannot_be_is_refused_in_one_line(capsys, tmp_path, text, complaint):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    code, out, err = answer(capsys, *BASE, "--trace", str(path))
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1


def test_prompts_that_are_only_scored(capsys):
    code, out, _ = answer(capsys, *CLOSED, "--output-len", "0", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["finished"] == 40
    assert record["output_tokens_per_s"] == 0.0
    assert record["tpot_s"]["mean"] is None
    assert record["latency_s"]["mean"] > 0
    code, out, _ = answer(capsys, *CLOSED, "--output-len", "0")
    assert (code, "nan" in out) == (0, False)


def test_overload_is_answered_and_said(capsys):
    flood = [*BASE, "--request-rate", "100000", "--requests", "2000", "--json"]
    code, out, _ = answer(capsys, *flood)
    record = json.loads(out)
    assert code == 0
    assert record["finished"] == 2000
    assert record["queue_s"]["p50"] > record["tpot_s"]["p50"]
    assert any("overload" in line for line in record["warnings"])
    code, out, _ = answer(capsys, *flood, "--until", "1")
    record = json.loads(out)
    ended = record["finished"] + record["rejected"] + record["running"] + record["not_arrived"]
    assert ended == 2000
    assert record["running"] > 0


def test_answers_longer_than_the_cache_are_refused_one_by_one(capsys):
    code, out, _ = answer(capsys, *CLOSED, "--output-len", "90000000", "--json")
    record = json.loads(out)
    assert code == 1
    assert record["rejected"] == record["requests"] == 40


def test_no_feasible_answer(capsys):
    code, _, err = answer(capsys, *CLOSED[:2], "llama3-70b", *CLOSED[3:])
    assert code == 1
    assert "GiB" in err
    long = [*BASE, "--batch", "1", "--input-len", "90000000"]
    code, out, _ = answer(capsys, *long)
    assert code == 1
    assert "longer than the KV cache" in " ".join(out.split())


def test_limits():
    assert parse_slo("ttft=500ms, tpot=50ms,latency=30s") == {
        "ttft": 0.5,
        "tpot": pytest.approx(0.05),
        "latency": 30.0,
    }
    assert parse_slo("") == {}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("serve_*.toml")), ids=lambda p: p.stem)
def test_examples_are_answered(capsys, example):
    code, out, err = answer(capsys, "infer", str(example), "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["finished"] > 0
    assert math.isfinite(record["ttft_s"]["p99"])
