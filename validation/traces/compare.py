"""A traced step beside the simulated one: total, categories, products, collectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.collectives import network, price_collectives, scaled
from ridgeline.simulator.collectives.layout import NAMES
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.rungs import MODEL_ALONE, Kernels, price_by_rungs
from ridgeline.simulator.stacks import load_stack
from ridgeline.validation.traces.collective_speed import CollectiveSpeed, find_collectives
from ridgeline.validation.traces.compared import (
    CategoryRow,
    CollectiveRow,
    GemmRow,
    relative_error,
)
from ridgeline.validation.traces.cores import with_sms
from ridgeline.validation.traces.gemms import Gemms, GemmShape, find_gemms
from ridgeline.validation.traces.inference import Finding, TracedPlan, infer_plan
from ridgeline.validation.traces.meaning import Disagreement, explain_all
from ridgeline.validation.traces.model_shapes import operators_of
from ridgeline.validation.traces.operator_rows import (
    ATTENTION,
    COMMUNICATION,
    GEMM,
    MEMORY,
    OPTIMIZER,
)
from ridgeline.validation.traces.records import Trace
from ridgeline.validation.traces.simulated import (
    SimulatedStep,
    simulate_forward,
    simulate_training_step,
)
from ridgeline.validation.traces.summary import StepSummary, middle, summarise

SCHEMA_VERSION = 1
OTHER, IDLE = "other", "idle"
_MEASURED = {
    GEMM: ("gemm",),
    ATTENTION: ("attention",),
    MEMORY: ("norm", "elementwise", "copy"),
    COMMUNICATION: ("communication",),
    OPTIMIZER: ("optimizer",),
    OTHER: ("convolution", "other"),
}
"""Categories of a comparison -> those of a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What ``ridgeline validate --trace`` found."""

    plan: Plan
    training: bool
    inferred: tuple[Finding, ...]
    program: str
    stack: str
    measured: StepSummary
    simulated: SimulatedStep
    categories: tuple[CategoryRow, ...]
    gemms: tuple[GemmRow, ...]
    collectives: tuple[CollectiveRow, ...]
    disagreements: tuple[Disagreement, ...]
    """Largest first."""
    losses: tuple[str, ...]

    @property
    def error(self) -> float | None:
        """Of the step: predicted over measured, less one."""
        return relative_error(self.simulated.total_s, self.measured.window_s)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plan = self.plan
        return {
            "schema": "ridgeline.validate.trace",
            "schema_version": SCHEMA_VERSION,
            "kind": "training" if self.training else "forward",
            "model": plan.model.name,
            "accelerator": plan.cluster.accelerator.name,
            "accelerators": plan.cluster.count,
            "sms": plan.cluster.accelerator.cores,
            "stack": self.stack,
            "program": self.program,
            "parallel": {
                name: getattr(plan.parallel, name)
                for name in ("tp", "pp", "dp", "cp", "ep", "zero_stage")
            },
            "seq_len": plan.training.seq_len,
            "micro_batch_seqs": plan.training.micro_batch_seqs,
            "global_batch_seqs": plan.training.global_batch_seqs,
            "precision": plan.training.precision,
            "inferred": [asdict(one) for one in self.inferred],
            "steps": self.measured.steps,
            "measured_s": self.measured.window_s,
            "measured_busy_s": self.measured.busy_s,
            "measured_exposed_communication_s": self.measured.exposed_communication_s,
            "predicted_s": self.simulated.total_s,
            "predicted_exposed_communication_s": self.simulated.exposed_communication_s,
            "error": self.error,
            "categories": [asdict(one) | {"error": one.error} for one in self.categories],
            "gemms": [asdict(one) | {"error": one.error} for one in self.gemms],
            "collectives": [asdict(one) | {"error": one.error} for one in self.collectives],
            "disagreements": [asdict(one) for one in self.disagreements],
            "losses": list(self.losses),
        }


def compare(
    traces: tuple[Trace, ...],
    given: Mapping[str, object],
    kernels: Kernels | None = None,
    sms: int | None = None,
) -> Comparison:
    """Simulate what the traces of a run show, and compare.

    Parameters
    ----------
    traces
        One a rank (``reading.read_ranks``); the plan is inferred from the first.
    given
        Fields of the plan (dotted keys) that stand over what is inferred.
    kernels
        Where the prices of kernels come from.
    sms
        SMs that computation has, where communication reserves the others; None for all.

    Raises
    ------
    InputError
        What is needed is neither in the trace nor given, or the plan is illegal.
    """
    first = traces[0]
    traced = infer_plan(first, given)
    plan, simulated = simulate_traced(traced, kernels, sms)
    measured = middle(tuple(summarise(trace) for trace in traces))
    gemms = find_gemms(*traces)
    rows = _gemm_rows(gemms, plan, kernels or MODEL_ALONE, training=traced.training)
    # each rank was traced for the same number of steps
    collectives = _collective_rows(find_collectives(*traces), gemms.steps / len(traces), plan)
    categories = _categories(measured, simulated)
    return Comparison(
        plan=plan,
        training=traced.training,
        inferred=traced.inferred,
        program=traced.program,
        stack=load_stack(plan.stack).name,
        measured=measured,
        simulated=simulated,
        categories=categories,
        gemms=rows,
        collectives=collectives,
        disagreements=explain_all(
            categories,
            rows,
            collectives,
            peaks=plan.cluster.accelerator.peak_flops,
            kernels=(measured.kernels, sum(row.count for row in simulated.operators)),
            rung=plan.cluster.accelerator.efficiency.rung,
        ),
        losses=tuple(line for trace in traces for line in trace.losses),
    )


def simulate_traced(
    traced: TracedPlan, kernels: Kernels | None = None, sms: int | None = None
) -> tuple[Plan, SimulatedStep]:
    """Return the plan of a trace and its simulated step."""
    plan = with_sms(read_plan(None, traced.overrides), sms)
    if traced.training:
        return plan, simulate_training_step(plan, kernels)
    if traced.stack_file:
        plan = replace(plan, stack=traced.stack_file)
    return plan, simulate_forward(plan, traced.head_rows, kernels)


def _categories(measured: StepSummary, simulated: SimulatedStep) -> tuple[CategoryRow, ...]:
    rows = [
        CategoryRow(
            category=name,
            measured_s=sum(measured.sum_s[part] for part in parts),
            predicted_s=simulated.category_s.get(name, 0.0),
        )
        for name, parts in _MEASURED.items()
    ]
    waits = measured.idle_s + measured.exposed_communication_s
    rows.append(CategoryRow(category=IDLE, measured_s=waits, predicted_s=simulated.idle_s))
    return tuple(row for row in rows if row.measured_s > 0.0 or row.predicted_s > 0.0)


def _gemm_rows(
    gemms: Gemms, plan: Plan, kernels: Kernels, *, training: bool
) -> tuple[GemmRow, ...]:
    """Price every traced shape by itself: fused and unfused projections compare alike."""
    steps = gemms.steps
    names = operators_of(gemms.shapes, plan.model, plan.parallel.tp, training=training)
    prices = price_shapes(gemms.shapes, plan.cluster.accelerator, kernels)
    return tuple(
        GemmRow(
            operator=name,
            m=shape.m,
            n=shape.n,
            k=shape.k,
            batch=shape.batch,
            dtype=shape.dtype,
            calls=shape.calls / steps,
            measured_s=shape.total_s / steps,
            predicted_s=None if price is None else price * shape.calls / steps,
            tflops_per_s=shape.flops_per_s / 1e12,
        )
        for name, shape, price in zip(names, gemms.shapes, prices, strict=True)
    )


def price_shapes(
    shapes: tuple[GemmShape, ...], device: Accelerator, kernels: Kernels
) -> list[float | None]:
    """Return the simulator's seconds of traced products, None where the device lacks the format."""
    prices: list[float | None] = [None] * len(shapes)
    rows = [
        place
        for place, shape in enumerate(shapes)
        if shape.dtype in layout.DTYPES and shape.dtype in device.peak_flops
    ]
    if not rows:
        return prices
    dims = np.zeros((len(rows), layout.DIMS), np.int64)
    for row, place in enumerate(rows):
        shape = shapes[place]
        dims[row, :4] = shape.m, shape.n, shape.k, shape.batch
    extra = np.tile(np.array([0.0, 1.0, 1.0]), (len(rows), 1))
    dtype = np.array([layout.DTYPES.index(shapes[p].dtype) for p in rows], np.int8)
    kind = np.full(len(rows), layout.GEMM, np.int8)
    parameters = device_parameters(device, rung=kernels.rung)
    seconds, _ = price_by_rungs((kind, dtype, dims, extra), device, parameters, kernels)
    for place, price in zip(rows, seconds.tolist(), strict=True):
        prices[place] = price
    return prices


def _collective_rows(
    speeds: tuple[CollectiveSpeed, ...], steps: float, plan: Plan
) -> tuple[CollectiveRow, ...]:
    stack = load_stack(plan.stack)
    net = scaled(network(plan.cluster), stack.node_bandwidth, stack.network_bandwidth)
    rows = []
    for speed in speeds:
        one = speed.collective
        known = one.kind in NAMES and one.bytes > 0.0 and 1 < one.ranks <= plan.cluster.count
        price: float | None = None
        if known:
            # a trace does not say where a group's ranks lie: taken as neighbours
            price = float(
                price_collectives(
                    net,
                    np.array([NAMES.index(one.kind)]),
                    np.array([one.bytes]),
                    np.array([one.ranks]),
                    np.array([1]),
                    sharing=np.array([1.0 / stack.nccl_bandwidth]),
                )[0]
            )
        rows.append(
            CollectiveRow(
                kind=one.kind,
                bytes=one.bytes,
                ranks=one.ranks,
                calls=speed.calls / steps,
                measured_s=speed.transfer_s * speed.calls / steps,
                predicted_s=None if price is None else price * speed.calls / steps,
                bus_gb_per_s=speed.bus_bytes_per_s / 1e9,
            )
        )
    return tuple(rows)
