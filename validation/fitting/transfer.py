"""How universal GEMM parameters do on a device that they were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.gemm import price_shapes
from ridgeline.simulator.roofline.gemm_parameters import AXES, FORMATS, put_parameters
from ridgeline.validation.fitting.fit import Floats, fit_set, statistics, subsample
from ridgeline.validation.fitting.gemm import BOUNDS, QUANTISE, START, TILE_CHOICES, Columns

if TYPE_CHECKING:
    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.validation.kernels.table import KernelTable

ROWS = 1500
"""Rows of every device that parameters are fitted on: devices count alike."""
SM_FLOPS = 7.5e12
"""Peak of one SM that ``tile_us`` of universal parameters is given for, FLOP/s (H100, bf16)."""
_BOUNDS = BOUNDS | {"warm_share": (0.0, 0.0)} | dict.fromkeys(TILE_CHOICES, (0.0, 0.0))


def leave_one_out(
    tables: Mapping[Accelerator, KernelTable], dtype: str, *, scaled: bool = True
) -> dict[str, dict[str, float]]:
    """Return the errors on every device of parameters fitted on all the others.

    Parameters
    ----------
    tables
        GEMM tables by device; all libraries count.
    dtype
        Of the tables, for example ``bfloat16``; devices without rows in it are left out.
    scaled
        Let the time of a tile's prologue and epilogue go with the rate of an SM: a tile is as much
        work as so many FLOPs, whatever the generation. Without, it is a time.
    """
    devices = {
        device: _rows(table, dtype)
        for device, table in tables.items()
        if (table["dtype"] == dtype).any()
    }
    return {
        left.name: statistics(
            _seconds(left, dtype, fit_universal(others, dtype, scaled=scaled), shapes, scaled),
            measured,
        )
        for left, (shapes, measured) in devices.items()
        for others in [{d: rows for d, rows in devices.items() if d is not left}]
    }


def fit_universal(
    devices: Mapping[Accelerator, tuple[Columns, Floats]], dtype: str, *, scaled: bool = True
) -> dict[str, float]:
    """Return one set of parameters for several devices' rows (m, n, k; seconds)."""
    some: list[tuple[Accelerator, Columns]] = []
    targets = []
    for device, (shapes, measured) in devices.items():
        rows = subsample(len(measured), ROWS)
        some.append((device, (shapes[0][rows], shapes[1][rows], shapes[2][rows])))
        targets.append(measured[rows])

    def model(parameters: dict[str, float]) -> Floats:
        parts = [_seconds(device, dtype, parameters, shapes, scaled) for device, shapes in some]
        return np.concatenate(parts)

    bounds = _BOUNDS | (QUANTISE if FORMATS[dtype].quantised else {})
    return fit_set(model, np.concatenate(targets), bounds, [START])


def _rows(table: KernelTable, dtype: str) -> tuple[Columns, Floats]:
    part = table.take(table["dtype"] == dtype)
    m, n, k = (part[name] for name in AXES)
    order = np.lexsort((k, n, m))
    return (m[order], n[order], k[order]), part.latency_us[order] * 1e-6


def _seconds(
    device: Accelerator, dtype: str, parameters: dict[str, float], shapes: Columns, scaled: bool
) -> Floats:
    index = layout.DTYPES.index(FORMATS[dtype].compute)
    table = device_parameters(device, sustained=False).copy()
    own = dict(parameters)
    if scaled:
        own["tile_us"] *= SM_FLOPS * device.cores / device.peak_flops[FORMATS[dtype].compute]
    put_parameters(table[index], dtype, own)
    return price_shapes(table, dtype, *shapes)
