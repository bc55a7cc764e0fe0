"""Measured GEMM tables as the top rung of a training step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.validation.kernels.floors import check_units
from ridgeline.validation.kernels.pricing import version_order
from ridgeline.validation.kernels.rung import Key, TableRung
from ridgeline.validation.kernels.spelling import plain_dtype
from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

Counts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


class MeasuredGemm:
    """Measured GEMM of one device: what ``simulator.roofline.rungs.MeasuredKernels`` asks for.

    Parameters
    ----------
    tables
        Measured tables. Of each library and kernel the newest version counts.

    Raises
    ------
    InputError
        None of them holds GEMM.
    """

    def __init__(self, tables: Iterable[KernelTable]) -> None:
        gemm = [table for table in tables if table.kind == "gemm"]
        if not gemm:
            raise InputError("--kernel-tables: no GEMM in them; training takes GEMM from tables")
        newest: dict[tuple[str, str, str], Key] = {}
        for key in (key for table in gemm for key, _ in table.sets()):
            _, library, version, dtype, kernel = key
            place = (library, plain_dtype(dtype), kernel)
            if place not in newest or version_order(newest[place][2]) < version_order(version):
                newest[place] = key
        self._keys = tuple(newest.values())
        self._rung = TableRung(gemm)

    def gemm_seconds(self, m: Counts, n: Counts, k: Counts, dtype: str) -> Floats:
        """Return measured seconds, float64[N]; the slowest library's where several have a shape.

        NaN where none has it, nor neighbours in m that are near enough (``TableRung``).
        """
        columns = {"m": m, "n": n, "k": k, "latency_us": np.ones(len(m))}
        shapes = KernelTable(
            path="", kind="gemm", columns=columns, rows=np.arange(len(m), dtype=np.int64)
        )
        found = np.full(len(m), np.nan)
        for key in self._keys:
            if plain_dtype(key[3]) == plain_dtype(dtype):
                found = np.fmax(found, self._rung.seconds(shapes, key))
        return found


def read_measured_gemm(paths: Iterable[str | Path], accelerator: Accelerator) -> MeasuredGemm:
    """Read measured GEMM of ``accelerator`` to price training with.

    Raises
    ------
    InputError
        A file cannot be read, is not in microseconds on this device, or none holds GEMM.
    """
    tables = []
    for path in paths:
        table = read_kernel_table(path)
        check_units(table, accelerator)
        tables.append(table)
    return MeasuredGemm(tables)
