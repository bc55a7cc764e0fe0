"""Fit kernel sets to measured kernel tables. Needs SciPy (``pip install ridgeline[fit]``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import KernelSet

MODULES = {
    "gemm": "gemm",
    "prefill": "prefill",
    "decode": "decode",
    "moe": "moe",
    "collective": "collectives",
}
"""Kind of table -> module here whose ``fit_table(table, accelerator)`` fits it."""


def fit_kernels(
    tables: Iterable[Any], accelerator: Accelerator, source: str | None = None
) -> list[KernelSet]:
    """Fit every (library, version, dtype, kernel) of some measured tables.

    Parameters
    ----------
    tables
        Kernel tables of ``ridgeline.validation.kernels``, any kinds.
    accelerator
        The device that they were measured on.
    source
        Where the tables are from, as the sets then say; None for that of the shipped ones.

    Returns
    -------
    list of KernelSet
        In the order of the tables, then of their sets.

    Raises
    ------
    InputError
        No SciPy, a kind of table that nothing fits, or no row that can be fitted.
    """
    try:
        importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise InputError("fitting needs SciPy: pip install 'ridgeline[fit]'") from error
    found: list[KernelSet] = []
    for table in tables:
        if table.kind not in MODULES:
            raise InputError(f"no fit for a table of {table.kind}; {nearest(table.kind, MODULES)}")
        module = importlib.import_module(f"{__name__}.{MODULES[table.kind]}")
        sets: list[KernelSet] = module.fit_table(table, accelerator)
        found += [one if source is None else replace(one, source=source) for one in sets]
    if not found:
        raise InputError("no set of the given tables has enough rows that can be fitted")
    return found
