"""Element-wise kernels as an inference program runs them, in place of the simulator's fused ones.

A forward pass of the simulator has one memory-bound operator where a program has several kernels.
Beside a stack may lie a list of them (``NAME.kernels.toml``): each costs a launch, and the longer
of what its bytes take at the device's bandwidth and, where it is not vectorised, what its elements
take.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.validation.traces.operator_rows import SimulatedOperator

SCALAR_ELEMENTS = {"NVIDIA": 2.25e9, "AMD": 1.45e9}
"""Elements a second and SM (or CU) that PyTorch's kernels without vector loads get through.

By copies of [2, 32, 6404, 128], strided or from bf16 to fp32, in a published training run of
Llama 3.2 (AMD-AGI/TraceLens, evals/e2e_tests_comparative/llama3_2, UnaryElementwise.csv): 297 G/s
on what its bandwidth says is an H100 (132 SMs), 440 G/s on an MI300X (304 CUs), strided and not,
4 and 6 bytes an element alike.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    name: str
    bytes: float
    """An element of 16-bit activations moves."""
    scalar: bool = False
    share: float = 1.0
    """Of the elements that it touches."""


Kernels = dict[str, tuple[_Kernel, ...]]


def kernels_beside(stack: str) -> Kernels | None:
    """Return the list beside a stack's file, None when there is none."""
    path = Path(stack).with_suffix(".kernels.toml")
    if not stack.endswith(".toml") or not path.is_file():
        return None
    raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        of: tuple(_Kernel(**one) for one in lines)
        for of, lines in raw.items()
        if isinstance(lines, list)
    }


def unfused(row: SimulatedOperator, plan: Plan, listed: Kernels) -> list[SimulatedOperator]:
    """Return the kernels that stand for an operator: itself where the list says nothing of it."""
    parts = _parts(row.name, plan)
    if not parts or not any(of in listed for of, _ in parts):
        return [row]
    device = plan.cluster.accelerator
    dtype = layout.DTYPES.index(row.dtype)
    column = device_parameters(device)[dtype]
    bandwidth = column[layout.ELEMENTWISE_MEMORY] * column[layout.HBM]
    rate = SCALAR_ELEMENTS.get(device.vendor, float("inf")) * device.cores
    wide = layout.BYTES[dtype] / 2.0
    found = []
    for of, elements in parts:
        for kernel in listed.get(of, ()):
            moved = kernel.bytes * wide * kernel.share * elements
            slowest = kernel.share * elements / rate if kernel.scalar else 0.0
            seconds = float(column[layout.ELEMENTWISE_LAUNCH] + max(moved / bandwidth, slowest))
            name = f"{row.name}: {of} {kernel.name}"
            found.append(replace(row, name=name, bytes=moved, seconds=seconds, exposed_s=seconds))
    return found


def _parts(name: str, plan: Plan) -> list[tuple[str, float]]:
    """Return what the list has kernels of and over how many elements, by an operator's name."""
    model, split = plan.model, plan.parallel.tp
    a = model.attention
    tokens = plan.training.micro_batch_seqs * plan.training.seq_len / plan.parallel.cp
    hidden = tokens * model.hidden / (split if plan.parallel.sp else 1)
    query = tokens * a.heads * a.head_dim / split
    key = tokens * max(1, a.kv_heads // split) * a.head_dim
    if name == "rotary":
        parts = []
        if a.qk_norm:
            parts += [("query_norm", query), ("query_norm", key)]
        if model.position == "rotary":
            parts += [("rotary", query), ("rotary", key)]
        parts += [("key", key), ("value", key), ("output", query)]
        return parts + ([("repeat", query)] * 2 if a.kv_heads < a.heads else [])
    if name.endswith("norm") and name != "latent norms":
        return [("norm", hidden)]
    if name in ("attention residual", "mlp residual"):
        return [("residual", hidden)]
    if name == "mlp activation" and model.gated_mlp:
        return [("activation", tokens * model.ffn_hidden / split)]
    return []
