"""Predicted against measured kernels, row by row and in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import KernelSet
from ridgeline.validation.kernels.floors import check_units, floors, host_bound
from ridgeline.validation.kernels.pricing import Prediction, predict_table
from ridgeline.validation.kernels.rung import read_rung
from ridgeline.validation.kernels.table import KernelTable, read_kernel_table

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
HOST, LAUNCH, MEMORY, COMPUTE = "host-bound", "launch-bound", "memory-bound", "compute-bound"
REGIMES = (MEMORY, COMPUTE, LAUNCH, HOST)
LEAST_SHARE = 0.25
"""A kernel whose larger floor is under this share of its predicted time is launch-bound."""
WORST = 10

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One measured kernel beside its prediction."""

    row: int
    """From 0 in the file, the header not counted."""
    op: str
    library: str
    version: str
    dtype: str
    kernel: str
    measured_us: float
    predicted_us: float | None
    regime: str
    """memory-bound, compute-bound, launch-bound or host-bound; empty when skipped."""
    rung: str
    """table, corrected, fitted or universal; empty when skipped."""
    status: str
    """ok or skipped."""
    reason: str
    """Why skipped; for ok what stood in, empty for nothing."""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_us is None else self.predicted_us / self.measured_us - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelGroup:
    """Errors of a group of rows; the statistics are None when no row of it was predicted."""

    name: str
    count: int
    """Rows predicted."""
    skipped: int
    mape: float | None
    """Mean of abs(error)."""
    median_ape: float | None
    bias: float | None
    """Mean of error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """All rows; summaries, in which host-bound rows count only in their own regime."""

    path: str
    kind: str
    accelerator: str
    rows: tuple[KernelRow, ...]
    overall: KernelGroup
    by_regime: tuple[KernelGroup, ...]
    by_library: tuple[KernelGroup, ...]
    """By ``library version``."""
    by_dtype: tuple[KernelGroup, ...]
    by_set: tuple[KernelGroup, ...]
    """By ``op library version dtype kernel``."""
    by_rung: tuple[KernelGroup, ...]
    worst: tuple[KernelRow, ...]
    """Largest log(predicted/measured) first."""
    filtered: tuple[tuple[int, str], ...]
    """(row, reason) of rows that measure something else."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/kernels.md``)."""

        def table(groups: Iterable[KernelGroup]) -> dict[str, Any]:
            return {group.name: _statistics(group) for group in groups}

        return {
            "schema": "ridgeline.validate.kernels",
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "kind": self.kind,
            "accelerator": self.accelerator,
            "rows": [asdict(row) for row in self.rows],
            "summary": {
                "all": _statistics(self.overall),
                "regime": table(self.by_regime),
                "library": table(self.by_library),
                "dtype": table(self.by_dtype),
                "set": table(self.by_set),
                "rung": table(self.by_rung),
                "worst": [row.row for row in self.worst],
            },
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a data frame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def _statistics(group: KernelGroup) -> dict[str, Any]:
    plain = asdict(group)
    del plain["name"]
    return plain


def validate_kernels(
    path: str | Path,
    accelerator: Accelerator,
    *,
    kernel_tables: Iterable[str | Path] = (),
    sets: Iterable[KernelSet] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KernelReport:
    """Predict every kernel of a measured table and compare; burst clock, as tables measure.

    Parameters
    ----------
    path
        Table of any kind (``docs/kernels.md``).
    accelerator
        The device that it was measured on.
    kernel_tables
        Other measured tables of the same device, the top rung. Never ``path`` itself.
    sets
        Fitted kernel sets; those that ship for the accelerator by default.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    InputError
        A table cannot be read, is not in microseconds, or ``kernel_tables`` holds its rows.
    """
    table = read_kernel_table(path)
    check_units(table, accelerator)
    paths = tuple(kernel_tables)
    rung = read_rung(paths, accelerator, validated=table) if paths else None
    prediction = predict_table(table, accelerator, rung=rung, sets=sets, progress=progress)
    regimes = find_regimes(table, accelerator, prediction.seconds)
    return make_report(table, accelerator, prediction, regimes)


def find_regimes(table: KernelTable, accelerator: Accelerator, seconds: Floats) -> NDArray[Any]:
    """Return what bounds every row.

    host-bound where the measured set says so (``host_bound``); launch-bound where the larger
    datasheet floor is under a quarter of the predicted time, so that launch, latency and the tail
    of waves rule; else memory-bound or compute-bound by the larger floor. Bytes of collectives are
    those on the links.
    """
    flop_s, byte_s = floors(table, accelerator)
    floor = np.fmax(flop_s, byte_s)
    found = np.where(byte_s >= np.nan_to_num(flop_s), MEMORY, COMPUTE).astype(object)
    found[floor < LEAST_SHARE * np.nan_to_num(seconds)] = LAUNCH
    found[host_bound(table, floor)] = HOST
    found[~np.isfinite(seconds)] = ""
    return found


def make_report(
    table: KernelTable, accelerator: Accelerator, prediction: Prediction, regimes: NDArray[Any]
) -> KernelReport:
    """Put measured and predicted side by side, and summarise."""
    measured = table.latency_us.tolist()
    predicted = (prediction.seconds * 1e6).tolist()
    texts = [
        column.tolist()
        for column in (table.ops, table["backend"], table["version"], table.dtypes, table["kernel"])
    ]
    rows = tuple(
        KernelRow(
            row=int(number),
            op=op,
            library=library,
            version=version,
            dtype=dtype,
            kernel=kernel,
            measured_us=took,
            predicted_us=takes if takes == takes else None,
            regime=regime,
            rung=rung,
            status="ok" if takes == takes else "skipped",
            reason=reason,
        )
        for number, op, library, version, dtype, kernel, took, takes, regime, rung, reason in zip(
            table.rows.tolist(),
            *texts,
            measured,
            predicted,
            regimes.tolist(),
            prediction.rung.tolist(),
            prediction.reason.tolist(),
            strict=True,
        )
    )
    kernels = tuple(row for row in rows if row.regime != HOST)
    priced = [row for row in kernels if row.predicted_us is not None]
    priced.sort(key=lambda row: -abs(np.log((row.predicted_us or 1.0) / row.measured_us)))
    return KernelReport(
        path=table.path,
        kind=table.kind,
        accelerator=accelerator.name,
        rows=rows,
        overall=summarise("all", kernels),
        by_regime=_groups([row for row in rows if row.regime], lambda row: row.regime, REGIMES),
        by_library=_groups(kernels, lambda row: f"{row.library} {row.version}"),
        by_dtype=_groups(kernels, lambda row: row.dtype),
        by_set=_groups(
            kernels, lambda row: f"{row.op} {row.library} {row.version} {row.dtype} {row.kernel}"
        ),
        by_rung=_groups([row for row in kernels if row.rung], lambda row: row.rung),
        worst=tuple(priced[:WORST]),
        filtered=table.filtered,
    )


def _groups(
    rows: Iterable[KernelRow], key: Callable[[KernelRow], str], order: tuple[str, ...] = ()
) -> tuple[KernelGroup, ...]:
    members: dict[str, list[KernelRow]] = {}
    for row in rows:
        members.setdefault(key(row), []).append(row)
    names = [name for name in order if name in members] if order else sorted(members)
    return tuple(summarise(name, members[name]) for name in names)


def summarise(name: str, rows: Iterable[KernelRow]) -> KernelGroup:
    """Return the errors of ``rows`` together."""
    every = tuple(rows)
    errors = np.array([row.error for row in every if row.error is not None])
    if not len(errors):
        return KernelGroup(
            name=name, count=0, skipped=len(every), mape=None, median_ape=None, bias=None
        )
    return KernelGroup(
        name=name,
        count=len(errors),
        skipped=len(every) - len(errors),
        mape=float(np.abs(errors).mean()),
        median_ape=float(np.median(np.abs(errors))),
        bias=float(errors.mean()),
    )
