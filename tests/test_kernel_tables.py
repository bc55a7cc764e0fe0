from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.validation.kernels import read_kernel_table
from ridgeline.validation.kernels import table as reading
from ridgeline.validation.kernels.columns import KINDS
from ridgeline.validation.kernels.floors import check_units, floors, host_bound

DATA = Path(__file__).parents[2] / "shared" / "data"
GEMM = "m,n,k,dtype,latency_us,backend,version,kernel"
ROW = "4096,4096,4096,bfloat16,190,torch,2.10,cublas"
measured_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured kernel tables are not shipped"
)


@pytest.fixture
def write(tmp_path):
    def make(*lines: str, raw: bytes | None = None) -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes("\n".join([*lines, ""]).encode() if raw is None else raw)
        return path

    return make


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as error:
        read_kernel_table(path)
    return error.value.problems


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_table_is_told_by_its_columns_in_any_order(kind, write):
    cells = dict.fromkeys(kind.counts, "2") | dict.fromkeys(kind.texts, "text")
    cells["latency_us"] = "12.5"
    names = sorted(cells)
    path = write(
        ",".join([*names, "remark"]), ",".join([*(cells[name] for name in names), "ignored"])
    )
    table = read_kernel_table(path)
    assert table.kind == kind.name
    assert table.latency_us.tolist() == [12.5]
    assert all(table[name].dtype == np.int64 for name in kind.counts)


def test_versions_stay_text_and_rows_count_from_zero(write):
    table = read_kernel_table(write(GEMM, ROW, ROW.replace("4096,", "1,", 1)))
    assert table["version"].tolist() == ["2.10", "2.10"]
    assert table.rows.tolist() == [0, 1]
    assert table.take(np.array([False, True])).rows.tolist() == [1]


def test_gzip_is_told_from_its_first_bytes(write):
    packed = gzip.compress(f"{GEMM}\n{ROW}\n".encode())
    assert len(read_kernel_table(write(raw=packed))) == 1
    assert "gzip ends early" in problems(write(raw=packed[:-12]))[0]
    assert "damaged gzip" in problems(write(raw=packed[:-8] + b"12345678"))[0]


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("NaN", "finite number above 0"),
        ("inf", "finite number above 0"),
        ("0", "finite number above 0"),
        ("-3", "finite number above 0"),
        ("", "finite number above 0"),
        ("fast", "finite number above 0"),
        ("0.19", "microseconds expected"),
    ],
)
def test_a_bad_latency_is_refused_with_its_row(cell, rule, write):
    (problem,) = problems(write(GEMM, ROW, ROW.replace("190", cell)))
    assert "row 1: latency_us" in problem
    assert rule in problem


@pytest.mark.parametrize("cell", ["0", "-1", "1.5", "NaN", "True", "1e30", "x", ""])
def test_a_bad_dimension_is_refused_with_its_row(cell, write):
    (problem,) = problems(write(GEMM, ROW, ROW.replace("4096", cell, 1)))
    assert "row 1: m = " in problem
    assert "whole number of at least 1" in problem


def test_twenty_mistakes_are_shown_and_the_rest_counted(write):
    found = problems(write(GEMM, *[ROW.replace("190", "nan")] * 50))
    assert len(found) == 21
    assert "30 more" in found[-1]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((), "empty"),
        ((GEMM,), "no rows"),
        ((GEMM.replace("n,k", "n,n"), ROW), "column n appears more than once"),
        ((GEMM.replace(",k,", ",depth,"), ROW), "missing column k of a gemm table"),
        ((GEMM.replace("latency_us", "latency_ms"), ROW), "convert it to microseconds"),
        ((GEMM, ROW, "1,2,3"), "row 1: truncated"),
        ((GEMM, ROW + ",extra"), "row 0: too long"),
        ((GEMM, ROW.replace("cublas", "")), "kernel = '': must not be empty"),
    ],
)
def test_what_is_no_table_is_refused(lines, text, write):
    raw = b"" if not lines else None
    assert any(text in problem for problem in problems(write(*lines, raw=raw)))


def test_what_is_no_text_is_refused(write, tmp_path):
    assert "not UTF-8" in problems(write(raw=b"m,n\xff\n1,2\n"))[0]
    assert "NUL" in problems(write(raw=f"{GEMM}\n{ROW}\0\n".encode()))[0]
    assert "cannot be read" in problems(tmp_path / "missing.csv")[0]
    assert "folder" in problems(tmp_path)[0]


def test_files_above_the_limit_are_refused_packed_or_not(write, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    assert "at most 100" in problems(write(GEMM, ROW, ROW, ROW))[0]
    packed = gzip.compress(f"{GEMM}\n{ROW}\n".encode() + b"\n" * 500)
    monkeypatch.setattr(reading, "MOST_BYTES", len(packed))
    assert "unpacks to more" in problems(write(raw=packed))[0]


def test_attention_needs_no_fewer_heads_than_kv_heads(write):
    header = "batch,seq_len,heads,kv_heads,head_dim,window,attn_dtype,kv_dtype,latency_us"
    path = write(f"{header},backend,version,kernel", "1,64,4,8,128,0,bf16,bf16,20,x,1,y")
    assert "kv_heads must be at most heads" in problems(path)[0]


def test_units_off_by_a_thousand_are_refused_either_way(write):
    h100 = load_accelerator("h100-sxm")
    check_units(read_kernel_table(write(GEMM, ROW)), h100)
    # 2 * 8192^3 FLOPs at 989 TFLOP/s take 1.1 ms: 1.4 us is 1,400 us in the wrong unit.
    large = ROW.replace("4096", "8192")
    for latency, text in (("1.4", "needs at least 1111 us"), ("1400000", "times slower")):
        with pytest.raises(InputError, match=text):
            check_units(read_kernel_table(write(GEMM, large.replace("190", latency))), h100)


def test_floors_are_the_datasheet(write):
    h100 = load_accelerator("h100-sxm")
    flop_s, byte_s = floors(read_kernel_table(write(GEMM, ROW)), h100)
    assert flop_s == pytest.approx(2 * 4096**3 / h100.peak("bf16"))
    assert byte_s == pytest.approx(3 * 2 * 4096**2 / h100.memory_bytes_per_s)


def test_a_floor_that_does_not_fall_with_shape_is_the_host(write):
    small = [ROW.replace("4096,4096,4096", f"{m},64,64") for m in range(1, 21)]
    launched = [row.replace("190", "90").replace("cublas", "eager") for row in small]
    replayed = [row.replace("190", "4") for row in small]
    large = ROW.replace("cublas", "eager").replace("4096,4096,4096", "8192,8192,8192")
    table = read_kernel_table(write(GEMM, *launched, *replayed, large.replace("190", "1500")))
    flop_s, byte_s = floors(table, load_accelerator("h100-sxm"))
    found = host_bound(table, np.maximum(flop_s, byte_s))
    assert found.tolist() == [True] * 20 + [False] * 21


def test_suspect_rows_of_layers_are_left_out(write):
    header = "layer,tokens,k,n,us"
    table = read_kernel_table(
        write(
            header,
            # TPU v6e, 1.64 TB/s: 4096 x 14336 bf16 weights take at least 71.7 us.
            "gate,16,4096,14336,78.9",
            "gate,512,4096,14336,92.4",
            "gate,1,4096,14336,30",  # weights still on the chip
            "gate,8,4096,14336,151.3",  # slower than more tokens
        )
    )
    assert table.kind == "gemm"
    assert table.rows.tolist() == [0, 1]
    assert [row for row, _ in table.filtered] == [2, 3]
    assert "on-chip memory" in table.filtered[0][1]
    assert "slower than 16 tokens" in table.filtered[1][1]


@measured_data
def test_measured_tables_are_read_fast_and_pass():
    for path in sorted((DATA / "kernels").glob("*_sxm.csv.gz")):
        begin = time.process_time()
        table = read_kernel_table(path)
        assert time.process_time() - begin < 2.0, path  # 0.05 s alone on the machine
        check_units(table, load_accelerator(path.name.split("_")[-2] + "-sxm"))


@measured_data
def test_traced_gemm_leave_attention_out():
    table = read_kernel_table(DATA / "traces" / "dsv3_train_gemm.csv")
    assert table.kind == "gemm"
    assert [row for row, _ in table.filtered] == [4, 20]
    assert set(table["backend"]) == {"forward", "dgrad", "wgrad"}


@measured_data
def test_only_eagerly_launched_sets_are_host_bound():
    # vLLM 0.24 launches block-scaled fp8 from the host; every other GEMM set replays a graph.
    table = read_kernel_table(DATA / "kernels" / "gemm_h100_sxm.csv.gz")
    flop_s, byte_s = floors(table, load_accelerator("h100-sxm"))
    found = table.take(host_bound(table, np.maximum(flop_s, byte_s)))
    assert set(found["backend"]) == {"vllm"}
    assert set(found["dtype"]) == {"fp8_block"}
