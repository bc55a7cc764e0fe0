"""Measured serving: the reader, what a row asks, and the report."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.play import play
from ridgeline.simulator.serving.policy import policy_of
from ridgeline.validation.serving import accuracy
from ridgeline.validation.serving.calibration.fit import Linear, solve, tunables
from ridgeline.validation.serving.clients import client_of, formula, launch_of
from ridgeline.validation.serving.measured import (
    CARD_COLUMNS,
    COLUMNS,
    ServingRow,
    read_ids,
    read_serving,
)
from ridgeline.validation.serving.predict import (
    Prediction,
    closed_loop_rate,
    policy_for,
    predict,
    traffic_of,
)
from ridgeline.validation.serving.report import ServingReportRow, summarise, validate_serving
from ridgeline.validation.serving.rows import (
    CLOSED,
    DISAGGREGATED,
    OFFLINE,
    STATIC,
    Question,
    row_question,
)
from ridgeline.validation.spelling import Skip

CELLS = {
    "id": "one",
    "source": "InferenceX via aiconfigurator",
    "accelerator": "H200-SXM",
    "num_accel": "2",
    "engine": "vllm",
    "engine_version": "0.18.0",
    "model": "meta-llama/Llama-3.1-70B",
    "precision": "fp8",
    "tp": "2.0",
    "pp": "1",
    "ep": "1",
    "dp": "1",
    "input_len": "1024",
    "output_len": "128",
    "batch_or_concurrency": "4",
    "ttft_ms": "120",
    "tpot_ms": "14",
    "notes": "agg; bs_per_rank=4",
}


def table(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    lines = [",".join(columns)]
    lines += [",".join(f'"{row.get(column, "")}"' for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(**changes: object) -> ServingRow:
    plain = ServingRow(
        line=2,
        id="one",
        source=CELLS["source"],
        accelerator="H200-SXM",
        num_accel=2,
        engine="vllm",
        engine_version="0.18.0",
        model=CELLS["model"],
        precision="fp8",
        tp=2,
        pp=1,
        ep=1,
        dp=1,
        input_len=1024,
        output_len=128,
        batch_or_concurrency=4,
        ttft_ms=120.0,
        tpot_ms=14.0,
        notes="agg; bs_per_rank=4",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # by name


def question(**changes: object) -> Question:
    found = row_question(row(**changes))
    assert isinstance(found, Question), found
    return found


def test_reader_takes_both_schemas(tmp_path: Path) -> None:
    (serving,) = read_serving(table(tmp_path / "a.csv", CELLS))
    assert (serving.tp, serving.ttft_ms, serving.kv_precision) == (2, 120.0, "")
    card = {
        "model": "DeepSeek-R1-Distill-Llama-8B",
        "accelerator": "H100",
        "num_accel": "1",
        "engine": "vLLM",
        "engine_version": "0.7.2",
        "precision": "bf16",
        "input_len": "512",
        "output_len": "256",
        "mode": "single-stream (batch 1) latency",
        "latency_s": "2.0",
        "source": "card",
    }
    (one,) = read_serving(table(tmp_path / "b.csv", card, columns=CARD_COLUMNS))
    assert (one.id, one.throughput_tok_s_per_accel) == ("card_2", 128.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttft_ms": "nan"}, "ttft_ms = 'nan': must be a number above 0"),
        ({"tpot_ms": "-3"}, "tpot_ms = '-3': must be a number above 0"),
        ({"tp": "1.5"}, "tp = '1.5': must be a whole number of at least 1"),
        ({"input_len": "many"}, "input_len = 'many': must be a whole number of at least 1"),
        ({"id": ""}, "id: empty; each row needs one"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:2: ") as caught:
        read_serving(table(tmp_path / "a.csv", {**CELLS, **changes}))
    assert message in str(caught.value)


def test_another_table_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b,a\n1,2,3\n", encoding="utf-8")
    with pytest.raises(
        InputError, match="no columns 'id', 'source', 'source_detail' and"
    ) as caught:
        read_serving(path)
    (line,) = caught.value.problems
    assert "columns 'a', 'b' are not known; column 'a' is there twice" in line


def test_unknown_missing_and_repeated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column 'colour' is not known"):
        read_serving(table(tmp_path / "a.csv", CELLS, columns=(*COLUMNS, "colour")))
    with pytest.raises(InputError, match="no column 'tpot_ms'"):
        read_serving(
            table(tmp_path / "b.csv", CELLS, columns=tuple(c for c in COLUMNS if c != "tpot_ms"))
        )
    with pytest.raises(InputError, match="already on line 2"):
        read_serving(table(tmp_path / "c.csv", CELLS, CELLS))
    with pytest.raises(InputError, match="a header and no rows"):
        read_serving(table(tmp_path / "d.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        read_serving(tmp_path / "none.csv")


def test_list_of_rows_to_leave_out_must_be_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("id,reason\none,wrong\n", encoding="utf-8")
    assert read_ids(path, ["one", "two"]) == {"one"}
    with pytest.raises(InputError, match="none of its 1 ids is in the table"):
        read_ids(path, ["two"])


def test_a_row_becomes_the_service_that_it_was() -> None:
    q = question()
    s = q.service
    assert (q.kind, s.engine, s.precision, s.kv_precision) == (CLOSED, "vllm-0.15", "fp8", "fp8")
    assert (s.model.name, s.tp, s.limits.max_tokens) == ("llama3.1-70b", 2, 8192)
    assert (q.prompts, q.client.length_low, q.accelerators) == (40, 0.8, 2)


@pytest.mark.parametrize(
    ("changes", "split"),
    [
        # tp = dp = n, ep = n^2 is n accelerators
        ({"model": "MiniMaxAI/MiniMax-M2.5", "tp": 4, "ep": 16, "dp": 4}, (1, 4, 4)),
        # dp beyond the node
        (
            {"model": "deepseek-ai/DeepSeek-R1", "engine": "trtllm", "tp": 1, "ep": 8, "dp": 64},
            (1, 8, 8),
        ),
        # concurrency of all ranks, batch of one
        (
            {
                "model": "deepseek-ai/DeepSeek-R1",
                "engine": "trtllm",
                "tp": 4,
                "ep": 4,
                "dp": None,
                "batch_or_concurrency": 16,
            },
            (1, 4, 4),
        ),
        # ep = 0 stands for 1; a dense model has no experts to spread
        ({"ep": 0, "dp": 0}, (2, 1, 1)),
    ],
)
def test_labels_that_count_twice(changes: dict[str, object], split: tuple[int, int, int]) -> None:
    s = question(**changes).service
    assert (s.tp, s.dp, s.ep) == split


def test_kinds_of_rows() -> None:
    pools = "disagg; prefill=1x(tp4,pp1,dp1,ep1,bs1); decode=2x(tp4,pp1,dp1,ep1,bs16)"
    q = question(model="deepseek-ai/DeepSeek-R1", notes=pools, tp=None, accelerator="GB200")
    assert (q.kind, q.accelerators, q.service.replicas) == (DISAGGREGATED, 12, 2)
    unknown = row_question(row(notes=pools.replace("1x", "x").replace("2x", "x"), tp=None))
    assert unknown == Skip("disaggregated, number of workers not stated")
    offline = question(
        source="TensorRT-LLM docs v1.0",
        engine="trtllm",
        engine_version="1.0",
        ttft_ms=None,
        tpot_ms=None,
        batch_or_concurrency=None,
        input_len=128,
        output_len=2048,
        notes="offline max-load",
    )
    assert (offline.kind, offline.prompts) == (OFFLINE, 3000)
    assert question(source="splitwise-sim", notes="static batch", precision="fp16").kind == STATIC


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "nobody/nothing"}, "model 'nobody/nothing' is not known"),
        (
            {"batch_or_concurrency": None, "notes": "agg; bs_per_rank=4"},
            "batch_or_concurrency: not stated",
        ),
        ({"engine": "mystery"}, "engine 'mystery' is not known"),
        ({"precision": "fp7"}, "precision 'fp7' is not known"),
        ({"tp": None}, "tp: not stated"),
        ({"notes": "LAYER time not model time"}, "one layer, not a model"),
    ],
)
def test_what_cannot_be_simulated_says_why(changes: dict[str, object], reason: str) -> None:
    assert row_question(row(**changes)) == Skip(reason)


def test_a_batch_in_a_remark_makes_no_static_batch() -> None:
    remark = "throughput under maximum load; below the static batch-128 rate of the same table"
    asked = question(notes=remark, ttft_ms=None, tpot_ms=None)
    assert asked.kind == OFFLINE
    assert question(notes="batch-1 latency").kind == STATIC


def test_a_cache_that_was_inferred_gives_way_to_the_launch() -> None:
    changes: dict[str, object] = {
        "source": "TensorRT-LLM docs v1.2-era",
        "engine": "trtllm",
        "engine_version": "1.2-era",
        "model": "gpt-oss-120b",
        "kv_precision": "fp8",
        "ttft_ms": None,
        "tpot_ms": None,
    }
    inferred = question(**changes, notes="offline max-load; kv fp8 inferred")
    assert inferred.service.kv_precision == "bf16"
    assert question(**changes, notes="offline max-load").service.kv_precision == "fp8"


def test_blank_precision_and_version_are_assumptions() -> None:
    notes = question(precision="", engine_version="").assumptions
    assert any("precision not stated" in note for note in notes)
    assert any("version not stated" in note for note in notes)


def test_clients_and_launches_are_data_by_source() -> None:
    assert client_of(row(source="someone else")).prompts_per_concurrency == 10
    assert launch_of(row(source="someone else"), 1).citations == ()
    assert client_of(row(notes="num_prompts=77, max_num_seqs=5")).prompts == 77
    assert formula("max(8192, conc + 2 * isl)", {"conc": 4, "isl": 8000}) == 16004
    assert [formula("doubling(share)", {"share": n}) for n in (0, 1, 3, 4, 269)] == [
        1,
        1,
        2,
        4,
        256,
    ]
    with pytest.raises(ValueError, match="only"):
        formula("1 if 1 else 2", {})


def test_servers_are_sized_for_the_load_as_the_generator_of_their_configuration_says() -> None:
    changes: dict[str, object] = {
        "source": "NVIDIA internal via aiconfigurator",
        "source_detail": "silicon_sample.csv; source_file=Qwen_Qwen3-32B.csv",
        "engine": "trtllm",
        "engine_version": "1.0.0rc3",
        "model": "Qwen/Qwen3-32B",
        "input_len": 1024,
        "batch_or_concurrency": 8,
    }
    asked = question(**changes)
    assert (asked.service.limits.max_tokens, asked.service.limits.max_sequences) == (2032, 8)
    assert asked.client.length_low == 1.0
    chunked = {**changes, "engine": "sglang"}
    kinds = [policy_for(question(**{**chunked, "engine_version": version})).kind
             for version in ("0.5.1.post1", "0.5.6.post2")]  # fmt: skip
    assert kinds == ["prefill-first", "mixed"]
    gap = question(**{**changes, "source_detail": "source_file=kimi-k2.5-gap-analysis.csv"})
    assert (gap.service.limits.max_sequences, gap.client.length_low) == (0, 0.8)


def test_pools_are_launched_as_their_recipes_say() -> None:
    wide = row(source="InferenceX", engine="sglang", model="deepseek-r1", accelerator="GB200",
               precision="fp8")  # fmt: skip
    assert launch_of(wide, 32).expert_kernels == "deepgemm"
    assert launch_of(wide, 32).expert_slots == 288
    assert launch_of(wide, 1).expert_kernels == "flashinfer_trtllm"
    four = row(source="InferenceX", engine="trtllm", model="deepseek-r1", accelerator="GB200",
               precision="fp4")  # fmt: skip
    assert [launch_of(four, ranks, "decode").expert_slots for ranks in (8, 16, 32)] == [0, 256, 288]
    assert launch_of(four, 4, "prefill").expert_kernels == ""
    assert launch_of(four, 4, "decode").expert_kernels == "cutlass"


@pytest.mark.parametrize(
    ("accelerator", "workers", "concurrency", "most"),
    [
        # max_batch_size of srt-slurm recipes/trtllm by their names, with their concurrencies
        ("GB300", "4x(tp8,pp1,dp1,ep8,bs9)", 36, 8),
        ("GB300", "4x(tp8,pp1,dp1,ep8,bs6)", 24, 4),
        ("GB200", "3x(tp8,pp1,dp1,ep8,bs2)", 6, 1),
        ("GB200", "1x(tp1,pp1,dp8,ep8,bs768)", 6144, 768),
        ("GB200", "1x(tp1,pp1,dp32,ep32,bs38)", 1229, 32),
        ("H200-SXM", "4x(tp8,pp1,dp1,ep8,bs9)", 36, 0),
    ],
)
def test_decoding_ranks_hold_what_their_recipe_lets_them(
    accelerator: str, workers: str, concurrency: int, most: int
) -> None:
    asked = question(
        engine="trtllm",
        engine_version="0.8.1.post2",
        model="deepseek-ai/DeepSeek-V3",
        accelerator=accelerator,
        batch_or_concurrency=concurrency,
        tp=None,
        notes=f"disagg; prefill=1x(tp1,pp1,dp8,ep8,bs1); decode={workers}; derived",
    )
    assert asked.service.limits.max_sequences == most
    assert (asked.router, asked.decode_speaks) == ("round-robin", True)


def test_counts_that_a_source_contradicts_are_put_right() -> None:
    card: dict[str, object] = {
        "source": "vLLM model cards",
        "engine": "vLLM",
        "engine_version": "0.7.2",
        "model": "DeepSeek-R1-Distill-Qwen-14B",
        "precision": "bf16",
        "num_accel": 1,
        "tp": 1,
        "ttft_ms": None,
        "tpot_ms": None,
    }
    busy = question(**card, accelerator="A6000", notes="multi-stream max throughput")
    assert (busy.service.tp, busy.accelerators) == (2, 1)
    alone = question(**card, accelerator="A6000", notes="single-stream (batch 1) latency")
    assert alone.service.tp == 1
    sweep: dict[str, object] = {"engine": "sglang", "model": "Qwen/Qwen3.5-397B-A17B", "dp": 1}
    two = question(**sweep, accelerator="B300-SXM", precision="fp4", tp=4, ep=2)
    assert (two.service.tp, two.service.ep, two.accelerators) == (2, 2, 2)


def test_eras_and_options_go_by_version() -> None:
    rocm = {"engine": "vllm (rocm)", "accelerator": "MI300X", "tp": 8, "notes": "static batch"}
    found = [
        question(**rocm, engine_version=version).service.engine
        for version in ("0.6.6", "0.9.0.1", "0.9.1", "v0.10.0", "0.10.1", "0.11.1", "")
    ]
    assert found == [
        *["vllm-rocm"] * 2,
        *["vllm-rocm-0.9.1"] * 2,
        *["vllm-rocm-0.10.1"] * 2,
        "vllm-rocm",
    ]
    sglang = [
        question(engine="sglang", engine_version=version).service.engine
        for version in ("0.5.9", "0.5.10.post1", "nightly-dev-20260216-d3bae71e")
    ]
    assert sglang == ["sglang-0.5.5", "sglang-0.5.10", "sglang-0.5.5"]
    mini = {"model": "MiniMaxAI/MiniMax-M2.5"}
    kernels = [
        question(**mini, engine_version=version).service.expert_kernels
        for version in ("0.16.0", "0.18.0")
    ]
    assert kernels == ["", "triton"]


def test_rows_that_their_source_scaled_are_asked_as_what_they_were_scaled_from() -> None:
    capped: dict[str, object] = {
        "source": "splitwise-sim",
        "engine": "vllm",
        "engine_version": "",
        "model": "Llama-2-70B",
        "precision": "fp16",
        "tp": 8,
        "notes": "static batch",
    }
    scaled = question(**capped, accelerator="h100-sxm-350w")
    plain = question(**capped, accelerator="h100-sxm")
    assert scaled.ttft_scale == 1.3
    assert scaled.service == plain.service
    one, other = predict(scaled), predict(plain)
    assert isinstance(one, Prediction)
    assert isinstance(other, Prediction)
    assert one.ttft_s == pytest.approx(1.3 * (other.ttft_s or 0.0))
    assert one.tpot_s == other.tpot_s


def test_traffic_is_the_same_on_every_call_and_inside_its_bounds() -> None:
    q = question()
    first, second = traffic_of(q), traffic_of(q)
    assert np.array_equal(first.input_tokens, second.input_tokens)
    assert first.input_tokens.min() >= 819
    assert first.input_tokens.max() <= 1024
    assert first.concurrency == 4


def test_little_holds_for_a_closed_loop() -> None:
    # 4 in flight, each for 0.1 s + 127 x 0.01 s
    assert closed_loop_rate(4, 128, 0.1, 0.01) == pytest.approx(4 * 128 / 1.37)


def test_an_engine_that_looks_less_often_keeps_prompts_waiting() -> None:
    q = question(output_len=64)
    tables, policy = iteration_tables(q.service), policy_of(q.service)
    often, seldom = (
        play(tables, replace(policy, admit_every=every), traffic_of(q)) for every in (1, 20)
    )
    assert seldom.finished.all()
    assert seldom.ttft_s.mean() > often.ttft_s.mean() + 5 * float(np.nanmean(often.tpot_s))


def test_report_has_the_promised_keys_on_any_number_of_workers(tmp_path: Path) -> None:
    rows = [{**CELLS, "id": str(load), "batch_or_concurrency": str(load)} for load in (1, 2, 4, 8)]
    path = table(tmp_path / "a.csv", *rows, {**CELLS, "id": "odd", "model": "nobody/nothing"})
    ids = tmp_path / "ids.csv"
    ids.write_text("id\n8\n", encoding="utf-8")
    report = validate_serving(path, without=ids)
    assert report == validate_serving(path, without=ids, workers=2)
    record = report.to_dict()
    promised = {
        "id",
        "source",
        "measured_ttft_ms",
        "predicted_ttft_ms",
        "measured_tpot_ms",
        "predicted_tpot_ms",
        "measured_throughput_tok_s_per_accel",
        "predicted_throughput_tok_s_per_accel",
        "status",
        "reason",
    }
    assert promised <= set(record["rows"][0])
    assert [one["status"] for one in record["rows"]] == ["ok"] * 4 + ["skipped"]
    assert record["summary"]["all"]["overall"]["rows"] == 5
    assert record["summary"]["kept"]["overall"]["rows"] == 4
    assert set(record["summary"]["all"]) == {
        "overall",
        "kind",
        "source",
        "accelerator",
        "engine",
        "model",
        "dense_or_moe",
    }
    json.dumps(record)


def test_errors_of_a_group() -> None:
    found = predict(question())
    assert not isinstance(found, Skip)
    assert found.tpot_s is not None
    assert found.tpot_s > 0
    empty = summarise("none", ())
    assert (empty.rows, empty.tpot.mape) == (0, None)


def test_command_prints_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(table(tmp_path / "a.csv", CELLS))
    assert run(["validate", "--inference", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "ridgeline.validate.inference"
    assert run(["validate", "--inference", path]) == 0
    shown = capsys.readouterr().out
    assert "Predicted against measured services" in shown
    for wrong in (
        ["--inference", path, "--kernels", path],
        ["--without", path],
        ["--inference", str(tmp_path / "none.csv")],
    ):
        assert run(["validate", *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_fit_recovers_a_parameter_against_a_weak_prior() -> None:
    # ln(predicted / measured) grows by 100 a second of host time and is 0 at 2 ms in each row
    names = ("host_s",)
    point = np.array([1e-3])
    errors = np.full((400, 3), np.nan)
    errors[:, 1] = 100.0 * (1e-3 - 2e-3)
    slopes = np.full((1, 400, 3), np.nan)
    slopes[0, :, 1] = 100.0
    slopes[0, :, [0, 2]] = 0.0
    linear = Linear(names=names, point=point, errors=errors, slopes=slopes)
    priors = {one.name: one.prior for one in tunables()}
    everyone = solve(linear, np.ones(400, bool), priors)
    assert everyone["host_s"] == pytest.approx(2e-3, rel=0.01)
    nobody = solve(linear, np.zeros(400, bool), priors)
    assert nobody["host_s"] == pytest.approx(priors["host_s"])


def test_pages_of_accuracy_are_those_of_the_committed_figures() -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_serving", Path(__file__).parents[1] / "docs" / "generate_serving.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run generate_serving.py"


def test_a_grown_error_fails_and_a_missing_table_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = {"count": 10, "mape": 0.05, "median_ape": 0.04, "bias": 0.0}
    committed = {"kept": {"figures": {"TPOT": figure}}}
    same = accuracy.compare(committed, committed)
    assert same == (["TPOT: 5.0%, committed 5.0%"], [])
    worse = {"kept": {"figures": {"TPOT": {**figure, "mape": 0.06, "count": 9}}}}
    assert len(accuracy.compare(worse, committed)[1]) == 2
    monkeypatch.setattr(accuracy, "shared_tables", lambda: None)
    told = CliRunner().invoke(accuracy.main, [])
    assert told.exit_code == 0
    assert "NOT RECHECKED" in told.output


def test_ordering_counts_groups_with_a_choice() -> None:
    def one(split: str, measured: float, predicted: float) -> ServingReportRow:
        return ServingReportRow(
            id=split,
            source="s",
            accelerator="a",
            engine="e",
            stack="e",
            model="m",
            kind=CLOSED,
            experts="dense",
            left_out=False,
            configuration=f"{split} fp8 1024/1024 at 4",
            measured_ttft_ms=None,
            predicted_ttft_ms=None,
            measured_tpot_ms=None,
            predicted_tpot_ms=None,
            measured_throughput_tok_s_per_accel=measured,
            predicted_throughput_tok_s_per_accel=predicted,
            status="ok",
            reason="",
        )

    right = accuracy.ordering([one("tp1", 10.0, 9.0), one("tp2", 8.0, 7.0)])
    assert right == {"groups": 1, "right": 1, "share": 1.0}
    wrong = accuracy.ordering([one("tp1", 10.0, 6.0), one("tp2", 8.0, 7.0)])
    assert (wrong["groups"], wrong["right"]) == (1, 0)
    assert accuracy.ordering([one("tp1", 10.0, 6.0)])["groups"] == 0
