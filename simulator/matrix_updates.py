"""The optimizer's own work by matrix: bytes that its step moves, products, gathered momenta."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ridgeline.simulator.collectives import Network, price_collectives
from ridgeline.simulator.collectives.layout import ALL_GATHER
from ridgeline.simulator.groups import Groups
from ridgeline.simulator.memory.facts import memory_facts
from ridgeline.simulator.memory.state import moment_element_bytes
from ridgeline.simulator.operators.build import Parts
from ridgeline.simulator.optimizers import (
    BY_MATRIX,
    RULES,
    LayerMatrices,
    Matrix,
    decomposition_bytes,
    layer_matrices,
    products,
    state_elements,
)
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.roofline.device import price_operators
from ridgeline.simulator.roofline.layout import BF16, DIMS, EXTRAS, FP16, FP32, GEMM, MEMORY
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.weights import part_parameters

MASTER_TRAFFIC = 8.0
"""Bytes per parameter to read and write fp32 weights in the optimizer step."""
GRADIENT_PASS = 4.0
"""Bytes per parameter to read an fp32 gradient once."""
ONE_PASS_BYTES = 30.0
"""Bytes per parameter of mixed-precision Adam in one pass: read gradient (4), weight and moments
(12), write weight, moments (12) and the 16-bit copy (2)."""


def fixed_traffic(plan: Plan, stack_: Stack) -> float:
    """Return the bytes per parameter that a step moves beside the optimizer's own state.

    ``optimizer_bytes`` of a stack are those of Adam, whose moments it reads and writes. Without
    fp32 weights the 16-bit ones are read in their place, and so is a 16-bit gradient.
    """
    rule, training = RULES[plan.training.optimizer], plan.training
    moved = stack_.optimizer_bytes - 2.0 * stack_.moment_bytes + GRADIENT_PASS * rule.reads
    if not training.master_weights:
        moved += 2.0 - MASTER_TRAFFIC - GRADIENT_PASS / 2.0 * (1.0 + rule.reads)
    return moved


def element_traffic(plan: Plan, stack_: Stack) -> float:
    """Return the bytes to read and write one element of optimizer state."""
    training = plan.training
    weights = 4.0 if training.master_weights else 2.0
    facts = memory_facts(stack_)
    return 2.0 * moment_element_bytes(training.optimizer, facts, weights=weights)


def host_traffic(plan: Plan, stack_: Stack) -> float:
    """Return the same where processors of the host update, in one pass over the state.

    CPU-Adam reads gradient, weight and moments once and writes weight, moments and the 16-bit copy
    (Ren et al. 2021, arXiv:2101.06840, section 5.1), whatever passes a stack makes on the device.
    """
    return traffic(plan, replace(stack_, optimizer_bytes=ONE_PASS_BYTES))


def traffic(plan: Plan, stack_: Stack) -> float:
    """Return the bytes per parameter that the step of an optimizer moves (not those by matrix)."""
    training = plan.training
    if training.optimizer in ("adam", "adamw") and training.master_weights:
        return stack_.optimizer_bytes
    elements = RULES[training.optimizer].elements
    return fixed_traffic(plan, stack_) + elements * element_traffic(plan, stack_)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixWork:
    """By part of the operator table, on one accelerator."""

    moved: list[float]
    """Bytes of element-wise kernels."""
    seconds: list[float]
    """Of the matrix products."""


def matrix_work(plan: Plan, stack_: Stack, parts: Parts, groups: Groups) -> MatrixWork:
    """Return what the step of an optimizer that goes by matrix moves and computes.

    ZeRO shares the matrices out over its ranks, each of which updates whole ones.
    """
    sharded = plan.parallel.zero_stage >= 1
    dense_share = groups.shard.size if sharded else 1
    expert_share = groups.edp.size if sharded else 1
    fixed, each = fixed_traffic(plan, stack_), element_traffic(plan, stack_)
    moved: list[float] = []
    seconds: list[float] = []
    for part, held in enumerate(part_parameters(plan, parts)):
        found = _matrices(plan, parts, part)
        dense = fixed * held.dense + each * state_elements(plan.training, found.dense, held.dense)
        experts = fixed * held.experts
        experts += each * state_elements(plan.training, found.experts, held.experts)
        moved.append(dense / dense_share + experts / expert_share)
        seconds.append(
            _product_seconds(plan, found.dense) / dense_share
            + _product_seconds(plan, found.experts) / expert_share
        )
    return MatrixWork(moved=moved, seconds=seconds)


def _matrices(plan: Plan, parts: Parts, part: int) -> LayerMatrices:
    """Return the matrices of a part; the ends of the model have none that count as such."""
    if part >= len(parts.kinds):
        return LayerMatrices((), ())
    index, p = parts.kinds[part][0], plan.parallel
    return layer_matrices(plan.model, plan.model.is_moe_layer(index), p.tp, p.ep, p.expert_tp)


def _product_seconds(plan: Plan, matrices: tuple[Matrix, ...]) -> float:
    """Return the time of the products of some matrices, and of decompositions, s."""
    training, accelerator = plan.training, plan.cluster.accelerator
    rows: list[tuple[int, int, int, float]] = []
    for item in matrices:
        rows += products(training.optimizer, item, training.optimizer_rank)
    if not rows:
        return 0.0
    half = BF16 if "bf16" in accelerator.peak_flops else FP16
    dtype = FP32 if training.precision in ("fp32", "tf32") else half
    dims = np.zeros((len(rows), DIMS), np.int64)
    dims[:, :3] = [row[:3] for row in rows]
    dims[:, 3] = 1
    extra = np.ones((len(rows), EXTRAS))
    extra[:, 0] = 0.0
    kinds, dtypes = np.full(len(rows), GEMM, np.int8), np.full(len(rows), dtype, np.int8)
    times = np.array([row[3] for row in rows])
    total = float(price_operators(kinds, dtypes, dims, extra, accelerator) @ times)
    if training.optimizer == "galore":
        extra = np.ones((1, EXTRAS))
        extra[0, 0] = sum(decomposition_bytes(item) for item in matrices)
        memory, fp32 = np.full(1, MEMORY, np.int8), np.full(1, FP32, np.int8)
        none = np.zeros((1, DIMS), np.int64)
        total += float(price_operators(memory, fp32, none, extra, accelerator)[0])
    return total


def momentum_gather(
    plan: Plan, parts: Parts, groups: Groups, net: Network, stack_: Stack
) -> list[float]:
    """Return seconds by part to gather Muon's momenta where ZeRO has split its matrices.

    Orthogonalisation needs whole matrices: 2 bytes a weight are gathered over the shards (Liu et
    al. 2025, arXiv:2502.16982, section 2.3: at most a quarter on top of what AdamW exchanges in
    fp32).
    """
    count = len(part_parameters(plan, parts))
    if plan.training.optimizer != "muon" or plan.parallel.zero_stage == 0:
        return [0.0] * count
    found = [_matrices(plan, parts, part) for part in range(count)]
    moved = [
        2.0 * sum(item.parameters for item in group)
        for matrices in found
        for group in (matrices.dense, matrices.experts)
    ]
    sizes = [groups.shard.size, groups.edp.size] * count
    strides = [groups.shard.stride, groups.edp.stride] * count
    seconds = price_collectives(
        net,
        [ALL_GATHER] * len(moved),
        moved,
        sizes,
        strides,
        sharing=np.full(len(moved), 1.0 / stack_.nccl_bandwidth),
    )
    real = (np.array(moved) > 0.0) & (np.array(sizes) > 1)
    both: list[float] = np.where(real, seconds, 0.0).reshape(count, 2).sum(axis=1).tolist()
    return both


def goes_by_matrix(plan: Plan) -> bool:
    """Whether the optimizer's state and step depend on the shapes of the weights."""
    return plan.training.optimizer in BY_MATRIX
