"""Schedules whose micro-batches skip stages, or visit them in an order of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_tasks
from plans import make_plan
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator import read_plan, simulate_training
from ridgeline.simulator.engine import play
from ridgeline.simulator.legality import problems as plan_problems
from ridgeline.simulator.schedule import make_schedule, peak_in_flight
from ridgeline.simulator.schedule.described import (
    Description,
    description_text,
    problems,
    read_description,
)
from ridgeline.simulator.schedule.order import from_description
from ridgeline.simulator.schedule.skipping import skip_schedule
from ridgeline.simulator.tasks import expand, stage_templates

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "parallel" / "gpt3_175b_skip.toml"


def ends_of(described: Description, work: list[int]) -> int:
    """Play an order with forwards of one and backwards of two units: when the last one ends."""
    ends: dict[tuple[int, int, int], int] = {}
    free, at = [0] * len(described.orders), [0] * len(described.orders)
    left = sum(map(len, described.orders))
    while left:
        before = left
        for device, order in enumerate(described.orders):
            while at[device] < len(order):
                kind, stage, batch = order[at[device]]
                path = described.path(batch)
                place = path.index(stage)
                needs = [(0, path[place - 1], batch)] if place and not kind else []
                if kind:
                    needs = [(0, stage, batch)]
                    needs += [(1, path[place + 1], batch)] if place + 1 < len(path) else []
                if any(need not in ends for need in needs):
                    break
                start = max([free[device], *(ends[need] for need in needs)])
                ends[kind, stage, batch] = free[device] = start + work[stage] * (1 + kind)
                at[device] += 1
                left -= 1
        assert left < before
    return max(free)


@settings(max_examples=60, deadline=None)
@given(pp=st.integers(3, 9), micro_batches=st.integers(1, 30), data=st.data())
def test_every_micro_batch_skips_as_many_and_all_stages_are_skipped_alike(pp, micro_batches, data):
    skip = data.draw(st.integers(1, pp - 2))
    described = skip_schedule(pp, micro_batches, skip)
    visits = np.zeros(pp)
    for path in described.paths:
        assert (path[0], path[-1], len(path)) == (0, pp - 1, pp - skip)
        visits[list(path)] += 1
    assert visits[0] == visits[-1] == micro_batches
    inner = visits[1:-1]
    assert inner.max() - inner.min() <= 1
    if inner.min() > 0:
        assert problems(described) == []


@settings(max_examples=40, deadline=None)
@given(pp=st.integers(3, 7), micro_batches=st.integers(4, 16), data=st.data())
def test_engine_plays_paths_as_their_definition_says(pp, micro_batches, data):
    skip = data.draw(st.integers(1, pp - 2))
    work = data.draw(st.lists(st.integers(1, 5), min_size=pp, max_size=pp))
    described = skip_schedule(pp, micro_batches, skip, tuple(work))
    schedule = from_description(described)
    templates = stage_templates(schedule, np.array(work, float), 2.0 * np.array(work))
    free = np.zeros((pp, 2))
    assert play(expand(schedule, templates, free)).makespan == ends_of(described, work)
    sends = data.draw(st.floats(0.0, 3.0)) + free
    expected = max(naive_tasks.ends(schedule, templates, sends, False).values())
    assert play(expand(schedule, templates, sends)).makespan == pytest.approx(expected)


def test_activations_of_all_stages_together_are_those_of_1f1b():
    pp, m = 8, 64
    skipping, plain = make_schedule("skip-3", pp, 1, m), make_schedule("1f1b", pp, 1, m)
    held = [peak_in_flight(schedule, np.ones(pp)) for schedule in (skipping, plain)]
    assert held[0].max() <= np.ceil(pp * pp / (pp - 3))
    assert plain.visits().tolist() == [m] * pp
    assert skipping.visits().sum() == m * (pp - 3)


def test_balanced_stages_take_the_share_of_time_that_they_take_of_the_layers():
    plan = read_plan(EXAMPLE)
    full = read_plan(EXAMPLE, {"training.schedule": "1f1b", "training.uneven_stages": False})
    found, whole = simulate_training(plan), simulate_training(full)
    layers = np.array(plan.training.stage_layers)
    visits = np.array([256, *[128] * 6, 256])
    share = float(layers @ visits) / (96 * 256)
    assert found.step_time_s / whole.step_time_s == pytest.approx(share, rel=0.05)
    # the head is passed by all
    assert share < found.model_flops_per_step / whole.model_flops_per_step < share + 0.01
    assert found.mfu < whole.mfu
    assert any("skip-3" in line for line in found.warnings)


def test_paths_are_read_back_as_they_were_written(tmp_path):
    path = tmp_path / "own.schedule"
    described = replace(skip_schedule(4, 6, 1), name=path.name)
    path.write_text(description_text(described))
    assert read_description(path) == described
    plan = make_plan("llama2-7b", "4x1xh100-sxm", pp=4, micro_batches=6, schedule=str(path))
    named = replace(plan, training=replace(plan.training, schedule="skip-1"))
    # the order by name knows the layers of the stages, here all alike
    assert simulate_training(plan).step_time_s == simulate_training(named).step_time_s


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("path 1: 0 1", "path 1: must go from stage 0 to stage 2"),
        ("path 1: 0 1 1 2", "to no stage twice"),
        ("path 9: 0 2", "path: of 10 micro-batches, and 2 run"),
        ("path 0: 0 2", "F1.0: is not on its path"),
        ("path 0: 0 2\npath 1: 0 2", "stage 1: no micro-batch visits it"),
        ("path one: 0 2", "must be 'stages: 0 1 ...'"),
        ("path", "must be 'stages: 0 1 ...'"),
    ],
)
def test_paths_that_are_none_are_refused(tmp_path, line, complaint):
    path = tmp_path / "own.schedule"
    path.write_text(
        "stages: 0 1 2\n0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 F1.1 B1.0 B1.1\n"
        f"2: F2.0 B2.0 F2.1 B2.1\n{line}\n"
    )
    with pytest.raises(InputError) as caught:
        read_description(path)
    assert any(complaint in problem for problem in caught.value.problems), caught.value.problems


def test_paths_need_a_stage_a_device():
    described = Description(
        name="own", home=(0, 1, 0), orders=(((0, 0, 0),), ((0, 1, 0),)), paths=((0, 1, 2),)
    )
    assert "needs one stage a device" in problems(described)[0]


@pytest.mark.parametrize(
    ("ways", "line"),
    [({"pp": 3}, "needs pp of 4 or more"), ({"pp": 4, "vpp": 2}, "one chunk a stage")],
)
def test_pipelines_that_cannot_skip_are_refused(ways, line):
    plan = make_plan("llama2-7b", "12x1xh100-sxm", schedule="skip-2", micro_batches=4, **ways)
    assert any(line in problem for problem in plan_problems(plan)), plan_problems(plan)
    with pytest.raises(InputError, match=line):
        make_schedule("skip-2", ways["pp"], ways.get("vpp", 1), 4)


def test_search_does_not_try_it_and_says_so(capsys):
    flags = ["--model", "llama2-7b", "--on", "8xh100-sxm", "--seq-len", "2048"]
    assert run(["plan", *flags, "--global-batch", "64", "--schedule", "skip-2"]) == 2
    assert "skip-2" in capsys.readouterr().err


def test_example_is_answered(capsys):
    assert run(["train", str(EXAMPLE), "--json", "--explain"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert record["plan"]["training"]["schedule"] == "skip-3"
