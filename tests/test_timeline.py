"""The trace that viewers open, and the operator table for a person."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from plans import make_plan
from ridgeline.simulator import timeline
from ridgeline.simulator.explanation import explain
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.simulator.tasks import STREAMS

ROOT = Path(__file__).resolve().parent.parent
PLANS = {
    "pipeline": {
        "cluster": "2x8xh100-sxm",
        "pp": 4,
        "tp": 2,
        "sp": True,
        "zero_stage": 1,
        "micro_batches": 6,
    },
    "pairs": {
        "model": "mixtral-8x7b",
        "cluster": "4x8xh100-sxm",
        "ep": 8,
        "pp": 4,
        "schedule": "dualpipe",
        "micro_batches": 8,
    },
    "fsdp": {"zero_stage": 3, "stack": "fsdp-composer"},
    "offload": {"offload": ("activations",), "pp": 2},
}
TICK_US = 0.002
"""Times are rounded to a thousandth of a microsecond."""


@pytest.fixture(scope="module", params=[(n, g) for n in PLANS for g in ("layer", "operator")])
def played(request):
    name, granularity = request.param
    plan = make_plan(**PLANS[name])
    return plan, granularity, timeline.trace(plan, granularity)


def of_kind(trace, kind):
    return [event for event in trace["traceEvents"] if event["ph"] == kind]


def test_a_trace_is_json_and_says_what_it_shows(played):
    plan, granularity, trace = played
    again = json.loads(json.dumps(trace, allow_nan=False))
    assert again["otherData"] == {
        "model": plan.model.name,
        "cluster": plan.cluster.name,
        "granularity": granularity,
    }
    for event in of_kind(again, "X"):
        assert set(event) >= {"name", "pid", "tid", "ts", "dur"}
        assert event["name"]


def test_stages_are_processes_and_streams_are_threads(played):
    plan, _, trace = played
    names = {
        e["pid"]: e["args"]["name"] for e in of_kind(trace, "M") if e["name"] == "process_name"
    }
    assert names == {stage: f"stage {stage}" for stage in range(plan.parallel.pp)}
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in of_kind(trace, "M")
        if e["name"] == "thread_name"
    }
    assert threads == {(s, i): n for s in names for i, n in enumerate(STREAMS)}
    assert {(e["pid"], e["tid"]) for e in of_kind(trace, "X")} <= set(threads)
    assert {e["pid"] for e in of_kind(trace, "X")} == set(names)


def test_events_lie_inside_the_step_and_never_overlap_on_a_thread(played):
    plan, granularity, trace = played
    step = simulate_step(plan, load_stack(plan.stack), granularity)
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in of_kind(trace, "X"):
        end = event["ts"] + event["dur"]
        threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], end))
        assert event["ts"] >= 0
        assert end <= step.timeline.makespan * 1e6 + TICK_US
    for spans in threads.values():
        for (_, end), (start, _) in pairwise(sorted(spans)):
            assert start >= end - TICK_US
    last = max(end for spans in threads.values() for _, end in spans)
    assert last == pytest.approx(step.timeline.makespan * 1e6)


def test_every_micro_batch_runs_on_every_stage(played):
    plan, granularity, trace = played
    if granularity != "layer":
        return
    passes = [e for e in of_kind(trace, "X") if e["name"].startswith(("forward", "backward"))]
    for stage in range(plan.parallel.pp):
        seen = {e["args"]["micro_batch"] for e in passes if e["pid"] == stage}
        assert seen == set(range(plan.micro_batches))


def test_a_trace_names_operators_gathers_sends_and_the_optimizer():
    names = {
        e["name"] for e in of_kind(timeline.trace(make_plan(**PLANS["pipeline"]), "operator"), "X")
    }
    assert {"qkv", "attention", "mlp up dgrad", "qkv wgrad", "mlp gather"} <= names
    assert {"send", "optimizer", "gradient norm", "gather weights", "reduce gradients"} <= names


def test_a_long_step_is_written_stage_by_stage(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_EVENTS", 1000)
    trace = timeline.trace(make_plan(pp=4, micro_batches=8), "operator")
    assert trace["otherData"]["granularity"] == "stage"
    assert 0 < len(of_kind(trace, "X")) < 1000


# The operator table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"tp": 4, "sp": True},
        {"model": "mixtral-8x7b", "ep": 8},
        {"model": "deepseek-v3", "ep": 8, "precision": "fp8", "stack": "hai-llm"},
        {"recompute": "every-2", "cp": 2},
    ],
    ids=str,
)
def test_rows_add_up_to_what_the_step_charges(settings):
    plan = make_plan(**settings)
    step = simulate_step(plan, load_stack(plan.stack))
    records = explain(plan)
    json.dumps(records, allow_nan=False)
    parts = list(dict.fromkeys(record["part"] for record in records))
    assert len(parts) == len(step.costs.total_s)
    for index, part in enumerate(parts):
        exposed = sum(r["exposed_s"] for r in records if r["part"] == part)
        host = step.costs.host[index].sum()
        assert exposed + host == pytest.approx(sum(step.costs.total_s[index]), rel=1e-9), part
    for record in records:
        assert 0 <= record["exposed_s"] <= record["seconds"] * (1 + 1e-12)
        assert record["seconds"] > 0
        assert record["operator"]
        assert record["shape"]


def test_parts_are_layers_and_ends_in_words():
    plan = make_plan("deepseek-v3", ep=8, recompute="every-2")
    parts = {record["part"] for record in explain(plan)}
    # three dense layers come first (DeepSeek-V3, section 4.2)
    assert {"layer 0", "layer 0 (recomputed)", "layer 3", "layer 3 (recomputed)"} < parts
    assert {"embedding", "head", "prediction"} < parts


def test_a_matrix_product_shows_its_dimensions():
    rows = {(r["phase"], r["operator"]): r for r in explain(make_plan("llama2-7b", tp=2))}
    assert rows["forward", "mlp down"]["shape"] == "4096x4096x5504x1"
    assert rows["forward", "mlp reduce"]["shape"] == "33.6 MB over 2"
    assert rows["forward", "mlp down"]["dtype"] == "bf16"
    assert rows["forward", "mlp reduce"]["kind"] == "all_reduce"


def test_the_walk_through_the_code_shows_what_the_program_shows():
    walk = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    shapes = re.findall(r"`(\d[\dx]+\d|\d+ MB over \d+)`", walk)
    assert len(shapes) == 3
    shown = {
        r["shape"] for r in explain(read_plan(ROOT / "examples" / "llama3_405b_16k_h100.toml"))
    }
    assert set(shapes) <= shown


def test_the_walk_names_files_that_are_there():
    walk = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src/|simulator/|hardware/|workloads/|tests/)[\w/.-]+[\w/])`", walk)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path
