"""Fit a device's matrix products to a trace: an efficiency section, and the profile that has it.

A trace holds few shapes, each as the step runs it (weights cold, clock under load). So only what
they can tell is fitted, the rest of the tile model stays the device's: from ``FEWEST`` shapes the
share of the peak, from ``ENOUGH`` also memory and launch. Every shape counts alike. The error said
is of shapes left out one at a time.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.profiles import DATA
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.validation.traces.gemms import GemmShape

FEWEST, ENOUGH = 3, 8
"""Distinct shapes behind one parameter, and behind three."""
SHORTEST_S = 10e-6
"""Products that take less measure launches and edges."""
BLOCKS = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "tf32": "tf32", "fp32": "fp32"}
"""Number format of products -> block of an efficiency section."""
_COLUMNS = {
    "launch_us": (layout.GEMM_LAUNCH, 1e6),
    "compute": (layout.GEMM_COMPUTE, 1.0),
    "memory": (layout.GEMM_MEMORY, 1.0),
    "l2_bytes_per_flop": (layout.GEMM_L2, 1.0),
    "tile_us": (layout.GEMM_TILE, 1e6),
    "split_us": (layout.GEMM_SPLIT, 1e6),
    "sharpness": (layout.GEMM_SHARPNESS, 1.0),
    "step_ns": (layout.GEMM_STEP, 1e9),
}
"""Key of a block -> column of the device's parameters, units of the key in one of the column."""
_FREE = {
    FEWEST: ("compute",),
    ENOUGH: ("compute", "memory", "launch_us"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFit:
    """A block of an efficiency section fitted to a trace."""

    block: str
    """``gemm.bf16`` and so on."""
    values: dict[str, float]
    fitted: tuple[str, ...]
    """Keys that were fitted; the others are the device's."""
    shapes: int
    error_before: float
    """Mean absolute relative error of the device as it was."""
    error_fitted: float
    error_left_out: float
    """Of each shape by a fit to the others."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def fit_gemms(
    shapes: Sequence[GemmShape], accelerator: Accelerator
) -> tuple[tuple[TraceFit, ...], tuple[str, ...]]:
    """Fit every number format that has enough shapes.

    Parameters
    ----------
    shapes
        Products of the trace (``gemms.find_gemms``).
    accelerator
        The device that ran them, whose other parameters stay.

    Returns
    -------
    fits, notes
        Notes say what was left out and why.

    Raises
    ------
    InputError
        No SciPy, or nothing to fit: one line for each number format.
    """
    try:
        importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise InputError("fitting needs SciPy: pip install 'ridgeline[fit]'") from error
    fits: list[TraceFit] = []
    notes: list[str] = []
    by_block: dict[str, list[GemmShape]] = {}
    for shape in shapes:
        block = BLOCKS.get(shape.dtype)
        if block is None or shape.dtype not in accelerator.peak_flops:
            notes.append(f"{_shown(shape)}: {accelerator.name} has no model for {shape.dtype}")
        elif shape.median_s < SHORTEST_S:
            notes.append(f"{_shown(shape)}: {1e6 * shape.median_s:.1f} us, too short to tell")
        else:
            by_block.setdefault(block, []).append(shape)
    for block, members in sorted(by_block.items()):
        if len(members) < FEWEST:
            notes.append(f"gemm.{block}: {len(members)} shapes, at least {FEWEST} are needed")
        else:
            fits.append(_fit(block, members, accelerator))
    if not fits:
        raise InputError(notes or ["the trace has no shapes of matrix products (record_shapes)"])
    return tuple(fits), tuple(notes)


def _shown(shape: GemmShape) -> str:
    return f"gemm {shape.m}x{shape.n}x{shape.k} {shape.dtype}"


def _fit(block: str, shapes: list[GemmShape], accelerator: Accelerator) -> TraceFit:
    measured = np.array([shape.median_s for shape in shapes])
    device = device_parameters(accelerator)
    index = layout.DTYPES.index(shapes[0].dtype)
    own = {key: float(device[index, column] * unit) for key, (column, unit) in _COLUMNS.items()}
    free = _FREE[ENOUGH if len(shapes) >= ENOUGH else FEWEST]
    values = _parameters(shapes, measured, device, own, free)
    left_out = []
    for place, shape in enumerate(shapes):
        others = [s for s in shapes if s is not shape]
        rest = np.delete(measured, place)
        found = _parameters(others, rest, device, own, free)
        left_out.append(float(_seconds([shape], device, found)[0]))
    return TraceFit(
        block=f"gemm.{block}",
        values=values,
        fitted=free,
        shapes=len(shapes),
        error_before=_error(_seconds(shapes, device, own), measured),
        error_fitted=_error(_seconds(shapes, device, values), measured),
        error_left_out=_error(np.array(left_out), measured),
    )


def _parameters(
    shapes: list[GemmShape],
    measured: Any,
    device: Any,
    own: dict[str, float],
    free: tuple[str, ...],
) -> dict[str, float]:
    from ridgeline.validation.fitting.fit import fit_set
    from ridgeline.validation.fitting.gemm import BOUNDS

    bounds = {key: BOUNDS[key] if key in free else (value, value) for key, value in own.items()}
    return fit_set(lambda p: _seconds(shapes, device, p), measured, bounds, [own])


def _seconds(shapes: list[GemmShape], device: Any, values: dict[str, float]) -> Any:
    table = device.copy()
    for key, (column, unit) in _COLUMNS.items():
        table[:, column] = values[key] / unit
    count = len(shapes)
    dims = np.zeros((count, layout.DIMS), np.int64)
    dims[:, :4] = [(s.m, s.n, s.k, s.batch) for s in shapes]
    dtype = np.array([layout.DTYPES.index(s.dtype) for s in shapes], np.int8)
    extra = np.tile(np.array([0.0, 1.0, 1.0]), (count, 1))
    return price_operators(np.full(count, layout.GEMM, np.int8), dtype, dims, extra, table)


def _error(predicted: Any, measured: Any) -> float:
    return float(np.abs(predicted / measured - 1.0).mean())


def section(fit: TraceFit, source: str) -> str:
    """Return a block as it stands in a profile; ``source`` is a key of its ``[sources]``."""
    lines = [f"[efficiency.{fit.block}]", f'source = "{source}"']
    lines += [f"{key} = {value:.6g}" for key, value in fit.values.items()]
    return "\n".join(lines) + "\n"


def profile_text(accelerator: Accelerator, fits: Sequence[TraceFit], citation: str) -> str:
    """Return the profile that ships for a device, with the fitted blocks in place of its own.

    Parameters
    ----------
    accelerator
        One that ships.
    citation
        Where the fitted values come from.
    """
    path = DATA / "accelerators" / f"{accelerator.name}.toml"
    text = path.read_text(encoding="utf-8")
    head, *tables = text.split("\n[")
    replaced = {f"efficiency.{fit.block}]" for fit in fits}
    kept = [table for table in tables if table.split("\n", 1)[0].strip() not in replaced]
    clean = citation.replace("\\", "/").replace('"', "'")
    parts = [head]
    for table in kept:
        if table.startswith("sources]"):
            table = table.replace("sources]\n", f'sources]\ntrace-fit = "{clean}"\n', 1)
        parts.append(table.rstrip("\n") + "\n")
    return "\n[".join(parts) + "\n" + "\n".join(section(fit, "trace-fit") for fit in fits)


def joined(shapes: Sequence[GemmShape]) -> tuple[GemmShape, ...]:
    """Return shapes of several traces, equal ones joined: calls add up, medians average."""
    found: dict[tuple[int, int, int, int, str], GemmShape] = {}
    for one in shapes:
        key = (one.m, one.n, one.k, one.batch, one.dtype)
        old = found.get(key)
        if old is None:
            found[key] = one
            continue
        calls = old.calls + one.calls
        found[key] = replace(
            old,
            calls=calls,
            total_s=old.total_s + one.total_s,
            median_s=(old.median_s * old.calls + one.median_s * one.calls) / calls,
        )
    return tuple(found.values())
