"""Calibrating a stack on a user's own steps: what comes back, what is refused, what it is worth."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.simulator import simulate_training
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.validation.calibration.stack_file import stack_file
from ridgeline.validation.calibration.tunables import load_tunables
from ridgeline.validation.calibration.user import (
    NOISE,
    UserStep,
    calibrate,
    most_telling,
    read_user_steps,
    user_parameters,
)
from ridgeline.validation.measured import COLUMNS

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data" / "training" / "measured.csv"
ROW = {
    "source": "mine",
    "accelerator": "H100-80GB",
    "accel_per_node": "8",
    "interconnect": "NVLink4 + IB NDR400",
    "model": "llama3-8b",
    "layers": "32",
    "hidden": "4096",
    "ffn_hidden": "14336",
    "heads": "32",
    "kv_heads": "8",
    "vocab": "128256",
    "seq_len": "8192",
    "micro_batch_seqs": "1",
    "pp": "1",
    "zero_stage": "1",
    "recompute": "none",
    "schedule": "1f1b",
    "precision": "bf16",
    "task": "pretrain",
    "framework": "NeMo (dgxc-benchmarking)",
    "notes": "mlp=swiglu",
}
PLANS = ((16, 1, 256), (32, 2, 256), (64, 4, 256))
"""Accelerators, tensor ranks, batch."""


def row(index: int, seconds: str, **changes: str) -> dict[str, str]:
    count, tp, batch = PLANS[index]
    sizes = {"num_accel": str(count), "tp": str(tp), "global_batch_seqs": str(batch)}
    return {**ROW, **sizes, "id": f"mine-{index}", "iter_time_s": seconds, **changes}


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def steps(tmp_path) -> tuple[UserStep, ...]:
    return read_user_steps(table(tmp_path / "my.csv", [row(i, "10") for i in range(3)]))


def timed(steps, stack) -> tuple[UserStep, ...]:
    """Return the steps as they would take under another stack."""
    return tuple(replace(s, seconds=simulate_step(s.plan, stack).seconds) for s in steps)


# The fit ---------------------------------------------------------------------------------------


def test_steps_as_predicted_move_nothing(steps):
    base = load_stack("megatron-core")
    found = calibrate(timed(steps, base))
    assert abs(found.after).max() < 1e-3
    for default, fitted in found.values.values():
        assert fitted == pytest.approx(default, rel=2e-3, abs=1e-6)


def test_three_steps_of_a_slower_cluster_tell_an_unseen_one(steps):
    slow = replace(load_stack("megatron-core"), compute_rate=0.85, network_bandwidth=0.5)
    truth = timed(steps, slow)
    found = calibrate(truth)
    assert abs(found.before).mean() > 0.08
    assert abs(found.after).max() < NOISE
    step = truth[0]
    parallel = replace(step.plan.parallel, tp=2, dp=8)
    unseen = replace(step.plan, parallel=parallel)
    wanted = simulate_step(unseen, slow).seconds
    assert simulate_step(unseen, found.stack).seconds == pytest.approx(wanted, rel=0.03)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(factor=st.floats(0.3, 3.0))
def test_parameters_stay_in_their_bounds_however_far_off_the_steps(steps, factor):
    base = load_stack("megatron-core")
    plan = steps[1].plan
    found = calibrate([UserStep("a", plan, simulate_step(plan, base).seconds * factor)])
    for one in user_parameters():
        if one.field in found.values:
            assert one.lower <= found.values[one.field][1] <= one.upper


def test_one_broken_step_does_not_pull_the_others_away(steps):
    base = load_stack("megatron-core")
    truth = timed((*steps, *steps), base)
    broken = (replace(truth[0], seconds=2 * truth[0].seconds), *truth[1:])
    assert abs(calibrate(broken).after[1:]).max() < NOISE


def test_of_three_steps_a_disturbed_one_is_told_by_the_other_two(steps):
    base = load_stack("megatron-core")
    slow = replace(base, compute_rate=0.93)
    truth = timed(steps, slow)
    broken = (truth[0], replace(truth[1], seconds=2 * truth[1].seconds), truth[2])
    after = calibrate(broken, base=base).after
    assert abs(after[0]) < 2 * NOISE
    assert abs(after[2]) < 2 * NOISE
    assert after[1] == pytest.approx(-0.5, abs=0.05)


def test_misaligned_products_run_a_priori_at_the_rate_without_tensor_cores():
    # accumulated in fp32; the data sheet is that of the steps with such heads
    device = load_accelerator("a100-sxm-80gb")
    (one,) = (t for t in load_tunables() if t.field == "misaligned_rate")
    assert one.prior == pytest.approx(device.peak("fp32") / device.peak("fp16"))


def test_parameters_on_which_no_step_depends_stay_out(steps):
    found = calibrate(timed(steps, load_stack("megatron-core")))
    assert "compute_rate" in found.values
    assert not {"fp8_cast_bytes", "moe_elementwise_factor", "misaligned_rate"} & set(found.values)


def test_more_agreeing_steps_narrow_the_range(steps):
    few = timed(steps, load_stack("megatron-core"))
    one, many = calibrate(few).stack.calibration, calibrate(few * 6).stack.calibration
    assert one is not None
    assert many is not None
    assert many.above < one.above
    # never under what a step is noisy by: 1.28 standard deviations
    assert np.log1p(many.above) >= 1.28 * NOISE - 1e-4


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="no measured step"):
        calibrate([])


def test_without_scipy_it_says_what_to_install(steps, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(InputError, match=r"pip install 'ridgeline\[fit\]'"):
        calibrate(steps)


def test_the_most_telling_step_is_one_that_depends_on_most(steps):
    # across nodes, over tensor ranks: clock and both bandwidths at once
    (best,) = most_telling(steps, load_stack("megatron-core"), 1)
    assert best.plan.cluster.count > 8
    assert len(most_telling(steps, load_stack("megatron-core"), 5)) == len(steps)


# The file --------------------------------------------------------------------------------------


def test_the_file_reads_back_as_the_stack(steps, tmp_path):
    found = calibrate(steps, label='3 rows of "my".csv')
    path = tmp_path / "mine.toml"
    path.write_text(stack_file(found, '3 rows of "my".csv'), encoding="utf-8")
    again = load_stack(str(path))
    description = again.description
    assert again == replace(found.stack, name="mine", description=description)
    assert 'fitted to 3 rows of "my".csv' in again.sources["compute_rate"]
    assert "3 rows" in description


def test_a_prediction_says_that_it_is_calibrated_where_it_is(steps, tmp_path):
    found = calibrate(timed(steps, load_stack("megatron-core")))
    path = tmp_path / "mine.toml"
    path.write_text(stack_file(found, "3 rows"), encoding="utf-8")
    plan = replace(steps[1].plan, stack=str(path))
    result = simulate_training(plan)
    assert "calibrated on 3 runs of this cluster" in " ".join(p.text for p in result.provenance)
    record = found.stack.calibration
    assert record is not None
    assert result.step_time_high_s == pytest.approx(result.step_time_s * (1 + record.above))
    # another kind of plan: the wider range of the stack that it started from
    parallel = replace(plan.parallel, tp=1, pp=4, dp=8, sp=False)
    other = simulate_training(replace(plan, parallel=parallel))
    plain = simulate_training(replace(plan, parallel=parallel, stack="megatron-core"))
    assert "calibrated" not in " ".join(p.text for p in other.provenance)
    assert other.evidence == plain.evidence
    ratio = plain.step_time_high_s / plain.step_time_s
    assert other.step_time_high_s / other.step_time_s == pytest.approx(ratio)


@pytest.mark.parametrize(
    "text",
    [
        "rows = 3\n",
        'rows = 0\nstack = "a"\naccelerator = "b"\nkinds = []\nbelow = 0.1\nabove = 0.1\n',
        'rows = 3\nstack = 1\naccelerator = "b"\nkinds = []\nbelow = 0.1\nabove = 0.1\n',
        'rows = 3\nstack = "a"\naccelerator = "b"\nkinds = []\nbelow = nan\nabove = 0.1\n',
    ],
)
def test_a_bad_calibration_table_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "mine"\n[calibration]\n{text}', encoding="utf-8")
    with pytest.raises(InputError, match="calibration") as caught:
        load_stack(str(path))
    assert len(caught.value.problems) == 1


# The command -----------------------------------------------------------------------------------


def test_the_command_writes_a_stack_that_train_takes(tmp_path, capsys):
    data, out = table(tmp_path / "my.csv", [row(i, "9") for i in range(3)]), tmp_path / "c.toml"
    assert run(["fit", "--measured", str(data), "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in record["rows"]] == ["mine-0", "mine-1", "mine-2"]
    assert record["written"] == [str(out)]
    first = out.read_bytes()
    assert run(["fit", "--measured", str(data), "--out", str(out), "--date", "2026-01-01"]) == 0
    assert b"my.csv, 2026-01-01" in out.read_bytes()
    assert b'my.csv"' in first
    capsys.readouterr()
    plan = ["--model", "llama3-8b", "--cluster", "4x8xh100-sxm", "--seq-len", "8192"]
    plan += ["--global-batch", "64", "--tp", "8", "--zero-stage", "1"]
    assert run(["train", *plan, "--stack", str(out), "--json"]) == 0
    assert "calibrated on 3 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        ([], [], ["no rows"]),
        ([row(0, "9"), row(1, "9", source="other")], [], ["2 sources", "mine, other", "--source"]),
        ([row(0, "9"), row(1, "9", accelerator="A100-80GB")], [], ["2 accelerators", "--accel"]),
        ([row(0, "9"), row(1, "9", framework="torchtitan")], [], ["2 stacks", "--stack"]),
        ([row(0, "9")], ["--source", "min"], ["no row of source 'min'", "mine"]),
        ([row(0, "9")], ["--stack", "megatron-cor"], ["unknown", "megatron-core"]),
        ([row(0, "nan")], [], ["iter_time_s", "finite"]),
        ([row(0, "9", task="distil")], [], ["mine-0", "cannot be simulated"]),
        ([row(0, "9", hidden="")], [], ["mine-0", "hidden"]),
        ([row(0, "9")], ["--out", "c.json"], [".toml"]),
        ([row(0, "9")], ["--out", "/nowhere/c.toml"], ["cannot be written"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, rows, arguments, words):
    data = table(tmp_path / "my.csv", rows)
    assert run(["fit", "--measured", str(data), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if all(word in line for word in words)]) == 1, lines


def test_plans_to_time_are_named_before_any_time_is_known(tmp_path, capsys):
    rows = [row(i, "") for i in range(3)]
    data = table(tmp_path / "plans.csv", rows)
    command = ["fit", "--measured", str(data), "--suggest", "2"]
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    plans = read_user_steps(data, timed=False)
    told = most_telling(plans, load_stack("megatron-core"), 2)
    assert [one["id"] for one in record["suggested"]] == [step.id for step in told]
    assert record["rows"] == 3
    # a time that is there changes nothing
    again = table(tmp_path / "timed.csv", [{**one, "iter_time_s": "9"} for one in rows])
    assert run(["fit", "--measured", str(again), "--suggest", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record
    assert run(command) == 0
    assert told[0].id in capsys.readouterr().out
    assert run([*command, "--out", "c.toml"]) == 2
    assert "--suggest" in capsys.readouterr().err
    assert run(["fit", "--kernels", "k.csv", "--accelerator", "h100", "--suggest", "2"]) == 2
    assert "--suggest: goes with --measured" in capsys.readouterr().err
    assert run(["fit", "--measured", str(data)]) == 2
    capsys.readouterr()


def test_filters_choose_the_rows(tmp_path):
    data = table(tmp_path / "my.csv", [row(0, "9"), row(1, "9", source="other")])
    assert [s.id for s in read_user_steps(data, source="other")] == ["mine-1"]
    assert [s.plan.stack for s in read_user_steps(data, source="mine", stack="megatron-lm")] == [
        "megatron-lm"
    ]


# Measured data ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the measured table ../shared/data is not here")
def test_steps_of_64_accelerators_predict_256_and_more_within_5_percent():
    from ridgeline.validation.calibration.user_shown import scale_up

    table = {one.name: one for one in scale_up(SHARED)}
    assert table["all"].mape < 0.05
    assert table["all"].mape < 0.8 * table["all"].before
    assert table["without DeepSeek-V3"].mape < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the measured table ../shared/data is not here")
@pytest.mark.parametrize(
    ("source", "by_id", "telling", "drawn"),
    [("vtrain-multi", 0.056, 0.064, 0.068), ("bigscience-bloom", 0.065, 0.05, 0.062)],
)
def test_three_steps_calibrate_a_cluster(source, by_id, telling, drawn):
    from ridgeline.validation.calibration.user_shown import steps_of, triples

    found = triples(source, steps_of(SHARED, source))
    first_middle_last, told = found.chosen
    assert first_middle_last.mape < by_id
    assert first_middle_last.mape < first_middle_last.before
    assert told.mape < telling
    assert told.without_noted < 0.05
    assert found.drawn[len(found.drawn) // 2] < drawn
    # three rows cannot do better than all of them
    assert found.all_seen < found.drawn[len(found.drawn) // 2]
