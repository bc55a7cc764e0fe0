from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.hardware.kernels import KernelSet
from ridgeline.validation.kernels import (
    TableRung,
    predict_table,
    read_kernel_table,
    validate_kernels,
)
from ridgeline.validation.kernels.pricing import find_set
from ridgeline.validation.kernels.report import KernelRow, summarise

HEADER = "m,n,k,dtype,latency_us,backend,version,kernel"
ROWS = (
    "1024,4096,4096,bfloat16,56,torch,2.10,cublas",
    "4096,4096,4096,bfloat16,200,torch,2.10,cublas",
    "16384,4096,4096,bfloat16,790,torch,2.10,cublas",
    "1,4096,4096,bfloat16,15,torch,2.10,cublas",
    "16,64,64,bfloat16,3.5,torch,2.10,cublas",
    "4096,4096,4096,int4_wo,170,torch,2.10,marlin",
    "4096,4096,4096,float7,170,torch,2.10,odd",
)


@pytest.fixture
def write(tmp_path):
    def make(*rows: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
        return path

    return make


H100 = load_accelerator("h100-sxm")


def test_every_row_is_reported_and_none_is_guessed(write):
    report = validate_kernels(write(*ROWS), H100, sets=())
    assert [row.row for row in report.rows] == list(range(7))
    regimes = [row.regime for row in report.rows]
    assert regimes[1:] == ["compute-bound"] * 2 + ["memory-bound", "launch-bound", "", ""]
    assert [row.status for row in report.rows] == ["ok"] * 5 + ["skipped"] * 2
    assert "int4_wo" in report.rows[5].reason
    assert "float7" in report.rows[6].reason
    assert {row.rung for row in report.rows[:5]} == {"fitted"}
    assert report.overall.count == 5
    assert report.overall.skipped == 2
    assert sum(group.count for group in report.by_regime) == 5


def test_predictions_do_not_look_at_the_table(write):
    slower = [re.sub(r",(bfloat16),([\d.]+)", r",\1,999", row) for row in ROWS[:4]]
    one = predict_table(read_kernel_table(write(*ROWS[:4])), H100)
    other = predict_table(read_kernel_table(write(*slower)), H100)
    np.testing.assert_array_equal(one.seconds, other.seconds)


def test_a_table_prices_its_shapes_and_those_between_neighbours(write):
    known = read_kernel_table(write(*ROWS[:3], name="known.csv"))
    asked = read_kernel_table(
        write(
            ROWS[1],
            ROWS[0].replace("1024", "2048", 1),
            ROWS[0].replace("1024", "512", 1),
            ROWS[0].replace("torch", "other"),
        )
    )
    rung = TableRung([known])
    prediction = predict_table(asked, H100, rung=rung, sets=())
    assert prediction.rung.tolist() == ["table", "table", "fitted", "fitted"]
    assert prediction.seconds[0] == pytest.approx(200e-6)
    # 2048 is halfway between 1024 and 4096 in logarithms.
    assert prediction.seconds[1] == pytest.approx(np.sqrt(56e-6 * 200e-6))


def test_repeated_shapes_count_with_their_median_and_far_neighbours_not_at_all(write):
    rows = [ROWS[1], ROWS[1].replace("200", "190"), ROWS[1].replace("200", "260")]
    known = read_kernel_table(write(*rows, ROWS[1].replace("4096", "65536", 1), name="k.csv"))
    asked = read_kernel_table(write(ROWS[1], ROWS[2]))
    seconds = TableRung([known]).seconds(asked, ("gemm", "torch", "2.10", "bfloat16", "cublas"))
    assert seconds[0] == pytest.approx(200e-6)
    assert np.isnan(seconds[1])  # 16 times between neighbours


@pytest.mark.parametrize("rows", [ROWS[:4], ROWS[3::-1], ROWS[:3]])
def test_a_table_is_never_priced_from_itself(rows, write):
    path, copy = write(*ROWS[:4]), write(*rows, name="copy.csv")
    for other in (path, copy):
        with pytest.raises(InputError, match="being validated"):
            validate_kernels(path, H100, kernel_tables=[other])


def kernel_set(version: str, **changes: str) -> KernelSet:
    texts = {"library": "torch", "dtype": "bf16", "kernel": "cublas", "op": "gemm"} | changes
    return KernelSet(
        version=version,
        parameters={"launch_us": 1.0},
        correction=None,
        rows=1,
        held_out={},
        split="",
        date="",
        source="",
        **texts,
    )


def test_the_newest_older_version_stands_in_and_another_kernel_never():
    sets = [kernel_set("0.9"), kernel_set("0.14"), kernel_set("1.0")]

    def near(version: str, kernel: str = "cublas") -> str:
        found, reason = find_set(sets, ("gemm", "torch", version, "bfloat16", kernel))
        assert found is None or (reason == "") == (found.version == version)
        return found.version if found else ""

    assert near("0.14") == "0.14"
    assert near("0.20") == "0.14"
    assert near("0.10") == "0.9"
    assert near("0.1") == "0.9"
    assert near("0.14", kernel="triton") == ""


def test_a_collective_takes_the_set_of_its_operation():
    one = kernel_set("2.27", op="collective", library="nccl", kernel="all_to_all", dtype="any")
    assert find_set([one], ("alltoall", "nccl", "2.27", "half", "nccl")) == (one, "")
    assert find_set([one], ("all_reduce", "nccl", "2.27", "half", "nccl")) == (None, "")


def test_statistics_of_errors():
    texts = ("op", "library", "version", "dtype", "kernel", "rung", "reason", "regime")
    row = dict.fromkeys(texts, "") | {"row": 0, "status": "ok", "measured_us": 10.0}
    rows = [KernelRow(predicted_us=value, **row) for value in (11.0, 8.0, 10.0, None)]
    group = summarise("x", rows)
    assert (group.count, group.skipped) == (3, 1)
    assert group.mape == pytest.approx(0.1)
    assert group.median_ape == pytest.approx(0.1)
    assert group.bias == pytest.approx(-0.1 / 3)


def test_the_command_prints_json_for_machines(write, capsys):
    assert run(["validate", "--kernels", str(write(*ROWS)), "--accelerator", "h100", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.validate.kernels"
    assert list(record["rows"][0]) == [
        *("row", "op", "library", "version", "dtype", "kernel", "measured_us", "predicted_us"),
        *("regime", "rung", "status", "reason"),
    ]
    assert record["rows"][6]["predicted_us"] is None
    assert set(record["summary"]) >= {"all", "regime", "library", "dtype", "worst"}


def test_the_report_fits_eighty_columns_and_the_plot_is_svg(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    picture = tmp_path / "scatter.svg"
    command = ["validate", "--kernels", str(write(*ROWS)), "--accelerator", "h100-sxm"]
    assert run([*command, "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 80
    for text in ("compute-bound", "torch 2.10", "worst row", "Why rows were skipped", "/"):
        assert text in out
    root = ET.parse(picture).getroot()
    dots = [dot for dot in root.iter("{http://www.w3.org/2000/svg}circle") if len(dot)]
    assert len(dots) == 5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--kernels", "x.csv"], "--accelerator"),
        (["--kernels", "x.csv", "--accelerator", "h1000"], "unknown name"),
        (["--kernels", "x.csv", "--accelerator", "h100"], "cannot be read"),
        (["--kernels", "x.csv", "--measured", "y.csv"], "choose one"),
        (["--plot", "x.svg"], "goes with --kernels"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments, text, capsys):
    assert run(["validate", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert text in complaint
    assert complaint.count("\n") == 1


needs_scipy = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason="SciPy, of the extra fit, is not installed"
)


def synthetic() -> list[str]:
    rows = []
    for m in (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        for n in (512, 1024, 2048, 4096, 6144, 8192):
            for k in (1024, 2048, 4096, 6144, 8192):
                took = 3.0 + 2 * m * n * k / 700e6 + 2 * (m * k + n * k + m * n) / 2.8e6
                rows.append(f"{m},{n},{k},bfloat16,{took:.3f},mine,1.0,matmul")
    return rows


@needs_scipy
@pytest.mark.slow
def test_a_user_fits_a_device_and_validates_with_the_sets(write, tmp_path, capsys):
    table, out = write(*synthetic()), tmp_path / "sets"
    command = ["fit", "--kernels", str(table), "--accelerator", "h100-sxm", "--out", str(out)]
    assert run(command) == 0
    assert "gemm mine 1.0" in capsys.readouterr().out
    written = out / "h100-sxm.gemm.json"
    first = written.read_bytes()
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sets"][0]["held_out"]["mape"] < 0.1
    assert written.read_bytes() == first
    command = ["validate", "--kernels", str(table), "--accelerator", "h100-sxm", "--json"]
    assert run([*command, "--kernel-sets", str(written)]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["rung"].keys() <= {"corrected", "fitted"}
    assert summary["all"]["mape"] < 0.1


def test_fitting_says_what_to_install(write, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)  # importing it now fails
    path = write(*ROWS[:4])
    assert run(["fit", "--kernels", str(path), "--accelerator", "h100-sxm"]) == 2
    assert "ridgeline[fit]" in capsys.readouterr().err
