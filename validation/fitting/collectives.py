"""Fit collectives of one node: NCCL by operation, and the all-reduces of serving libraries."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import Correction, load_kernel_sets
from ridgeline.simulator.collectives.layout import NAMES
from ridgeline.simulator.collectives.measured import (
    COLLECTIVE,
    CUSTOM,
    collective_coordinates,
    collective_form,
    custom_form,
)
from ridgeline.simulator.roofline.attention import corrected
from ridgeline.validation.fitting.attention import newest_versions
from ridgeline.validation.fitting.fit import Floats, fit_set, held_out_rows
from ridgeline.validation.fitting.sets import held_out_table, judged_set, pick_correction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.hardware.kernels import KernelSet
    from ridgeline.validation.kernels.table import KernelTable

FEWEST_ROWS = 24
"""Rows of an operator on two to eight ranks: fewer leave less than two by octave of size."""
CUSTOM_OP = "custom_all_reduce"
ANY_DTYPE = "any"
"""Number format of sets to which rows of every dtype belong."""
BY_DTYPE = ("all_reduce",)
"""Operations with a set for each dtype: switches add half precision, but no int8."""
SPELLINGS = {"alltoall": "all_to_all"}
"""How nccl-tests call what is called otherwise here."""
EAGER = "eager"
"""Part of a kernel's name: launched from the host, not replayed."""

NO_SWITCH_ADDS = ("ampere", "volta")
"""Families whose NVSwitch cannot add (NVLink SHARP came with Hopper's third NVSwitch)."""

BOUNDS = {
    "base_us": (1.0, 60.0),
    "per_rank_us": (0.001, 10.0),
    "bandwidth": (0.3, 1.0),
    "ramp_us": (0.01, 60.0),
    "gamma": (0.05, 0.6),
    "delta": (0.001, 3.0),
    "in_switch": (0.3, 1.0),
}
START = {
    "base_us": 8.0,
    "per_rank_us": 1.0,
    "bandwidth": 0.9,
    "ramp_us": 5.0,
    "gamma": 0.45,
    "delta": 0.8,
    "in_switch": 0.55,
}
SECOND_START = START | {"gamma": 0.2, "ramp_us": 10.0}

CUSTOM_BOUNDS = {
    "host_us": (0.1, 200.0),
    "start_us": (0.5, 60.0),
    "start_per_rank_us": (0.001, 5.0),
    "one_shot": (0.05, 1.0),
    "second_us": (0.01, 30.0),
    "two_shot": (0.05, 1.0),
    "large_base_us": (0.1, 100.0),
    "large_ramp_us": (0.01, 60.0),
    "large_bandwidth": (0.3, 1.0),
    "large_delta": (0.001, 3.0),
}
CUSTOM_START = {
    "host_us": 25.0,
    "start_us": 4.0,
    "start_per_rank_us": 0.2,
    "one_shot": 0.5,
    "second_us": 3.0,
    "two_shot": 0.5,
    "large_base_us": 10.0,
    "large_ramp_us": 6.0,
    "large_bandwidth": 0.9,
    "large_delta": 0.3,
}
LIMITS = tuple(1.5 * 2.0**power for power in range(17, 26))
"""Sizes between two measured ones above which a library may leave the all-reduce to NCCL."""
LIMIT_POWERS = (0.0, 0.5, 1.0)

_RANKS = (1.0, 2.0, 3.0)
CANDIDATES: tuple[dict[str, tuple[float, ...]], ...] = (
    {"bytes": tuple(range(9, 31)), "ranks": _RANKS},
    {"bytes": (9, 12, 14, 16, 18, 20, 21, 22, 23, 24, 26, 29), "ranks": _RANKS},
    {"bytes": (9, 13, 16, 18, 20, 21, 22, 24, 27, 29), "ranks": (1, 3)},
    {"bytes": (9, 12, 15, 18, 21, 24, 27, 30), "ranks": _RANKS},
    {"bytes": (9, 14, 19, 24, 29), "ranks": _RANKS},
    {"bytes": (8, 14, 20, 30), "ranks": (1, 3)},
    {"bytes": (8, 30)},
)


def fit_table(table: KernelTable, accelerator: Accelerator) -> list[KernelSet]:
    """Fit every operation of NCCL and every custom all-reduce, newest version of each library."""
    members: dict[tuple[str, str, str, str, str], list[NDArray[np.int64]]] = {}
    for (op, library, version, dtype, kernel), rows in newest_versions(table):
        name = SPELLINGS.get(op, op)
        if name == CUSTOM_OP:
            members[name, library, version, dtype, kernel] = [rows]
        elif name in NAMES:
            kept = dtype if name in BY_DTYPE else ANY_DTYPE
            members.setdefault(("collective", library, version, kept, name), []).append(rows)
    found = []
    for key, parts in members.items():
        rows = np.sort(np.concatenate(parts))
        if len(rows) >= FEWEST_ROWS:
            found.append(fit_rows(key, table.take(rows), accelerator))
    return found


def fit_rows(
    key: tuple[str, str, str, str, str], table: KernelTable, accelerator: Accelerator
) -> KernelSet:
    """Fit one set from its rows.

    Parameters
    ----------
    key
        Operator, library, version, dtype, kernel (the operation, for ``collective``).
    table
        Rows of this set alone.
    accelerator
        The device that they were measured on.
    """
    shapes = np.stack([table["bytes"], table["num_gpus"]], axis=1).astype(np.float64)
    held_out = held_out_rows(table["bytes"], table["num_gpus"])
    measured = table.latency_us * 1e-6
    seen = shapes[~held_out]
    if key[0] == CUSTOM_OP:
        parameters = _fit_custom(seen, measured[~held_out], accelerator, eager=EAGER in key[4])
    else:
        parameters = _fit_collective(
            NAMES.index(key[4]), key[3], seen, measured[~held_out], accelerator
        )

    def form(table: Floats) -> Floats:
        if key[0] == CUSTOM_OP:
            return custom_form(table, parameters, accelerator)
        return collective_form(table, NAMES.index(key[4]), parameters, accelerator)

    modelled = form(shapes)
    coords = collective_coordinates(shapes)
    fitted = {name: values[~held_out] for name, values in coords.items()}
    correction = pick_correction(fitted, np.log(measured / modelled)[~held_out], CANDIDATES)
    correction = _rising(correction, form)
    predicted = corrected(modelled, coords, correction)
    return judged_set(key, parameters, correction, predicted, modelled, measured, held_out)


def _rising(correction: Correction, form: Callable[[Floats], Floats]) -> Correction:
    """Raise the values of a correction so that more bytes never take less time at its nodes."""
    axes = dict(correction.axes)
    sizes = 2.0 ** np.array(axes["bytes"])
    ranks = 2.0 ** np.array(axes.get("ranks", (1.0,)))
    table = np.array([(size, n) for size in sizes for n in ranks])
    base = np.log(form(table)).reshape(len(sizes), len(ranks))
    values = np.array(correction.values).reshape(base.shape)
    raised = np.maximum.accumulate(base + values, axis=0) - base
    return replace(correction, values=tuple(round(v, 5) for v in raised.ravel().tolist()))


def report(accelerators: Sequence[str], op: str) -> str:
    """Return the held-out errors of the shipped sets as Markdown (docs/kernels-collectives.md)."""
    return held_out_table(
        (name, one) for name in accelerators for one in load_kernel_sets(name, op)
    )


def _fit_collective(
    code: int, dtype: str, shapes: Floats, measured: Floats, accelerator: Accelerator
) -> dict[str, float]:
    adds = NAMES[code] == "all_reduce" and dtype != "int8"
    adds = adds and accelerator.family not in NO_SWITCH_ADDS
    bounds = BOUNDS if adds else BOUNDS | {"in_switch": (0.0, 0.0)}
    found = fit_set(
        lambda p: collective_form(shapes, code, p, accelerator),
        measured,
        bounds,
        [START, SECOND_START],
    )
    return {name: found[name] for name in COLLECTIVE}


def _fit_custom(
    shapes: Floats, measured: Floats, accelerator: Accelerator, *, eager: bool
) -> dict[str, float]:
    best: dict[str, float] = {}
    least = np.inf
    for limit, power in itertools.product(LIMITS, LIMIT_POWERS):
        bounds = CUSTOM_BOUNDS | {"limit_bytes": (limit, limit), "limit_power": (power, power)}
        if not eager:
            bounds["host_us"] = (0.1, 0.1)
        found = fit_set(
            lambda p: custom_form(shapes, p, accelerator),
            measured,
            bounds,
            [CUSTOM_START],
            evaluations=30,
        )
        off = np.abs(np.log(custom_form(shapes, found, accelerator) / measured))
        cost = float(np.minimum(off, 0.5).mean())
        if cost < least:
            least, best = cost, found
    return {name: best[name] for name in CUSTOM}
