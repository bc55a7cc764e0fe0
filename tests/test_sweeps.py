"""Tuning sweeps: the published table of Hyperband, closed forms, a twin on SimPy, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simpy

from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.budget.sweep import Clock, makespan, sweep_cost
from ridgeline.simulator.budget.sweepfile import Sweep, read_sweep
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads.sweeps import Bracket, Rung, depth, halving, hyperband, spread

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sweeps" / "hyperband.toml"


def rows(bracket: Bracket) -> list[tuple[int, float]]:
    return [(rung.trials, rung.resource) for rung in bracket.rungs]


def test_hyperband_has_the_brackets_of_the_paper() -> None:
    # Li et al. 2018 (arXiv 1603.06560), table 1: R = 81, eta = 3
    assert [rows(bracket) for bracket in hyperband(81, 3)] == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


@pytest.mark.parametrize(("most", "eta"), [(27, 3), (81, 3), (243, 3), (1024, 4), (100, 3), (7, 2)])
def test_each_bracket_spends_about_its_budget(most: float, eta: int) -> None:
    brackets = hyperband(most, eta)
    top = math.floor(math.log(most) / math.log(eta) + 1e-9)
    assert len(brackets) == top + 1 == depth(most, eta) + 1
    budget = (top + 1) * most
    for s, bracket in zip(range(top, -1, -1), brackets, strict=True):
        # one more configuration than B pays for at most, each rung rounded down
        assert bracket.spent(resume=False) <= budget + (s + 1) * most
        assert bracket.spent(resume=True) <= bracket.spent(resume=False)
        assert bracket.rungs[-1].resource == pytest.approx(most)


def test_what_is_spent_is_the_sum_of_the_rungs() -> None:
    bracket = halving(27, 1.0, 3, 4)
    assert bracket.spent(resume=False) == 27 + 9 * 3 + 3 * 9 + 27
    assert bracket.spent(resume=True) == 27 + 9 * 2 + 3 * 6 + 18


def test_lengths_spread_over_the_logarithm_have_its_mean() -> None:
    lengths = [bracket.rungs[0].resource for bracket in spread(20_000, 1.0, 50.0)]
    assert np.mean(lengths) == pytest.approx(49.0 / math.log(50.0), rel=1e-6)
    assert lengths == sorted(lengths)


def slow_makespan(brackets: list[list[tuple[int, float]]], at_once: int) -> float:
    """Play brackets beside each other as SimPy processes."""
    world = simpy.Environment()
    slots = simpy.PriorityResource(world, at_once)

    def trial(place: int, seconds: float, done: simpy.Event) -> simpy.events.ProcessGenerator:
        with slots.request(priority=place) as turn:
            yield turn
            yield world.timeout(seconds)
            done.succeed()
            # the next rung gets in line before what is free is given away
            for _ in range(20):
                yield world.timeout(0.0)

    def bracket(place: int) -> simpy.events.ProcessGenerator:
        for count, seconds in brackets[place]:
            ends = [world.event() for _ in range(count)]
            for end in ends:
                world.process(trial(place, seconds, end))
            yield simpy.AllOf(world, ends)

    world.run(simpy.AllOf(world, [world.process(bracket(i)) for i in range(len(brackets))]))
    return float(world.now)


@pytest.mark.parametrize("seed", range(20))
def test_makespan_is_that_of_simpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    brackets = [
        [
            (int(rng.integers(1, 12)), float(rng.uniform(0.5, 9.0)))
            for _ in range(rng.integers(1, 5))
        ]
        for _ in range(rng.integers(1, 6))
    ]
    at_once = int(rng.integers(1, 9))
    found = makespan(brackets, at_once, together=True)
    assert found == pytest.approx(slow_makespan(brackets, at_once))
    work = sum(n * s for bracket in brackets for n, s in bracket)
    chain = max(sum(s for _, s in bracket) for bracket in brackets)
    assert max(work / at_once, chain) <= found * (1 + 1e-12)
    assert found <= makespan(brackets, at_once, together=False) + chain
    alone = [slow_makespan([bracket], at_once) for bracket in brackets]
    assert makespan(brackets, at_once, together=False) == pytest.approx(sum(alone))


def test_hours_are_steps_and_start_ups() -> None:
    sweep = read_sweep(EXAMPLE)
    found = sweep_cost(sweep)
    plan = sweep.plan
    step_tokens = plan.training.global_batch_seqs * plan.training.seq_len
    step_s = simulate_training(plan).step_time_s
    seconds = 0.0
    steps = 0
    for bracket in hyperband(81, 3):
        before = 0
        for rung in bracket.rungs:
            reached = math.ceil(rung.resource * 32e6 / step_tokens)
            steps += rung.trials * (reached - before)
            seconds += rung.trials * ((reached - before) * step_s + 90.0)
            before = reached
    assert found.steps == steps
    assert found.trials == 81 + 34 + 15 + 8 + 5
    assert found.accelerator_hours == pytest.approx(8 * seconds / 3600.0)
    assert found.usd == pytest.approx(found.accelerator_hours * found.usd_per_accelerator_hour)
    assert sum(rung.accelerator_hours for rung in found.rungs) == pytest.approx(
        found.accelerator_hours
    )
    assert found.accelerator_hours_low < found.accelerator_hours < found.accelerator_hours_high
    again = sweep_cost(replace(sweep, resume=False))
    assert again.accelerator_hours > found.accelerator_hours
    assert again.makespan_s > found.makespan_s
    assert sweep_cost(replace(sweep, together=False)).makespan_s > found.makespan_s
    alone = sweep_cost(replace(sweep, accelerators=8))
    assert alone.makespan_s == pytest.approx(seconds)
    assert alone.utilisation == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["random", "carbs"])
def test_a_budget_pays_for_as_many_trials_as_fit(method: str) -> None:
    base = read_sweep(EXAMPLE)
    sweep = replace(base, method=method, budget_usd=500.0)
    found = sweep_cost(sweep)
    assert found.usd <= 500.0
    more = sweep_cost(replace(sweep, budget_usd=0.0, trials=found.trials + 1))
    assert more.usd > 500.0
    with pytest.raises(InfeasibleError, match="one trial costs"):
        sweep_cost(replace(sweep, budget_usd=0.01))


def test_steps_are_whole() -> None:
    clock = Clock(step_s=2.0, step_tokens=100.0, start_up_s=5.0, resume=True)
    bracket = Bracket(rungs=(Rung(trials=3, resource=150.0), Rung(trials=1, resource=450.0)))
    assert clock.parts(bracket) == [(3, 2, 9.0), (1, 3, 11.0)]
    again = replace(clock, resume=False)
    assert again.parts(bracket) == [(3, 2, 9.0), (1, 5, 15.0)]
    assert clock.seconds([bracket]) == 3 * 9.0 + 11.0


GOOD = """
[sweep]
method = "hyperband"
plan = "PLAN"
most_tokens = "2.7B"
least_tokens = "100M"
"""


def written(tmp_path: Path, text: str) -> Sweep:
    path = tmp_path / "sweep.toml"
    path.write_text(text.replace("PLAN", str(EXAMPLE.with_name("trial_gpt3_1_3b.toml"))))
    return read_sweep(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('method = "hyperband"', 'method = "grid"', "sweep.method = 'grid': must be"),
        ('least_tokens = "100M"', "", "least_tokens: missing; hyperband begins"),
        ('least_tokens = "100M"', 'least_tokens = "3B"', "at most most_tokens"),
        ('method = "hyperband"', 'method = "random"', "least_tokens: every trial of random"),
        ('method = "hyperband"', 'method = "carbs"', "trials: give it or budget_usd"),
        ('method = "hyperband"', 'method = "successive-halving"', "trials: missing"),
        ("[sweep]", "[sweep]\neta = 1", "sweep.eta = 1: must be"),
        ("[sweep]", "[sweep]\ntrials = 4", "trials: Hyperband's R and eta say"),
        ("[sweep]", "[sweep]\nrepeat = 4", "sweep.repeat: unknown; did you mean 'repeats'?"),
        ("[sweep]", "[sweep]\naccelerators = 4", "accelerators = 4: a trial takes 8"),
        ("[sweep]", "[swap]", "sweep: missing"),
        ('"2.7B"', '"lots"', "must be a count"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        written(tmp_path, GOOD.replace(old, new))
    assert any(said in line for line in raised.value.problems), raised.value.problems


def test_too_few_trials_for_the_rungs(tmp_path: Path) -> None:
    text = GOOD.replace('"hyperband"', '"successive-halving"\ntrials = 8')
    with pytest.raises(InputError, match="gone before rung 4"):
        sweep_cost(written(tmp_path, text))


def test_the_command_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--sweep", str(EXAMPLE), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.plan.sweep"
    assert record["trials"] == 143
    assert run(["plan", "--sweep", str(EXAMPLE)]) == 0
    out = capsys.readouterr().out
    assert "143 configurations of gpt3-1.3b" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run(["plan", "--sweep", str(EXAMPLE), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 15
    assert run(["plan", "--sweep", str(EXAMPLE), "--tp", "2"]) == 2
    assert "--tp: counts for nothing with --sweep" in capsys.readouterr().err
