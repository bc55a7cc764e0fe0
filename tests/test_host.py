"""Offload to a host by its profile: bytes and rates in closed form, orders, what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.cli import INFEASIBLE, run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.hosts import host_names, load_host
from ridgeline.simulator import explain
from ridgeline.simulator.host import update_seconds_each
from ridgeline.simulator.plan import Plan, Training
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Space
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.tasks import COMPUTE, COPY, DISK, FETCH, HOST, STREAMS_PER_DEVICE
from ridgeline.simulator.training import simulate_training
from ridgeline.workloads import load_model
from ridgeline.workloads.parameters import parameters

ALONE: dict[str, object] = {
    "model.name": "gpt3-13b",
    "cluster.spec": "1xv100-sxm-32gb",
    "cluster.host": "dgx-2",
    "parallel.zero_stage": 2,
    "training.seq_len": 1024,
    "training.global_batch_seqs": 8,
    "training.micro_batch_seqs": 2,
    "training.precision": "fp16",
    "training.recompute": "full",
    "training.offload": ["optimizer", "gradients"],
    "stack.name": "megatron-deepspeed",
}
DRIVES: dict[str, object] = ALONE | {
    "cluster.spec": "1xrtx-4090",
    "cluster.host": "ssd-server",
    "parallel.zero_stage": 3,
    "training.precision": "bf16",
    "training.micro_batch_seqs": 8,
    "training.offload": ["optimizer", "gradients", "parameters", "activations"],
    "training.offload_to": "nvme",
    "stack.name": "deepspeed-zero3",
}


def plan_of(base: dict[str, object], **changes: object) -> Plan:
    return read_plan(None, base | {k.replace("__", "."): v for k, v in changes.items()})


def step_of(plan: Plan) -> Step:
    return simulate_step(plan, load_stack(plan.stack))


def busy(step: Step, stream: int) -> float:
    return float(step.graph.seconds[step.graph.stream == stream].sum())


@pytest.mark.parametrize("name", host_names())
def test_profiles_say_where_numbers_come_from(name: str) -> None:
    host = load_host(name)
    assert host.memory_bytes_per_s < 1e12
    assert all(host.sources.values())
    assert host.memory_share(1) == host.memory_bytes_per_s / host.sockets
    assert host.memory_share(16) == host.memory_bytes_per_s / 16


def test_a_profile_is_shown_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hardware", "show", "dgx-2"]) == 0
    shown = capsys.readouterr().out
    assert "memory.gb_per_s" in shown
    assert "unconfirmed" in shown
    assert run(["hardware", "list"]) == 0
    assert "dgx-a100-80gb" in capsys.readouterr().out


def test_a_profile_of_ones_own_is_checked(tmp_path: Path) -> None:
    text = (files("ridgeline.hardware") / "data/hosts/dgx-2.toml").read_text("utf-8")
    own = tmp_path / "own.toml"
    own.write_text(text.replace('name = "dgx-2"', 'name = "own"'), "utf-8")
    assert load_host(str(own)).name == "own"
    for wrong, line in (
        (text.replace("cores =", "kernels ="), "cpu.kernels: unknown key"),
        (text.replace("drives = { value = 8", "drives = { value = -8"), "nvme.drives: must be"),
        (text.split("[memory]")[0], "memory.capacity_gb: missing"),
    ):
        own.write_text(wrong, "utf-8")
        load_host.cache_clear()
        with pytest.raises(InputError) as refused:
            load_host(str(own))
        assert any(line in problem for problem in refused.value.problems)


def test_the_processors_update_ten_billion_weights_in_the_published_time() -> None:
    # Ren et al. 2021, table 4, as recollected: 10B parameters in 2.57 s on a DGX-2
    plan = plan_of(ALONE)
    assert plan.cluster.host is not None
    each = update_seconds_each(plan, load_stack(plan.stack), plan.cluster.host)
    assert 10e9 * each == pytest.approx(2.57, rel=0.15)
    # 30 bytes a weight over a socket's six channels of DDR4-2666 at 0.8 of their rate
    assert each == pytest.approx(30 / (128e9 * 0.8))


def test_copies_move_the_bytes_of_the_closed_form() -> None:
    plan = plan_of(ALONE)
    step, trained = step_of(plan), parameters(plan.model).total
    link = 15.75e9 * 0.8
    micro_batches = 4
    assert busy(step, COPY) == pytest.approx(micro_batches * 2 * trained / link, rel=1e-3)
    assert busy(step, FETCH) == pytest.approx(2 * trained / link, rel=1e-3)
    each = 30 / (128e9 * 0.8)
    added = (micro_batches * 10 / (128e9 * 0.8)) * trained  # 2 + 8 bytes of every micro-batch
    assert busy(step, HOST) == pytest.approx(each * trained + added, rel=1e-3)
    assert busy(step, DISK) == 0


def test_drives_read_and_write_the_state_once_and_the_weights_for_each_use() -> None:
    plan = plan_of(DRIVES)
    step, trained = step_of(plan), parameters(plan.model).total
    reads, writes = 12 * 6.5e9, 12 * 3.4e9
    # state, weights for two uses, and the gradients that wait for the end of the backward pass
    seconds = trained * ((12 + 2 + 2 + 2) / reads + (12 + 2 + 2) / writes)
    assert busy(step, DISK) == pytest.approx(seconds, rel=0.02)
    at_once = step_of(plan_of(DRIVES, training__host_update="backward"))
    seconds -= trained * (2 / reads + 2 / writes)
    assert busy(at_once, DISK) == pytest.approx(seconds, rel=0.02)


def test_only_sixteen_bit_weights_stay_on_the_accelerator() -> None:
    # Ren et al. 2021, section 4: 2 M bytes of fp16 parameters, 14 M on the CPU
    plan = plan_of(ALONE)
    result, trained = simulate_training(plan), parameters(plan.model).total
    worst = result.worst_memory
    assert worst.weights == pytest.approx(2 * trained, rel=1e-3)
    assert worst.gradients == worst.optimizer == 0
    assert result.host is not None
    # fp32 weights, both moments, gradients, and this stack's fp32 copy of them
    assert result.host.memory == pytest.approx((12 + 4 + 2) * trained, rel=1e-3)
    assert result.fits  # more than 13B on one V100
    kept = simulate_training(plan_of(ALONE, training__offload=[]))
    assert not kept.fits


@pytest.mark.parametrize(
    "base",
    [
        ALONE,
        DRIVES,
        ALONE | {"training.offload": ["optimizer", "gradients", "activations"]},
        DRIVES | {"training.offload": ["optimizer", "gradients", "activations"]},
    ],
)
def test_overlap_never_takes_longer(base: dict[str, object]) -> None:
    manners = (
        ("after", "backward", "delayed")
        if "training.offload_to" not in base
        else ("after", "backward")
    )
    seconds = {
        manner: step_of(plan_of(base, training__host_update=manner)).seconds for manner in manners
    }
    assert all(seconds[manner] < seconds["after"] for manner in manners[1:])
    # whatever overlaps, no step is shorter than the busiest resource
    for manner in seconds:
        step = step_of(plan_of(base, training__host_update=manner))
        most = max(busy(step, s) for s in (COMPUTE, COPY, FETCH, HOST, DISK))
        assert step.timeline.makespan >= most * (1 - 1e-9)


def test_an_update_behind_the_backward_pass_adds_the_pipeline_of_its_units() -> None:
    plan = plan_of(ALONE)
    step = step_of(plan)
    assert step.host is not None
    tail = step.graph.blocks
    assert tail is not None
    fetched = step.host.back
    # the processors never wait, and only the last unit's weights are fetched behind them
    units = [part for unit in step.slices[0].units for part in unit]
    updates = sum(step.host.update[part] for part in units)
    last = fetched[units[-1]]
    passes = step_of(plan_of(ALONE, training__host_update="backward")).timeline.makespan
    assert step.timeline.makespan <= passes + updates + last
    first = float(np.min(step.timeline.start[step.graph.seconds > 0]))
    assert step.timeline.makespan - first >= updates


@settings(max_examples=25, deadline=None)
@given(
    factor=st.floats(1.05, 8.0),
    which=st.sampled_from(
        ["memory_bytes_per_s", "nvme_read_bytes_per_s", "nvme_write_bytes_per_s"]
    ),
    manner=st.sampled_from(["after", "backward"]),
)
def test_a_faster_host_is_never_slower(factor: float, which: str, manner: str) -> None:
    plan = plan_of(DRIVES, training__host_update=manner)
    host = plan.cluster.host
    assert host is not None
    faster = replace(host, **{which: getattr(host, which) * factor})
    other = replace(plan, cluster=replace(plan.cluster, host=faster))
    assert step_of(other).seconds <= step_of(plan).seconds * (1 + 1e-9)


def test_a_trillion_parameters_rest_on_the_drives_of_one_node() -> None:
    # Rajbhandari et al. 2021, abstract: fine-tuned on a single DGX-2
    changes = {
        "model__name": "gpt-1t",
        "cluster__spec": "1x16xv100-sxm-32gb",
        "cluster__host": "dgx-2",
        "training__precision": "fp16",
        "training__global_batch_seqs": 16,
        "training__micro_batch_seqs": 1,
        "training__offload": ["optimizer", "gradients", "parameters"],
        "stack__name": "megatron-deepspeed",
    }
    plan = plan_of(DRIVES, **changes)
    result = simulate_training(plan)
    assert result.fits
    assert result.host is not None
    trained = parameters(plan.model).total
    # fp32 weights and moments, this stack's fp32 gradients, 16-bit weights and gradients
    assert result.host.nvme == pytest.approx((16 + 2 + 2) * trained, rel=1e-2)
    in_memory = simulate_training(plan_of(DRIVES, **changes, training__offload_to="host"))
    assert not in_memory.fits
    # every rank fetches its share alone and gathers the rest
    step = step_of(plan)
    link = 15.75e9 * 0.8 * 4 / 16
    assert busy(step, FETCH) == pytest.approx(2 * 2 * trained / 16 / link, rel=0.02)


def test_activations_wait_in_host_memory() -> None:
    plan = plan_of(ALONE, training__offload=["activations"])
    result = simulate_training(plan)
    kept = simulate_training(plan_of(ALONE, training__offload=[]))
    assert result.host is not None
    assert result.host.memory == pytest.approx(result.worst_memory.moved)
    assert result.worst_memory.activations < kept.worst_memory.activations
    # the inputs of 40 layers go down at the pinned rate, and come up on a stream of their own
    step = step_of(plan)
    moved = 4 * 40 * 2 * 2 * 1024 * 5120
    assert busy(step, COPY) == pytest.approx(moved / (15.75e9 * 0.8))
    assert busy(step, FETCH) == pytest.approx(busy(step, COPY))


def test_a_full_host_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    # 16 V100 with pure data parallelism would keep one state each
    words = {
        "cluster.spec": "1x16xv100-sxm-32gb",
        "model.name": "gpt3-13b",
        "training.global_batch_seqs": 32,
        "parallel.zero_stage": 0,
    }
    result = simulate_training(
        plan_of(ALONE, **{k.replace(".", "__"): v for k, v in words.items()})
    )
    assert not result.fits
    assert result.host_shortage is not None
    what, need, has = result.host_shortage
    assert what == "memory"
    assert need > has == 1.5e12
    example = str(Path(__file__).parent.parent / "examples" / "zero_offload_13b_v100.toml")
    arguments = ["train", example, "--cluster", "1x16xv100-sxm-32gb", "--host", "dgx-2"]
    assert run([*arguments, "--zero-stage", "0"]) == INFEASIBLE
    assert "Out of host memory: a node needs" in capsys.readouterr().out


def test_the_table_of_operators_has_the_hosts_work() -> None:
    found = [record for record in explain(plan_of(DRIVES)) if record["phase"] == "host"]
    names = {record["operator"] for record in found}
    assert {"read weights", "fetch weights", "offload gradients", "read state", "update"} <= names
    assert "fetch updated weights" not in names


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"cluster.host": "dgx-9"}, "unknown name 'dgx-9'"),
        ({"training.offload_to": "nvme", "training.offload": ["activations"]}, "drives take"),
        ({"training.host_update": "delayed", "training.offload": []}, "the accelerator updates"),
        ({"training.offload": ["gradients"]}, "has no use for them"),
        ({"training.host_update": "delayed", "training.offload_to": "nvme"}, "on drives"),
        ({"training.offload": ["optimizer", "parameters"]}, "zero_stage = 3"),
        ({"training.task": "lora"}, "not modelled for adapters"),
    ],
)
def test_what_is_not_modelled_is_refused_in_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read_plan(None, ALONE | changes)
    assert any(line in problem for problem in refused.value.problems)


def test_tricks_of_the_host_need_its_profile() -> None:
    base = {key: value for key, value in ALONE.items() if key != "cluster.host"}
    for changes in (
        {"training.offload_to": "nvme"},
        {"training.host_update": "delayed"},
        {"training.offload": ["parameters"]},
    ):
        with pytest.raises(InputError, match=r"name one as cluster\.host: dgx-2"):
            read_plan(None, base | changes)


def test_the_search_refuses_a_host_and_its_tricks() -> None:
    cluster = make_cluster("1x8xa100-sxm-80gb")
    space = Space(
        model=load_model("llama-7b"),
        clusters=(replace(cluster, host=load_host("dgx-a100-80gb")),),
        training=Training(seq_len=2048, global_batch_seqs=64, micro_batch_seqs=1),
        stack="torchtitan",
        offload=((), ("optimizer",)),
    )
    with pytest.raises(InputError, match="not searched"):
        enumerate_plans(space)
    assert len(enumerate_plans(replace(space, offload=((),))))
    with pytest.raises(InputError, match="'parameters' is not searched"):
        enumerate_plans(replace(space, clusters=(cluster,), offload=(("parameters",),)))


def test_no_measured_step_stands_behind_a_host() -> None:
    changes = {
        "model__name": "llama2-7b",
        "cluster__spec": "1x8xa100-sxm-80gb",
        "parallel__zero_stage": 3,
        "training__precision": "bf16",
        "training__global_batch_seqs": 16,
        "stack__name": "fsdp-composer",
    }
    plain = simulate_training(plan_of(ALONE, **changes, training__offload=[]))
    moved = simulate_training(plan_of(ALONE, **changes))
    assert plain.evidence == "measured"
    assert moved.evidence == "related"


def test_granularities_agree() -> None:
    for base in (ALONE, DRIVES):
        plan = plan_of(base, training__host_update="backward")
        coarse, *finer = (
            simulate_step(plan, load_stack(plan.stack), name).seconds
            for name in ("stage", "layer", "operator")
        )
        assert finer == pytest.approx([coarse, coarse])


def test_a_launcher_says_what_it_cannot() -> None:
    from ridgeline.simulator.launchers.convert import write_launcher

    written = write_launcher("megatron", plan_of(ALONE, training__host_update="delayed"))
    assert {"training.host_update = delayed", "cluster.host = dgx-2"} <= set(written.unmapped)


def test_streams_of_a_device_are_counted_alike() -> None:
    from ridgeline.simulator.tasks import _kernels

    assert _kernels.STREAMS == STREAMS_PER_DEVICE
