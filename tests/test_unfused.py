"""Element-wise kernels one by one, SMs that communication keeps, and a CPU's operators."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.errors import InputError
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.validation.traces.cores import with_sms
from ridgeline.validation.traces.host import host_category
from ridgeline.validation.traces.inference import infer_plan
from ridgeline.validation.traces.operator_rows import MEMORY
from ridgeline.validation.traces.reading import read_trace
from ridgeline.validation.traces.records import CATEGORIES
from ridgeline.validation.traces.simulated import simulate_forward
from ridgeline.validation.traces.summary import summarise

STACKS = Path(__file__).parents[1] / "validation" / "traces" / "stacks"


def plan(stack: str, model: str = "qwen1.5-0.5b", **more: object) -> Plan:
    given: dict[str, object] = {
        "model.name": model,
        "cluster.spec": "1xh100-sxm",
        "training.seq_len": 559,
        "training.micro_batch_seqs": 16,
        "training.global_batch_seqs": 16,
        "training.precision": "bf16",
    }
    made = read_plan(None, given | more)
    return replace(made, stack=str(STACKS / f"{stack}.toml"))


def test_eager_kernels_are_those_of_the_models_source() -> None:
    """24 layers of two norms (8), rotary of q and k (6), v and output in order, silu, times, sums.

    The published trace of that model on an H100 has as many: 1198 with 24 x 7 products, 24 of
    attention, 216 fills and 30 before the first layer.
    """
    step = simulate_forward(plan("transformers-eager"), 0)
    memory = [row for row in step.operators if row.category == MEMORY and ": " in row.name]
    assert sum(row.count for row in memory) == 24 * (2 * 8 + 2 * 6 + 2 + 2 + 2)
    elements = 16 * 559 * 1024
    (cast,) = {row.bytes for row in memory if row.name == "attention norm: norm to fp32"}
    assert cast == 6.0 * elements


def test_a_kernel_without_vectors_is_bound_by_its_elements() -> None:
    step = simulate_forward(plan("transformers-eager"), 0)
    seconds = {row.name: row.seconds for row in step.operators}
    elements = 16 * 559 * 1024
    launch = 2.4e-6
    copy = seconds["rotary: value in order"] - launch
    assert copy == pytest.approx(elements / (2.25e9 * 132), rel=1e-6)
    square = seconds["mlp norm: norm square"] - launch
    assert square == pytest.approx(8.0 * elements / (0.8 * 3.35e12), rel=1e-6)


def test_the_total_is_that_of_its_operators() -> None:
    for name in ("transformers-eager", "serving-engine"):
        step = simulate_forward(plan(name), 16)
        alone = sum(row.count * row.seconds for row in step.operators)
        assert step.total_s == pytest.approx(alone + step.idle_s, rel=1e-9)
    fused = simulate_forward(plan("serving-engine"), 16)
    eager = simulate_forward(plan("transformers-eager"), 16)
    assert fused.category_s[MEMORY] < 0.5 * eager.category_s[MEMORY]


def test_a_slow_host_shows(tmp_path: Path) -> None:
    """A kernel every 100 us is slower than the device, which then waits."""
    for file in STACKS.glob("transformers-eager*"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    slow = tmp_path / "transformers-eager.toml"
    added = '\n[launch_s]\nvalue = 1e-4\nsource = "made up"\n'
    slow.write_text(slow.read_text(encoding="utf-8") + added, encoding="utf-8")
    assert simulate_forward(plan("transformers-eager"), 16).idle_s == 0.0
    step = simulate_forward(replace(plan("transformers-eager"), stack=str(slow)), 16)
    kernels = sum(row.count for row in step.operators)
    assert step.total_s == pytest.approx(1e-4 * kernels, rel=0.05)


def test_heads_shared_by_queries_are_repeated_eagerly() -> None:
    step = simulate_forward(plan("transformers-eager", "qwen3-8b"), 16)
    repeats = [row for row in step.operators if row.name == "rotary: repeat for all query heads"]
    assert sum(row.count for row in repeats) == 2 * 36


def test_fewer_sms_slow_products_by_their_share() -> None:
    whole = plan("serving-engine", "llama3-8b")
    fewer = with_sms(whole, 66)
    assert with_sms(whole, None) is whole
    assert fewer.cluster.accelerator.cores == 66
    assert fewer.cluster.accelerator.memory_bytes_per_s == 3.35e12
    gemm = simulate_forward(whole, 0).category_s["gemm"]
    assert simulate_forward(fewer, 0).category_s["gemm"] == pytest.approx(2.0 * gemm, rel=0.1)
    with pytest.raises(InputError, match="--sms 133: h100-sxm has 132"):
        with_sms(whole, 133)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("aten::mm", "gemm"),
        ("aten::addmm", "gemm"),
        ("aten::linear", "other"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm_backward", "norm"),
        ("aten::gelu", "elementwise"),
        ("aten::copy_", "elementwise"),
        ("aten::_fused_adamw_", "optimizer"),
        ("gloo:all_reduce", "communication"),
        ("c10d::allreduce_", "communication"),
        ("autograd::engine::evaluate_function: MmBackward0", "other"),
    ],
)
def test_a_cpus_operators(name: str, category: str) -> None:
    assert CATEGORIES[host_category(name)] == category


def test_operators_of_a_cpu_count_for_their_own_time(tmp_path: Path) -> None:
    def event(name: str, start: float, length: float, **args: object) -> dict[str, object]:
        about = {"ph": "X", "pid": 1, "tid": 1, "ts": start, "dur": length}
        return {"cat": "cpu_op", "name": name, "args": args, **about}

    shapes = {"Input Dims": [[8, 64], [64, 32]], "Input type": ["float", "float"]}
    step = {"cat": "user_annotation", "name": "ProfilerStep#0", "ph": "X", "ts": 0.0, "dur": 200.0}
    events = [
        step | {"pid": 1, "tid": 1},
        event("aten::linear", 10.0, 100.0),
        event("aten::matmul", 15.0, 90.0),
        event("aten::mm", 20.0, 80.0, **shapes),
        event("aten::gelu", 120.0, 30.0),
    ]
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps({"traceEvents": events}))
    with pytest.raises(InputError, match="no device work"):
        read_trace(path)
    trace = read_trace(path, host=True)
    found = summarise(trace).sum_s
    assert found["gemm"] == pytest.approx(80e-6)
    assert found["other"] == pytest.approx(20e-6)
    assert found["elementwise"] == pytest.approx(30e-6)
    with pytest.raises(InputError, match="--model"):
        infer_plan(trace, {})
