"""``fit --trace``: what a trace's products say about a device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ridgeline.cli.fit import fit
from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.validation.traces.fit import (
    ENOUGH,
    FEWEST,
    fit_gemms,
    joined,
    profile_text,
    section,
)
from ridgeline.validation.traces.gemms import GemmShape

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"
needs_traces = pytest.mark.skipif(
    not TRACES.exists(), reason="no ../shared/data/traces: real traces do not ship"
)
SHAPES = (
    (4096, 4096, 4096),
    (4096, 12288, 4096),
    (4096, 4096, 12288),
    (8192, 6144, 4096),
    (8192, 8192, 8192),
    (2048, 16384, 2048),
    (1024, 8192, 8192),
    (512, 16384, 16384),
    (64, 16384, 16384),
    (16, 28672, 8192),
)


def shape(m: int, n: int, k: int, seconds: float, dtype: str = "bf16") -> GemmShape:
    return GemmShape(
        m=m, n=n, k=k, batch=1, dtype=dtype, calls=4, total_s=4 * seconds, median_s=seconds
    )


def priced(device: Accelerator, compute: float) -> list[float]:
    """Return seconds of ``SHAPES`` on a device that reaches another share of its peak."""
    table = device_parameters(device).copy()
    table[:, layout.GEMM_COMPUTE] = compute
    dims = np.zeros((len(SHAPES), layout.DIMS), np.int64)
    dims[:, :3], dims[:, 3] = SHAPES, 1
    kind = np.full(len(SHAPES), layout.GEMM, np.int8)
    dtype = np.full(len(SHAPES), layout.BF16, np.int8)
    extra = np.tile(np.array([0.0, 1.0, 1.0]), (len(SHAPES), 1))
    found: list[float] = price_operators(kind, dtype, dims, extra, table).tolist()
    return found


def traced(device: Accelerator, compute: float, count: int) -> list[GemmShape]:
    seconds = priced(device, compute)
    return [shape(*dims, s) for dims, s in list(zip(SHAPES, seconds, strict=True))[:count]]


@pytest.mark.parametrize("count", [FEWEST, ENOUGH, len(SHAPES)])
@pytest.mark.parametrize(("name", "compute"), [("mi300x", 0.4), ("h100-sxm", 0.6)])
def test_the_share_of_the_peak_is_found_again(name: str, compute: float, count: int) -> None:
    device = load_accelerator(name)
    (found,), notes = fit_gemms(traced(device, compute, count), device)
    assert not notes
    assert found.block == "gemm.bf16"
    assert found.values["compute"] == pytest.approx(compute, rel=0.03)
    assert found.error_fitted < 0.01
    assert found.error_left_out < 0.05
    assert found.error_fitted < found.error_before


def test_what_is_not_fitted_stays_the_devices() -> None:
    device = load_accelerator("mi300x")
    (found,), _ = fit_gemms(traced(device, 0.4, FEWEST), device)
    assert found.fitted == ("compute",)
    own = device.efficiency.gemm["bf16"]
    assert found.values["memory"] == pytest.approx(own.memory, rel=1e-5)
    assert found.values["launch_us"] == pytest.approx(1e6 * own.launch_s, rel=1e-5)


def test_one_shape_fits_nothing() -> None:
    device = load_accelerator("mi300x")
    with pytest.raises(InputError) as caught:
        fit_gemms([shape(4096, 4096, 4096, 1e-3)], device)
    assert caught.value.problems == (f"gemm.bf16: 1 shapes, at least {FEWEST} are needed",)


def test_what_is_left_out_is_said() -> None:
    device = load_accelerator("mi300x")
    some = traced(device, 0.4, FEWEST)
    odd = [shape(64, 64, 64, 3e-6), shape(4096, 4096, 4096, 1e-3, "complex64")]
    _, notes = fit_gemms([*some, *odd], device)
    assert len(notes) == 2
    assert "too short" in notes[0]
    assert "complex64" in notes[1]


@pytest.mark.parametrize("name", ["mi300x", "h100-sxm"])
def test_the_profile_reads_back(tmp_path: Path, name: str) -> None:
    device = load_accelerator(name)
    fits, _ = fit_gemms(traced(device, 0.45, FEWEST), device)
    path = tmp_path / "mine.toml"
    path.write_text(profile_text(device, fits, 'a "trace"'), encoding="utf-8")
    mine = load_accelerator(str(path))
    assert mine.efficiency.gemm["bf16"].compute == pytest.approx(fits[0].values["compute"])
    assert mine.efficiency.attention == device.efficiency.attention
    assert mine.peak_flops == device.peak_flops
    assert "a 'trace'" in mine.sources["efficiency.gemm.bf16"]
    assert section(fits[0], "trace-fit").startswith("[efficiency.gemm.bf16]\n")


def test_a_cluster_may_be_made_of_ones_own_profile(tmp_path: Path) -> None:
    device = load_accelerator("mi300x")
    fits, _ = fit_gemms(traced(device, 0.45, FEWEST), device)
    path = tmp_path / "Folder" / "Mine.toml"
    path.parent.mkdir()
    path.write_text(profile_text(device, fits, "a trace"), encoding="utf-8")
    cluster = make_cluster(f"2x8x{path}")
    assert cluster.count == 16
    assert cluster.accelerator.efficiency.gemm["bf16"].compute < 0.5
    with pytest.raises(InputError, match="no such file"):
        make_cluster("8x./absent.toml")


def test_shapes_of_several_traces_are_joined() -> None:
    one, other = shape(64, 64, 64, 1e-3), shape(64, 64, 64, 3e-3)
    (both,) = joined([one, other])
    assert (both.calls, both.total_s, both.median_s) == (8, 16e-3, 2e-3)


class TestCommand:
    def run(self, *arguments: str) -> str:
        return CliRunner().invoke(fit, arguments, catch_exceptions=False).stdout

    @needs_traces
    def test_a_device_fitted_to_its_trace_meets_its_products_better(self, tmp_path: Path) -> None:
        """Of the profile that ships, by AMD's typical shapes, the same products are 15% off."""
        from ridgeline.validation.traces.compare import compare
        from ridgeline.validation.traces.reading import read_ranks

        file, out = TRACES / "sglang_qwen3_8b_prefill_mi300x.json.gz", tmp_path / "Mine.toml"
        record = json.loads(self.run("--trace", str(file), "--out", str(out), "--json"))
        assert record["accelerator"] == "mi300x"
        assert record["written"] == [str(out)]
        (found,) = record["fits"]
        assert found["error_fitted"] < found["error_before"]
        traces = read_ranks(file)
        shipped = compare(traces, {}).gemms
        fitted = compare(traces, {"cluster.accelerator": str(out)}).gemms
        off = [
            float(np.mean([abs(row.error or 0.0) for row in rows[:4]]))
            for rows in (shipped, fitted)
        ]
        assert off[1] < off[0]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--trace", "a.json", "--stack", "torchtitan"), "--stack: goes with --measured"),
            (("--trace", "a.json", "--kernels", "b.csv"), "give --kernels"),
            (("--trace", "a.json", "--out", "mine.json"), ".toml"),
            (("--trace", "absent.json"), "no such file"),
        ],
    )
    def test_mistakes(self, arguments: tuple[str, ...], said: str) -> None:
        with pytest.raises(InputError, match=said):
            self.run(*arguments)
