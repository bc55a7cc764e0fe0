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
from ridgeline.simulator.operators.table import COLLECTIVE, GROUPS, OperatorTable
from ridgeline.simulator.roofline.device import DEFAULT_RUNG, device_parameters
from ridgeline.simulator.roofline.layout import SUSTAINED
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
) -> Costs:
    """Price every row.

    The first parts are layers and pay their host time, more where they are ``routed`` to experts.
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
