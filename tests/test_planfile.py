"""The plan file: what it says arrives, and what is wrong with it is said, all at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ridgeline.errors import InputError
from ridgeline.simulator import planfile
from ridgeline.simulator.plan import Money, RunOptions
from ridgeline.simulator.planfile import parse_count, read_plan

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))

GOOD = """
[model]
name = "llama3-8b"
[cluster]
spec = "8x8xh100-sxm"
[parallel]
tp = 8
pp = 2
[training]
tokens = "15T"
seq_len = 8192
global_batch_seqs = 128
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | None, *args: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_plan(path, *args)
    return list(caught.value.problems)


def test_a_file_becomes_a_plan(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD))
    assert plan.name == "plan"
    assert plan.model.name == "llama3-8b"
    assert plan.cluster.count == 64
    assert (plan.parallel.tp, plan.parallel.pp, plan.parallel.dp) == (8, 2, 4)
    assert plan.training.tokens == 15e12
    assert plan.training.schedule == "1f1b"
    assert plan.stack == "megatron-core"
    assert plan.run == RunOptions()
    assert plan.money == Money()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_legal(path: Path) -> None:
    plan = read_plan(path)
    assert plan.training.tokens > 0
    assert plan.parallel.world == plan.cluster.count


def test_there_are_the_seven_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize(
    ("value", "count"),
    [("15T", 15e12), ("2.4B", 2.4e9), ("300 M", 3e8), ("1e12", 1e12), (15e12, 15e12), (7, 7.0)],
)
def test_counts(value: object, count: float) -> None:
    assert parse_count(value) == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize("value", ["", "T", "15Q", "-3B", "nan", True, None, [], "1e999"])
def test_counts_that_are_none(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_count(value)


def test_overrides_replace_fields_and_are_named_by_their_flags(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    plan = read_plan(path, {"parallel.tp": 4, "training.tokens": "1B", "model.name": "llama2-70b"})
    assert (plan.parallel.tp, plan.parallel.dp) == (4, 8)
    assert plan.training.tokens == 1e9
    assert plan.model.name == "llama2-70b"
    lines = mistakes(path, {"parallel.tp": 0}, {"parallel.tp": "--tp"})
    assert lines == ["--tp 0: must be at least 1"]
    lines = mistakes(path, {"parallel.dp": 3}, {"parallel.dp": "--dp"})
    assert lines[0].startswith("--dp 3: tp*pp*cp*dp = 48")


def test_an_override_of_the_cluster_ousts_its_parts(tmp_path: Path) -> None:
    parts = 'accelerator = "a100-sxm-80gb"\ncount = 16'
    path = write(tmp_path, GOOD.replace('spec = "8x8xh100-sxm"', parts))
    assert read_plan(path).cluster.accelerator.name == "a100-sxm-80gb"
    assert read_plan(path, {"cluster.spec": "8x8xh100-sxm"}).cluster.count == 64


def test_flags_alone_are_enough() -> None:
    plan = read_plan(
        None,
        {
            "model.name": "llama3-8b",
            "cluster.spec": "1x8xh100-sxm",
            "training.seq_len": 8192,
            "training.global_batch_seqs": 16,
        },
    )
    assert plan.parallel.dp == 8


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
[model]
name = "lama3-8b"
[cluster]
spec = "8x8xh10-sxm"
[parallel]
tpp = 8
pp = -2
zero_stage = "3"
tensor_parallel = 2
[training]
tokens = "15Q"
seq_len = 1_000_000_000_000
precision = "bf61"
recompute = "ful"
[stack]
name = "megatron-cor"
[paralel]
[run]
restart_s = nan
checkpoint_interval_s = inf
[serving]
""",
    )
    lines = mistakes(path)
    assert all(line.startswith(f"{path}: ") for line in lines)
    short = sorted(line.removeprefix(f"{path}: ") for line in lines)
    for expected in (
        "[paralel]: unknown section; did you mean 'parallel'?",
        "[serving]: predicting a service (ridgeline infer) is not there yet",
        "parallel.tpp: unknown key; did you mean 'tp'?",
        "parallel.tensor_parallel: unknown key; did you mean 'tp'?",
        "parallel.pp = -2: must be at least 1",
        "parallel.zero_stage = '3': must be a whole number",
        "run.restart_s = nan: must be finite",
        "training.precision = 'bf61': is not known; did you mean 'bf16'?",
        "training.recompute = 'ful': is not known; did you mean 'full'?",
        "training.seq_len = 1000000000000: must be at most 100,000,000",
        "training.tokens = '15Q': must be a count such as 15e12, '15T' or '2.4B'",
    ):
        assert expected in short
    joined = "\n".join(short)
    assert "model.name = 'lama3-8b': " in joined
    assert "'llama3-8b'" in joined
    assert "cluster.spec = '8x8xh10-sxm': " in joined
    assert "'h100-sxm'" in joined
    assert "training.global_batch_seqs: missing" in joined
    assert "'megatron-core'" in joined
    assert "run.checkpoint_interval_s = inf" in joined
    assert len(short) == 16


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("training.tokens", float("nan"), "must be finite"),
        ("training.tokens", -1.0, "at least 0"),
        ("training.tokens", 1e18, "at most 1e+17"),
        ("training.seq_len", True, "whole number"),
        ("training.seq_len", 8192.0, "whole number"),
        ("training.schedule", "1fb1", "'1f1b'"),
        ("training.uneven_stages", "yes", "true, false or a list"),
        ("training.uneven_stages", [16, -16], "true, false or a list"),
        ("training.offload", ["optimiser"], "'optimizer'"),
        ("training.task", "sft", "pretrain"),
        ("parallel.placement", ["tp", "zz"], "known"),
        ("parallel.tp", 10**9, "at most 10,000,000"),
        ("parallel.sp", 1, "true or false"),
        ("money.kind", "spott", "'spot'"),
        ("money.pue", 0.5, "at least 1"),
        ("money.usd_per_accelerator_hour", float("inf"), "finite"),
        ("money.region", "gcp:us-centrall1", "us-central1"),
        ("run.failures_per_1000_node_days", -2.0, "'auto' or a number"),
        ("cluster.spec", "125000000x8xh100-sxm", "10,000,000"),
        ("cluster.spec", "", "not understood"),
        ("cluster.spec", "99999999999999999999999999999x8xh100-sxm", "10,000,000"),
        ("model.name", "", "catalogue"),
        ("stack.name", "no-such.toml", "no such file"),
    ],
)
def test_values_out_of_their_range(tmp_path: Path, key: str, value: object, rule: str) -> None:
    lines = mistakes(write(tmp_path, GOOD), {key: value})
    assert any(rule in line and key in line for line in lines), lines


def test_a_large_run_is_no_mistake(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"training.tokens": 1e15})
    assert plan.training.tokens == 1e15


def test_uneven_stages_may_be_listed(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"training.uneven_stages": [17, 15]})
    assert plan.training.stage_layers == (17, 15)


def test_interleaving_follows_from_vpp(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"parallel.vpp": 2})
    assert plan.training.schedule == "interleaved"


def test_missing_sections_are_named(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, ""))
    text = "\n".join(lines)
    assert "model: give one of name" in text
    assert "cluster: give spec" in text
    assert "training.seq_len: missing" in text


def test_a_section_that_is_no_table(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, 'model = "llama3-8b"\n' + GOOD.replace("[model]", "[x]")))
    assert any("model = 'llama3-8b': must be a section of keys" in line for line in lines)


def test_configuration_beside_the_plan(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, GOOD.replace("name = ", "config = ")))
    assert len(lines) == 1
    assert "model.config = 'llama3-8b'" in lines[0]
    assert "no such file" in lines[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "did you mean" in mistakes(tmp_path / "plan.tml")[0]
    assert "is a folder" in mistakes(tmp_path)[0]
    assert "no such file" in mistakes(tmp_path / "no" / "such.toml")[0]
    path.write_text("[model\nname = 1")
    assert re.search(r"not TOML: .*line 1", mistakes(path)[0])
    path.write_bytes(b"[model]\nname = '\xff'\n")
    assert "line 2: not UTF-8" in mistakes(path)[0]
    path.write_text("#" * (planfile.MAX_FILE_BYTES + 1))
    assert "larger than 1024 KiB" in mistakes(path)[0]
    path.write_text("a = " + "[" * 100_000)
    assert "not TOML" in mistakes(path)[0]


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "plan-file.md").read_text(encoding="utf-8")
    for section, model in planfile.SECTIONS.items():
        assert f"[{section}]" in text
        for key in model.model_fields:
            assert f"`{key}`" in text, f"{section}.{key}"
