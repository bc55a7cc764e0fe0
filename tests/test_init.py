"""A question in one line becomes a plan file that is answered as it stands."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import BAD_INPUT, INFEASIBLE, run
from ridgeline.cli.init_words import Wish, read_wish
from ridgeline.errors import InputError


def wish_of(line: str, *names: str) -> dict[str, Any]:
    wish = read_wish(line)
    return {name: getattr(wish, name) for name in names}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "train llama3-70b on 512 h100 with 1T tokens",
            {"serve": False, "model": "llama3-70b", "accelerator": "h100-sxm", "count": 512}
            | {"tokens": 1e12},
        ),
        (
            "Train meta-llama/Llama-3-70B on 64 nodes of 8 H100s, 1.4 trillion tokens, 8k context?",
            {"model": "llama3-70b", "nodes": 64, "per_node": 8, "tokens": 1.4e12, "seq_len": 8192},
        ),
        (
            "train gpt3-175b on 1,024 a100 in fp16, sequence length 2048, 3.2M tokens a batch",
            {"count": 1024, "accelerator": "a100-sxm-80gb", "seq_len": 2048}
            | {"batch_tokens": 3.2e6, "precision": "fp16"},
        ),
        (
            "train llama3-8b on h200 with 2T tokens in 30 days under 500k dollars, cheapest",
            {"count": 0, "deadline_s": 30 * 86400.0, "budget_usd": 5e5, "goal": "cost"},
        ),
        ("train llama 3 8b on two rtx 4090 for $2,000", {"count": 2, "budget_usd": 2000.0}),
        (
            "how long does it take to train llama3-8b on 8 h100 with a batch of 1024?",
            {"batch_seqs": 1024, "serve": False},
        ),
        ("train llama3-8b on h100 with 9B tokens sequence length 4096", {"seq_len": 4096}),
        ("train llama2-70b on tpu-v5p:4x4x8 with maxtext", {"spec": "tpu-v5p:4x4x8"}),
        ("train llama3-8b on 4x8xh100-sxm, batch of 2M tokens", {"batch_tokens": 2e6}),
        ("train ./My/Config.json on 8 h100", {"model": "./My/Config.json"}),
        (
            "serve llama3-8b in fp8 on 2 h100, 40 rps, 2000 in 300 out, ttft < 500 ms, 20ms tpot",
            {"serve": True, "request_rate": 40.0, "input_len": 2000, "output_len": 300}
            | {"limits": {"ttft": "500ms", "tpot": "20ms"}, "precision": "fp8"},
        ),
        (
            "serve deepseek-v3 on 8 h200, prompts of 2k tokens, answers of 500, 64 users, sglang",
            {"input_len": 2048, "output_len": 500, "concurrency": 64, "engine": "sglang"},
        ),
        ("llama3-8b on h100 at 600 requests per minute", {"serve": True, "request_rate": 10.0}),
    ],
)
def test_what_a_line_says(line: str, expected: dict[str, Any]) -> None:
    assert wish_of(line, *expected) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train lama3-70b on 8 h100", "'lama3-70b': is no model, accelerator or word"),
        ("train lama3-70b on 8 h100", "did you mean 'llama3-70b'"),
        ("train llama3-8b on 512 h10", "'512 h10'"),
        ("train llama3-8b on 8 h100 with cheese", "'cheese'"),
        ("train llama3-8b with 1T tokens", "does not say on what"),
        ("train on 8 h100 with 1T tokens", "names no model"),
        ("", "names no model"),
        ("train llama3-8b llama3-70b on 8 h100", "model was llama3-8b before"),
        ("train llama3-8b on 8 h100 with 1T tokens 2T tokens", "tokens was"),
        ("train llama3-8b on 8 h100 at 5 rps", "mixes serving"),
        ("serve llama3-8b on 8 h100 with 1T tokens", "mixes training"),
        ("train llama3-8b on 0 h100", "must be at least 1"),
        ("x" * 3000, "at most 2,000"),
    ],
)
def test_what_is_not_understood_is_refused(line: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_wish(line)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


def test_every_word_is_understood_or_a_filler() -> None:
    """No text that changes the question is passed over: each number is in some phrase."""
    line = "train llama3-8b on 16 h100, 300B tokens, context 4096, batch 512, in 10 days, $90k"
    said = " ".join(words for words, _ in read_wish(line).understood)
    for number in ("16", "300B", "4096", "512", "10", "90k"):
        assert number in said


def test_nothing_is_assumed_by_the_reader() -> None:
    wish = read_wish("train llama3-8b on h100")
    told = {"serve", "model", "accelerator", "understood"}
    blank = Wish()
    for name in Wish.__dataclass_fields__:
        assert name in told or getattr(wish, name) == getattr(blank, name), name


def written(line: str, path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["init", line, "-o", str(path)]) == 0, capsys.readouterr().err
    capsys.readouterr()
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_training_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.toml"
    tables = written("train llama3-70b on 512 h100 with 1T tokens", path, capsys)
    assert tables["model"]["name"] == "llama3-70b"
    assert tables["cluster"]["spec"] == "512xh100-sxm"
    assert tables["training"]["tokens"] == "1T"
    assert run(["train", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert record["accelerators"] == 512
    tokens = tables["training"]["global_batch_seqs"] * tables["training"]["seq_len"]
    assert record["steps"] == -(-(10**12) // tokens)


def test_every_line_says_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.toml"
    written("train gpt2-xl on two rtx-4090", path, capsys)
    text = path.read_text(encoding="utf-8")
    values = [line for line in text.splitlines() if re.match(r"\w+ = ", line)]
    assert values
    assert all(re.search(r"# (asked|assumed|chosen)", line) for line in values)
    assert 'spec = "2xrtx-4090"' in text
    assert re.search(r"tokens = .* # assumed: 20 a parameter", text)


def test_a_batch_in_tokens_is_rounded_to_one_that_divides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "train llama3-8b on 24 h100, 9B tokens, context 2048, batch of 3.2M tokens"
    sequences = written(line, tmp_path / "plan.toml", capsys)["training"]["global_batch_seqs"]
    assert sequences % 24 == 0
    assert sequences * 2048 == pytest.approx(3.2e6, rel=1 / 16)


def test_limits_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.toml"
    line = "train llama3-8b on h200 with 500B tokens in 30 days under 200k dollars"
    tables = written(line, path, capsys)
    assert "--budget 200000 --deadline 720h" in path.read_text(encoding="utf-8")
    assert run(["train", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["wall_clock_s"] <= 30 * 86400
    assert record["cost_usd"] <= 200_000
    half = record["accelerators"] // 2
    # Half as many would not make it: the number is the least of the powers of two.
    assert tables["cluster"]["spec"] == f"{2 * half}xh200-sxm"
    assert (
        run(["init", f"train llama3-8b on {half} h200 with 500B tokens in 30 days"]) == INFEASIBLE
    )


def test_service_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "service.toml"
    line = "serve llama3-8b on h100 at 40 rps, 1024 in, 128 out, ttft 500ms, tpot 20ms"
    tables = written(line, path, capsys)
    assert tables["serving"]["slo"] == "ttft=500ms,tpot=20ms"
    assert run(["infer", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["goodput_fraction"] >= 0.9
    assert record["finished"] == record["requests"]


def test_what_cannot_fit_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "train llama3-405b on 8 h100 with 1T tokens"]) == INFEASIBLE
    assert "no plan fits" in capsys.readouterr().err
    assert run(["init", "serve llama3-405b on one l4"]) == INFEASIBLE
    assert "takes" in capsys.readouterr().err


def test_a_file_is_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text("mine", encoding="utf-8")
    line = "train llama3-8b on 8 h100 with 20B tokens"
    assert run(["init", line, "-o", str(path)]) == BAD_INPUT
    assert "--force" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"
    assert run(["init", line, "-o", str(path), "--force"]) == 0
    assert "llama3-8b" in path.read_text(encoding="utf-8")


def test_without_a_file_the_plan_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "train", "llama3-8b", "on", "8", "h100", "with", "20B", "tokens"]) == 0
    captured = capsys.readouterr()
    assert tomllib.loads(captured.out)["training"]["tokens"] == "20B"
    assert captured.err == ""


def test_the_question_cannot_write_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "train llama3-8b on 8 h100\n[money]\nx = 1"]) == BAD_INPUT
    assert run(["init", "train llama3-8b\non 8 h100"]) == 0
    assert set(tomllib.loads(capsys.readouterr().out)) <= {
        *("model", "cluster", "parallel", "training", "stack"),
    }
