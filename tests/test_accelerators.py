"""Accelerator profiles: sourced, within sense, found under the names people use."""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware import Accelerator, accelerator_names, load_accelerator
from ridgeline.hardware import profiles as reading
from ridgeline.hardware.profiles import describe

MEASURED = Path(__file__).parents[2] / "shared" / "data"
SHIPPED = Path(reading.__file__).parent / "data" / "accelerators"
ALL = accelerator_names()


def edited(tmp_path: Path, old: str, new: str, base: str = "h100-sxm") -> str:
    """Write a copy of a shipped profile with one edit and return its path."""
    text = (SHIPPED / f"{base}.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ALL)
def test_every_number_has_a_source(name: str) -> None:
    accelerator = load_accelerator(name)
    for field, value, _, source, _ in describe(accelerator):
        assert source.strip(), field
        assert isinstance(value, str) or math.isfinite(value), field
    datasheet = {field.name for field in fields(Accelerator)} - {
        *("name", "aliases", "vendor", "family", "efficiency", "sources", "unconfirmed"),
        *("peak_flops", "systolic", "torus_dims", "host_time"),
    }
    assert datasheet <= accelerator.sources.keys()
    assert set(accelerator.unconfirmed) <= accelerator.sources.keys()


@pytest.mark.parametrize("name", ALL)
def test_values_make_sense(name: str) -> None:
    accelerator = load_accelerator(name)
    assert accelerator.name == name
    efficiency = accelerator.efficiency
    for gemm in efficiency.gemm.values():
        assert 0 < gemm.compute <= 1
        assert 0 < gemm.memory <= 1
        assert 0 <= gemm.launch_s < 1e-4
    for attention in efficiency.attention.values():
        assert 0 < attention.compute <= 1
        assert 0 < attention.memory <= 1
    for collective in efficiency.collectives.values():
        assert 0 < collective.bandwidth <= 1
    assert all(0 < factor <= 1 for factor in efficiency.sustained.values())
    assert {"bf16", "tf32", "fp32"} <= efficiency.gemm.keys()
    assert {"bf16", "tf32", "fp32"} <= efficiency.sustained.keys()
    assert efficiency.collectives.keys() == {
        *("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    }
    assert accelerator.idle_w < accelerator.tdp_w * accelerator.load_fraction <= accelerator.tdp_w
    peaks = accelerator.peak_flops
    assert peaks.get("fp32", 0) <= peaks.get("tf32", peaks.get("fp32", 0))
    assert peaks.get("tf32", 0) <= accelerator.peak("bf16") <= peaks.get("fp8", math.inf)
    assert accelerator.systolic > 0 or accelerator.torus_dims == 0
    # Ridge points of this decade, FLOP a byte; H20 is rate-capped and lies below them.
    assert 50 < accelerator.peak("bf16") / accelerator.memory_bytes_per_s < 600 or name == "h20"


def test_published_figures() -> None:
    # NVIDIA H100 data sheet: 989.4 TFLOP/s dense bf16, 3.35 TB/s; ridge at 295 FLOP a byte.
    h100 = load_accelerator("h100-sxm")
    assert h100.peak("bf16") == pytest.approx(989.4e12)
    assert h100.peak("bf16") / h100.memory_bytes_per_s == pytest.approx(295.3, abs=0.1)
    # nvidia-smi: 81559 MiB, 85520809984 bytes (modal-labs/modal-client pull request 2797).
    assert h100.memory_bytes == 85520809984
    # NVIDIA A100 data sheet: 312 TFLOP/s dense, NVLink 600 GB/s both ways.
    a100 = load_accelerator("a100-sxm-80gb")
    assert a100.peak("fp16") == 312e12
    assert a100.scaleup_bytes_per_s == 300e9
    # Google Cloud, TPU v5p: 459 TFLOP/s, 2765 GB/s, 1200 GB/s of links both ways.
    v5p = load_accelerator("tpu-v5p")
    assert (v5p.peak("bf16"), v5p.memory_bytes_per_s) == (459e12, 2765e9)
    assert v5p.scaleup_bytes_per_s == 600e9
    # TPU v4: 2 cores x 4 arrays of 128 x 128 x 2 FLOP at 1050 MHz (Jouppi et al. 2023).
    assert load_accelerator("tpu-v4").peak("bf16") == pytest.approx(8 * 128**2 * 2 * 1.05e9, 0.01)


@pytest.mark.parametrize(
    ("name", "flops_per_clock", "clock_hz"),
    [
        # SMs x FLOP a clock and SM x rated clock gives the printed 16-bit peak on most parts.
        ("v100-sxm-32gb", 1024, 1.53e9),
        ("a100-sxm-80gb", 2048, 1.41e9),
        ("h100-sxm", 4096, 1.83e9),
        ("l4", 1024, 2.04e9),
        ("a10", 1024, 1.695e9),
        ("rtx-4090", 512, 2.52e9),
        ("rtx-5090", 512, 2.407e9),
        ("mi300x", 2048, 2.1e9),
        ("mi355x", 4096, 2.4e9),
        ("mi250x", 1024, 1.7e9),
    ],
)
def test_peak_is_units_times_clock(name: str, flops_per_clock: int, clock_hz: float) -> None:
    accelerator = load_accelerator(name)
    expected = accelerator.cores * flops_per_clock * clock_hz
    assert accelerator.peak("bf16") == pytest.approx(expected, rel=0.02)


def test_a_gcd_is_half_a_card() -> None:
    card, half = load_accelerator("mi250x"), load_accelerator("MI250X-GCD")
    for field in (
        *("cores", "l2_bytes", "memory_bytes", "memory_bytes_per_s", "scaleup_bytes_per_s"),
        *("scaleout_bytes_per_s", "host_bytes_per_s", "tdp_w", "idle_w"),
    ):
        assert getattr(card, field) == pytest.approx(2 * getattr(half, field)), field
    assert half.per_node == 2 * card.per_node
    for dtype, peak in card.peak_flops.items():
        assert peak == pytest.approx(2 * half.peak_flops[dtype])


@pytest.mark.parametrize(("twin", "of"), [("a800-sxm", "a100-sxm-80gb"), ("gb200", "b200-sxm")])
def test_same_silicon_shares_its_fits(twin: str, of: str) -> None:
    assert load_accelerator(twin).efficiency.gemm == load_accelerator(of).efficiency.gemm
    assert load_accelerator(twin).efficiency.rung == "fitted"


def test_rungs() -> None:
    assert load_accelerator("h200").efficiency.rung == "fitted"
    assert load_accelerator("h20").efficiency.rung == "universal"
    assert load_accelerator("tpu-v6e").efficiency.rung == "universal"


def test_a_tile_of_a_class_is_work_of_one_sm() -> None:
    # datasheets: 362 TFLOP/s (300 W) over 142 SM of L40S, 148 over 78 of H20, 125 over 80 of V100
    times = {
        name: load_accelerator(name).efficiency.gemm["bf16"].tile_s
        * accelerator.peak("bf16")
        / accelerator.cores
        for name in ("l40s", "h20", "v100-sxm-32gb", "a100-pcie-80gb", "h100-pcie")
        for accelerator in [load_accelerator(name)]
    }
    assert all(math.isclose(flops, 0.6834e-6 * 7.5e12) for flops in times.values())
    # tf32 and fp32 run the same tiles
    l40s = load_accelerator("l40s").efficiency.gemm
    assert l40s["tf32"] == l40s["bf16"]
    # a class fitted on its own silicon states a time
    b300 = load_accelerator("b300").efficiency.gemm["bf16"]
    assert math.isclose(b300.tile_s, 1.958e-8)


@pytest.mark.parametrize("table", ["training", "inference"])
def test_measured_spellings_resolve(table: str) -> None:
    path = MEASURED / table / "measured.csv"
    if not path.exists():
        pytest.skip(f"measured {table} data is not here")
    with path.open(encoding="utf-8", newline="") as file:
        names = {row["accelerator"] for row in csv.DictReader(file)} - {""}
    for name in names:
        assert load_accelerator(name).name in ALL


def test_names_do_not_collide() -> None:
    seen: dict[str, str] = {}
    for name in ALL:
        for spelling in (name, *load_accelerator(name).aliases):
            assert seen.setdefault(reading.normalise(spelling), name) == name, spelling
            assert load_accelerator(spelling).name == name


@given(st.sampled_from(ALL), st.sampled_from(["-", "_", " "]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_spelling_does_not_matter(name: str, separator: str, upper: bool) -> None:
    spelled = name.replace("-", separator)
    assert load_accelerator(spelled.upper() if upper else spelled) == load_accelerator(name)


def test_sixteen_bit_formats_stand_in_for_each_other() -> None:
    assert load_accelerator("v100").peak("bf16") == load_accelerator("v100").peak("fp16")
    assert load_accelerator("tpu-v4").peak("fp16") == 275e12
    # Without tf32 such products run as fp32.
    assert load_accelerator("v100").peak("tf32") == load_accelerator("v100").peak("fp32")


def test_missing_peak_names_what_there_is() -> None:
    with pytest.raises(InputError, match=r"a100-sxm-80gb: has no fp8 peak; it has .*bf16.*int8"):
        load_accelerator("a100").peak("fp8")
    with pytest.raises(InputError, match="unknown number format 'fp17'"):
        load_accelerator("a100").peak("fp17")


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown name 'h100-sxn'; did you mean 'h100-sxm'"):
        load_accelerator("h100-sxn")
    with pytest.raises(InputError, match=r"no such file 'absent\.toml'"):
        load_accelerator("absent.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 989.4", "value = nan", "peak_tflops.bf16: must be above 0"),
        ("value = 3350", "value = -1", "device.memory_gb_per_s: must be above 0"),
        ("value = 132", "value = 0", "device.cores: must be above 0"),
        ("value = 132", "value = 131.5", "device.cores: must be a whole number"),
        ("value = 132", 'value = "132"', "device.cores: must be a number"),
        ("value = 700", "value = inf", "power.tdp_w: must be above 0"),
        ("fp8 = {", "fp9 = {", "peak_tflops.fp9: unknown key; did you mean 'fp8'"),
        ("l2_mib =", "l2_mb =", "device.l2_mb: unknown key; did you mean 'l2_mib'"),
        ("[power]", "[powr]", "powr: unknown key; did you mean 'power'"),
        ("{ value = 700, source", "{ value = 700, sauce", "power.tdp_w: has no source"),
        ("cores = { value = 132, ", "cores = 132 # { ", "device.cores: must be { value"),
        ('source = "fit-gemm"', 'source = "nowhere"', "source 'nowhere' is not in"),
        ('source = "fit-gemm"', "", "efficiency.gemm.bf16: has no source"),
        ("compute = 0.80575", "compute = 1.2", "gemm.bf16.compute: must be above 0 and at most 1"),
        ("split_us = 3.1202", "", "efficiency.gemm.bf16.split_us: is missing"),
        ('family = "hopper"', 'family = "hoper"', "family: unknown 'hoper'; did you mean 'hopper'"),
        ('name = "h100-sxm"', 'name = "H100 SXM"', "name: must be lower case"),
        ("[sources]", "[sources", "not valid TOML"),
    ],
)
def test_bad_profiles_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        load_accelerator(path)
    assert any(message in line for line in caught.value.problems), caught.value.problems
    assert all("\n" not in line for line in caught.value.problems)
    assert all(line.startswith("mine.toml: ") for line in caught.value.problems)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    path = edited(tmp_path, "value = 989.4", "value = -1")
    text = Path(path).read_text(encoding="utf-8").replace("value = 132", "value = 0")
    Path(path).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_accelerator(path)
    assert len(caught.value.problems) == 2


def test_own_profile_loads(tmp_path: Path) -> None:
    path = edited(tmp_path, "value = 989.4", "value = 1234.5")
    assert load_accelerator(path).peak("bf16") == pytest.approx(1234.5e12)


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ridgeline.hardware import load_accelerator; load_accelerator('h100');"
        "print([m for m in ('numba', 'numpy', 'pandas', 'pydantic', 'networkx') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_users_wafer_is_priced_by_its_class(tmp_path: Path) -> None:
    folder = Path(reading.__file__).parent / "data" / "accelerators"
    text = (folder / "tpu-v5p.toml").read_text(encoding="utf-8")
    assert 'family = "tpu-128"' in text
    own = tmp_path / "wafer.toml"
    body = text.replace('family = "tpu-128"', 'family = "wafer"').replace("tpu-v5p", "my-wafer")
    own.write_text(re.sub(r"(?m)^aliases = .*$", "aliases = []", body), encoding="utf-8")
    profile = load_accelerator(str(own))
    assert profile.family == "wafer"
    assert profile.efficiency.rung == "universal"
    assert profile.efficiency.gemm["bf16"].compute == 0.75


def test_an_accelerator_without_a_published_peak_is_refused_with_that_reason() -> None:
    with pytest.raises(InputError, match="publishes no dense peak"):
        load_accelerator("WSE-2")
