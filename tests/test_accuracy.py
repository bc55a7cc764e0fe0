"""What is said of accuracy is what the simulator does today."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from plans import make_plan
from ridgeline.hardware import load_accelerator
from ridgeline.simulator.uncertainty import (
    GRADES,
    evidence_grade,
    measured_steps,
    plan_kind,
    step_range,
)
from ridgeline.validation.accuracy import page, ranges
from ridgeline.validation.accuracy.figures import (
    Figures,
    compare,
    compared_rows,
    read_figures,
    recomputed,
    write_figures,
)
from ridgeline.validation.accuracy.fingerprint import fingerprint
from ridgeline.validation.accuracy.ordering import kendall_tau, ordering
from ridgeline.validation.accuracy.plots import error_plot
from ridgeline.validation.calibration import leave_out as lo
from ridgeline.validation.training import ReportRow

ROOT = Path(__file__).resolve().parent.parent
RESIDUALS = ROOT / "validation" / "data" / "residuals.json"


@pytest.fixture(scope="module")
def residuals():
    return json.loads(RESIDUALS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report():
    return compared_rows()


def figures(mape, models="now", count=10):
    return Figures(
        count=count,
        skipped=0,
        mape=mape,
        median_ape=mape,
        bias=0.0,
        inside_range=0.8,
        models=models,
        shipped=True,
    )


def row(name, measured, predicted, **changes):
    plain = ReportRow(
        id=name,
        source="s",
        accelerator="h100-sxm",
        stack="megatron-core",
        model="m",
        accelerators=8,
        tokens=1000,
        derived=False,
        measured_step_time_s=measured,
        predicted_step_time_s=predicted,
        predicted_step_time_low_s=predicted,
        predicted_step_time_high_s=predicted,
        measured_peak_memory_gib=None,
        predicted_peak_memory_gib=None,
        error=predicted / measured - 1,
        status="ok",
        reason="",
    )
    return replace(plain, **changes)


class TestCommittedFigures:
    def test_no_source_is_worse_than_committed(self, report, capsys):
        rows, shipped = report
        lines, failures = compare(recomputed(rows, shipped), read_figures(), fingerprint())
        with capsys.disabled():
            for line in lines:
                if "NOT RECHECKED" in line:
                    print(f"\n{line}", end="")  # noqa: T201  (never passed in silence)
        assert not failures, "run: python docs/generate_accuracy.py"

    def test_half_a_point_more_fails_and_less_does_not(self):
        committed = {"a": figures(0.05)}
        assert compare({"a": figures(0.056)}, committed, "now")[1]
        assert not compare({"a": figures(0.0549)}, committed, "now")[1]
        assert not compare({"a": figures(0.03)}, committed, "now")[1]

    def test_rows_that_are_no_longer_predicted_fail(self):
        (failure,) = compare({"a": figures(0.05, count=9)}, {"a": figures(0.05)}, "now")[1]
        assert "9 rows" in failure

    def test_a_new_source_must_be_committed(self):
        assert compare({"b": figures(0.05)}, {}, "now")[1]

    @pytest.mark.parametrize(("models", "word"), [("now", "same models"), ("old", "CHANGED")])
    def test_what_cannot_be_recomputed_is_said(self, models, word):
        lines, failures = compare({}, {"a": figures(0.05, models=models)}, "now")
        assert not failures
        assert "NOT RECHECKED" in lines[0]
        assert word in lines[0]

    def test_written_figures_are_read(self, tmp_path):
        path = tmp_path / "accuracy.json"
        write_figures({"a": figures(0.05)}, path)
        assert read_figures(path) == {"a": figures(0.05)}

    def test_readme_marks_figures_of_older_models(self):
        old = replace(figures(0.05, models="old"), shipped=False)
        entry = {"held_out": "b", "values": {}, "priors": [], "rows": {"b-1": [-0.07, "kernels"]}}
        left_out = {"left_out": {"source": [entry]}}
        text = page.readme_table({"a": figures(0.04), "b": old}, left_out)
        assert "| b | 10 |  | 5.0% | 5.0% | +0.0% |  | 7.0% | no, NOT RECHECKED |" in text
        assert "| a | 10 |  | 4.0% | 4.0% | +0.0% |  |  |  |" in text

    def test_the_fingerprint_is_of_models_and_parameters(self, tmp_path):
        stack = tmp_path / "simulator" / "data" / "stack.toml"
        stack.parent.mkdir(parents=True)
        stack.write_text("a = 1")
        before = fingerprint(tmp_path)
        (tmp_path / "simulator" / "data" / "uncertainty.toml").write_text("range")
        assert fingerprint(tmp_path) == before
        stack.write_text("a = 2")
        assert fingerprint(tmp_path) != before


class TestResiduals:
    def test_small_and_without_measured_times(self, residuals):
        assert RESIDUALS.stat().st_size < 300_000
        for entries in residuals["left_out"].values():
            for entry in entries:
                assert set(entry) == {"held_out", "values", "priors", "rows"}

    def test_every_way_of_leaving_out_is_there(self, residuals):
        assert set(residuals["left_out"]) == set(lo.WAYS)

    def test_a_held_out_source_never_informs_what_only_it_informs(self, residuals):
        for entry in residuals["left_out"]["stack"]:
            own = [name for name in entry["values"] if name.split()[0] == entry["held_out"]]
            assert set(own) <= set(entry["priors"])

    @pytest.mark.parametrize("grade", GRADES)
    def test_ranges_hold_four_in_five_left_out_steps(self, residuals, grade):
        errors = ranges.left_out_errors(residuals)[grade]
        if len(errors) < ranges.FEWEST:
            pytest.skip(f"only {len(errors)} left-out steps with {grade} evidence")
        low, high = step_range(grade)
        # less evidence never narrows a range, so one may hold more than its own errors ask for
        widened = (1 - low, high - 1) != pytest.approx(ranges.calibrated_range(errors))
        assert 0.75 <= ranges.coverage(errors, (1 - low, high - 1)) <= (0.9 if widened else 0.85)

    def test_less_evidence_never_narrows_a_range(self):
        widths = [high - low for low, high in map(step_range, GRADES)]
        assert widths == sorted(widths)

    def test_ranges_in_the_tree_come_from_the_residuals(self, residuals):
        table = lo.shared_table()
        if table is None:
            pytest.skip("no ../shared/data: the measured tables that do not ship are absent")
        text = ranges.uncertainty_toml(residuals, lo.counts(lo.measured_steps(table)))
        path = ROOT / "simulator" / "data" / "uncertainty.toml"
        assert path.read_text(encoding="utf-8") == text, (
            "run: python -m ridgeline.validation.accuracy --ranges"
        )


class TestRanges:
    def test_symmetric_errors_give_equal_tails(self):
        errors = [i / 1000 for i in range(-100, 101)]
        bounds = ranges.calibrated_range(errors)
        assert bounds == pytest.approx((0.075, 0.087), abs=0.002)  # 1/1.08 and 1/0.92
        assert ranges.coverage(errors, bounds) == pytest.approx(0.8, abs=0.02)

    def test_a_one_sided_class_keeps_the_prediction_at_its_edge(self):
        fast = [-0.3 + i / 1000 for i in range(200)]  # always predicted too fast
        below, above = ranges.calibrated_range(fast)
        assert below == 0.0
        assert ranges.coverage(fast, (below, above)) == pytest.approx(0.8, abs=0.02)


class TestEvidence:
    def test_grades_go_from_measured_to_datasheet(self):
        h100, laptop = load_accelerator("h100-sxm"), load_accelerator("rtx-4090")
        steps = {("a", "h100-sxm", "pipeline"): 3, ("b", "a100-sxm-80gb", "sharded"): 2}
        assert evidence_grade(h100, "a", "pipeline", steps) == "measured"
        assert evidence_grade(h100, "a", "sharded", steps) == "related"
        assert evidence_grade(h100, "b", "sharded", steps) == "related"
        assert evidence_grade(h100, "c", "sharded", steps) == "kernels"
        assert evidence_grade(laptop, "a", "pipeline", steps) == "datasheet"
        assert evidence_grade(laptop, "a", "x", {("a", "rtx-4090", "x"): 1}) == "measured"

    def test_shipped_steps_are_positive_counts(self):
        assert measured_steps()
        assert all(count > 0 for count in measured_steps().values())

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({}, "replicated"),
            ({"tp": 2}, "tensor"),
            ({"pp": 2}, "pipeline"),
            ({"zero_stage": 3}, "sharded"),
        ],
    )
    def test_kinds_of_plan(self, changes, kind):
        assert plan_kind(make_plan(**changes)) == kind


class TestOrdering:
    def test_tau_of_the_extremes(self):
        assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
        assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
        assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)  # one pair of six
        assert kendall_tau([1, 1], [1, 2]) == 0.0

    def test_a_choice_within_three_percent_is_as_good_as_the_best(self):
        near = ordering([row("a", 1.00, 1.2), row("b", 1.02, 1.1)])
        far = ordering([row("a", 1.00, 1.2), row("b", 1.10, 1.1)])
        assert (near.groups, near.best, near.tau) == (1, 1.0, -1.0)
        assert (far.best, far.missed) == (0.0, ("b (+10.0%)",))

    def test_time_per_token_decides_between_batches(self):
        rows = [row("a", 1.0, 1.0), row("b", 1.5, 1.5, tokens=2000)]
        assert ordering(rows).best == 1.0
        assert ordering(rows, same_job=True) is None

    def test_clusters_of_another_size_are_another_group(self):
        assert ordering([row("a", 1.0, 1.0), row("b", 1.0, 1.0, accelerators=16)]) is None


class TestPage:
    def test_the_page_is_of_the_committed_figures(self):
        text = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
        latest = {one.models for one in read_figures().values() if one.shipped}
        assert all(models in text for models in latest), "run: python docs/generate_accuracy.py"

    def test_plots_are_small_and_well_formed(self):
        folder = ROOT / "docs" / "figures"
        assert sum(path.stat().st_size for path in folder.glob("*.svg")) < 300_000
        for path in folder.glob("*.svg"):
            assert ET.parse(path).getroot().tag.endswith("svg")

    def test_errors_beyond_the_edge_are_drawn_at_it(self):
        svg = error_plot("s", [row("a", 1.0, 1.1), row("b", 1.0, 9.0)])
        assert svg.count("<circle") == 2
        assert svg.count("#c0392b") == 1

    def test_notes_name_rows_that_exist(self, report):
        if lo.shared_table() is None:
            pytest.skip("no ../shared/data: the measured tables that do not ship are absent")
        ids = {one.id for one in report[0].rows}
        assert set(page.row_notes()) <= ids
        assert set(lo.wrong_rows()) <= ids
