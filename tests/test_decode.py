"""Decode attention: its slow twin, closed forms, properties, bounds, measured tables."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_decode as naive
from ridgeline.errors import InputError
from ridgeline.hardware.kernels import load_kernel_sets
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.simulator.roofline.decode import _kernels, layout
from ridgeline.simulator.roofline.decode.pricing import (
    decode_parameters,
    decode_shapes,
    predict_decode,
    predict_mla_decode,
)

DEVICES = ["a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm"]
SETS = [(device, one) for device in DEVICES for one in load_kernel_sets(device, "decode")]
EXAMPLES = 10 if os.environ.get("NUMBA_DISABLE_JIT") == "1" else 120
few = settings(max_examples=EXAMPLES, deadline=None)
sets = st.sampled_from(SETS)
shapes = st.tuples(
    st.integers(1, 2048),
    st.one_of(st.integers(1, 300), st.integers(1, 200_000)),
    st.sampled_from([1, 2, 3, 5, 8, 16, 48, 128]),
    st.sampled_from([1, 2, 8, 12]),
    st.sampled_from([64, 80, 128, 192, 256, 512]),
    st.sampled_from([0, 1, 128, 1024, 8192]),
)
huge = st.integers(0, 40).flatmap(lambda power: st.integers(1, 2**power))


def price(device, one, batch, kv_len, group, kv_heads, dim, window):
    return float(
        predict_decode(
            batch, kv_len, group * kv_heads, kv_heads, dim, window, kernel_set=one,
            accelerator=device if not isinstance(device, str) else load_accelerator(device),
        )[0]
    )  # fmt: skip


def bare(one):
    return dataclasses.replace(one, correction=None)


def twin_parameters(device, one):
    row = decode_parameters(one.parameters, one.dtype, load_accelerator(device))
    facts = dict(zip(["peak", "hbm", "cores", "l2", "kv"], row[:5].tolist(), strict=True))
    names = [
        name.replace("_gb_per_s", "_rate").removesuffix("_us").removesuffix("_ns")
        for name in layout.FITTED
    ]
    return dict(zip(names, row[5:].tolist(), strict=True)), facts


def test_the_constants_of_the_kernel_are_those_of_the_layout():
    assert (_kernels.STEP, _kernels.SPLIT_LIMIT) == (layout.STEP, layout.SPLIT_LIMIT)
    assert len(layout.FITTED) + len(layout.DEVICE) == layout.PARAMETERS == 26


@few
@given(sets, shapes)
def test_the_compiled_price_is_that_of_the_slow_twin(chosen, shape):
    device, one = chosen
    batch, kv_len, group, kv_heads, dim, window = shape
    columns = (batch, kv_len, group * kv_heads, kv_heads, window, dim, dim, 2 * dim)
    row = decode_parameters(one.parameters, one.dtype, load_accelerator(device))
    out = np.empty(1)
    _kernels.price(decode_shapes(*columns), row, out)
    assert out[0] == pytest.approx(naive.decode(*twin_parameters(device, one), *columns), rel=1e-12)


@few
@given(sets, huge, huge, st.integers(0, 7), st.integers(0, 5), huge, huge)
def test_any_shape_has_a_finite_positive_price_above_its_bound(
    chosen, batch, kv_len, group, kv_heads, dim, window
):
    device, one = chosen
    seconds = price(device, one, batch, kv_len, 2**group, 2**kv_heads, dim, window)
    accelerator = load_accelerator(device)
    seen = min(kv_len, window)
    flops = 4 * batch * 2 ** (group + kv_heads) * seen * dim
    assert 0 < seconds < np.inf
    assert seconds >= flops / accelerator.peak("bf16") * (1 - 1e-12)
    kv = 1 if one.dtype.endswith("fp8") else 2
    beyond = 2 * kv * batch * 2**kv_heads * seen * dim - accelerator.l2_bytes
    assert seconds >= beyond / accelerator.memory_bytes_per_s * (1 - 1e-12)


@few
@given(sets, shapes, st.sampled_from(["peak_flops", "memory_bytes_per_s", "cores", "l2_bytes"]))
def test_a_better_device_is_never_slower(chosen, shape, what):
    device, one = chosen
    accelerator = load_accelerator(device)
    value = getattr(accelerator, what)
    more = {key: 2 * peak for key, peak in value.items()} if isinstance(value, dict) else 2 * value
    better = dataclasses.replace(accelerator, **{what: more})
    if what == "cores":  # the same peak on more cores makes one block slower: give both
        peaks = {key: 2 * peak for key, peak in accelerator.peak_flops.items()}
        better = dataclasses.replace(better, peak_flops=peaks)
    assert price(better, one, *shape) <= price(accelerator, one, *shape) * (1 + 1e-12)


@few
@given(sets, shapes, st.integers(1, 3))
def test_more_keys_never_take_less_time_before_the_correction(chosen, shape, more):
    device, one = chosen
    batch, kv_len, *rest = shape
    shorter = price(device, bare(one), batch, kv_len, *rest)
    assert price(device, bare(one), batch, kv_len + more, *rest) >= shorter * (1 - 1e-12)


def test_long_contexts_run_at_memory_speed():
    # 64 sequences of 32768 keys, 8 KV heads of 128 in bf16: 8.6 GB of cache, read once (but for
    # what an L2 of at most 126 MB still holds of the call before).
    for device in DEVICES:
        accelerator = load_accelerator(device)
        least = 64 * 32768 * 8 * 256 * 2 / accelerator.memory_bytes_per_s
        for one in load_kernel_sets(device, "decode"):
            if one.dtype == "bfloat16/bfloat16" and "triton" not in one.kernel:
                seconds = price(device, one, 64, 32768, 8, 8, 128, 0)
                assert 0.98 * least < seconds < 2.0 * least, (device, one.name)


def test_latent_attention_shares_one_row_between_heads():
    # DeepSeek-V3: 128 heads share 576 values a token (arXiv 2412.19437, section 4.2): the bytes
    # of 128 sequences of 16384 keys are 128 * 16384 * 576 * 2, and 128 heads a row are compute
    # bound: 2 * 128 * (576 + 512) FLOPs for 1152 bytes.
    accelerator = load_accelerator("h100-sxm")
    for one in load_kernel_sets("h100-sxm", "decode"):
        if one.dtype != "bfloat16/bfloat16" or "fa3" not in one.kernel:
            continue
        seconds = predict_mla_decode(128, 16384, 128, kernel_set=one, accelerator=accelerator)[0]
        read = 128 * 16384 * 576 * 2 / accelerator.memory_bytes_per_s
        flops = 2 * 128 * 128 * 16384 * (576 + 512) / accelerator.peak("bf16")
        assert max(read, flops) <= seconds < 8 * max(read, flops)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, "at least 1"),
        ({"kv_len": np.nan}, "at least 1"),
        ({"window": -1}, "window at least 0"),
        ({"heads": 12}, "multiple of kv_heads"),
        ({"batch": [1, 2], "kv_len": [1, 2, 3]}, "different lengths"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change, said):
    device, one = SETS[0]
    whole = {"batch": 1, "kv_len": 64, "heads": 8, "kv_heads": 8, "head_dim": 64, "window": 0}
    with pytest.raises(InputError, match=said):
        predict_decode(**whole | change, kernel_set=one, accelerator=load_accelerator(device))


def test_a_set_of_another_operator_is_refused():
    device, one = SETS[0]
    other = dataclasses.replace(one, op="prefill")
    with pytest.raises(InputError, match="give one for decode"):
        price(device, other, 1, 64, 1, 1, 64, 0)


def test_the_shipped_sets_do_what_is_said_of_them():
    errors = [one.held_out["mape"] for _, one in SETS]
    assert len(errors) >= 30
    assert np.median(errors) <= 0.08
    assert max(errors) <= 0.16


@pytest.mark.parametrize("op", ["prefill", "decode"])
def test_the_documented_errors_are_those_of_the_shipped_sets(op):
    pytest.importorskip("scipy")
    from ridgeline.validation.fitting.attention_report import report

    page = Path(__file__).parents[1] / "docs" / "kernels-attention.md"
    assert report(op) in page.read_text(encoding="utf-8")
