"""What the shipped attention sets get right: tables for the docs, and where the errors lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import KernelSet, load_kernel_sets
from ridgeline.simulator.roofline.decode.pricing import predict_decode
from ridgeline.simulator.roofline.prefill import predict_prefill
from ridgeline.validation.fitting.fit import held_out_rows

if TYPE_CHECKING:
    from ridgeline.hardware.accelerator import Accelerator
    from ridgeline.validation.kernels.table import KernelTable

Floats = NDArray[np.float64]
DEVICES = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm")
TARGETS = {"prefill": 0.07, "decode": 0.08}
"""Mean absolute relative error that the median set must reach; no set may have twice that."""

_SHAPES = {
    "prefill": ("batch", "seq_len", "heads", "kv_heads", "head_dim", "window"),
    "decode": ("batch", "kv_len", "heads", "kv_heads", "head_dim", "window"),
}
_CELL = 17
_COLOURS = ((0.03, "#e8f1fa"), (0.06, "#b7d3ee"), (0.1, "#7fb0de"), (0.15, "#3f7fbf"))
_WORST = "#1d3f6e"


def report(op: str, devices: Sequence[str] = DEVICES) -> str:
    """Return the Markdown table of held-out errors of the shipped sets of ``op``.

    One row by device, library, precision and kernel; then the median and the worst of the sets
    against the target.
    """
    lines = [
        (
            "| device | library | products/cache | kernel | rows | held out | MAPE | median | bias "
            "| MAPE, model alone |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    errors = []
    for device in devices:
        for one in load_kernel_sets(device, op):
            judged = one.held_out
            errors.append(judged["mape"])
            percents = (
                f"{judged['mape']:.1%} | {judged['median_ape']:.1%} | {judged['bias']:+.1%} | "
                f"{judged['mape_uncorrected']:.1%}"
            )
            lines.append(
                f"| {device} | {one.library} {one.version} | {one.dtype} | {one.kernel} | "
                f"{one.rows} | {judged['rows']:.0f} | {percents} |"
            )
    target = TARGETS[op]
    lines += [
        "",
        (
            f"{len(errors)} sets: median MAPE {np.median(errors):.1%} (target {target:.0%}), "
            f"worst {max(errors):.1%} (limit {2 * target:.0%})."
        ),
    ]
    return "\n".join(lines) + "\n"


def predict_table(table: KernelTable, one: KernelSet, accelerator: Accelerator) -> Floats:
    """Return the seconds of every row of a prefill or decode table by one set, float64[N]."""
    predict = predict_prefill if one.op == "prefill" else predict_decode
    shape = [table[name] for name in _SHAPES[one.op]]
    return predict(*shape, kernel_set=one, accelerator=accelerator)


def error_map(table: KernelTable, accelerator: Accelerator) -> tuple[Floats, Floats]:
    """Return the held-out error by shape, over the shipped sets of a prefill or decode table.

    Returns
    -------
    float64[R, S], float64[R, S]
        Mean absolute relative error of the model alone and corrected; NaN without rows. R: whole
        log2 of batch times query heads (prefill) or KV heads (decode), S: of the sequence length.
    """
    op = table.kind
    heads = table["heads"] if op == "prefill" else table["kv_heads"]
    rows = np.rint(np.log2(table["batch"] * heads)).astype(int)
    lengths = np.rint(np.log2(table[_SHAPES[op][1]])).astype(int)
    held_out = held_out_rows(*(table[name] for name in _SHAPES[op]))
    sums = np.zeros((3, rows.max() + 1, lengths.max() + 1))
    shipped = load_kernel_sets(accelerator.name, op)
    sets = {(one.op, one.library, one.version, one.dtype, one.kernel): one for one in shipped}
    for key, members in table.sets():
        one = sets.get(key)
        if one is None:
            continue
        judged = members[held_out[members]]
        part = table.take(judged)
        bare = replace(one, correction=None)
        measured = part.latency_us * 1e-6
        place = (rows[judged], lengths[judged])
        for total, chosen in ((sums[0], bare), (sums[1], one)):
            error = np.abs(predict_table(part, chosen, accelerator) / measured - 1.0)
            np.add.at(total, place, error)
        np.add.at(sums[2], place, 1.0)
    with np.errstate(invalid="ignore"):
        return sums[0] / sums[2], sums[1] / sums[2]


def draw_error_map(op: str, device: str, bare: Floats, corrected: Floats) -> str:
    """Return an SVG of two error maps side by side: the model alone, and corrected."""
    count, length = bare.shape
    width = 70 + 2 * (length * _CELL + 40)
    height = 95 + count * _CELL
    what = "batch x heads" if op == "prefill" else "batch x KV heads"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="10">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="14" font-size="12">{op}, {device}: held-out mean error by shape</text>',
    ]
    for panel, (title, grid) in enumerate((("model alone", bare), ("corrected", corrected))):
        left = 50 + panel * (length * _CELL + 40)
        parts.append(f'<text x="{left}" y="32">{title}</text>')
        for i in range(count):
            top = 38 + (count - 1 - i) * _CELL
            if panel == 0 and i % 2 == 0:
                parts.append(f'<text x="{left - 6}" y="{top + 12}" text-anchor="end">{i}</text>')
            parts += [
                f'<rect x="{left + j * _CELL}" y="{top}" width="{_CELL - 1}" '
                f'height="{_CELL - 1}" fill="{_colour(float(grid[i, j]))}">'
                f"<title>{grid[i, j]:.1%}</title></rect>"
                for j in range(length)
                if np.isfinite(grid[i, j])
            ]
        below = 38 + count * _CELL + 12
        for j in range(0, length, 2):
            middle = left + j * _CELL + _CELL // 2
            parts.append(f'<text x="{middle}" y="{below}" text-anchor="middle">{j}</text>')
    below = 38 + count * _CELL + 26
    parts.append(f'<text x="10" y="{below}">across: log2 length; up: log2 {what}</text>')
    x = 10
    for limit, colour in (*_COLOURS, (np.inf, _WORST)):
        label = f"to {limit:.0%}" if np.isfinite(limit) else "more"
        parts.append(f'<rect x="{x}" y="{below + 8}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{below + 18}">{label}</text>')
        x += 62
    return "\n".join([*parts, "</svg>"]) + "\n"


def _colour(error: float) -> str:
    return next((colour for limit, colour in _COLOURS if error <= limit), _WORST)
