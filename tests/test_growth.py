"""Runs in stages: growth of the model, curricula of batch and sequence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator import simulate_training
from ridgeline.simulator.growth import read_stages, simulate_stages
from ridgeline.simulator.planfile import read_plan

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "parallel" / "flm_101b_growth.toml"
BASE = """
[model]
name = "llama3-8b"
[cluster]
spec = "1x8xh100-sxm"
[parallel]
zero_stage = 3
[training]
seq_len = 2048
global_batch_seqs = 64
[run]
failures = false
checkpoint_interval_s = 0
restart_s = 600
"""
CURRICULUM = (
    BASE
    + """
[[stage]]
training.tokens = "1B"
[[stage]]
training.tokens = "2B"
training.seq_len = 8192
training.global_batch_seqs = 16
[[stage]]
model.name = "llama3-70b"
cluster.spec = "8x8xh100-sxm"
training.tokens = "3B"
"""
)


def written(folder: Path, text: str) -> Path:
    path = folder / "grown.toml"
    path.write_text(text)
    return path


def test_a_run_is_the_sum_of_its_stages_and_of_what_lies_between(tmp_path):
    name, plans = read_stages(written(tmp_path, CURRICULUM))
    assert name == "grown"
    assert [plan.training.seq_len for plan in plans] == [2048, 8192, 2048]
    found = simulate_stages(plans, name)
    alone = [simulate_training(plan) for plan in plans]
    # the sequence changes in a running job; another model is loaded
    assert (found.changes, found.change_s) == (1, 600.0)
    assert found.wall_clock_s == pytest.approx(sum(r.wall_clock_s for r in alone) + 600.0)
    idle = 64 * 600.0 / 3600.0
    assert found.accelerator_hours == pytest.approx(sum(r.accelerator_hours for r in alone) + idle)
    price = alone[2].usd_per_accelerator_hour
    assert found.cost_usd == pytest.approx(sum(r.cost_usd for r in alone) + idle * price)
    assert found.energy_kwh == pytest.approx(sum(r.energy_kwh for r in alone))
    assert found.tokens == 6e9
    assert found.fits == all(r.fits for r in alone)


def test_one_stage_is_the_plan_itself(tmp_path):
    path = written(tmp_path, BASE + '[[stage]]\ntraining.tokens = "1B"\n')
    _, plans = read_stages(path)
    whole = read_plan(written(tmp_path, BASE), {"training.tokens": "1B"})
    assert simulate_stages(plans).stages[0] == simulate_training(whole)


def test_splitting_a_run_changes_nothing_but_the_rounding_of_steps(tmp_path):
    half = '[[stage]]\ntraining.tokens = "1B"\n'
    _, plans = read_stages(written(tmp_path, BASE + half + half))
    whole = simulate_training(
        read_plan(written(tmp_path, BASE), {"training.tokens": 2e9, "run.failures": False})
    )
    found = simulate_stages(plans)
    assert found.wall_clock_s == pytest.approx(whole.wall_clock_s, rel=1e-3)
    assert found.changes == 0


def test_flags_hold_for_every_stage(tmp_path):
    path = written(tmp_path, CURRICULUM)
    _, plans = read_stages(path, {"training.precision": "fp8"})
    assert {plan.training.precision for plan in plans} == {"fp8"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[stage]]\nparallel.tp = 3\ntraining.tokens = "1B"\n', "stage 1: parallel: tp"),
        ("[[stage]]\nparallel.tp = 2\n", "stage 1: training.tokens: missing"),
        (
            '[[stage]]\ntraining.tokens = "1B"\ntraining.sequence = 3\n',
            "stage 1: training.sequence",
        ),
        ("[stage]\n", "must be 1 to 1,000 tables"),
        ("stage = [1]\n" + BASE, "must be tables"),
    ],
)
def test_mistakes_name_the_stage(tmp_path, text, line):
    path = written(tmp_path, text if text.endswith(BASE) else BASE + text)
    with pytest.raises(InputError) as caught:
        read_stages(path)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_a_warm_up_of_the_batch_belongs_to_one_stage(tmp_path):
    warm = BASE + "batch_warmup_tokens = 1e8\nbatch_warmup_start_seqs = 8\n"
    half = '[[stage]]\ntraining.tokens = "1B"\n'
    with pytest.raises(InputError, match=r"stage 2: run\.batch_warmup_tokens"):
        read_stages(written(tmp_path, warm + half + half))
    first = half + "run.batch_warmup_tokens = 1e8\nrun.batch_warmup_start_seqs = 8\n"
    _, plans = read_stages(written(tmp_path, BASE + first + half))
    found = simulate_stages(plans)
    assert found.stages[0].steps > found.stages[1].steps


def test_example_is_answered_in_every_form(capsys):
    assert run(["train", str(EXAMPLE), "--json", "--explain"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.train.stages"
    assert [stage["name"] for stage in record["stages"]] == ["16B", "51B", "101B"]
    assert all(stage["operators"] for stage in record["stages"])
    # Li et al. 2023: about $100,000 in 21.54 days
    assert record["cost_usd"] == pytest.approx(100_000, rel=0.2)
    assert record["wall_clock_s"] / 86400 == pytest.approx(21.54, rel=0.2)
    assert run(["train", str(EXAMPLE)]) == 0
    assert "a run in 3 stages" in capsys.readouterr().out
    assert run(["train", str(EXAMPLE), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_documented_keys_are_all_of_them(capsys):
    assert run(["train", str(EXAMPLE), "--json"]) == 0
    text = (EXAMPLE.parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    for key in json.loads(capsys.readouterr().out):
        assert f"`{key}`" in text, key


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--html", "page.html"),
        ("train", "--trace", "t.json"),
        ("train", "--calendar"),
        ("plan",),
        ("infer",),
        ("compare", "--on", "h100-sxm"),
    ],
)
def test_what_knows_no_stages_says_so(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *flags = command
    assert run([name, str(EXAMPLE), *flags]) == 2
    said = capsys.readouterr().err
    assert "stages" in said
    assert len(said.splitlines()) == 1
