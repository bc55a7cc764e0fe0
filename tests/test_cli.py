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

from ridgeline import units
from ridgeline.cli import BAD_INPUT, BUG, COMMANDS, INFEASIBLE, output, run
from ridgeline.cli.train import FLAGS
from ridgeline.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.toml")
    if not path.stem.startswith(("fleet_", "serve_"))
)
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
    assert "Out of memory: an accelerator needs" in page
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("hardware", "show", "h200"),
        ("hardware", "list"),
        ("models", "list", "--json"),
        ("train", SMALL),
        ("train", SMALL, "--json"),
        ("train", "--help"),
    ],
    ids=" ".join,
)
def test_a_broken_pipe_is_told_from_an_answer(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert run(arguments) == 141


def test_a_full_disk_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert run(["models", "list"]) == BAD_INPUT
    assert capsys.readouterr().err == (
        "error: standard output: cannot be written: no space left on device\n"
    )


def test_pages_end_no_line_in_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    for page in (out_of(capsys, "train", SMALL), out_of(capsys, "hardware", "list")):
        assert all(line == line.rstrip() for line in page.splitlines())


def test_one_accelerator_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "gpt2", "--cluster", "1xh20", "--seq-len", "1024", "--global-batch", "8"]
    page = out_of(capsys, "train", *flags)
    assert "(1 accelerator)" in page
    assert "Idle" not in page
    assert "1 steps" not in page
    # The price list has no quote of an H20 on demand.
    assert "unknown" in page
    assert "--price" in page
    assert "$0.00" not in page
    assert " 0.00 " not in page


def test_shares_of_memory_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    page = out_of(capsys, "train", SMALL)
    block = page[page.index("Where memory goes") : page.index("What stands behind it")]
    shares = [float(line.split()[-1].rstrip("%")) for line in block.splitlines() if "%" in line]
    assert sum(shares) == pytest.approx(100.0, abs=0.5)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


@pytest.mark.parametrize("key", list(LLAMA))
@pytest.mark.parametrize(
    "value", [None, "x", -1, 0, 1.5, 1e300, 10**15, True, [], {}, float("nan"), ""], ids=repr
)
def test_wrong_numbers_in_a_configuration(
    key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "model.json"
    config.write_text(json.dumps(LLAMA | {key: value}), encoding="utf-8")
    code = run(["train", SMALL, "--model", str(config)])
    captured = capsys.readouterr()
    if code == BAD_INPUT:
        assert captured.out == ""
        assert all(line.startswith("error: --model ") for line in captured.err.splitlines())
        assert key in captured.err or "unknown family" in captured.err
    else:
        # Hugging Face lets a configuration leave the number of KV heads out.
        assert (key, value, code) == ("num_key_value_heads", None, 0)


@pytest.mark.parametrize("name", [flag.name for flag in FLAGS if flag.kind is not None])
@pytest.mark.parametrize("value", ["", "nonsense", "-1", "1e999", "9" * 30, "x" * 10_000])
def test_nonsense_in_any_flag(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    if (name, value) == ("region", ""):
        pytest.skip("an empty region is the world")
    lines = errors_of(capsys, "train", SMALL, f"--{name}", value)
    assert all(f"--{name}" in line and len(line) < 1000 for line in lines)


@pytest.mark.parametrize("target", [".", "/", "x" * 300, "no/such/folder/trace.json"])
def test_a_trace_that_cannot_be_written(
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = errors_of(capsys, "train", SMALL, "--trace", target)
    assert "cannot be written" in line
    assert list(tmp_path.iterdir()) == []


BASE = [
    "--model",
    "llama2-7b",
    "--cluster",
    "2x8xh100-sxm",
    "--seq-len",
    "2048",
    "--global-batch",
    "64",
]
CORNERS = [
    *(
        f"--schedule {schedule} --pp {pp} --tp {tp} --global-batch {batch}"
        for schedule in ("gpipe", "1f1b", "zb-h1")
        for pp, tp, batch in ((1, 2, 8), (2, 8, 1), (8, 2, 2), (16, 1, 64))
    ),
    "--pp 8 --tp 2 --vpp 4",
    "--pp 8 --tp 2 --schedule dualpipe",
    "--pp 3 --tp 2 --cluster 3x2xh100-sxm --uneven-stages",
    "--pp 3 --tp 2 --vpp 2 --cluster 3x2xh100-sxm --uneven-stages --global-batch 63",
    "--pp 32 --tp 1 --cluster 4x8xh100-sxm",
    "--tp 32 --cluster 4x8xh100-sxm",
    "--model gpt2 --pp 4 --seq-len 1024",
    "--model gpt2-xl --cluster 8xv100-sxm-32gb --precision fp16 --seq-len 1024",
    "--model gpt2-xl --cluster 8xv100-sxm-32gb --precision fp32 --seq-len 1024",
    "--model gpt2-xl --cluster 8xa100-sxm-80gb --precision tf32 --seq-len 1024",
    "--precision fp8",
    "--cluster tpu-v5p:4x4x4*4 --global-batch 256",
    "--cluster tpu-v5e:16x16 --global-batch 256",
    "--cluster 8xrtx-4090",
    "--cluster gb200-nvl72:1 --global-batch 72",
    "--cluster 64xmi300x",
    "--cluster 1xh100-sxm",
    "--seq-len 1 --global-batch 1 --cluster 1xh100-sxm",
    "--cluster 1250000x8xh100-sxm --global-batch 10000000",
    *(f"--recompute {name}" for name in ("full", "selective", "every-2", "full-32", "minimal")),
    "--cp 8 --seq-len 65536",
    "--cp 2 --tp 4 --pp 2 --sp --zero-stage 1 --seq-len 65536",
    *(f"--zero-stage {stage}" for stage in range(4)),
    *(f"--zero-stage 3 --shard-size {size}" for size in (1, 8, 16)),
    *(f"--optimizer {name}" for name in ("sgd", "sgd-momentum", "adam")),
    "--model mixtral-8x7b --ep 8 --zero-stage 1 --cluster 8x8xh100-sxm",
    "--model mixtral-8x7b --ep 8 --tp 4 --etp 1 --sp --zero-stage 1 --cluster 8x8xh100-sxm",
]


@pytest.mark.parametrize("flags", CORNERS)
def test_every_corner_gives_finite_positive_numbers(
    flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["train", *BASE, *flags.split(), "--json"])
    captured = capsys.readouterr()
    assert code in (0, INFEASIBLE), captured.err
    record = json.loads(captured.out)
    for key, value in numbers_of(record):
        assert value is not None, key
        assert value >= 0, key
    for key in ("step_time_s", "mfu", "hfu", "tokens_per_s", "wall_clock_s", "energy_kwh"):
        assert record[key] > 0, key
    assert record["mfu"] <= record["hfu"] <= 1


def numbers_of(value: Any, key: str = "") -> list[tuple[str, float | None]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in numbers_of(v, f"{key}.{k}")]
    if isinstance(value, list):
        return [pair for item in value for pair in numbers_of(item, key)]
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return [(key, value)]
    return []


def test_routing_of_experts_costs_what_it_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(routing: str) -> tuple[float, float]:
        plan = tmp_path / "plan.toml"
        plan.write_text(
            f'[model]\nname = "mixtral-8x7b"\n{routing}\n'
            '[cluster]\nspec = "8x8xh100-sxm"\n[parallel]\nep = 8\nzero_stage = 1\n'
            "[training]\nseq_len = 2048\nglobal_batch_seqs = 64\n",
            encoding="utf-8",
        )
        code = run(["train", str(plan), "--json"])
        assert code in (0, INFEASIBLE)
        record = json.loads(capsys.readouterr().out)
        return record["step_time_s"], record["memory_gib"]["total"]

    plain = step("")
    assert step("expert_load = [7, 7, 7, 7, 7, 7, 7, 7]") == pytest.approx(plain, rel=1e-12)
    skewed = step("expert_load = [2, 1, 1, 1, 1, 1, 1, 1]")
    worst = step("expert_load = [1, 0, 0, 0, 0, 0, 0, 0]")
    assert plain < skewed < worst
    assert plain[1] < skewed[1] < worst[1]
    padded = step("capacity_factor = 1.5")
    assert plain < padded
    assert plain[1] < padded[1]
    assert step("capacity_factor = 1.0")[0] == pytest.approx(plain[0], rel=1e-12)


@pytest.mark.parametrize("command", [(), ("train",)])
def test_the_example_of_the_help_runs(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    page = out_of(capsys, *command, "--help")
    start = page.index("  ridgeline train --model")
    words = page[start : page.index("\n", page.index("--global-batch 8"))].split()
    assert "Fits" in out_of(capsys, *(word for word in words[1:] if word != "\\"))
