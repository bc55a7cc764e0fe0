"""Fit GEMM kernel sets: parameters of the tile model, the library's tiles, the correction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.kernels import Correction, KernelSet, load_kernel_sets
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.correction import apply_correction, fit_correction, spread_nodes
from ridgeline.simulator.roofline.correction.solve import log2_columns
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.gemm import predict_gemm, price_shapes, set_table
from ridgeline.simulator.roofline.gemm_parameters import (
    AXES,
    FORMATS,
    gemm_format,
    put_parameters,
)
from ridgeline.validation.fitting.fit import (
    SPLIT,
    Floats,
    fit_set,
    held_out_rows,
    statistics,
    subsample,
)

if TYPE_CHECKING:
    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.validation.kernels.table import KernelTable

FEWEST_ROWS = 300
HOST_BOUND_S = 40e-6
"""A set whose smallest shapes all take longer than this measures the host, not the device."""
SMALL_S = 5e-6
"""Datasheet time below which a shape is one of the smallest."""
SOURCE = (
    "Re-tabulated from ai-dynamo/aiconfigurator, commit "
    "095f58a51c4ca8e61b66ec108d86f223f8d559ce (2026-08-21), Apache-2.0"
)

BOUNDS = {
    "launch_us": (0.2, 60.0),
    "compute": (0.2, 1.0),
    "memory": (0.2, 1.0),
    "l2_bytes_per_flop": (0.002, 0.2),
    "tile_us": (0.001, 20.0),
    "split_us": (0.01, 50.0),
    "sharpness": (1.0, 8.0),
    "step_ns": (0.1, 300.0),
    "warm_mb": (0.5, 100.0),
    "warm_share": (0.0, 1.0),
    "wave_blend": (0.0, 1.0),
}
QUANTISE = {
    "quantise_us": (0.0, 20.0),
    "quantise_memory": (0.05, 1.0),
    "quantise_ns_per_row": (0.0, 20.0),
}
START = {
    "launch_us": 2.3,
    "compute": 0.8,
    "memory": 0.8,
    "l2_bytes_per_flop": 0.02,
    "tile_us": 0.25,
    "split_us": 3.0,
    "sharpness": 2.0,
    "step_ns": 30.0,
    "warm_mb": 10.0,
    "warm_share": 0.5,
    "wave_blend": 0.2,
    "quantise_us": 5.0,
    "quantise_memory": 0.4,
    "quantise_ns_per_row": 0.1,
}
TILE_CHOICES = ("tile_beyond", "tile_to_512", "tile_to_128", "tile_to_64")
GRIDS = ((9, 6, 6), (8, 7, 7), (12, 6, 5), (5, 4, 4))
STRENGTHS = ((0.02, 0.01), (0.1, 0.03), (0.5, 0.1))
"""Nodes by axis and (smooth, ridge) that are tried on a third of the rows that may be fitted."""
WORTH = 3e-4
"""A fixed tile must lower the mean log error by this."""

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def fit_table(table: KernelTable, accelerator: Accelerator) -> list[KernelSet]:
    """Fit the newest version of every library, dtype and kernel of a GEMM table.

    Sets with too few rows and host-bound ones are left out (``left_out`` says which and why).

    Raises
    ------
    InputError
        A dtype that has no GEMM model.
    """
    found = []
    for key, rows in newest(table):
        part = table.take(rows)
        if not _why_left_out(key, part, accelerator):
            found.append(_fit_rows(key, part, accelerator))
    return found


def left_out(table: KernelTable, accelerator: Accelerator) -> list[str]:
    """Return a line for every set of the newest versions that is not fitted, with the reason."""
    lines = []
    for key, rows in newest(table):
        why = _why_left_out(key, table.take(rows), accelerator)
        if why:
            lines.append(f"{' '.join(key[1:])}: {why}")
    return lines


def newest(
    table: KernelTable,
) -> list[tuple[tuple[str, str, str, str, str], NDArray[np.int64]]]:
    """Return the sets of a table that are of the newest version of their library and dtype."""
    sets = list(table.sets())
    latest: dict[tuple[str, str], tuple[int, ...]] = {}
    for key, _ in sets:
        place = (key[1], key[3])
        latest[place] = max(latest.get(place, ()), _version(key[2]))
    return [(key, rows) for key, rows in sets if _version(key[2]) == latest[key[1], key[3]]]


def _version(text: str) -> tuple[int, ...]:
    spaced = "".join(c if c.isdigit() else " " for c in text)
    return tuple(int(part) for part in spaced.split())


def _why_left_out(
    key: tuple[str, str, str, str, str], part: KernelTable, accelerator: Accelerator
) -> str:
    if len(part) < FEWEST_ROWS:
        return f"{len(part)} rows, under {FEWEST_ROWS}"
    form = gemm_format(key[3])
    if form.compute not in accelerator.peak_flops:
        return f"{accelerator.name} has no peak for {form.compute}"
    m, n, k = (part[name].astype(np.float64) for name in AXES)
    moved = form.activation_bytes * m * k + form.weight_bytes * n * k + 2.0 * m * n
    bound = np.maximum(
        2.0 * m * n * k / accelerator.peak_flops[form.compute],
        moved / accelerator.memory_bytes_per_s,
    )
    small = bound < SMALL_S
    if small.any():
        floor = float(np.quantile(part.latency_us[small] * 1e-6, 0.1))
        if floor > HOST_BOUND_S:
            return f"host-bound: shapes of under 5 us take {1e6 * floor:.0f} us and more"
    return ""


def _fit_rows(
    key: tuple[str, str, str, str, str], part: KernelTable, accelerator: Accelerator
) -> KernelSet:
    _, library, version, dtype, kernel = key
    m, n, k = (part[name] for name in AXES)
    order = np.lexsort((k, n, m))
    shapes: Columns = (m[order], n[order], k[order])
    measured = part.latency_us[order] * 1e-6
    held = held_out_rows(*shapes)
    train: Columns = tuple(column[~held] for column in shapes)  # type: ignore[assignment]
    test: Columns = tuple(column[held] for column in shapes)  # type: ignore[assignment]
    burst = device_parameters(accelerator, sustained=False)
    parameters = fit_parameters(burst, dtype, train, measured[~held])
    draft = KernelSet(
        op="gemm",
        library=library,
        version=version,
        dtype=dtype,
        kernel=kernel,
        parameters=parameters,
        correction=None,
        rows=int((~held).sum()),
        held_out={"mape": 0.0, "median_ape": 0.0, "bias": 0.0, "rows": float(held.sum())},
        split=SPLIT,
        date=datetime.now(UTC).date().isoformat(),
        source=SOURCE,
    )
    plain = set_table(burst, draft)
    correction = best_correction(
        log2_columns(train), np.log(measured[~held] / price_shapes(plain, dtype, *train))
    )
    before = statistics(price_shapes(plain, dtype, *test), measured[held])
    final = _replaced(draft, correction)
    after = statistics(
        predict_gemm(*test, kernel_set=final, accelerator=accelerator), measured[held]
    )
    return _replaced(final, correction, {**after, "mape_uncorrected": before["mape"]})


def _replaced(
    one: KernelSet, correction: Correction, held_out: dict[str, float] | None = None
) -> KernelSet:
    return replace(one, correction=correction, held_out=held_out or one.held_out)


def fit_parameters(
    burst: Floats, dtype: str, shapes: Columns, measured: Floats
) -> dict[str, float]:
    """Return the tile model's parameters for one dtype, the library's tiles by rows among them.

    Parameters are fitted with a free choice of tiles; then a fixed tile by rows of x is kept
    where it lowers the error, with the parameters fitted again around it.
    """
    rows = subsample(len(measured))
    some: Columns = tuple(column[rows] for column in shapes)  # type: ignore[assignment]
    target = measured[rows]
    log_target = np.log(target)
    index = layout.DTYPES.index(FORMATS[dtype].compute)
    table = np.zeros((len(layout.DTYPES), layout.PARAMETERS + layout.CORRECTIONS))
    table[:, : layout.PARAMETERS] = burst[:, : layout.PARAMETERS]

    def seconds(parameters: dict[str, float]) -> Floats:
        table.flags.writeable = True
        put_parameters(table[index], dtype, parameters)
        return price_shapes(table, dtype, *some)

    def error(parameters: dict[str, float]) -> float:
        return float(np.abs(np.log(seconds(parameters)) - log_target).mean())

    bounds = BOUNDS | (QUANTISE if FORMATS[dtype].quantised else {})
    bounds |= dict.fromkeys(TILE_CHOICES, (0.0, 0.0))
    found = fit_set(seconds, target, bounds, [START], evaluations=30)
    for name in TILE_CHOICES:
        errors = [error(found | {name: code + 1.0}) for code in range(len(layout.TILES))]
        for code in (np.argsort(errors, kind="stable")[:2] + 1).tolist():
            tried = bounds | {other: (found[other], found[other]) for other in TILE_CHOICES}
            tried[name] = (float(code), float(code))
            refitted = fit_set(seconds, target, tried, [found], evaluations=12)
            if error(refitted) < error(found) - WORTH:
                found = refitted
    bounds |= {other: (found[other], found[other]) for other in TILE_CHOICES}
    again = fit_set(seconds, target, bounds, [found, START], evaluations=60)
    return again if error(again) < error(found) else found


def best_correction(coords: Floats, residual: Floats) -> Correction:
    """Return the correction whose grid and strength do best on a third of the rows set aside."""
    aside = np.zeros(len(residual), np.bool_)
    aside[::3] = True
    best, least = (GRIDS[0], STRENGTHS[0]), np.inf
    for counts, (smooth, ridge) in product(GRIDS, STRENGTHS):
        tried = fit_correction(
            coords[~aside],
            residual[~aside],
            None,
            _axes(coords, counts),
            smooth=smooth,
            ridge=ridge,
        )
        left = residual[aside] - np.log(
            apply_correction(np.ones(int(aside.sum())), coords[aside], tried)
        )
        error = float(np.abs(left).mean())
        if error < least:
            best, least = (counts, (smooth, ridge)), error
    counts, (smooth, ridge) = best
    return fit_correction(coords, residual, None, _axes(coords, counts), smooth=smooth, ridge=ridge)


def _axes(coords: Floats, counts: tuple[int, ...]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    columns = 2.0**coords
    return tuple(
        (name, spread_nodes(columns[:, i], count))
        for i, (name, count) in enumerate(zip(AXES, counts, strict=True))
    )


def report(accelerators: Iterable[str], sets: dict[str, Any] | None = None) -> str:
    """Return the Markdown table of ``docs/kernels-gemm.md``: held-out errors of shipped sets."""
    heads = ["device", "library", "dtype", "kernel", "rows", "held-out rows"]
    heads += ["MAPE", "median", "bias", "MAPE without correction"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for accelerator in accelerators:
        for one in (sets or {}).get(accelerator, load_kernel_sets(accelerator, "gemm")):
            held = one.held_out
            lines.append(
                f"| {accelerator} | {one.library} {one.version} | {one.dtype} | {one.kernel} "
                f"| {one.rows} | {held['rows']:.0f} | {held['mape']:.1%} "
                f"| {held['median_ape']:.1%} | {held['bias']:+.1%} "
                f"| {held['mape_uncorrected']:.1%} |"
            )
    if len(lines) == 2:
        raise InputError("no accelerator given has GEMM kernel sets")
    return "\n".join(lines) + "\n"
