"""Price the operator table: seconds of every row, and of every (part, phase) by group.

A collective that overlaps is charged what cannot hide: its share behind neighbours that are too
short, plus the compute that the overlap itself slows down. All charges are maxima and sums of
prices, so a faster device or link never makes a pass longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.collectives import Network, price_collectives
from ridgeline.simulator.operators.table import (
    BACKWARD,
    COLLECTIVE,
    FORWARD,
    GROUPS,
    RECOMPUTE,
    WEIGHT,
    OperatorTable,
)
from ridgeline.simulator.roofline.device import DEFAULT_RUNG, device_parameters
from ridgeline.simulator.roofline.layout import FP4, FP8, GEMM, GROUPED_GEMM, SUSTAINED
from ridgeline.simulator.roofline.rungs import MODEL_ALONE, Kernels, price_by_rungs
from ridgeline.simulator.stacks import Stack

PHASES = 4
_COLLECTIVES = ("tp", "ep", "cp")
LABELS = (*(f"exposed {n}" if n in _COLLECTIVES else n for n in GROUPS), "host")
"""Names of the last axis of ``Costs.seconds``."""
WIDTH = len(LABELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of a table's rows and parts."""

    table: OperatorTable
    alone: NDArray[np.float64]
    """[N] seconds of a row by itself."""
    chained: NDArray[np.float64]
    """[N] seconds that a row adds to its pass (a collective: what is exposed)."""
    rungs: NDArray[np.int8]
    """[N] place in ``rungs.LADDER`` of what priced a row, -1 for a collective."""
    host: NDArray[np.float64]
    """[parts, PHASES] seconds that the host adds."""
    seconds: NDArray[np.float64]
    """[parts, PHASES, WIDTH]."""
    total_s: list[list[float]]
    """[parts][PHASES], the sum over groups."""
    expert_exchange_s: list[list[float]]
    """[parts][PHASES], exposed expert collectives alone."""


def price_table(
    table: OperatorTable,
    accelerator: Accelerator,
    network: Network,
    stack: Stack,
    routed: Sequence[bool],
    kernels: Kernels = MODEL_ALONE,
    *,
    padded: bool = False,
) -> Costs:
    """Price every row.

    The first parts are layers and pay their host time, more where they are ``routed`` to experts.
    Where experts are ``padded`` to a capacity every shape is known before the step, and the host
    runs ahead or replays graphs.
    """
    wire = table.kind == COLLECTIVE
    work = ~wire
    alone = np.empty(len(table))
    rungs = np.full(len(table), -1, np.int8)
    device: Accelerator | NDArray[np.float64] = accelerator
    if kernels.rung != DEFAULT_RUNG or stack.compute_rate != 1.0:
        named = kernels.rung == "corrected" and stack.kernel_library != "default"
        parameters = device_parameters(
            accelerator, rung=kernels.rung, library=stack.kernel_library if named else None
        ).copy()
        parameters[:, SUSTAINED] *= stack.compute_rate
        device = parameters
    operators = (table.kind[work], table.dtype[work], table.dims[work], table.extra[work])
    alone[work], rungs[work] = price_by_rungs(operators, accelerator, device, kernels)
    sharing = np.full(int(wire.sum()), 1.0 / stack.nccl_bandwidth)
    alone[wire] = price_collectives(
        network,
        table.operation[wire],
        table.message[wire],
        table.size[wire],
        table.stride[wire],
        sharing=sharing,
    )
    alone[wire] += stack.collective_wait_s
    key = table.part.astype(np.int64) * PHASES + table.phase
    keys = (int(table.part.max()) + 1) * PHASES
    computed = _sums(key[work], alone[work], keys)
    chained = _expose(table, alone, wire, key, keys, computed, stack)
    launched = np.bincount(key[work], minlength=keys)
    host = np.maximum(0.0, launched * stack.launch_s - computed).reshape(-1, PHASES)
    # one pass of the host over a layer forward, one backward
    serial = stack.host_layer_s + stack.moe_host_s * np.array(routed, dtype=np.float64)
    host[: len(routed), 0] += serial
    # where no gradient passes there is none to launch backward
    host[: len(routed), 2] += serial * (launched.reshape(-1, PHASES)[: len(routed), 2] > 0)
    seconds = _sums(key * WIDTH + table.group, chained, keys * WIDTH)
    seconds = seconds.reshape(-1, PHASES, WIDTH)
    if stack.operator_s and not padded:
        host[: len(routed)] += _waits_for_host(
            table, accelerator, stack, routed, seconds.sum(axis=2), key
        )
    seconds[:, :, -1] = host
    return Costs(
        table=table,
        alone=alone,
        chained=chained,
        rungs=rungs,
        host=host,
        seconds=seconds,
        total_s=seconds.sum(axis=2).tolist(),
        expert_exchange_s=seconds[:, :, GROUPS.index("ep")].tolist(),
    )


def _waits_for_host(
    table: OperatorTable,
    accelerator: Accelerator,
    stack: Stack,
    routed: Sequence[bool],
    busy: NDArray[np.float64],
    key: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return by how much issuing the operators of routed layers outlasts them, s[parts, PHASES].

    The product of an expert is an operator, and so are the kernels that quantise what it reads:
    grouped products are loops over the experts of a rank. Input and weight gradients share a pass.
    """
    experts = (table.group == GROUPS.index("moe")) & np.isin(table.kind, (GEMM, GROUPED_GEMM))
    experts &= table.dims[:, 3] > 1
    reads = (table.kind == GROUPED_GEMM) & np.isin(table.dtype, (FP4, FP8))
    issued = np.where(experts, table.dims[:, 3] * (1.0 + stack.cast_operators * reads), 0.0)
    count = _sums(key, issued, busy.size).reshape(busy.shape)[: len(routed)]
    passes = busy[: len(routed)] > 0.0
    layer = stack.issued_operators(accelerator.name, accelerator.family)
    count[:, FORWARD] += layer * passes[:, FORWARD]
    count[:, BACKWARD] += layer * passes[:, BACKWARD]
    issue = count * stack.operator_s * accelerator.host_time * np.array(routed)[:, None]
    wait = np.zeros(issue.shape, dtype=np.float64)
    wait[:, FORWARD] = issue[:, FORWARD] - busy[: len(routed), FORWARD]
    back = [RECOMPUTE, BACKWARD, WEIGHT]
    wait[:, BACKWARD] = issue[:, back].sum(axis=1) - busy[: len(routed)][:, back].sum(axis=1)
    return wait.clip(min=0.0)


def _sums(keys: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Add ``values`` up by key, float64[count]."""
    return np.bincount(keys, values, count).astype(np.float64, copy=False)


def _expose(
    table: OperatorTable,
    alone: NDArray[np.float64],
    wire: NDArray[np.bool_],
    key: NDArray[np.int64],
    keys: int,
    computed: NDArray[np.float64],
    stack: Stack,
) -> NDArray[np.float64]:
    """Return what each row adds to its pass."""
    chained = alone.copy()
    hidden = np.where(wire, alone * table.overlap, 0.0)
    if not hidden.any():
        return chained
    chained -= hidden
    for row, products in table.beside:  # launched beside one product, waited for behind it
        most = sum(float(alone[product]) for product in products)
        inside = min(float(hidden[row]), most)
        chained[row] += hidden[row] - inside + stack.overlap_slowdown * inside
        hidden[row] = 0.0
    group = table.group
    for name in _COLLECTIVES:
        rows = (group == GROUPS.index(name)) & (hidden > 0.0)
        if not rows.any():
            continue
        window = computed
        if name == "cp":  # only attention of the previous block hides the next exchange
            core = (group == GROUPS.index("attention")) & ~wire
            window = _sums(key[core], alone[core], keys)
        wanted = _sums(key[rows], hidden[rows], keys)
        covered = np.minimum(wanted, window)
        charge = wanted - covered + stack.overlap_slowdown * covered
        share = np.divide(charge, wanted, out=np.zeros(keys), where=wanted > 0.0)
        chained[rows] += hidden[rows] * share[key[rows]]
    return chained
