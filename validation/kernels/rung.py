"""A user's own measured tables as the top rung: the same shape, or between its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.validation.kernels.floors import check_units
from ridgeline.validation.kernels.spelling import plain_dtype
from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

Floats: TypeAlias = NDArray[np.float64]
Key: TypeAlias = tuple[str, str, str, str, str]

LINES = {
    "gemm": (("n", "k"), "m"),
    "prefill": (("batch", "heads", "kv_heads", "head_dim", "window"), "seq_len"),
    "decode": (("batch", "heads", "kv_heads", "head_dim", "window"), "kv_len"),
    "moe": (("hidden", "ffn", "top_k", "experts", "tp", "ep", "distribution"), "tokens"),
    "collective": (("num_gpus", "dtype"), "bytes"),
}
"""Kind -> columns that must agree, and the one along which latencies are interpolated."""
WIDEST = 4.0
"""Neighbours further apart than this ratio are not interpolated between: kernels change there."""


class TableRung:
    """Measured kernels to price from.

    Parameters
    ----------
    tables
        Measured tables of any kinds; a shape measured more than once counts with its median.
    """

    def __init__(self, tables: Iterable[KernelTable]) -> None:
        samples: dict[tuple[object, ...], dict[int, list[float]]] = {}
        for table in tables:
            columns, along = LINES[table.kind]
            for key, rows in table.sets():
                part = table.take(rows)
                for line, where, latency in zip(
                    _lines(part, columns), part[along].tolist(), part.latency_us, strict=True
                ):
                    points = samples.setdefault((*_plain(key), *line), {})
                    points.setdefault(where, []).append(float(latency))
        self._lines: dict[tuple[object, ...], tuple[Floats, Floats]] = {
            line: (
                np.log([float(where) for where in sorted(points)]),
                np.log([np.median(points[where]) * 1e-6 for where in sorted(points)]),
            )
            for line, points in samples.items()
        }

    def seconds(self, table: KernelTable, key: Key) -> Floats:
        """Return the seconds of rows of one set, NaN where no measured neighbours enclose them.

        Latency is a power of the size between two neighbours: linear in both logarithms.

        Parameters
        ----------
        table
            Shapes; their latencies are not looked at.
        key
            (op, library, version, dtype, kernel) that all rows have.
        """
        columns, along = LINES[table.kind]
        out = np.full(len(table), np.nan)
        sizes = np.log(table[along].astype(np.float64))
        for index, line in enumerate(_lines(table, columns)):
            found = self._lines.get((*_plain(key), *line))
            if found is None:
                continue
            where, latency = found
            right = int(np.searchsorted(where, sizes[index]))
            if right < len(where) and where[right] == sizes[index]:
                out[index] = np.exp(latency[right])
            elif 0 < right < len(where) and where[right] - where[right - 1] <= np.log(WIDEST):
                pair = slice(right - 1, right + 1)
                out[index] = np.exp(np.interp(sizes[index], where[pair], latency[pair]))
        return out


def read_rung(
    paths: Iterable[str | Path], accelerator: Accelerator, *, validated: KernelTable | None = None
) -> TableRung:
    """Read measured tables to price from.

    Parameters
    ----------
    paths
        Files (``read_kernel_table``).
    accelerator
        The device they were measured on; units are checked against its datasheet.
    validated
        The table that is being validated; prices must not come from it.

    Raises
    ------
    InputError
        A file cannot be read, or holds the rows of ``validated``.
    """
    tables = []
    for path in paths:
        table = read_kernel_table(path)
        check_units(table, accelerator)
        if validated is not None and _same(table, validated):
            raise InputError(
                f"--kernel-tables {path}: holds the rows being validated; a table says nothing "
                "about itself: give another"
            )
        tables.append(table)
    return TableRung(tables)


def _same(one: KernelTable, other: KernelTable) -> bool:
    if one.kind != other.kind:
        return False
    if Path(one.path).resolve() == Path(other.path).resolve():
        return True
    columns, along = LINES[one.kind]
    rows: list[set[tuple[object, ...]]] = []
    for table in (one, other):
        names = (*columns, along, "backend", "version", "kernel", "latency_us")
        rows.append(set(zip(*(table[name].tolist() for name in names), strict=True)))
    # A copy, a part or a shuffle of the table: latencies measured anew differ in their last digits.
    return len(rows[0] & rows[1]) > 0.5 * min(len(rows[0]), len(rows[1]))


def _plain(key: Key) -> Key:
    op, library, version, dtype, kernel = key
    return op, library, version, plain_dtype(dtype), kernel


def _lines(table: KernelTable, columns: tuple[str, ...]) -> list[tuple[object, ...]]:
    return list(zip(*(table[column].tolist() for column in columns), strict=True))
