"""Tables of GEMM in other columns: layers of a model on a TPU, a profiled training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.validation.kernels.table import KernelTable

Columns = Mapping[str, NDArray[Any]]


def from_layers(path: str, columns: Columns) -> KernelTable:
    """Return the GEMM of a table ``layer, tokens, k, n, us``, suspect rows left out.

    A row is suspect, whatever its layer, when it breaks what a GEMM that reads its weights from
    HBM must do:

    - its weights alone move faster than its HBM can (``WEIGHTS_RESIDENT``): they stayed on the
      chip from the run before;
    - another row of the same layer with more tokens took less than 0.8 times as long: something
      else was measured with it.
    """
    m, n, k = columns["tokens"], columns["n"], columns["k"]
    latency = columns["latency_us"]
    reasons: dict[int, str] = {}
    rate = 2.0 * n.astype(np.float64) * k / (latency * 1e-6)
    for row in np.flatnonzero(rate > WEIGHTS_RESIDENT):
        reasons[int(row)] = (
            f"weights alone imply {rate[row] / 1e12:.1f} TB/s: they stayed in on-chip memory"
        )
    from_hbm = rate <= WEIGHTS_RESIDENT
    for row in np.flatnonzero(from_hbm):
        same = (columns["layer"] == columns["layer"][row]) & (n == n[row]) & (k == k[row])
        larger = same & from_hbm & (m > m[row]) & (latency < 0.8 * latency[row])
        if larger.any():
            other = int(np.flatnonzero(larger)[0])
            reasons[int(row)] = (
                f"slower than {m[other]} tokens of the same layer ({latency[other]:g} us)"
            )
    keep = np.array([row for row in range(len(m)) if row not in reasons], np.int64)
    count = len(keep)
    return KernelTable(
        path=path,
        kind="gemm",
        columns={
            "m": m[keep],
            "n": n[keep],
            "k": k[keep],
            "dtype": np.full(count, "bfloat16"),
            "latency_us": latency[keep],
            "backend": np.full(count, "xla"),
            "version": np.full(count, "unknown"),
            "kernel": columns["layer"][keep],
        },
        rows=keep,
        filtered=tuple(sorted(reasons.items())),
    )


WEIGHTS_RESIDENT = 1.7e12
"""Bytes/s. A TPU v6e moves at most 1.64e12 from HBM (Google Cloud, TPU v6e documentation)."""


def from_trace(path: str, columns: Columns) -> KernelTable:
    """Return the GEMM of a table ``phase, op, M_rows, N, K, precision, mean_us``.

    ``M_rows`` with several figures (``a|b|c``) is that of grouped GEMM, one figure a layer; their
    mean stands for them. Quantisation is a kernel of its own in a step: none is priced here.
    ``backend`` is the pass: ``forward``, ``dgrad`` or ``wgrad``.
    """
    keep, rows, reasons = [], [], []
    for row, text in enumerate(columns["M_rows"]):
        try:
            figures = [int(part) for part in str(text).split("|")]
        except ValueError:
            raise InputError(
                f"{path}: row {row}: M_rows = {str(text)[:40]!r}: whole numbers joined by |"
            ) from None
        if min(figures) < 1:
            reasons.append((row, f"{columns['op'][row]}: not a GEMM, the table has no shape of it"))
            continue
        keep.append(row)
        rows.append(round(sum(figures) / len(figures)))
    kept = np.array(keep, np.int64)
    ops = columns["op"][kept]
    precision = columns["precision"][kept]
    return KernelTable(
        path=path,
        kind="gemm",
        columns={
            "m": np.array(rows, np.int64),
            "n": columns["N"][kept],
            "k": columns["K"][kept],
            "groups": np.array([4 if "grouped" in str(op) else 1 for op in ops], np.int64),
            "quantised": np.zeros(len(kept), np.int64),
            "dtype": np.array(
                ["fp8_block" if str(p).startswith("fp8") else "bfloat16" for p in precision]
            ),
            "latency_us": columns["latency_us"][kept],
            "backend": np.array([_pass(str(op)) for op in ops]),
            "version": np.full(len(kept), "trace"),
            "kernel": ops,
        },
        rows=kept,
        filtered=tuple(reasons),
    )


def _pass(op: str) -> str:
    if op.endswith("wgrad") or "wgrad#" in op:
        return "wgrad"
    return "dgrad" if "dgrad" in op else "forward"
