"""The command line as a person and a script meet it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import BAD_INPUT, BUG, COMMANDS, INFEASIBLE, output, run, units
from ridgeline.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
SMALL = str(ROOT / "examples" / "llama3_8b_8xh100.toml")
# Llama 3 70B takes 16 bytes a parameter in mixed precision: over a terabyte on 8 x 80 GB.
HUGE = ("train", SMALL, "--model", "llama2-70b", "--seq-len", "4096", "--zero-stage", "0")

CONTRACT = {
    "schema",
    "schema_version",
    "step_time_s",
    "step_time_low_s",
    "step_time_high_s",
    "mfu",
    "hfu",
    "model_tflops_per_accelerator",
    "tokens_per_s",
    "tokens_per_s_per_accelerator",
    "bubble_fraction",
    "exposed_communication_fraction",
    "memory_gib",
    "fits",
    "steps",
    "wall_clock_s",
    "accelerator_hours",
    "cost_usd",
    "energy_kwh",
    "co2_kg",
    "breakdown",
    "provenance",
}


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.err == "" or code == BAD_INPUT
    return captured.out


def errors_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> list[str]:
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    record = json.loads(out_of(capsys, "train", *arguments, "--json", code=code))
    assert isinstance(record, dict)
    return record


def test_json_has_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    record = answer(capsys, SMALL)
    assert set(record) >= CONTRACT
    assert record["schema"] == "ridgeline.train"
    assert record["step_time_low_s"] <= record["step_time_s"] <= record["step_time_high_s"]
    assert 0 < record["mfu"] <= record["hfu"] < 1
    assert record["fits"] is True
    assert isinstance(record["breakdown"], list)
    # 20B tokens in steps of 16 x 8,192.
    assert record["steps"] == -(-20_000_000_000 // (16 * 8192))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_answered_and_fits(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = answer(capsys, str(path))
    assert record["fits"]
    assert 0.05 < record["mfu"] < 0.8


def test_documented_keys_are_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    record = answer(capsys, SMALL, "--explain")
    oom = json.loads(out_of(capsys, *HUGE, "--json", code=INFEASIBLE))
    keys = {*record, *oom, *record["memory_gib"], *record["operators"][0], *oom["remedies"][0]}
    keys |= {*record["breakdown"][0], *record["provenance"][0]}
    for key in keys:
        assert f"`{key}`" in text, key


def test_flags_alone_ask_the_same_question(capsys: pytest.CaptureFixture[str]) -> None:
    plan = answer(capsys, SMALL)
    flags = "--model llama3-8b --cluster 1x8xh100-sxm --zero-stage 3 --tokens 20B --seq-len 8192 "
    flags += "--global-batch 16 --micro-batch 2 --recompute full --stack fsdp-composer"
    same = answer(capsys, *flags.split())
    assert same | {"name": ""} == plan | {"name": ""}


def test_a_flag_overrides_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, SMALL, "--tokens", "40B")["steps"] == 305_176
    priced = answer(capsys, SMALL, "--price", "2")
    assert priced["cost_usd"] == pytest.approx(2 * priced["accelerator_hours"])


def test_the_page_fits_80_columns_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    for page in (
        out_of(capsys, "train", SMALL, "--explain"),
        out_of(capsys, *HUGE, code=INFEASIBLE),
        out_of(capsys, "hardware", "show", "h100"),
        out_of(capsys, "models", "list"),
        out_of(capsys, "stacks", "show", "megatron-core"),
    ):
        assert "\x1b" not in page
        assert max(map(len, page.splitlines())) <= 80


def test_the_verdict_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    page = out_of(capsys, "train", SMALL)
    headings = ["Fits: ", "Step time", "MFU", "Run", "Cost", "Energy", "Where a step goes"]
    headings += ["Where memory goes", "What stands behind it"]
    places = [page.index(heading) for heading in headings]
    assert places == sorted(places)


def test_out_of_memory_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    page = out_of(capsys, *HUGE, code=INFEASIBLE)
    assert "Out of memory: stage 0 needs" in page
    assert "Cheapest changes that would fit" in page
    record = json.loads(out_of(capsys, *HUGE, "--json", code=INFEASIBLE))
    assert record["fits"] is False
    assert record["remedies"]
    for remedy in record["remedies"]:
        assert remedy["memory_gib"] <= record["memory_gib"]["limit"]
        assert remedy["changes"]


def test_csv_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(out_of(capsys, "train", SMALL, "--csv"))))
    assert len(rows) == 1
    assert float(rows[0]["step_time_s"]) > 0
    assert float(rows[0]["memory_gib.total"]) > 0


def test_the_same_question_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    first = out_of(capsys, "train", SMALL, "--json")
    assert out_of(capsys, "train", SMALL, "--json") == first


def test_trace_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "trace.json"
    assert run(["train", SMALL, "--trace", str(target), "--granularity", "stage"]) == 0
    assert "wrote " in capsys.readouterr().err
    events = json.loads(target.read_text(encoding="utf-8"))["traceEvents"]
    names = {event["args"]["name"] for event in events if event.get("name") == "process_name"}
    assert "stage 0" in names
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["train"], "no plan: give a plan file"),
        (["train", "missing.toml"], "missing.toml: no such file"),
        (["train", SMALL, "--tpp", "8"], "--tp"),
        (["train", SMALL, "--tp", "eight"], "'eight' is not a valid integer"),
        (["train", SMALL, "--tp", "-1"], "--tp -1: must be at least 1"),
        (["train", SMALL, "--price", "nan"], "--price nan: must be finite"),
        (["train", SMALL, "--price", "inf"], "--price inf: must be finite"),
        (["train", SMALL, "--cluster", "125000000x8xh100-sxm"], "10,000,000"),
        (["train", SMALL, "--model", "lama3-8b"], "'llama3-8b'"),
        (["train", SMALL, "--stack", "megatron"], "did you mean 'megatron-"),
        (["train", SMALL, "--region", "gcp:us-centrall1"], "us-central1"),
        (["train", SMALL, "--json", "--csv"], "choose one"),
        (["train", SMALL, "--granularity", "bit"], "granularity"),
        (["hardware", "show", "h1000"], "did you mean"),
        (["models", "show", "gtp3"], "gpt"),
        (["stacks", "show", "maxtex"], "unknown"),
        (["validate", "--measured", "no.csv"], "no.csv"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = errors_of(capsys, *arguments)
    assert any(expected in line for line in lines), lines


def test_several_bad_flags_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tp", "0", "--precision", "bf61", "--model", "lama3-8b", "--cluster", "8xh10"]
    lines = errors_of(capsys, "train", SMALL, *flags)
    assert [line.split()[0] for line in lines] == ["--tp", "--precision", "--model", "--cluster"]


def test_the_input_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.toml"
    text = Path(SMALL).read_text(encoding="utf-8")
    plan.write_text(text, encoding="utf-8")
    lines = errors_of(capsys, "train", str(plan), "--trace", str(plan))
    assert "is the input of this command" in lines[0]
    assert plan.read_text(encoding="utf-8") == text


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = errors_of(capsys, "train", SMALL, "--trace", str(tmp_path / "no" / "trace.json"))
    assert "cannot be written: no such file or directory" in lines[0]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.json"
    target.write_text("old", encoding="utf-8")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="no space left"):
        output.write_file(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_bug_is_one_line_and_exit_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("ridgeline.simulator.planfile.read_plan", broken)
    lines = errors_of(capsys, "train", SMALL, code=BUG)
    assert len(lines) == 1
    assert "this is a bug in ridgeline: ZeroDivisionError: division by zero" in lines[0]
    assert run(["train", SMALL, "--debug"]) == BUG
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ridgeline.simulator.planfile.read_plan", stop)
    assert errors_of(capsys, "train", SMALL, code=130) == ["interrupted"]


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from ridgeline.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "models", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_help_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    page = out_of(capsys, "--help")
    for name in COMMANDS:
        assert f"  {name} " in page
        assert run([name, "--help"]) == 0
    assert "infer" not in page


@pytest.mark.parametrize("command", ["hardware", "models", "stacks"])
def test_catalogues_list_and_show(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(out_of(capsys, command, "list", "--json"))
    records = listed["accelerators"] if command == "hardware" else listed
    name = records[0]["name"]
    page = out_of(capsys, command, "list")
    for record in records:
        assert record["name"] in page
    assert name in out_of(capsys, command, "show", name)
    assert json.loads(out_of(capsys, command, "show", name, "--json"))["name"] == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.duration(9.871), "9.87 s"),
        (units.duration(812e-6), "812 us"),
        (units.duration(78 * 86400.0), "78.0 days"),
        (units.duration(1e10), "317 years"),
        (units.large(15.6e12), "15.6T"),
        (units.large(512), "512"),
        (units.dollars(76.1e6), "$76.1M"),
        (units.dollars(2.47), "$2.47"),
        (units.energy(21.4e6), "21.4 GWh"),
        (units.mass(8.56e6), "8,560 t"),
        (units.percent(0.4136), "41.4%"),
        (units.figures(0.01234), "0.0123"),
        (units.figures(1234.5), "1,234"),
        (units.figures(0.0), "0"),
        (units.figures(2.0), "2.00"),
        (" ".join(units.column_of_times([4.3, 0.51])), "4.30 s 0.51 s"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected


def test_json_never_holds_nan() -> None:
    text = output.to_json({"a": float("nan"), "b": [float("inf"), (1, 2)]})
    assert json.loads(text) == {"a": None, "b": [None, [1, 2]]}
