from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="fitting needs SciPy (pip install ridgeline[fit])")

from ridgeline.errors import InputError
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.gemm import price_shapes
from ridgeline.validation.fitting import fit_kernels
from ridgeline.validation.fitting.fit import fit_set, held_out_rows, statistics, subsample
from ridgeline.validation.fitting.gemm import fit_table, left_out, report
from ridgeline.validation.fitting.transfer import leave_one_out
from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "kernels"


def table(rows=900, seed=0, dtype="bfloat16", floor_us=0.0):
    """Return shapes timed as the H100's profile has them, 3% noise, one in 50 stalled by 5x."""
    rng = np.random.default_rng(seed)
    m, n, k = (2 ** rng.integers(4, 14, rows) + rng.integers(0, 2, rows) for _ in range(3))
    device = device_parameters(load_accelerator("h100-sxm"), sustained=False).copy()
    seconds = price_shapes(device, dtype, m, n, k) * np.exp(rng.normal(0, 0.03, rows))
    seconds[::50] *= 5.0
    columns = {"m": m, "n": n, "k": k, "latency_us": np.maximum(seconds * 1e6, floor_us)}
    texts = {"backend": "lib", "version": "1.10", "kernel": "a", "dtype": dtype}
    columns |= {name: np.full(rows, text) for name, text in texts.items()}
    return KernelTable(path="made", kind="gemm", columns=columns, rows=np.arange(rows))


def test_split_is_by_shape_alone_and_near_three_tenths():
    m = np.arange(1, 4001)
    held = held_out_rows(m, m + 7)
    np.testing.assert_array_equal(held[::-1], held_out_rows(m[::-1], m[::-1] + 7))
    np.testing.assert_array_equal(held, held_out_rows(m.astype(float), m + 7))
    assert 0.27 < held.mean() < 0.33


def test_subsample_is_spread_and_repeats():
    rows = subsample(10_000, 100)
    assert len(np.unique(rows)) == 100
    assert (rows[0], rows[-1]) == (0, 9999)
    np.testing.assert_array_equal(subsample(5, 100), np.arange(5))


def test_statistics_of_known_errors():
    found = statistics(np.array([1.1, 0.9, 1.0]), np.ones(3))
    assert found["mape"] == pytest.approx(0.2 / 3, abs=1e-5)
    assert found["median_ape"] == pytest.approx(0.1)
    assert found["bias"] == pytest.approx((1.1 * 0.9) ** (1 / 3) - 1, abs=1e-5)


def test_fit_finds_known_parameters_despite_outliers_and_repeats():
    work = np.geomspace(1.0, 1e4, 200)
    measured = 3.0 + work * 0.5
    measured[::20] *= 4.0
    bounds = {"fixed": (0.0, 20.0), "rate": (1e-3, 10.0), "kept": (7.0, 7.0)}
    starts = [{"fixed": 1.0, "rate": 5.0}, {"fixed": 10.0, "rate": 0.01}]

    def model(p):
        assert p["kept"] == 7.0
        return p["fixed"] + work * p["rate"]

    found = fit_set(model, measured, bounds, starts)
    assert found["fixed"] == pytest.approx(3.0, rel=0.03)
    assert found["rate"] == pytest.approx(0.5, rel=0.03)
    assert found == fit_set(model, measured, bounds, starts)


def test_gemm_fit_recovers_a_made_table():
    h100 = load_accelerator("h100-sxm")
    made = table(rows=1000)
    made.columns["version"][700:] = "1.9"  # older than 1.10: left alone
    (one,) = fit_kernels([made], h100, source="mine.csv")
    assert one.version == "1.10"
    assert one.source == "mine.csv"
    # 3% noise is a mean error of 2.4%; 2% of the rows are off by 80%
    assert one.held_out["median_ape"] < 0.045
    assert one.held_out["mape"] < 0.075
    assert one.parameters["compute"] == pytest.approx(0.806, abs=0.05)  # the profile's
    assert one.rows + one.held_out["rows"] == 700
    assert "h100-sxm | lib 1.10" in report(["h100-sxm"], {"h100-sxm": (one,)})


def test_host_bound_and_thin_sets_are_reported_and_not_fitted():
    h100 = load_accelerator("h100-sxm")
    slow = table(floor_us=80.0)
    assert fit_table(slow, h100) == []
    (line,) = left_out(slow, h100)
    assert line.startswith("lib 1.10 bfloat16 a: host-bound: shapes of under 5 us take 80 us")
    (line,) = left_out(table(rows=50), h100)
    assert "50 rows" in line
    with pytest.raises(InputError, match="no set of the given tables"):
        fit_kernels([slow], h100)


@pytest.mark.slow
def test_universal_parameters_carry_over_to_a_device_left_out():
    names = {"a100": "a100-sxm-80gb", "h100": "h100-sxm", "h200": "h200-sxm", "b200": "b200-sxm"}
    if not DATA.is_dir():
        pytest.skip("needs the measured kernel tables in ../shared/data/kernels")
    tables = {
        load_accelerator(name): read_kernel_table(DATA / f"gemm_{short}_sxm.csv.gz")
        for short, name in names.items()
    }
    found = leave_one_out(tables, "bfloat16")
    assert np.median([one["mape"] for one in found.values()]) < 0.11
    assert max(one["mape"] for one in found.values()) < 0.13
