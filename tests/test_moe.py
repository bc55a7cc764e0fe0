"""Expert layers: routing law, tile model, shipped sets."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_moe import law_moment, layer_seconds
from naive_moe import loads as naive_loads
from ridgeline.errors import InputError
from ridgeline.hardware.kernels import KernelSet, load_kernel_sets
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.simulator.roofline.moe import _kernels, exponent_of, moe_parameters, predict_moe

DEVICES = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm")
DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "kernels"
SETS = [(device, one) for device in DEVICES for one in load_kernel_sets(device, "moe")]
H100 = load_accelerator("h100-sxm")
FIRST = load_kernel_sets("h100-sxm", "moe")[0]


def spread(tokens: float, top_k: float, experts: float, ep: float, law: float) -> np.ndarray:
    """Rows of every expert on the busiest rank, as counts and rows."""
    counts, rows = np.empty(_kernels.BINS), np.empty(_kernels.BINS)
    used = _kernels.loads(tokens, top_k, experts, ep, law, counts, rows)
    return np.stack([counts[:used], rows[:used]])


def predict(one: KernelSet, device: str = "h100-sxm", **shape: float) -> float:
    base = {
        "tokens": 512.0,
        "hidden": 4096.0,
        "ffn": 1536.0,
        "top_k": 8.0,
        "experts": 128.0,
        "tp": 1.0,
        "ep": 4.0,
        "exponent": 0.0,
    }
    accelerator = load_accelerator(device)
    return float(predict_moe(**(base | shape), kernel_set=one, accelerator=accelerator)[0])


# --- the routing law ----------------------------------------------------------------------------


def test_balanced_routing_shares_pairs_among_as_many_experts_as_there_are_pairs() -> None:
    # 64 tokens x 8 over 8 ranks: 64 pairs on 32 experts, two each; one token: one pair, one expert
    assert spread(64, 8, 256, 8, 0.0).tolist() == [[32.0], [2.0]]
    assert spread(1, 8, 256, 8, 0.0).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("experts", "ep", "tokens", "top_k", "law"),
    [
        (256, 32, 1024, 8, 1.01),
        (256, 8, 4096, 8, 1.01),
        (128, 2, 512, 8, 1.2),
        (256, 8, 16, 8, 1.2),
        (512, 64, 4096, 10, 1.01),
        (128, 128, 2048, 1, 1.2),
    ],
)
def test_busiest_rank_as_in_drawn_routings(
    experts: int, ep: int, tokens: int, top_k: int, law: float
) -> None:
    # draw the law as aiconfigurator's collector does (helper.py, power_law_logits_v3)
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    a = 1.0 - law
    u = np.random.default_rng(0).random((1000, experts))
    drawn = ((high**a - low**a) * u + low**a) ** (1.0 / a)
    drawn = np.minimum(drawn / drawn.sum(1, keepdims=True) * tokens * top_k, tokens)
    busiest = float(np.median(drawn.reshape(1000, ep, -1).sum(2).max(1)))
    counts, rows = spread(tokens, top_k, experts, ep, law)
    assert float(counts @ rows) == pytest.approx(busiest, rel=0.25)


@given(
    tokens=st.integers(1, 2**20),
    top_k=st.integers(1, 22),
    here=st.integers(1, 64),
    ep=st.sampled_from([1, 2, 8, 64]),
    law=st.sampled_from([0.0, 0.5, 1.0, 1.01, 1.2, 2.0, 3.0]),
)
@settings(max_examples=100, deadline=None)
def test_no_expert_sees_a_token_twice(
    tokens: int, top_k: int, here: int, ep: int, law: float
) -> None:
    top_k = min(top_k, here * ep)
    counts, rows = spread(tokens, top_k, here * ep, ep, law)
    pairs = float(counts @ rows)
    assert (rows <= tokens * (1 + 1e-12)).all()
    assert (rows >= 1 - 1e-12).all()
    assert counts.sum() <= here * (1 + 1e-12)
    # the busiest rank has its share at least, and no more than every pair
    assert pairs <= tokens * top_k * (1 + 1e-9)
    assert pairs >= min(tokens * top_k / ep, tokens * here) * (1 - 1e-9)


def test_steeper_laws_have_fewer_and_busier_experts() -> None:
    # skewed routing never lightens the busiest rank
    loads = [float(np.prod(spread(1024, 8, 256, 32, law), axis=0).sum()) for law in (0, 1.01, 1.2)]
    assert loads[0] < loads[1] < loads[2]


def test_moments_agree_with_sums() -> None:
    for law, low, high in ((1.01, 1.0, 800.0), (1.2, 0.01, 2.0), (1.0, 1.0, 50.0)):
        for order in (1, 2):
            got = _kernels._moment(_kernels._off_poles(law), low, high, float(order))
            assert got == pytest.approx(law_moment(law, low, high, order), rel=1e-4)


def test_names_of_distributions() -> None:
    assert exponent_of(["balanced", "power_law_1.2"]).tolist() == [0.0, 1.2]
    for bad in ("uniform", "power_law_", "power_law_-1", "power_law_inf"):
        with pytest.raises(InputError, match=r"power_law_1\.2"):
            exponent_of([bad])


# --- twin ---------------------------------------------------------------------------------------


@given(
    tokens=st.sampled_from([1, 3, 48, 1000, 16384]),
    ffn=st.sampled_from([512, 1856, 14336]),
    routing=st.sampled_from([(8, 256, 1), (8, 256, 32), (2, 8, 8), (1, 16, 2), (6, 96, 4)]),
    tp=st.sampled_from([1, 4]),
    law=st.sampled_from([0.0, 1.01, 1.2]),
    chosen=st.integers(0, len(SETS) - 1),
)
@settings(max_examples=40, deadline=None)
def test_agrees_with_the_twin(
    tokens: int, ffn: int, routing: tuple[int, int, int], tp: int, law: float, chosen: int
) -> None:
    name, one = SETS[chosen]
    device, fit = moe_parameters(one.parameters, one.dtype, load_accelerator(name))
    shape = [float(v) for v in (tokens, 4096, ffn, routing[0], routing[1], tp, routing[2])]
    out = np.empty(1)
    _kernels.price(np.array([[*shape, law]]), device, fit, out)
    machine = dict(
        zip(("peak", "hbm", "cores", "weight", "input", "projections"), device, strict=True)
    )
    names = ("launch", "compute", "memory", "core_rate", "tile", "step", "sharpness", "elementwise")
    names += ("expert", "remote", "route", "floor_rows")
    slow = layer_seconds([*shape, law], machine, dict(zip(names, fit, strict=True)))
    # the normal quantile of the kernel is good to 4.5e-4, and a tile more or less may follow
    assert out[0] == pytest.approx(slow, rel=1e-9 if law == 0.0 else 0.02)


def test_loads_agree_with_the_twin() -> None:
    for law in (0.0, 1.01, 1.2):
        got = spread(1000, 8, 256, 16, law)
        assert pytest.approx(np.array(naive_loads(1000, 8, 256, 16, law)), rel=2e-3) == got.T


# --- properties ---------------------------------------------------------------------------------


@given(
    tokens=st.integers(1, 2**40),
    hidden=st.integers(1, 2**20),
    ffn=st.integers(1, 2**20),
    experts=st.integers(1, 2**12),
    top_k=st.integers(1, 64),
    ep=st.integers(1, 256),
    law=st.floats(0.0, 8.0),
    chosen=st.integers(0, len(SETS) - 1),
)
@settings(max_examples=100, deadline=None)
def test_finite_and_never_above_the_peak(
    tokens: int, hidden: int, ffn: int, experts: int, top_k: int, ep: int, law: float, chosen: int
) -> None:
    device, one = SETS[chosen]
    accelerator = load_accelerator(device)
    ep, top_k = min(ep, experts), min(top_k, experts)
    got = predict_moe(
        tokens, hidden, ffn, top_k, experts, 1, ep, law, kernel_set=one, accelerator=accelerator
    )
    assert np.isfinite(got).all()
    matrices = one.parameters["projections"]
    peak = moe_parameters(one.parameters, one.dtype, accelerator)[0][_kernels.PEAK]
    assert got[0] >= 2.0 * matrices * tokens * top_k / ep * hidden * ffn / peak * (1 - 1e-12)
    assert got[0] > 0.0


@pytest.mark.parametrize("law", [0.0, 1.2])
@pytest.mark.parametrize(("device", "one"), SETS, ids=lambda v: getattr(v, "name", v))
def test_better_devices_are_never_slower(device: str, one: KernelSet, law: float) -> None:
    now = load_accelerator(device)
    peaks = {name: 1.3 * peak for name, peak in now.peak_flops.items()}
    better = (
        replace(now, peak_flops=peaks),
        replace(now, memory_bytes_per_s=1.3 * now.memory_bytes_per_s),
    )
    tokens = np.array([1.0, 16.0, 300.0, 5000.0])
    shape = (tokens, 4096, 1536, 8, 128, 1, 4, law)
    before = predict_moe(*shape, kernel_set=one, accelerator=now)
    for accelerator in better:
        after = predict_moe(*shape, kernel_set=one, accelerator=accelerator)
        assert (after <= before * (1 + 1e-12)).all()


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="top_k and ep at most experts"):
        predict(FIRST, top_k=200.0)
    for name in ("tokens", "hidden", "ffn", "tp", "ep"):
        with pytest.raises(InputError, match="at least 1"):
            predict(FIRST, **{name: 0.0})
    with pytest.raises(InputError, match="give one for moe"):
        predict(replace(FIRST, op="gemm"))
    with pytest.raises(InputError, match="not known"):
        predict(replace(FIRST, dtype="bf17"))
    with pytest.raises(InputError, match="has no fp8 peak"):
        predict(replace(FIRST, dtype="fp8"), device="a100-sxm-80gb")


# --- measured -----------------------------------------------------------------------------------


def test_held_out_errors_of_the_shipped_sets() -> None:
    # the sets' own record: 11% in the median, twice that at most
    errors = [one.held_out["mape"] for _, one in SETS]
    assert {device for device, _ in SETS} == set(DEVICES)
    assert np.median(errors) <= 0.11
    assert max(errors) <= 0.22


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="measured kernels are not shipped")
@pytest.mark.parametrize("device", DEVICES)
def test_the_record_is_true(device: str) -> None:
    from ridgeline.validation.fitting.fit import held_out_rows, statistics
    from ridgeline.validation.kernels import read_kernel_table

    system = "_".join(device.split("-")[:2])
    table = read_kernel_table(DATA / f"moe_{system}.csv.gz")
    rows_of = dict(table.sets())
    for one in load_kernel_sets(device, "moe"):
        rows = table.take(rows_of["moe", one.library, one.version, one.dtype, one.kernel])
        sizes = [rows[name] for name in ("tokens", "hidden", "ffn", "top_k", "experts", "tp", "ep")]
        judged = held_out_rows(*sizes, rows["distribution"])
        got = predict_moe(
            *(size[judged] for size in sizes),
            exponent_of(rows["distribution"][judged].tolist()),
            kernel_set=one,
            accelerator=load_accelerator(device),
        )
        found = statistics(got, rows.latency_us[judged] * 1e-6)
        assert found["mape"] == pytest.approx(one.held_out["mape"], abs=0.002), one.name


@pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="needs compiled kernels")
def test_three_hundred_thousand_layers_a_second() -> None:
    tokens = np.arange(1.0, 20001.0)
    shape = (tokens, 4096, 1536, 8, 256, 1, 4, 1.2)
    predict_moe(*shape, kernel_set=FIRST, accelerator=H100)
    begin = time.process_time()
    predict_moe(*shape, kernel_set=FIRST, accelerator=H100)
    assert len(tokens) / (time.process_time() - begin) > 300_000


def test_the_table_of_the_docs_is_the_report() -> None:
    pytest.importorskip("scipy")
    from ridgeline.validation.fitting.moe import report

    page = Path(__file__).parents[1] / "docs" / "kernels-moe.md"
    assert report(DEVICES) in page.read_text(encoding="utf-8")
