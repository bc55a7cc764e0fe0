from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline import validation
from ridgeline.errors import InputError
from ridgeline.simulator.results import MemoryShare, TrainingResult
from ridgeline.validation.measured import COLUMNS, MeasuredRow, read_measured
from ridgeline.validation.rows import PlannedRow, row_model, row_plan
from ridgeline.validation.spelling import Skip, find_fabric, find_spelling, find_stack
from ridgeline.validation.steptime import measured_peak_memory, measured_step_time
from ridgeline.validation.training import compare_row, make_report, summarise, validate_measured

PUBLISHED = Path(validation.__file__).parent / "data" / "published.csv"
SHIPPED = {
    "dgxc-benchmarking",
    "intel-gaudi",
    "jax-toolbox-pax",
    "megatron-dsv3-gb200",
    "korthikanti22",
    "llm-foundry",
    "maxtext",
    "megatron-lm",
    "megatron-sc21",
    "mlperf-training-v3.0",
    "mlperf-training-v3.1",
    "mlperf-training-v4.0",
    "mt-nlg",
    "nanotron",
    "megatron-bridge",
    "nemo-automodel",
    "nemo",
    "torchtitan",
}

GPT22B = {
    # Korthikanti et al. 2022, table 5: 22B, full recomputation
    "id": "row",
    "source": "korthikanti22",
    "accelerator": "A100-80GB",
    "accel_per_node": "8",
    "num_accel": "8",
    "interconnect": "NVLink3 + 8x HDR200 IB (Selene)",
    "model": "GPT-22B",
    "params_b": "22",
    "layers": "48",
    "hidden": "6144",
    "ffn_hidden": "24576",
    "heads": "64",
    "vocab": "51200",
    "seq_len": "2048",
    "global_batch_seqs": "4",
    "micro_batch_seqs": "4",
    "tp": "8",
    "pp": "1",
    "dp": "1",
    "zero_stage": "0",
    "recompute": "full",
    "precision": "fp16",
    "framework": "Megatron-LM (2022)",
    "iter_time_s": "1.42",
    "notes": "mlp=non-gated",
}


def write(folder: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def make_row(tmp_path):
    def make(**changes: str) -> MeasuredRow:
        return read_measured(write(tmp_path, GPT22B | changes))[0]

    return make


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_measured(path)
    return caught.value.problems


class TestReader:
    def test_reads_what_is_written(self, make_row):
        row = make_row()
        assert (row.id, row.layers, row.iter_time_s, row.kv_heads) == ("row", 48, 1.42, None)

    def test_missing_columns_are_named(self, tmp_path):
        columns = tuple(c for c in COLUMNS if c not in ("heads", "tp"))
        (problem,) = problems(write(tmp_path, GPT22B, columns=columns))
        assert "missing columns heads, tp" in problem

    @pytest.mark.parametrize(
        ("column", "cell", "rule"),
        [
            ("iter_time_s", "nan", "finite"),
            ("iter_time_s", "inf", "finite"),
            ("iter_time_s", "-1", "finite"),
            ("iter_time_s", "0", "above 0"),
            ("layers", "12.5", "whole"),
            ("seq_len", "1e30", "between"),
            ("tokens_per_s_per_accel", "1e-300", "between"),
            ("tp", "eight", "not a number"),
            ("id", "", "empty"),
        ],
    )
    def test_bad_cells_name_line_column_and_rule(self, tmp_path, column, cell, rule):
        (problem,) = problems(write(tmp_path, GPT22B | {column: cell}))
        assert ":2:" in problem
        assert column in problem
        assert rule in problem

    def test_all_mistakes_at_once_but_not_thousands(self, tmp_path):
        rows = [GPT22B | {"id": str(i), "tp": "x", "pp": "y"} for i in range(3)]
        assert len(problems(write(tmp_path, *rows))) == 6
        rows = [GPT22B | {"id": str(i), "tp": "x"} for i in range(1000)]
        found = problems(write(tmp_path, *rows))
        assert len(found) == 21
        assert found[-1].endswith("and 980 more mistakes")

    def test_repeated_ids(self, tmp_path):
        (problem,) = problems(write(tmp_path, GPT22B, GPT22B))
        assert "already on line 2" in problem

    def test_truncated_file(self, tmp_path):
        path = write(tmp_path, GPT22B, GPT22B | {"id": "other"})
        path.write_bytes(path.read_bytes()[:-40])
        (problem,) = problems(path)
        assert "truncated line" in problem

    def test_open_quote(self, tmp_path):
        path = write(tmp_path, GPT22B)
        path.write_text(path.read_text().replace("mlp=non-gated", '"mlp=non-gated'))
        assert "not CSV" in problems(path)[0]

    def test_not_utf8_names_the_line(self, tmp_path):
        path = write(tmp_path, GPT22B)
        path.write_bytes(path.read_bytes().replace(b"Selene", b"Sel\xe8ne"))
        (problem,) = problems(path)
        assert ":2: not UTF-8" in problem

    def test_huge_file_is_refused_by_its_size(self, tmp_path):
        path = tmp_path / "huge.csv"
        with path.open("wb") as file:
            file.truncate(40 * 10**9)  # sparse
        (problem,) = problems(path)
        assert "40,000,000,000 bytes" in problem

    @pytest.mark.parametrize("content", [b"", b"\0\0\0\0"])
    def test_empty_and_binary_files(self, tmp_path, content):
        path = tmp_path / "rows.csv"
        path.write_bytes(content)
        assert len(problems(path)) == 1

    def test_no_such_file_and_folder(self, tmp_path):
        assert "cannot be read" in problems(tmp_path / "none.csv")[0]
        assert "folder" in problems(tmp_path)[0]


WIDE = {"num_accel": "64", "dp": "8", "global_batch_seqs": "32"}


class TestRowPlan:
    def test_plan_of_a_published_row(self, make_row):
        planned = row_plan(make_row())
        assert isinstance(planned, PlannedRow)
        plan = planned.plan
        assert (plan.parallel.tp, plan.training.recompute, plan.cluster.count) == (8, "full", 8)
        assert plan.model.gated_mlp is False
        assert plan.micro_batches == 1

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"micro_batch_seqs": ""}, "not stated: micro_batch_seqs"),
            ({"recompute": "sometimes"}, "recompute 'sometimes' is not known"),
            ({"recompute": ""}, "recompute is not stated"),
            ({"precision": ""}, "precision is not stated"),
            ({"task": "distil"}, "task"),
            ({"dp": "3"}, "dp = 3"),
            ({"tp": "3"}, "does not divide num_accel"),
            ({"params_b": "70"}, "parameters"),
            ({"accelerator": "abacus-9000"}, "unknown name"),
            ({"global_batch_seqs": "7"}, "global_batch_seqs"),
        ],
    )
    def test_nothing_is_guessed(self, make_row, changes, reason):
        planned = row_plan(make_row(**changes))
        assert isinstance(planned, Skip)
        assert reason in planned.reason

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"framework": "abacus"}, "framework 'abacus' taken as"),
            ({**WIDE, "interconnect": "string and cups"}, "string and cups"),
            ({**WIDE, "interconnect": ""}, "interconnect not stated"),
        ],
    )
    def test_documented_defaults_are_said(self, make_row, changes, said):
        planned = row_plan(make_row(**changes))
        assert isinstance(planned, PlannedRow)
        assert any(said in note for note in planned.assumptions)

    def test_framework_defaults_are_said(self, make_row):
        row = make_row(framework="NeMo 24.07", recompute="", zero_stage="1")
        planned = row_plan(row)
        assert isinstance(planned, PlannedRow)
        assert planned.plan.training.recompute == "none"
        assert any("recompute not stated" in line for line in planned.assumptions)

    @pytest.mark.parametrize(
        ("task", "framework", "sample_len"),
        [
            ("sft", "NeMo 24.07", 175),
            ("lora", "NeMo (dgxc-benchmarking)", 175),
            ("pretrain", "NeMo 24.07", 0),
            # MLPerf's documents fill its sequences
            ("lora", "NVIDIA NeMo Framework Release 25.04", 0),
        ],
    )
    def test_fine_tuning_recipes_pack_their_samples(self, make_row, task, framework, sample_len):
        planned = row_plan(make_row(task=task, framework=framework, precision="bf16"))
        assert isinstance(planned, PlannedRow)
        assert planned.plan.training.sample_len == sample_len
        said = [note for note in planned.assumptions if "packed" in note]
        assert bool(said) == (sample_len > 0)

    def test_context_is_exchanged_as_the_notes_say(self, make_row):
        parts = {"num_accel": "16", "cp": "2"}
        for notes, kind in (("mlp=non-gated; cp=a2a", "ulysses"), ("mlp=non-gated", "ring")):
            planned = row_plan(make_row(notes=notes, framework="NeMo 24.07", **parts))
            assert isinstance(planned, PlannedRow)
            assert planned.plan.parallel.cp_kind == kind

    def test_network_of_a_row(self, make_row):
        row = make_row(num_accel="64", dp="8", global_batch_seqs="32")
        planned = row_plan(row)
        assert isinstance(planned, PlannedRow)
        assert planned.plan.cluster.tiers[-1].bytes_per_s == 25e9  # eight HDR HCAs of 200 Gb/s

    def test_slices_of_a_torus(self, make_row):
        row = make_row(
            accelerator="TPU-v5e",
            num_accel="512",
            accel_per_node="4",
            interconnect="ICI torus; slices over DCN",
            framework="MaxText (JAX/XLA)",
            precision="bf16",
            tp="1",
            dp="512",
            zero_stage="3",
            global_batch_seqs="2048",
            notes="fsdp=256 inside slice, 2 slice(s) DP over DCN; mlp=non-gated",
        )
        planned = row_plan(row)
        assert isinstance(planned, PlannedRow)
        cluster = planned.plan.cluster
        assert cluster.torus is not None
        assert cluster.torus.dims == (16, 16)
        assert cluster.count == 512
        assert planned.plan.parallel.shard_size == 256

    def test_catalogue_model_only_where_the_shape_agrees(self, make_row):
        shape = {
            "model": "Llama-3-8B",
            "params_b": "8.03",
            "layers": "32",
            "hidden": "4096",
            "ffn_hidden": "14336",
            "heads": "32",
            "kv_heads": "8",
            "vocab": "128256",
            "notes": "mlp=swiglu",
        }
        assert row_model(make_row(**shape)).family != "custom"
        assert row_model(make_row(**shape | {"layers": "30", "params_b": "7.6"})).family == "custom"

    def test_parts_of_their_own_for_embedding_and_head(self, make_row):
        row = make_row(
            num_accel="40",
            tp="4",
            pp="10",
            vpp="5",
            dp="1",
            global_batch_seqs="40",
            framework="NeMo",
            schedule="interleaved-1f1b",
            accel_per_node="8",
        )
        planned = row_plan(row)
        assert isinstance(planned, PlannedRow), planned
        assert planned.plan.training.stage_layers == (0, *(1,) * 48, 0)


class TestSpellings:
    @pytest.mark.parametrize(
        ("column", "text", "meaning"),
        [
            ("recompute", "selective(attn)", {"recompute": "selective"}),
            ("recompute", "full 21", {"recompute": "full-21"}),
            ("recompute", "save_qkv_proj", {"recompute": "save-qkv-proj"}),
            ("precision", "bf16-amp", {"precision": "bf16"}),
            ("schedule", "interleaved-1f1b", {"schedule": "interleaved"}),
            ("zero_stage", "2(FSDP, no reshard)", {"zero_stage": 2}),
        ],
    )
    def test_known_spellings(self, column, text, meaning):
        entry = find_spelling(column, text)
        assert isinstance(entry, dict)
        assert meaning.items() <= entry.items()

    def test_stack_by_framework_and_accelerator(self):
        assert find_stack("llm-foundry/Composer FSDP", "H100-80GB").name == "fsdp-composer"
        assert find_stack("Megatron-LM (2021)", "A100-80GB").name == "megatron-2021"
        assert find_stack("Megatron-LM (2022)", "A100-80GB").name == "megatron-2022"
        assert find_stack("Megatron-LM", "A100-80GB").name == "megatron-2021"
        assert find_stack("Megatron-LM", "H100-80GB").name == "megatron-core"
        assert find_stack("abacus", "A100-80GB").name == "megatron-core"
        assert find_stack("NeuronX Distributed", "Trainium1").name == "neuronx-distributed"
        assert find_stack("abacus", "TPU-v5p").name == "maxtext"

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("", "megatron-deepspeed"),
            ("section 2.4 of arXiv 2201.11990", "megatron-deepspeed"),
            ("arXiv 2312.12705, abstract", "megatron-deepspeed-2023"),
            ("measured by its authors (MICRO-24); arXiv 2201.11990", "megatron-deepspeed-2023"),
            ("SC = 24 sequences", "megatron-deepspeed"),
        ],
    )
    def test_the_year_of_publication_tells_releases_apart(self, text, name):
        assert find_stack("Megatron-DeepSpeed", "A100-80GB", text).name == name

    def test_rates_are_per_accelerator(self):
        jean_zay = find_fabric("NVLink3 + 4x OmniPath-100 (Jean Zay)")
        assert jean_zay is not None
        assert jean_zay.per_accelerator(8) == 6.25e9
        assert jean_zay.per_accelerator(4) == 12.5e9
        assert find_fabric("string and cups") is None


class TestStepTime:
    def planned(self, row: MeasuredRow):
        planned = row_plan(row)
        assert isinstance(planned, PlannedRow)
        return planned.plan

    def test_timed_before_derived(self, make_row):
        row = make_row(tokens_per_s_per_accel="1000")
        step = measured_step_time(row, self.planned(row))
        assert (step.seconds, step.derived) == (1.42, False)

    def test_from_tokens(self, make_row):
        row = make_row(iter_time_s="", tokens_per_s_per_accel="512")
        step = measured_step_time(row, self.planned(row))
        assert (step.seconds, step.derived) == (4 * 2048 / (512 * 8), True)

    def test_from_hardware_flops_is_equation_3_of_sc21(self, make_row):
        # Narayanan et al. 2021, eq. 3: F = 96 B s l h^2 (1 + s/6h + V/16lh)
        row = make_row(
            iter_time_s="", tflops_per_accel="140", notes="HARDWARE flops; mlp=non-gated"
        )
        step = measured_step_time(row, self.planned(row))
        b, s, h, layers, v = 4, 2048, 6144, 48, 51200
        flops = 96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
        assert step.seconds == pytest.approx(flops / (140e12 * 8), rel=1e-3)  # biases

    def test_unstated_convention_is_no_step_time(self, make_row):
        row = make_row(iter_time_s="", tflops_per_accel="140")
        step = measured_step_time(row, self.planned(row))
        assert isinstance(step, Skip)

    def test_peak_memory_of_the_notes(self, make_row):
        assert measured_peak_memory(make_row(notes="peak alloc 28.29 GiB")) == 28.29
        assert measured_peak_memory(make_row(notes="peak mem 47GB; x")) == pytest.approx(
            43.77, 1e-3
        )
        assert measured_peak_memory(make_row(notes="of source peak)")) is None


def result(seconds: float) -> TrainingResult:
    share = MemoryShare(
        stage=0, weights=2.0**30, gradients=0, optimizer=0, activations=0, buffers=0, framework=0
    )
    zero = dict.fromkeys(TrainingResult.__dataclass_fields__, 0.0)
    return TrainingResult(
        **zero
        | {
            "step_time_s": seconds,
            "step_time_low_s": 0.9 * seconds,
            "step_time_high_s": 1.1 * seconds,
            "memory": (share,),
        }
    )


class TestReport:
    def test_error_is_predicted_over_measured_less_one(self, make_row):
        row = compare_row(make_row(), lambda plan: result(1.42 * 1.05))
        assert row.error == pytest.approx(0.05)
        assert (row.status, row.predicted_peak_memory_gib) == ("ok", 1.0)

    def test_skipped_rows_stay_with_their_reason(self, make_row):
        row = compare_row(make_row(micro_batch_seqs=""), lambda plan: result(1))
        assert (row.status, row.error) == ("skipped", None)
        assert row.measured_step_time_s == 1.42

    def test_what_the_simulator_refuses_is_skipped(self, make_row):
        def refuse(plan):
            raise InputError("too far")

        row = compare_row(make_row(), refuse)
        assert (row.status, row.reason) == ("skipped", "too far")

    def test_statistics(self, make_row):
        good = compare_row(make_row(), lambda plan: result(1.42))
        rows = [replace(good, error=error) for error in (0.1, -0.1, 0.4)]
        rows.append(compare_row(make_row(precision=""), lambda plan: result(1)))
        group = summarise("x", rows)
        assert (group.count, group.skipped) == (3, 1)
        assert group.mape == pytest.approx(0.2)
        assert group.median_ape == pytest.approx(0.1)
        assert group.bias == pytest.approx(0.4 / 3)

    def test_json_contract(self, make_row):
        report = make_report("x.csv", [compare_row(make_row(), lambda plan: result(1.4))])
        plain = report.to_dict()
        assert set(plain["rows"][0]) >= {
            "id",
            "source",
            "stack",
            "derived",
            "measured_step_time_s",
            "predicted_step_time_s",
            "predicted_step_time_low_s",
            "predicted_step_time_high_s",
            "measured_peak_memory_gib",
            "predicted_peak_memory_gib",
            "error",
            "status",
            "reason",
        }
        for by in ("source", "accelerator", "stack"):
            (group,) = plain["summary"][by].values()
            assert set(group) >= {"count", "skipped", "mape", "median_ape", "bias"}
        assert len(report.to_pandas()) == 1

    def test_unknown_source(self, tmp_path):
        with pytest.raises(InputError, match="korthikanti22"):
            validate_measured(
                write(tmp_path, GPT22B), sources=["abacus"], predict=lambda p: result(1)
            )


class TestPublishedTables:
    def test_only_published_figures_ship_each_with_its_citation(self):
        with PUBLISHED.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["source"] for row in rows} == SHIPPED
        assert all(row["citation"] for row in rows)

    def test_most_rows_make_a_plan_and_the_rest_say_why(self):
        rows = read_measured(PUBLISHED)
        planned = [row_plan(row) for row in rows]
        usable = sum(isinstance(plan, PlannedRow) for plan in planned)
        assert usable > 0.8 * len(rows)
        assert all(plan.reason for plan in planned if isinstance(plan, Skip))

    def test_derived_step_times_agree_with_the_tables(self):
        checked = 0
        for row in read_measured(PUBLISHED):
            noted = re.search(r"derived_iter_s=([\d.]+)", row.notes)
            planned = row_plan(row)
            if noted is None or isinstance(planned, Skip):
                continue
            step = measured_step_time(row, planned.plan)
            assert step.seconds == pytest.approx(float(noted[1]), rel=1e-3)
            checked += 1
        assert checked >= 10


def test_unshipped_measured_rows_are_read():
    path = Path(__file__).parents[1] / "../shared/data/training/measured.csv"
    if not path.is_file():
        pytest.skip("no ../shared/data: the measured tables that do not ship are absent")
    rows = read_measured(path)
    planned = [row for row in rows if isinstance(row_plan(row), PlannedRow)]
    assert len(planned) > 0.7 * len(rows)
    # every row of tier A has all it needs
    lost = [row.id for row in rows if row.tier == "A" and isinstance(row_plan(row), Skip)]
    assert len(lost) <= 5, lost
