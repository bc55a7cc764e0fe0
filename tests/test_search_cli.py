"""``ridgeline plan`` as a person and a script meet it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import INTERRUPTED, run
from ridgeline.cli.plan_space import parse_constraints, parse_numbers, parse_objective
from ridgeline.errors import InputError
from ridgeline.simulator.search import search as search_module
from ridgeline.simulator.search.objective import Objective
from ridgeline.simulator.search.search import Progress

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "plan", "--model", "llama3-8b", "--on", "8xh100-sxm,4xa100", "--seq-len", "4096",
    "--global-batch", "32", "--tokens", "10B", "--cp", "1", "--jobs", "1",
)  # fmt: skip
MTNLG = (
    "plan", str(ROOT / "examples" / "plan_mtnlg_530b_a100.toml"), "--tp", "1,2,4,8,16",
    "--dp", "..32", "--pp", "..105", "--cp", "1", "--sp", "off", "--zero-stage", "0",
    "--recompute", "full", "--schedule", "1f1b", "--objective", "cost", "--json",
)  # fmt: skip


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_json_has_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(out_of(capsys, *SMALL, "--json"))
    assert found["schema"] == "ridgeline.plan"
    assert found["complete"]
    assert set(found) == {
        "schema", "schema_version", "complete", "best", "front", "runners_up", "too_large",
        "heuristic", "sensitivity", "counts", "elapsed_s", "resumed",
    }  # fmt: skip
    assert found["best"]["training"]["schema"] == "ridgeline.train"
    documented = (ROOT / "docs" / "json.md").read_text()
    for key in (*found, *found["best"], *found["runners_up"][0], *found["counts"]):
        assert f"`{key}`" in documented


def test_the_page_fits_80_columns_and_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    page = out_of(capsys, *SMALL)
    assert max(map(len, page.splitlines())) <= 80
    for heading in (
        "Best: ", "What came next, and why it lost", "Rule of thumb", "If things were a tenth",
        "legal plans",
    ):  # fmt: skip
        assert heading in page


def test_csv_names_the_part_of_each_plan(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(out_of(capsys, *SMALL, "--csv", "--runners-up", "3"))))
    parts = [row["part"] for row in rows]
    assert parts.count("best") == 1
    assert parts.count("runner-up") == 3
    assert "front" in parts


def test_the_plan_written_runs_and_predicts_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    best = tmp_path / "best.toml"
    found = json.loads(out_of(capsys, *SMALL, "--json", "--out-plan", str(best)))
    trained = json.loads(out_of(capsys, "train", str(best), "--json"))
    for key in ("step_time_s", "cost_usd", "wall_clock_s", "memory_gib"):
        assert trained[key] == found["best"]["training"][key]


def test_a_plan_file_gives_all_but_the_split(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example = ROOT / "examples" / "llama3_8b_custom_network.toml"
    best = tmp_path / "best.toml"
    found = json.loads(
        out_of(capsys, "plan", str(example), "--cp", "1", "--json", "--out-plan", str(best))
    )
    trained = json.loads(out_of(capsys, "train", str(best), "--json"))
    assert trained["step_time_s"] == found["best"]["step_time_s"]
    before = json.loads(out_of(capsys, "train", str(example), "--json"))
    assert found["best"]["wall_clock_s"] <= before["wall_clock_s"]


def test_constraints_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(out_of(capsys, *SMALL, "--json", "--max-accelerators", "4"))
    assert found["best"]["accelerators"] == 4
    assert found["counts"]["constraint"] > 0


@pytest.mark.parametrize(("more", "stages", "zero"), [((), {1}, {3}), (("--pp", "2"), {2}, {0, 1})])
def test_a_stack_that_shards_weights_has_no_stages_unless_asked(
    capsys: pytest.CaptureFixture[str], more: tuple[str, ...], stages: set[int], zero: set[int]
) -> None:
    asked = ("plan", "--model", "llama3-8b", "--on", "8xtpu-v5p", "--seq-len", "4096")
    run([*asked, "--global-batch", "64", "--json", *more])
    best = json.loads(capsys.readouterr().out)["best"]
    assert best["training"]["stack"] == "maxtext"
    assert best["pp"] in stages
    assert best["zero_stage"] in zero


def test_nothing_feasible_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, *SMALL, "--budget", "10", code=1)
    assert re.search(r"smallest change that would do: a budget of \$[0-9,]+ \(not 10\)", line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tp", "two"), "--tp two: must be a number or a range such as 1..8"),
        (("--tp", "4.."), "--tp 4..: a range needs an end"),
        (("--deadline", "30"), "--deadline 30: must be an amount with its unit, such as 30d"),
        (("--budget", "lots"), "--budget lots: must be an amount such as 2e6"),
        (("--power", "2"), "--power 2: must be an amount with its unit, such as 800kW"),
        (("--memory-headroom", "some"), "--memory-headroom some: must be a share"),
        (("--objective", "speed"), "--objective speed: must be one of time, cost"),
        (("--objective", "cost=much"), "--objective cost=much: a weight is a number"),
        (("--accelerators", "..16"), "--on 8xh100-sxm: says how many"),
        (("--resume",), "--resume: needs the --store"),
        (("--on", "8xh100-sxm,8xtpu-v6e"), "its usual stack is maxtext, that of '8xh100-sxm'"),
        (("--json", "--csv"), "--json and --csv: choose one"),
        (("--schedule", "2f2b"), "'2f2b' is not known"),
        (("--law", "kaplan"), "--law: is for a question without a model"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    line = error_of(capsys, *SMALL, *arguments)
    assert words in line
    assert line.count("\n") == 1


def test_no_model_and_no_budget_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--budget or --deadline" in error_of(capsys, "plan", "--on", "8xh100-sxm")


@pytest.mark.parametrize(
    "arguments", [("--tp", "4"), ("--tokens", "1T"), ("--objective", "cost"), ("--resume",)]
)
def test_what_counts_for_nothing_without_a_model_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    asked = ("plan", "--on", "64xh100-sxm", "--budget", "1e5", "--store", "x", *arguments)
    assert ": is for a question that names its --model" in error_of(capsys, *asked)


def test_an_interrupt_answers_with_the_best_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, first: int, kept: Any, counts: Any) -> None:
        add(self, first, kept, counts)
        if len(self.firsts) == 1:
            raise KeyboardInterrupt

    add = search_module._Done.add
    monkeypatch.setattr(search_module, "BLOCK", 200)
    monkeypatch.setattr(search_module._Done, "add", interrupted)
    assert run((*SMALL, "--json")) == INTERRUPTED
    captured = capsys.readouterr()
    assert not json.loads(captured.out)["complete"]
    assert captured.err == "interrupted: the best so far\n"


def test_progress_shows_the_best_in_its_unit() -> None:
    from ridgeline.cli.plan_report import value_words

    assert value_words(7200.0, Objective()) == "120 min"
    assert value_words(2e6, Objective(cost=1.0)) == "$2.00M"
    assert value_words(4.0, Objective(time=2.0)) == "2.00 s"
    assert value_words(1234.0, Objective(cost=1.0, carbon=1.0)) == "1,234"


def test_progress_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    from ridgeline.cli.plan_report import progress_bar

    with progress_bar(Objective(cost=1.0)) as show:
        show(Progress(seen=10, total=100, elapsed_s=2.0, best_value=float("inf")))
        show(Progress(seen=20, total=100, elapsed_s=4.0, best_value=123.0))
    assert capsys.readouterr().out == ""


def test_numbers_are_lists_and_ranges() -> None:
    assert parse_numbers("1,2, 8..10", "--tp") == [1, 2, 8, 9, 10]
    assert parse_numbers("..3", "--tp") == [1, 2, 3]
    with pytest.raises(InputError, match="must ascend"):
        parse_numbers("8..4", "--tp")


def test_amounts_carry_their_units() -> None:
    limits = parse_constraints(
        {"budget": "$2M", "deadline": "36h", "power": "2.5MW", "memory_headroom": "10%"}
    )
    assert (limits.budget_usd, limits.deadline_s, limits.power_w) == (2e6, 129600.0, 2.5e6)
    assert limits.memory_headroom == pytest.approx(0.1)
    weights = parse_objective("cost=1,time=3600").weights
    assert weights == (1.0, 1.0, 0.0, 0.0)


def test_mtnlg_costs_what_vtrain_says_against_the_published_split(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """vTrain (arXiv 2312.12391): (8,12,21) on 2,016 costs $8.62M, (8,8,35) on 2,240 $9.01M."""
    found = json.loads(out_of(capsys, *MTNLG, "--accelerators", "2016,2240"))
    dearer, cheaper = found["front"]
    assert [dearer[key] for key in ("accelerators", "tp", "dp", "pp")] == [2240, 8, 8, 35]
    assert [cheaper[key] for key in ("accelerators", "tp", "dp", "pp")] == [2016, 8, 12, 21]
    assert cheaper["order"] == found["best"]["order"]
    assert cheaper["cost_usd"] / dearer["cost_usd"] == pytest.approx(8.62 / 9.01, rel=0.02)


def test_mtnlg_over_vtrains_whole_space_ends_at_vtrains_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = json.loads(out_of(capsys, *MTNLG, "--accelerators", "..3360", "--deadline", "43d"))
    best = found["best"]
    assert [best[key] for key in ("accelerators", "tp", "dp", "pp")] == [2016, 8, 12, 21]
