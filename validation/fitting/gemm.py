"""Fit GEMM kernel sets: parameters of the tile model, the library's tiles, the correction."""

from __future__ import annotations

import math
import zlib
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
from ridgeline.simulator.roofline.correction import fit_grids, log_correction, spread_nodes
from ridgeline.simulator.roofline.device import device_parameters
from ridgeline.simulator.roofline.gemm import predict_gemm, price_shapes, set_table
from ridgeline.simulator.roofline.gemm_parameters import (
    AXES,
    FORMATS,
    coordinates,
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

Grid = tuple[tuple[str, int | tuple[int, ...]], ...]
"""Coordinates of a grid with their nodes: so many evenly spread, or at given values."""
Strength = tuple[float, float]
Choice = tuple[Grid, tuple[Grid, ...], Strength]

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
STEPS = (16, 64, 65, 128, 129, 256, 257, 512, 513, 2048)
"""Rows of x beside which libraries change their kernel or begin another row of tiles."""
MORE_STEPS: tuple[int, ...] = (2, 4, 8, 16, 17, 32, 64, 65, 96, 128, 129, 192, 256, 257, 512, 513)
MORE_STEPS += (1024, 1025, 2048, 2049, 4096, 4097)
BASES: tuple[Grid, ...] = (
    (("m", 8), ("n", 7), ("k", 7)),
    (("m", 12), ("n", 6), ("k", 5)),
    (("m", STEPS), ("n", 6), ("k", 5)),
)
_WAVES: Grid = (("tiles", 16), ("k", 10))
_EDGES: Grid = (("last_rows", (16, 64)), ("tiles", 16))
_FILL: Grid = (("fill", 8), ("k", 10))
_THRESHOLDS: Grid = (("m", MORE_STEPS), ("n", 8))
ADDED: tuple[tuple[Grid, ...], ...] = (
    (),
    (_WAVES,),
    (_EDGES,),
    (_EDGES, _WAVES),
    (_EDGES, _THRESHOLDS),
    (_WAVES, _FILL),
)
STRENGTHS: tuple[Strength, ...] = ((0.02, 0.02), (0.1, 0.05), (0.3, 0.15))
"""Grids, what is added to them, and (smooth, ridge): the best on rows set aside are taken."""
WORTH = 3e-4
"""A fixed tile must lower the mean log error by this."""

Ints = NDArray[np.int64]
Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def fit_table(
    table: KernelTable, accelerator: Accelerator, source: str = SOURCE
) -> list[KernelSet]:
    """Fit the newest version of every library, dtype and kernel of a GEMM table.

    Sets with too few rows and host-bound ones are left out (``left_out`` says which and why).
    ``source`` says where the table is from.

    Raises
    ------
    InputError
        A dtype that has no GEMM model.
    """
    found = []
    for key, rows in newest(table):
        part = table.take(rows)
        if not _why_left_out(key, part, accelerator):
            found.append(_fit_rows(key, part, accelerator, source))
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
    key: tuple[str, str, str, str, str], part: KernelTable, accelerator: Accelerator, source: str
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
        source=source,
    )
    plain = set_table(burst, draft)
    residual = np.log(measured[~held] / price_shapes(plain, dtype, *train))
    correction = best_correction(*train, residual, float(burst[0, layout.CORES]))
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


def best_correction(m: Ints, n: Ints, k: Ints, residual: Floats, cores: float) -> Correction:
    """Return the correction whose grids and strength do best on a third of the rows set aside.

    First the grid over m, n, k with each strength, then what is added to it, then the strength
    again: all chosen on rows that may be fitted, and fitted on all of those.
    """
    coords = coordinates(m, n, k, cores)
    digits = zip(m.tolist(), n.tolist(), k.tolist(), strict=True)
    keys = [zlib.crc32(f"{a},{b},{c}".encode()) // 10 for a, b, c in digits]
    aside = np.array(keys) % 3 == 0
    every = np.ones(len(residual), np.bool_)
    seen = {}

    def fit(choice: Choice, rows: NDArray[np.bool_]) -> Correction:
        base, added, (smooth, ridge) = choice
        axes = [_axes(coords, grid) for grid in (base, *added)]
        picked = [np.stack([coords[name][rows] for name, _ in grid], axis=1) for grid in axes]
        return fit_grids(picked, residual[rows], None, axes, smooth=smooth, ridge=ridge)

    def error(choice: Choice) -> float:
        if choice not in seen:
            total = log_sum({name: x[aside] for name, x in coords.items()}, fit(choice, ~aside))
            seen[choice] = float(np.abs(np.expm1(total - residual[aside])).mean())
        return seen[choice]

    best: Choice = min(
        ((base, ADDED[0], way) for base, way in product(BASES, STRENGTHS)), key=error
    )
    best = min(((best[0], added, best[2]) for added in ADDED), key=error)
    best = min(((base, best[1], best[2]) for base in BASES), key=error)
    best = min(((best[0], best[1], way) for way in STRENGTHS), key=error)
    return fit(best, every)


def log_sum(coords: dict[str, Floats], correction: Correction) -> Floats:
    """Return the sum of a correction's grids at named log2 coordinates, float64[N]."""
    total = np.zeros(len(coords["m"]))
    for grid in (replace(correction, more=()), *correction.more):
        picked = np.stack([coords[name] for name, _ in grid.axes], axis=1)
        total += log_correction(picked, grid)
    return total


def _axes(coords: dict[str, Floats], grid: Grid) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return tuple((name, _nodes(coords[name], nodes)) for name, nodes in grid)


def _nodes(x: Floats, wanted: int | tuple[int, ...]) -> tuple[float, ...]:
    """Return nodes from the smallest to the largest value: so many evenly, or at given values."""
    if isinstance(wanted, int):
        even = spread_nodes(2.0**x, wanted)
        return even if len(even) > 1 else (even[0], even[0] + 1.0)
    low, high = round(float(x.min()), 4), round(float(x.max()), 4)
    inside = (round(math.log2(value), 4) for value in wanted)
    return (low, *(node for node in inside if low < node < high), max(high, low + 1.0))


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
