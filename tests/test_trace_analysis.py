"""What the analysis of traces says, on traces made here and on real ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broken_traces import document, sound
from ridgeline.errors import InputError
from ridgeline.validation.traces.analysis import TraceAnalysis, analyse
from ridgeline.validation.traces.collective_speed import bus_factor, find_collectives
from ridgeline.validation.traces.gemms import shape_of
from ridgeline.validation.traces.intervals import covered_s, exposed_s
from ridgeline.validation.traces.phases import find_layers, find_phases
from ridgeline.validation.traces.reading import read_ranks, read_trace
from ridgeline.validation.traces.records import Operator, Trace
from ridgeline.validation.traces.steps import find_steps

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"
QWEN_H100 = "qwen1.5_0.5b_prefill_h100.json.gz"
QWEN_MI300X = "sglang_qwen3_8b_prefill_mi300x.json.gz"
RESNET_A100 = "resnet50_ddp_nccl_a100.json.gz"
measured_traces = pytest.mark.skipif(
    not TRACES.exists(), reason="no ../shared/data/traces: real traces do not ship"
)

GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64"
FLASH = "void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>"
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"


def span(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": 0,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def launched(
    name: str,
    launch: float,
    ts: float,
    dur: float,
    *,
    thread: int = 1,
    stream: int = 7,
    **args: Any,
) -> list[dict[str, Any]]:
    """Return a kernel and its launch; the moment of the launch is the correlation."""
    key = round(launch * 10)
    return [
        span("cuda_runtime", "cudaLaunchKernel", launch, 0.5, thread, correlation=key),
        span("kernel", name, ts, dur, stream, correlation=key, stream=stream, device=0, **args),
    ]


def trace_of(folder: Path, events: list[dict[str, Any]], name: str = "trace.json") -> Trace:
    path = folder / name
    path.write_text(json.dumps(document(events)))
    return read_trace(path)


def analysed(name: str) -> TraceAnalysis:
    return analyse(read_ranks(TRACES / name))


# Intervals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_unions_agree_with_counting_cells(seed: int) -> None:
    """Unions of intervals with whole edges, against a cell for every unit of time."""
    random = np.random.default_rng(seed)
    cells = np.zeros((2, 60), bool)
    edges = []
    for row in range(2):
        start = random.integers(0, 50, 12).astype(float)
        end = start + random.integers(0, 9, 12)
        for a, b in zip(start, end, strict=True):
            cells[row, int(a) : int(b)] = True
        edges.append((start, end))
    assert covered_s(*edges[0]) == cells[0].sum()
    assert exposed_s(*edges[0], *edges[1]) == (cells[0] & ~cells[1]).sum()


# Matrix products --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shapes", "wanted"),
    [
        ("aten::mm", ((6, 5), (5, 4)), (6, 4, 5, 1)),
        ("aten::addmm", ((4,), (6, 5), (5, 4), (), ()), (6, 4, 5, 1)),
        ("aten::addmm", ((6, 4), (6, 5), (5, 4), (), ()), (6, 4, 5, 1)),
        ("aten::bmm", ((3, 6, 5), (3, 5, 4)), (6, 4, 5, 3)),
        ("aten::baddbmm", ((3, 6, 4), (3, 6, 5), (3, 5, 4)), (6, 4, 5, 3)),
        ("aten::linear", ((2, 3, 5), (4, 5), (4,)), (6, 4, 5, 1)),
        ("aten::linear", ((2, 5, 5), (5, 5), ()), (10, 5, 5, 1)),
        ("aten::matmul", ((2, 3, 5), (5, 4)), (6, 4, 5, 1)),
        ("aten::_scaled_mm", ((6, 5), (5, 4), (), ()), (6, 4, 5, 1)),
        ("vendor::fp8_gemm", ((6, 5), (4, 5)), (6, 4, 5, 1)),
        ("aten::mm", ((6, 5), (7, 4)), None),
        ("aten::mm", (), None),
        ("aten::mm", ((6, 0), (0, 4)), None),
        ("aten::convolution", ((6, 5), (5, 4)), None),
    ],
)
def test_shape_of_a_product(
    name: str, shapes: tuple[tuple[int, ...], ...], wanted: tuple[int, ...] | None
) -> None:
    found = shape_of(Operator(name=name, shapes=shapes, dtypes=("c10::Half",) * len(shapes)))
    assert (None if found is None else found[:4]) == wanted
    assert found is None or found[4] == "fp16"


def test_kernels_of_one_call_are_one_product(tmp_path: Path) -> None:
    """A split-K reduction belongs to the product that it ends."""
    shapes = {"Input Dims": [[64, 128], [128, 256]], "Input type": ["float", "float"]}
    trace = trace_of(
        tmp_path,
        [
            span("cpu_op", "aten::mm", 0.0, 9.0, **shapes),
            *launched("cutlass_80_tensorop_s1688gemm_64x64", 1.0, 20.0, 30.0),
            *launched("splitKreduce_kernel", 2.0, 50.0, 10.0),
        ],
    )
    gemms = analyse((trace,)).gemms
    (one,) = gemms.shapes
    assert (one.m, one.n, one.k, one.batch, one.dtype) == (64, 256, 128, 1, "tf32")
    assert one.calls == 1
    assert one.median_s == pytest.approx(40e-6)
    assert one.flops_per_s == pytest.approx(2 * 64 * 256 * 128 / 40e-6)
    assert gemms.matched_s == pytest.approx(gemms.kernel_s)
    assert gemms.flops_per_step == 2 * 64 * 256 * 128


# Collectives ------------------------------------------------------------------------------------


def rank(folder: Path, number: int, durations: list[float], **args: Any) -> None:
    said = {
        "Collective name": "allreduce",
        "In msg nelems": 500_000,
        "Out msg nelems": 500_000,
        "Group size": 2,
        "dtype": "BFloat16",
        "Process Group Ranks": "[0, 1]",
    }
    events = [
        event
        for i, took in enumerate(durations)
        for event in launched(ALL_REDUCE, 1.0 + i, 1000.0 * (i + 1), took, **(said | args))
    ]
    made = document(events) | {"distributedInfo": {"rank": number, "world_size": 2}}
    (folder / f"rank{number}_trace.json").write_text(json.dumps(made))


def test_bus_bandwidth_is_that_of_the_rank_that_waited_least(tmp_path: Path) -> None:
    rank(tmp_path, 0, [100.0, 400.0, 110.0])
    rank(tmp_path, 1, [300.0, 120.0, 130.0])
    (found,) = find_collectives(*read_ranks(tmp_path))
    assert (found.calls, found.traced_ranks) == (3, 2)
    assert found.collective.bytes == 1e6
    assert found.collective.members == (0, 1)
    # 100, 120 and 110 us once nobody waits
    assert found.transfer_s == pytest.approx(110e-6)
    assert found.fastest_s == pytest.approx(100e-6)
    # two ranks: each link carries 2 (n-1)/n = 1 times the buffer
    assert found.bus_bytes_per_s == pytest.approx(1e6 / 110e-6)


def test_a_rank_with_other_calls_is_not_compared(tmp_path: Path) -> None:
    rank(tmp_path, 0, [100.0, 100.0])
    rank(tmp_path, 1, [100.0, 100.0])
    rank(tmp_path, 2, [1.0])
    (found,) = find_collectives(*read_ranks(tmp_path))
    assert (found.calls, found.traced_ranks) == (2, 2)
    assert found.transfer_s == pytest.approx(100e-6)


def test_elided_groups_and_unknown_sizes(tmp_path: Path) -> None:
    rank(tmp_path, 0, [100.0], **{"Process Group Ranks": "[0, 1, ..., 63]", "Group size": None})
    (found,) = find_collectives(*read_ranks(tmp_path))
    assert found.collective.members == ()
    assert found.bus_bytes_per_s == 0.0


def test_bus_factors() -> None:
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == bus_factor("all_to_all", 8) == 0.875
    assert bus_factor("send_recv", 2) == 1.0


# Phases and layers ------------------------------------------------------------------------------


def test_phases_own_what_is_launched_within_them_on_any_thread(tmp_path: Path) -> None:
    """A backward pass is launched from another thread; phases within phases count twice."""
    trace = trace_of(
        tmp_path,
        [
            span("user_annotation", "forward", 0.0, 50.0),
            span("user_annotation", "layer 0", 1.0, 10.0),
            *launched(GEMM, 2.0, 100.0, 10.0),
            span("user_annotation", "layer 1", 20.0, 10.0),
            *launched(GEMM, 21.0, 110.0, 12.0),
            # beside the first on another stream, 4 us of it together
            *launched(FLASH, 22.0, 118.0, 6.0, stream=8),
            span("user_annotation", "backward", 60.0, 20.0),
            *launched(GEMM, 61.0, 130.0, 20.0, thread=2),
            *launched(GEMM, 90.0, 160.0, 99.0),
        ],
    )
    phases = {phase.name: phase for phase in find_phases(trace)}
    assert set(phases) == {"forward", "layer #", "backward"}
    assert phases["layer #"].sums_s == pytest.approx((10e-6, 18e-6))
    assert phases["layer #"].walls_s == pytest.approx((10e-6, 14e-6))
    assert phases["layer #"].category_s == pytest.approx({"gemm": 22e-6, "attention": 6e-6})
    assert phases["forward"].sums_s == pytest.approx((28e-6,))
    assert phases["backward"].sums_s == pytest.approx((20e-6,))


def test_without_launches_phases_are_those_of_the_device(tmp_path: Path) -> None:
    """A span of the device owns what begins within it on its stream."""
    trace = trace_of(
        tmp_path,
        [
            span("gpu_user_annotation", "attn(F)", 0.0, 30.0, 7, stream=7),
            span("gpu_user_annotation", "dispatch(F)", 5.0, 30.0, 9, stream=9),
            span("kernel", GEMM, 1.0, 10.0, 7, stream=7),
            span("kernel", ALL_REDUCE, 6.0, 20.0, 9, stream=9),
        ],
    )
    phases = {phase.name: phase for phase in find_phases(trace)}
    assert phases["attn(F)"].sums_s == pytest.approx((10e-6,))
    assert phases["dispatch(F)"].category_s == pytest.approx({"communication": 20e-6})


def test_layers_repeat_from_attention_to_attention(tmp_path: Path) -> None:
    events = []
    for layer in range(6):
        at = 100.0 * layer
        events += launched(FLASH, at, at, 40.0)
        events += launched(GEMM, at + 1.0, at + 40.0, 50.0 + layer)
    trace = trace_of(tmp_path, events)
    (forward,) = find_layers(trace, find_steps(trace)[0])
    assert forward.name == "forward layer"
    # the last one has no end
    assert forward.sums_s == pytest.approx([(90.0 + layer) * 1e-6 for layer in range(5)])
    shorter = trace_of(tmp_path, events[:12])
    assert find_layers(shorter, find_steps(shorter)[0]) == ()


def test_steps_of_xla_are_marked_on_the_device(tmp_path: Path) -> None:
    """A step's work is what begins within it; the last step has no period."""
    made: list[dict[str, Any]] = [
        {"ph": "M", "pid": 3, "name": "process_name", "args": {"name": "/device:TPU:0"}},
        {"ph": "M", "pid": 3, "tid": 1, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "M", "pid": 3, "tid": 2, "name": "thread_name", "args": {"name": "Steps"}},
    ]
    for step in range(3):
        at = 100.0 * step
        made.append({"ph": "X", "pid": 3, "tid": 2, "name": str(step), "ts": at, "dur": 90.0})
        made += [
            {"ph": "X", "pid": 3, "tid": 1, "name": f"fusion.{k}", "ts": at + 20.0 * k, "dur": 15.0}
            for k in range(4)
        ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": made}))
    trace = read_trace(path)
    steps = find_steps(trace)
    assert [step.is_period for step in steps] == [True, True, False]
    assert [step.window_s for step in steps] == pytest.approx([100e-6, 100e-6, 75e-6])
    assert {len(step.events) for step in steps} == {4}
    assert find_phases(trace) == ()


def test_steps_that_the_program_names(tmp_path: Path) -> None:
    """Ranges of Megatron's or one's own loop; work outside of them is said."""
    events = launched(GEMM, 1.0, 50.0, 7.0)
    for step in range(3):
        at = 100.0 * (step + 1)
        events.append(span("user_annotation", f"iteration {step}", at, 90.0))
        events += launched(GEMM, at + 1.0, at + 20.0, 60.0)
    trace = trace_of(tmp_path, events)
    assert [step.window_s for step in find_steps(trace)] == pytest.approx([1e-4, 1e-4, 6e-5])
    assert analyse((trace,)).outside_s == pytest.approx(7e-6)


def test_of_several_devices_the_busiest_is_read(tmp_path: Path) -> None:
    events = [span("kernel", GEMM, 10.0 * k, 5.0, 7, stream=7, device=int(k > 0)) for k in range(4)]
    trace = trace_of(tmp_path, events)
    assert trace.losses == ("1 other devices left out, device 1 read",)
    assert len(trace.events) == 3


# Whole --------------------------------------------------------------------------------------------


def test_analysis_of_a_made_trace(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_bytes(sound())
    found = analyse(read_ranks(tmp_path / "trace.json"))
    assert found.ranks == (3,)
    assert found.summary == found.by_rank[0]
    # 250 TFLOP in a step of 500 us on a device of 1 PFLOP/s
    assert found.mfu(2.5e11, 1e15) == pytest.approx(0.5)
    with pytest.raises(InputError, match="above 0"):
        found.mfu(1.0, 0.0)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["gemms"][0]["calls"] == 10
    assert plain["collectives"][0]["kind"] == "all_reduce"
    assert plain["step"]["window_s"] == pytest.approx(500e-6)


def test_ranks_are_summed_up_by_their_median(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_bytes(sound())
    one = read_trace(tmp_path / "trace.json")
    slow = replace(one, rank=4, events=replace(one.events, duration_s=one.events.duration_s * 1.5))
    found = analyse((one, slow))
    assert found.ranks == (3, 4)
    assert found.summary.busy_s == pytest.approx(
        (found.by_rank[0].busy_s + found.by_rank[1].busy_s) / 2
    )
    assert found.gemms.steps == 4


# Real traces --------------------------------------------------------------------------------------

# Figures computed independently from the same files (ms): window, busy, and unions by category.
# The traces are of TraceLens (AMD-AGI, MIT) and HolisticTraceAnalysis (facebookresearch, MIT).
REFERENCE = {
    QWEN_H100: {"window": 34.9, "busy": 31.9, "gemm": 8.86, "attention": 2.72},
    QWEN_MI300X: {"window": 492.5, "busy": 492.8, "gemm": 420.3, "attention": 20.1, "norm": 26.3},
    RESNET_A100: {
        "window": 222.0,
        "busy": 49.7,
        "compute": 38.5,
        "communication": 12.3,
        "gemm": 6.5,
        "convolution": 12.1,
        "norm": 10.5,
    },
}


@measured_traces
@pytest.mark.parametrize("name", REFERENCE)
def test_real_traces_within_a_hundredth(name: str) -> None:
    found = analysed(name)
    assert found.losses == ()
    summary = found.summary
    ours = summary.union_s | {
        "window": summary.window_s,
        "busy": summary.busy_s,
        "compute": summary.compute_s,
        "communication": summary.communication_s,
    }
    wanted = REFERENCE[name]
    assert {key: ours[key] * 1e3 for key in wanted} == pytest.approx(wanted, rel=0.01)


@measured_traces
@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        (
            QWEN_H100,
            {
                (8944, 2816, 1024): 617,
                (8944, 1024, 2816): 682,
                (8944, 1024, 1024): 596,
            },
        ),
        (
            QWEN_MI300X,
            {
                (15360, 24576, 4096): 457,
                (15360, 4096, 12288): 583,
                (15360, 6144, 4096): 543,
                (15360, 4096, 4096): 629,
            },
        ),
    ],
)
def test_real_products_by_shape(name: str, tflops: dict[tuple[int, int, int], float]) -> None:
    gemms = analysed(name).gemms
    ours = {(s.m, s.n, s.k): s.flops_per_s / 1e12 for s in gemms.shapes if s.dtype == "bf16"}
    assert {shape: ours[shape] for shape in tflops} == pytest.approx(tflops, rel=0.005)
    assert gemms.matched_s == pytest.approx(gemms.kernel_s)


@measured_traces
def test_real_layers() -> None:
    """Qwen3-8B has 36 layers, the last of which no attention kernel follows."""
    (forward,) = analysed(QWEN_MI300X).layers
    assert len(forward.sums_s) == 35
    assert np.median(forward.walls_s) == pytest.approx(492.5e-3 / 36, rel=0.02)


@measured_traces
def test_real_collectives_are_exact() -> None:
    """The gradients of ResNet-50 are its 25,557,032 parameters in fp32."""
    found = analysed(RESNET_A100)
    reduced = [c for c in found.collectives if c.collective.kind == "all_reduce"]
    assert {c.calls for c in reduced} == {3}
    assert sum(c.collective.bytes for c in reduced) == 4 * 25_557_032
    assert {(c.collective.ranks, c.collective.members) for c in reduced} == {(2, (0, 1))}
    assert {c.collective.bytes for c in found.collectives} - {
        c.collective.bytes for c in reduced
    } == {212_480.0, 424.0}
    largest = max(reduced, key=lambda c: c.collective.bytes)
    # of two ranks the bus bandwidth of an all-reduce is its bytes over time: 31.5 MB in 2.4 ms
    assert largest.fastest_s == pytest.approx(2424e-6, rel=0.01)
