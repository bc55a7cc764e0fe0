"""Refits without some rows: what leaves, what is refitted, what falls back to its prior."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from ridgeline.errors import InputError
from ridgeline.validation.calibration import leave_out as lo
from ridgeline.validation.calibration.ablate import SWITCHES, ablate, ablation_table
from ridgeline.validation.calibration.fit import predicted
from ridgeline.validation.calibration.tunables import Tunable, load_tunables

CLOCK = Tunable("device", ("a100-sxm-80gb",), "sustained.bf16", 0.6, 1.0, 0.8)
BYTES = Tunable("stack", ("megatron-2021", "megatron-2022"), "elementwise_factor", 0.5, 3.0, 1.0)
CASTS = Tunable("stack", ("torchtitan",), "elementwise_factor", 0.5, 3.0, 1.25)


@pytest.fixture(scope="module")
def steps():
    return lo.measured_steps(lo.published_table())


@pytest.fixture(scope="module")
def few(steps):
    """Rows of two sources on A100 and one of another stack, "measured" under known values."""
    wanted = ("korthikanti22", "megatron-sc21", "torchtitan")
    chosen = [s for s in steps if s.source in wanted and s.plan.stack != "deepspeed-zero3"]
    truth = [0.7, 1.5]
    return [replace(s, seconds=predicted(s, (CLOCK, BYTES), truth)) for s in chosen]


def fold(steps, source):
    return lo.Fold("source", source, frozenset(s.id for s in steps if s.source == source))


class TestSteps:
    def test_only_pre_training_that_is_not_known_wrong(self, steps):
        ids = {s.id for s in steps}
        assert len(ids) == len(steps) > 300
        assert not ids & set(lo.wrong_rows())
        assert "dgxc-benchmarking-0130" not in ids  # fine-tuning
        assert all(s.seconds > 0 for s in steps)

    def test_every_wrong_row_says_why(self):
        assert all(reason for reason in lo.wrong_rows().values())


class TestFolds:
    @pytest.mark.parametrize("way", [way for way in lo.WAYS if way != "datasheet"])
    def test_every_row_leaves_exactly_once(self, steps, way):
        left = Counter(row for fold in lo.folds(steps, way) for row in fold.ids)
        assert left == Counter({s.id: 1 for s in steps})

    def test_a_model_of_a_source_leaves_whole_and_the_source_stays(self, steps):
        parts = {row: fold.name for fold in lo.folds(steps, "model") for row in fold.ids}
        homes: dict[tuple[str, str], set[str]] = {}
        for s in steps:
            homes.setdefault((s.source, s.model), set()).add(parts[s.id])
        assert all(len(names) == 1 for names in homes.values())
        for source in {s.source for s in steps}:
            folds = {parts[s.id] for s in steps if s.source == source}
            models = {s.model for s in steps if s.source == source}
            assert len(folds) == min(len(models), lo.MODEL_FOLDS)

    def test_an_unknown_way_is_refused(self, steps):
        with pytest.raises(InputError, match="source"):
            lo.folds(steps, "moon phase")


class TestRefit:
    def test_what_other_sources_know_carries_over(self, few):
        found = lo.leave_out(few, fold(few, "korthikanti22"), (CLOCK, BYTES, CASTS))
        assert found["priors"] == []
        assert set(found["values"]) == {CLOCK.name, BYTES.name}
        # the pull towards the priors keeps the values a little off the truth
        assert max(abs(error) for error, _ in found["rows"].values()) < 0.02
        # the device and the bytes are known, but no other row is of this release of the stack
        assert {grade for _, grade in found["rows"].values()} == {"kernels"}

    def test_a_stack_without_other_rows_falls_back_to_its_prior(self, few):
        found = lo.leave_out(few, fold(few, "torchtitan"), (CLOCK, BYTES, CASTS))
        assert found["values"] == {CASTS.name: CASTS.prior}
        assert found["priors"] == [CASTS.name]
        assert "measured" not in {grade for _, grade in found["rows"].values()}

    def test_the_held_out_times_are_never_looked_at(self, few):
        held = fold(few, "korthikanti22")
        other = [replace(s, seconds=3 * s.seconds) if s.id in held.ids else s for s in few]
        one = lo.leave_out(few, held, (CLOCK, BYTES))
        two = lo.leave_out(other, held, (CLOCK, BYTES))
        assert one["values"] == two["values"]

    def test_the_same_rows_give_the_same_values(self, few):
        held = fold(few, "megatron-sc21")
        assert lo.leave_out(few, held, (CLOCK,)) == lo.leave_out(few, held, (CLOCK,))

    def test_shipped_values_lie_in_their_bounds(self):
        for tunable in load_tunables():
            assert tunable.lower <= lo.shipped_value(tunable) <= tunable.upper, tunable.name


RESULT = {"held_out": "x", "values": {"a b": 1.5}, "priors": [], "rows": {"x-1": [0.1, "kernels"]}}


class TestDataSheet:
    def test_kernels_and_steps_of_an_accelerator_are_forgotten(self, steps):
        assert lo.on_paper("h100-sxm").efficiency.rung == "universal"
        some = [s for s in steps if s.source in ("korthikanti22", "megatron-lm")]
        names = {fold.name: fold for fold in lo.folds(some, "datasheet")}
        assert {"accelerator h100-sxm", "stack megatron-2022"} <= set(names)
        for fold in names.values():
            found = lo.leave_out(some, fold, (CLOCK, BYTES))
            assert {grade for _, grade in found["rows"].values()} == {"datasheet"}
            assert CLOCK.name not in found["values"]


class TestWeights:
    def test_rows_that_leave_something_unsaid_weigh_less(self):
        weights = {s.id: s.weight for s in lo.measured_steps(lo.published_table())}
        assert weights["mt-nlg-0000"] == lo.DOUBTED < 1.0  # tier B
        assert weights["korthikanti22-0000"] == 1.0


class TestResults:
    def test_what_is_written_is_read(self, tmp_path):
        path = tmp_path / "residuals.json"
        results = lo.read_results(path, "abc")
        results["left_out"]["source"] = [RESULT]
        lo.write_results(path, results)
        assert lo.read_results(path, "abc") == results
        assert [p.name for p in tmp_path.iterdir()] == ["residuals.json"]

    def test_results_of_other_models_are_not_gone_on_with(self, tmp_path):
        path = tmp_path / "residuals.json"
        lo.write_results(
            path, {"schema": lo.SCHEMA, "models": "old", "left_out": {"source": [RESULT]}}
        )
        assert lo.read_results(path, "new")["left_out"] == {}
        assert json.loads(path.read_text())["models"] == "old"


class TestSwitches:
    def test_a_mechanism_switched_off_makes_steps_faster(self, steps):
        chosen = [s for s in steps if s.source in ("korthikanti22", "torchtitan", "megatron-lm")]
        for name, switch in SWITCHES.items():
            if name == "no pipeline bubble":  # more micro-batches: a longer step
                continue
            for s in chosen:
                stack = lo.load_stack(s.plan.stack)
                before = lo.simulate_step(s.plan, stack).seconds
                after = lo.simulate_step(*switch(s.plan, stack)).seconds
                if name.startswith(("element-wise", "attention", "NCCL")):
                    assert after <= before * 1.2, (name, s.id)  # a rate may exceed 1
                elif name == "gathers wait for reductions":  # what is off is an overlap
                    assert after >= before * (1 - 1e-9), (name, s.id)
                else:
                    assert after <= before * (1 + 1e-9), (name, s.id)

    def test_table_has_a_row_for_every_switch(self, steps):
        chosen = [s for s in steps if s.source == "korthikanti22"]
        found = ablate(chosen)
        assert list(found) == ["as shipped", *SWITCHES]
        assert len(ablation_table(found).splitlines()) == len(SWITCHES) + 3
