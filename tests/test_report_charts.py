"""Charts and the facts behind them: what is drawn is what was simulated, and each has its table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from plans import make_plan
from ridgeline.report.charts import Axis, Bar, Dot, Line, Swing, bars, curves, log_axis, scatter
from ridgeline.report.charts import tornado as tornado_chart
from ridgeline.report.lanes import MIXED, Block, Kind, lanes, merged
from ridgeline.report.records import Chart, Table, charts_of
from ridgeline.report.step_facts import COMMUNICATION, step_facts
from ridgeline.report.train import (
    TrainingFacts,
    memory_chart,
    train_sections,
    training_facts,
    where,
)
from ridgeline.report.variations import scaling, sensitivity
from ridgeline.simulator import read_plan, simulate_training

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def pipeline() -> TrainingFacts:
    plan = read_plan(EXAMPLES / "llama3_405b_16k_h100.toml")
    return training_facts(plan, simulate_training(plan))


def _texts(chart: Chart) -> set[str]:
    return {cell for row in chart.table.rows for cell in row}


def test_every_chart_has_a_table_with_rows_and_words(pipeline: TrainingFacts) -> None:
    charts = charts_of(train_sections(pipeline))
    assert {"time", "memory", "money", "timeline", "roofline", "scaling", "tornado"} <= {
        chart.key for chart in charts
    }
    for chart in charts:
        assert chart.table.rows, chart.key
        assert len(chart.summary) > 20, chart.key
        assert all(len(row) == len(chart.table.columns) for row in chart.table.rows), chart.key


def test_plotly_accepts_every_figure(pipeline: TrainingFacts) -> None:
    plotly = pytest.importorskip("plotly.graph_objects")
    for chart in charts_of(train_sections(pipeline)):
        plotly.Figure(chart.figure)  # refuses unknown names and values


def test_stages_of_the_timeline_are_idle_as_much_as_the_result_says() -> None:
    plan = make_plan("llama2-7b", "1x8xh100-sxm", pp=4, micro_batches=6)
    step, result = step_facts(plan), simulate_training(plan)
    assert step.stages == (0, 1, 2, 3)
    busy = sum(b.end_s - b.start_s for b in step.blocks if b.kind != COMMUNICATION)
    idle_s = step.span_s - busy / len(step.stages)
    share = result.bubble_fraction + result.exposed_communication_fraction
    assert share > 0.1
    assert idle_s == pytest.approx(share * result.step_time_s, rel=1e-6)


def test_blocks_of_a_lane_never_overlap(pipeline: TrainingFacts) -> None:
    computing = [b for b in pipeline.step.blocks if b.kind != COMMUNICATION]
    computing.sort(key=lambda b: (b.lane, b.start_s))
    for before, after in pairwise(computing):
        if before.lane == after.lane:
            assert after.start_s >= before.end_s - 1e-9


def test_no_operator_is_above_its_roof(pipeline: TrainingFacts) -> None:
    assert pipeline.step.operators
    for one in pipeline.step.operators:
        roof = min(one.peak, one.intensity * pipeline.step.memory_bytes_per_s)
        assert one.flops_per_s <= roof * (1.0 + 1e-9), one


def test_money_and_memory_add_up(pipeline: TrainingFacts) -> None:
    charts = {chart.key: chart for chart in charts_of([where(pipeline)])}
    shares = [x for trace in charts["money"].figure["data"] for x in trace["x"]]
    assert sum(shares) == pytest.approx(1.0, abs=0.01)
    gib = [x for trace in memory_chart(pipeline.result).figure["data"] for x in trace["x"]]
    assert sum(gib) == pytest.approx(pipeline.result.memory_limit / 2**30, rel=0.01)


def test_scaling_passes_through_the_plan_itself() -> None:
    plan = read_plan(EXAMPLES / "llama3_8b_8xh100.toml")
    base = simulate_training(plan)
    rows = scaling(plan)
    own = [row for row in rows if row.accelerators == plan.cluster.count]
    assert [row.result.step_time_s for row in own] == [base.step_time_s]
    assert [row.accelerators for row in rows] == sorted({row.accelerators for row in rows})
    assert all(row.result.accelerators == row.accelerators for row in rows)


def test_faster_is_never_longer_and_dearer_never_cheaper() -> None:
    plan = read_plan(EXAMPLES / "llama3_8b_8xh100.toml")
    base = simulate_training(plan)
    swings = {one.name: one for one in sensitivity(plan, base, lambda result: result.cost_usd)}
    assert swings["speed of kernels"].low >= 0.0 >= swings["speed of kernels"].high
    assert swings["price"].low == pytest.approx(-0.1)
    assert swings["price"].high == pytest.approx(0.1)
    assert all(one.source for one in swings.values())


def test_timeline_of_a_deep_pipeline_draws_some_stages_and_says_so() -> None:
    plan = read_plan(EXAMPLES / "mtnlg_530b_3360_a100.toml")
    step = step_facts(plan)
    assert step.all_stages == 35
    assert step.stages[0] == 0
    assert step.stages[-1] == 34
    assert len(step.stages) < 35


def _block(start: float, end: float, kind: str = "a", lane: float = 0.0) -> Block:
    return Block(lane=lane, start_s=start, end_s=end, kind=kind, text=f"{kind} {start:g}")


def test_merging_keeps_long_blocks_and_time_and_names_mixtures() -> None:
    fine = [_block(i * 1e-3, i * 1e-3 + 9e-4, "ab"[i % 2]) for i in range(1000)]
    long = [_block(2.0, 5.0, "c"), _block(6.0, 9.0, "d")]
    drawn = merged([*fine, *long], 10.0, most=100)
    assert len(drawn) <= 100
    assert [b for b in drawn if b.kind in ("c", "d")] == long
    assert {b.kind for b in drawn} <= {"a", "b", "c", "d", MIXED}
    assert MIXED in {b.kind for b in drawn}
    assert min(b.start_s for b in drawn) == 0.0
    assert max(b.end_s for b in drawn if b.kind == MIXED) <= 1.0
    same = [_block(i * 1e-3, i * 1e-3 + 9e-4) for i in range(1000)]
    assert {b.kind for b in merged(same, 10.0, most=10)} == {"a"}


def test_few_blocks_are_drawn_as_they_are() -> None:
    blocks = [_block(0.0, 1.0), _block(1.0, 2.0), _block(0.0, 2.0, lane=1.0)]
    assert merged(blocks, 2.0) == blocks
    table = Table(caption="t", columns=("a",), rows=(("1",),))
    chart = lanes(
        "k", "t", "s", blocks, [Kind(name="a", colour="#000")],
        span_s=2.0, names=("one", "two"), table=table,
    )  # fmt: skip
    assert chart.note == ""
    kinds = [trace["name"] for trace in chart.figure["data"]]
    assert kinds == ["idle", "a"]


def test_ticks_of_a_log_axis_lie_inside_it() -> None:
    for values in ([1.0], [3.0, 7.0], [1e-6, 1e6], [0.0, 5.0]):
        axis = log_axis("x", values)
        assert axis.low is not None
        assert axis.high is not None
        assert axis.low < min(v for v in values if v > 0)
        assert axis.high > max(values)
        assert axis.ticks
        assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
        assert len(axis.ticks) <= 8


def test_texts_of_users_are_no_markup_in_a_plot() -> None:
    bad = "<b onclick=x>&"
    bar = bars("b", "t", "s", [Bar(label=bad, value=1.0, text=bad)])
    dot = scatter("d", "t", "s", [Dot(x=1.0, y=1.0, label=bad, text=bad)], Axis(title="x"),
                  Axis(title="y"))  # fmt: skip
    line = curves("l", "t", "s", [Line(name="n", xs=(1.0,), ys=(1.0,), texts=(bad,))],
                  Axis(title="x"), Axis(title="y"))  # fmt: skip
    swing = tornado_chart("w", "t", "s", [Swing(name=bad, low=0.1, high=-0.1)], step="10%")
    for chart in (bar, dot, line, swing):
        assert "onclick=x>" not in str(chart.figure)
        assert any(bad in text for text in _texts(chart))


def test_what_is_not_finite_is_a_gap() -> None:
    line = Line(name="n", xs=(1.0, 2.0), ys=(float("nan"), 2.0), texts=("a", "b"))
    chart = curves("l", "t", "s", [line], Axis(title="x"), Axis(title="y"))
    assert chart.figure["data"][0]["y"] == [None, 2.0]
