"""``validate --trace``: what is read out of a trace, and what is said beside the simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from broken_traces import REFUSED, SALVAGED
from ridgeline.cli.validate import validate
from ridgeline.errors import InputError
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.validation.traces.compare import compare, simulate_traced
from ridgeline.validation.traces.devices import find_accelerator
from ridgeline.validation.traces.gemms import find_gemms
from ridgeline.validation.traces.inference import infer_plan
from ridgeline.validation.traces.model_shapes import find_models, weights_of
from ridgeline.validation.traces.perfetto import MEASURED, SIMULATED, timelines
from ridgeline.validation.traces.phase_table import (
    COMPUTE_PHASES,
    PHASES,
    compare_phases,
    read_phases,
    simulated_phases,
)
from ridgeline.validation.traces.reading import read_ranks
from ridgeline.validation.traces.records import (
    COMMUNICATION,
    ELEMENTWISE,
    GEMM,
    Annotation,
    Collective,
    Events,
    Operator,
    Trace,
)
from ridgeline.validation.traces.simulated import simulate_forward, simulate_training_step
from ridgeline.workloads import load_model

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"
needs_traces = pytest.mark.skipif(
    not TRACES.exists(), reason="no ../shared/data/traces: real traces do not ship"
)
H100 = ("NVIDIA H100 80GB HBM3", 85_018_279_936.0)
BF16 = ("c10::BFloat16", "c10::BFloat16")


def trace_of(
    work: Sequence[tuple[Operator, int, float]],
    *,
    device: tuple[str, float] = H100,
    collectives: Sequence[Collective] = (),
    annotations: Sequence[Annotation] = (),
    world: int = 0,
) -> Trace:
    """Make a trace of (operator, category, seconds) that follow each other."""
    n = len(work) + len(collectives)
    seconds = np.array([s for *_, s in work] + [1e-3] * len(collectives))
    operators = tuple(dict.fromkeys(operator for operator, *_ in work))
    places = [operators.index(operator) for operator, *_ in work] + [-1] * len(collectives)
    wire = [-1] * len(work) + list(range(len(collectives)))
    starts = np.concatenate(([0.0], np.cumsum(seconds)[:-1]))
    return Trace(
        format="kineto",
        rank=0,
        world_size=world,
        device_name=device[0],
        device_memory_bytes=device[1],
        names=("a_gemm_kernel", "nccl"),
        operators=operators,
        collectives=tuple(collectives),
        annotations=tuple(annotations),
        events=Events(
            start_s=starts,
            duration_s=seconds,
            name=np.array([0] * len(work) + [1] * len(collectives), np.int32),
            category=np.array(
                [c for _, c, _ in work] + [COMMUNICATION] * len(collectives), np.int8
            ),
            device=np.zeros(n, np.int32),
            stream=np.zeros(n, np.int32),
            launch_s=starts,
            operator=np.array(places, np.int32),
            call=np.arange(n),
            collective=np.array(wire, np.int32),
            bytes=np.zeros(n),
        ),
    )


def mm(m: int, n: int, k: int) -> Operator:
    return Operator(name="aten::mm", shapes=((m, k), (k, n)), dtypes=BF16)


def hidden_tensor(batch: int, length: int, hidden: int) -> Operator:
    return Operator(name="aten::add", shapes=((batch, length, hidden),), dtypes=BF16[:1])


def products(name: str, tp: int, tokens: int, *, fused: bool) -> list[tuple[int, int, int]]:
    """Return m, n, k of one forward pass of a model of the catalogue."""
    model = load_model(name)
    layer = []
    for label, weights in weights_of(model, tp).items():
        if label == "head":
            continue
        if fused or len(weights) == 1:
            chosen = [weights[0]]
        elif label == "qkv":
            chosen = [weights[1], weights[2], weights[2]]
        else:
            chosen = [weights[1]] * 2
        layer += [(tokens, n, k) for n, k in chosen]
    return layer * model.num_layers


def forward_trace(
    name: str, *, tp: int = 1, batch: int = 2, length: int = 512, fused: bool = True
) -> Trace:
    shapes = products(name, tp, batch * length, fused=fused)
    hidden = load_model(name).hidden
    work = [(mm(*shape), GEMM, 1e-4) for shape in shapes]
    work.append((hidden_tensor(batch, length, hidden), ELEMENTWISE, 1e-5))
    return trace_of(work)


MOE = ("mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3")


def experts_trace(name: str, *, shown: bool) -> Trace:
    """Return a forward pass of a model with experts, whose own products show shapes or do not."""
    model, tokens = load_model(name), 2 * 512
    assert model.moe is not None
    work = []
    for index in range(model.num_layers):
        routed = model.is_moe_layer(index)
        for label, weights in weights_of(model, 1).items():
            expert = label.startswith("experts")
            if label == "head" or (label.startswith("mlp") and routed):
                continue
            if not routed and (expert or label in ("router", "shared expert up")):
                continue
            if not expert:
                work.append((mm(tokens, *weights[0]), GEMM, 1e-4))
            elif shown:
                work += [(mm(rows, *weights[0]), GEMM, 1e-5) for rows in (90, 100, 130)]
            else:
                bare = Operator(name="vllm::fused_moe", shapes=(), dtypes=())
                work.append((bare, GEMM, 1e-4))
    work.append((hidden_tensor(2, 512, model.hidden), ELEMENTWISE, 1e-5))
    return trace_of(work)


def training_trace(
    name: str, *, rounds: int = 2, fused: bool = True, recomputed: bool = False
) -> Trace:
    """Return a training step: forward (twice if recomputed) and both gradients of each product."""
    batch, length = 1, 256
    tokens = batch * length
    work = []
    for m, n, k in products(name, 1, tokens, fused=fused) * rounds:
        work += [
            (mm(m, n, k), GEMM, 1e-4),
            (mm(m, k, n), GEMM, 1e-4),
            (mm(n, k, m), GEMM, 1e-4),
        ]
        work += [(mm(m, n, k), GEMM, 1e-4)] * recomputed
    work.append((hidden_tensor(batch, length, load_model(name).hidden), ELEMENTWISE, 1e-5))
    backward = Operator(name="AddBackward0", shapes=(), dtypes=())
    work.append((backward, ELEMENTWISE, 1e-5))
    reduce = Collective(kind="all_reduce", bytes=1e8, ranks=4, dtype="BFloat16")
    return trace_of(work, collectives=[reduce], world=4)


class TestInference:
    @pytest.mark.parametrize(
        ("name", "tp", "fused"),
        [
            ("llama3-8b", 1, True),
            ("llama3-8b", 4, True),
            ("llama3-70b", 8, True),
            ("qwen3-8b", 1, False),
            ("qwen1.5-0.5b", 1, False),
            ("gpt3-1.3b", 1, True),
        ],
    )
    def test_model_and_split_are_read_from_shapes(self, name: str, tp: int, fused: bool) -> None:
        found = infer_plan(forward_trace(name, tp=tp, fused=fused), {})
        assert not found.training
        plan, _ = simulate_traced(found)
        # models of the same shapes cannot be told apart by them
        wanted = load_model(name)
        assert weights_of(plan.model, tp)["mlp up"] == weights_of(wanted, tp)["mlp up"]
        assert plan.model.num_layers == wanted.num_layers
        assert plan.parallel.tp == tp
        assert plan.cluster.count == tp
        assert plan.cluster.accelerator.name == "h100-sxm"
        assert (plan.training.micro_batch_seqs, plan.training.seq_len) == (2, 512)
        assert plan.training.precision == "bf16"

    @pytest.mark.parametrize("recomputed", [False, True])
    @pytest.mark.parametrize(
        ("name", "fused"), [("llama3.2-1b", True), ("llama3.2-1b", False), ("gpt3-1.3b", True)]
    )
    def test_a_training_step_says_its_micro_batches_and_copies(
        self, name: str, fused: bool, recomputed: bool
    ) -> None:
        trace = training_trace(name, rounds=2, fused=fused, recomputed=recomputed)
        found = infer_plan(trace, {})
        assert found.training
        plan, _ = simulate_traced(found)
        assert weights_of(plan.model, 1) == weights_of(load_model(name), 1)
        assert plan.training.recompute == ("full" if recomputed else "none")
        assert plan.cluster.count == 4
        assert plan.parallel.dp == 4
        assert plan.micro_batches == 2
        assert plan.training.seq_len == 256

    @pytest.mark.parametrize("shown", [True, False])
    @pytest.mark.parametrize("name", MOE)
    def test_a_model_with_experts_is_found_by_its_router(self, name: str, shown: bool) -> None:
        model = load_model(name)
        found = infer_plan(experts_trace(name, shown=shown), {})
        assert weights_of(load_model(str(found.overrides["model.name"])), 1) == weights_of(model, 1)
        assert found.overrides["training.seq_len"] == 512
        plan, step = simulate_traced(found)
        assert plan.model.moe is not None
        assert step.total_s > 0.0

    def test_experts_alone_are_told_from_a_dense_model(self) -> None:
        trace = forward_trace("mistral-7b")
        found = find_models(find_gemms(trace).shapes, 1, training=False)
        assert all(match.model.moe is None for match in found)

    def test_flags_override(self) -> None:
        given = {
            "model.name": "qwen3-8b",
            "training.seq_len": 128,
            "cluster.accelerator": "mi300x",
            "training.precision": "fp8",
            "stack.name": "torchtitan",
        }
        found = infer_plan(forward_trace("llama3-8b"), given)
        plan, _ = simulate_traced(found)
        assert plan.model.name == "qwen3-8b"
        assert plan.cluster.accelerator.name == "mi300x"
        assert (plan.training.micro_batch_seqs, plan.training.seq_len) == (8, 128)
        assert plan.training.precision == "fp8"
        assert load_stack(plan.stack).name == "torchtitan"
        assert not {one.key for one in found.inferred} & set(given)

    def test_everything_that_is_missing_is_said_at_once(self) -> None:
        bare = Operator(name="aten::mul", shapes=(), dtypes=())
        with pytest.raises(InputError) as caught:
            infer_plan(trace_of([(bare, ELEMENTWISE, 1e-3)], device=("", 0.0)), {})
        lines = caught.value.problems
        assert any("--model" in line for line in lines)
        assert any("--accelerator" in line for line in lines)

    def test_an_engines_annotation_says_the_batch(self) -> None:
        span = Annotation(
            name="execute_1024_context_8(sq1024sk1024sqsq131072sqsk131072)_generation_0(sq0)",
            start_s=0.0,
            duration_s=10.0,
            on_device=False,
        )
        trace = forward_trace("qwen3-8b", batch=8, length=128)
        found = infer_plan(replace(trace, annotations=(span,)), {})
        assert found.overrides["training.seq_len"] == 128
        assert found.overrides["training.micro_batch_seqs"] == 8
        assert found.program == "vLLM"

    @pytest.mark.parametrize(
        "name", ["step[DECODE bs=32]", "execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32)"]
    )
    def test_decoding_is_refused(self, name: str) -> None:
        span = Annotation(name=name, start_s=0.0, duration_s=1.0, on_device=False)
        with pytest.raises(InputError, match="decode"):
            infer_plan(trace_of([(mm(64, 64, 64), GEMM, 1e-3)], annotations=[span]), {})


@pytest.mark.parametrize(
    ("said", "gigabytes", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0, "h100-sxm"),
        ("NVIDIA H100 PCIe", 85.0, "h100-pcie"),
        ("NVIDIA H100 NVL", 100.0, "h100-nvl"),
        ("NVIDIA H200", 150.0, "h200-sxm"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "a100-sxm-40gb"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100-sxm-80gb"),
        ("NVIDIA A100-PG509-200", 42.3, "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", 85.1, "a100-pcie-80gb"),
        ("Tesla V100-SXM2-32GB", 34.1, "v100-sxm-32gb"),
        ("AMD Instinct MI300X", 206.1, "mi300x"),
        ("NVIDIA GeForce RTX 4090", 25.4, "rtx-4090"),
        ("NVIDIA L40S", 47.7, "l40s"),
        ("NVIDIA L4", 23.6, "l4"),
        ("NVIDIA A10", 23.6, "a10"),
        ("TPU v5p", 0.0, "tpu-v5p"),
        ("Some Other Chip", 16.0, ""),
    ],
)
def test_drivers_names_of_devices(said: str, gigabytes: float, name: str) -> None:
    assert find_accelerator(said, gigabytes * 1e9) == name


class TestSimulated:
    def test_operators_add_up_to_the_pass(self) -> None:
        plan, step = simulate_traced(infer_plan(forward_trace("llama3.2-1b"), {}))
        alone = sum(step.category_s.values())
        assert step.total_s == pytest.approx(alone + step.idle_s, rel=1e-9)
        assert len(step.order) == sum(row.count for row in step.operators)
        calls = [row for row in step.operators if row.name == "mlp down"]
        assert sum(row.count for row in calls) == plan.model.num_layers

    def test_the_head_costs_by_the_rows_that_reach_it(self) -> None:
        plan, _ = simulate_traced(infer_plan(forward_trace("llama3.2-1b"), {}))
        none, few, all_ = (simulate_forward(plan, rows).total_s for rows in (0, 2, 1024))
        assert none < few < all_
        assert not any(row.name == "head" for row in simulate_forward(plan, 0).operators)

    def test_tensor_ranks_communicate(self) -> None:
        _, step = simulate_traced(infer_plan(forward_trace("llama3-8b", tp=4), {}))
        wires = [row for row in step.operators if row.collective]
        assert wires
        assert all(row.ranks == 4 for row in wires)
        assert step.category_s["communication"] > 0.0

    def test_training_agrees_with_the_simulator(self) -> None:
        plan, step = simulate_traced(infer_plan(training_trace("llama3.2-1b"), {}))
        gemms = [row for row in step.operators if row.dims]
        flops = sum(2.0 * np.prod(row.dims, dtype=float) * row.count for row in gemms)
        tokens = plan.training.micro_batch_seqs * plan.micro_batches * plan.training.seq_len
        weights = sum(
            n * k
            for name, kept in weights_of(plan.model, 1).items()
            for n, k in kept[:1]
            for _ in range(1 if name == "head" else plan.model.num_layers)
        )
        # forward, input and weight gradients: 6 FLOPs a weight and token
        assert flops == pytest.approx(6.0 * weights * tokens, rel=1e-9)
        assert step.total_s == simulate_training_step(plan).total_s
        assert step.category_s["optimizer"] > 0.0
        assert step.category_s["communication"] > 0.0


class TestComparison:
    def test_products_beside_their_operators(self) -> None:
        found = compare((forward_trace("llama3-8b"),), {})
        names = {row.operator for row in found.gemms}
        assert names == {"qkv", "attention output", "mlp up", "mlp down"}
        assert all(row.calls == 32 for row in found.gemms)
        assert found.error == pytest.approx(found.simulated.total_s / found.measured.window_s - 1.0)
        gaps = [one.gap_s for one in found.disagreements]
        assert gaps == sorted(gaps, reverse=True)
        assert all(one.meaning for one in found.disagreements)

    def test_a_trace_as_simulated_has_no_error(self) -> None:
        trace = forward_trace("llama3-8b")
        first = compare((trace,), {})
        took = {(r.m, r.n, r.k): (r.predicted_s or 0.0) / r.calls for r in first.gemms}
        work = [
            (mm(*shape), GEMM, took[shape]) for shape in products("llama3-8b", 1, 1024, fused=True)
        ]
        work.append((hidden_tensor(2, 512, 4096), ELEMENTWISE, 1e-5))
        again = compare((trace_of(work),), {})
        assert [row.error for row in again.gemms] == pytest.approx([0.0] * 4, abs=1e-9)
        assert not any(one.what.startswith("gemm") for one in again.disagreements)

    def test_collectives_are_priced_by_size_and_group(self) -> None:
        found = compare((training_trace("llama3.2-1b"),), {})
        (row,) = found.collectives
        assert (row.kind, row.bytes, row.ranks) == ("all_reduce", 1e8, 4)
        assert row.predicted_s is not None
        # a ring moves 2 (n-1)/n of the buffer over links of 450 GB/s
        assert row.predicted_s > 1.5 * 1e8 / 450e9

    def test_both_timelines_in_one_file(self) -> None:
        trace = forward_trace("llama3.2-1b")
        found = compare((trace,), {})
        events = timelines(trace, found)["traceEvents"]
        spans = {pid: [e for e in events if e["ph"] == "X" and e["pid"] == pid] for pid in (1, 2)}
        assert len(spans[MEASURED]) == len(trace.events)
        for pid, total in (
            (MEASURED, found.measured.window_s),
            (SIMULATED, found.simulated.total_s),
        ):
            end = max(e["ts"] + e["dur"] for e in spans[pid])
            assert min(e["ts"] for e in spans[pid]) == 0.0
            assert end == pytest.approx(1e6 * total, rel=1e-3)

    def test_a_training_timeline_has_stages_behind_the_trace(self) -> None:
        trace = training_trace("llama3.2-1b")
        events = timelines(trace, compare((trace,), {}))["traceEvents"]
        names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
        assert names == {"measured: whole trace", "simulated: stage 0"}


@pytest.mark.parametrize("name", [*SALVAGED, *REFUSED])
def test_broken_traces_are_compared_or_refused_in_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes((SALVAGED | REFUSED)[name])
    given = {
        "model.name": "llama3.2-1b",
        "cluster.accelerator": "h100-sxm",
        "training.seq_len": 64,
    }
    lines: tuple[str, ...] = ()
    for known in ({}, given):
        try:
            traces = read_ranks(path)
            found = compare(traces, known)
            json.dumps(found.to_dict())
            assert timelines(traces[0], found)["traceEvents"]
        except InputError as error:
            lines += error.problems
    assert not any("\n" in line for line in lines)


PHASE_PLAN = {
    "model.name": "deepseek-v3",
    "cluster.spec": "8x8xh800-sxm",
    "parallel.ep": 64,
    "training.seq_len": 4096,
    "training.global_batch_seqs": 64,
    "training.micro_batch_seqs": 1,
    "training.precision": "fp8",
    "training.recompute": "norms+mla-up+activation",
    "stack.name": "hai-llm",
}


class TestPhases:
    def test_phases_hold_the_whole_layer(self) -> None:
        plan = read_plan(None, PHASE_PLAN)
        sums = simulated_phases(plan)
        assert set(sums) == set(PHASES)
        assert all(seconds > 0.0 for seconds in sums.values())
        # a gradient of a product costs about what the product does, recomputation comes on top
        assert sums["attn(B)"] > sums["attn(F)"]
        assert sums["dispatch(F)"] == pytest.approx(sums["dispatch(B)"])

    def test_the_smaller_of_sum_and_wall_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "phases.csv"
        path.write_text("phase,mean_sum_us,mean_wall_us\nattn(F),10,12\nmlp(W),20,15\n")
        assert read_phases(path) == pytest.approx({"attn(F)": 10e-6, "mlp(W)": 15e-6})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("phase,mean_sum_us\n", "no rows"),
            ("phase,mean_sum_us\nnothing,1\n", "'nothing'"),
            ("phase,mean_sum_us\nattn(F),1\nattn(F),2\n", "again"),
            ("phase,mean_sum_us\nattn(F),nan\n", "above 0"),
            ("phase,mean_sum_us\nattn(F)\n", "above 0"),
        ],
    )
    def test_mistakes_are_said_in_a_line(self, tmp_path: Path, text: str, said: str) -> None:
        path = tmp_path / "phases.csv"
        path.write_text(text)
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            read_phases(path)

    @needs_traces
    def test_deepseek_v3_phases_are_predicted(self) -> None:
        found = compare_phases(TRACES / "dsv3_train_phases.csv", PHASE_PLAN)
        assert {row.phase for row in found.rows} == set(PHASES)
        # derived figures of the published trace (profile-data): forward 8.97 ms, backward 22.1 ms
        assert found.compute.measured_s == pytest.approx(31.1e-3, rel=0.01)
        assert len([r for r in found.rows if r.phase in COMPUTE_PHASES]) == 6
        # products ran on 112 of 132 SMs beside the exchange of experts: faster alone
        assert -0.5 < (found.compute.error or 0.0) < 0.1


@needs_traces
class TestPublishedTraces:
    @pytest.mark.parametrize(
        ("file", "model", "accelerator", "batch"),
        [
            ("qwen1.5_0.5b_prefill_h100.json.gz", "qwen1.5-0.5b", "h100-sxm", (16, 559)),
            ("sglang_qwen3_8b_prefill_mi300x.json.gz", "qwen3-8b", "mi300x", (15, 1024)),
        ],
    )
    def test_predicted_from_names_alone(
        self, file: str, model: str, accelerator: str, batch: tuple[int, int]
    ) -> None:
        found = compare(read_ranks(TRACES / file), {})
        plan = found.plan
        assert (plan.model.name, plan.cluster.accelerator.name) == (model, accelerator)
        assert (plan.training.micro_batch_seqs, plan.training.seq_len) == batch
        # every product has its place in the plan, but for a stray one of no weight
        assert sum(r.measured_s for r in found.gemms if r.operator) > 0.999 * sum(
            r.measured_s for r in found.gemms
        )
        # far from good (docs/traces-validation.md), never absurd
        assert -0.5 < (found.error or 0.0) < 0.5

    def test_the_command(self, tmp_path: Path) -> None:
        out = tmp_path / "both.json"
        file = str(TRACES / "qwen1.5_0.5b_prefill_h100.json.gz")
        done = CliRunner().invoke(
            validate,
            ["--trace", file, "--trace-out", str(out), "--json"],
            catch_exceptions=False,
        )
        record = json.loads(done.stdout)
        assert record["schema"] == "ridgeline.validate.trace"
        assert record["measured_s"] == pytest.approx(34.9e-3, rel=0.01)
        assert {row["category"] for row in record["categories"]} >= {"gemm", "attention"}
        assert json.loads(out.read_text())["traceEvents"]
        shown = CliRunner().invoke(validate, ["--trace", file], catch_exceptions=False)
        assert "Largest disagreements" in shown.stdout


def test_flags_of_a_plan_need_a_trace() -> None:
    with pytest.raises(InputError, match="--model: goes with --trace"):
        CliRunner().invoke(validate, ["--model", "llama3-8b"], catch_exceptions=False)


def test_one_measurement_at_a_time() -> None:
    with pytest.raises(InputError, match="takes no --kernels"):
        CliRunner().invoke(
            validate, ["--trace", "a.json", "--kernels", "b.csv"], catch_exceptions=False
        )
