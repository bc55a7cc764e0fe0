"""Kernel sets: one library's kernels on one device, as fitted parameters with a compact correction.

A set belongs to one (operator, library, version, dtype, kernel). Its file,
``data/kernels/<accelerator>.<op>.json``, is written by ``ridgeline fit`` and read here, checked.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest

OPS = ("gemm", "prefill", "decode", "moe", "collective", "custom_all_reduce")
MOST_VALUES = 400
"""Largest number of values in a grid: it stays a summary, not a table."""
FORMAT = 2
"""Of the files: since 2 a correction may add grids (``more``); files without a number are of 1."""
MOST_NODES = 32
"""Largest number of nodes on one axis of a correction."""
LARGEST_LOG = 3.0
"""Largest correction, natural logarithm: a model off by more than 20 times is wrong, not rough."""

DIRECTORY = Path(__file__).parent / "data" / "kernels"

_STATISTICS = ("mape", "median_ape", "bias", "rows")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FIELDS = (
    "library",
    "version",
    "dtype",
    "kernel",
    "parameters",
    "correction",
    "rows",
    "held_out",
    "split",
    "date",
    "source",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What is left of the logarithm of measured over modelled time: a coarse grid over log2 axes.

    Multilinear between nodes; beyond the first and last node of an axis it fades to nothing over
    one octave.
    """

    axes: tuple[tuple[str, tuple[float, ...]], ...]
    """Name and increasing log2 nodes of each axis."""
    values: tuple[float, ...]
    """log(measured/model) at the nodes, last axis fastest."""
    more: tuple[Correction, ...] = ()
    """Finer grids over fewer axes that are added to this one; they add none themselves."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of nodes by axis."""
        return tuple(len(nodes) for _, nodes in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """Fitted parameters of one library's kernel on one device, with how well they do."""

    op: str
    library: str
    version: str
    dtype: str
    kernel: str
    parameters: dict[str, float]
    """By name; a name ends in its unit unless it is a ratio (``launch_us``, ``step_ns``)."""
    correction: Correction | None
    rows: int
    """Rows that were fitted, held-out ones apart."""
    held_out: dict[str, float]
    """On rows that no fit saw: ``mape``, ``median_ape``, ``bias`` (ratios), ``rows``; and
    ``mape_uncorrected``, where there is a correction."""
    split: str
    """How rows were held out."""
    date: str
    """ISO date of the fit."""
    source: str
    """Citation of the measured rows."""

    @property
    def name(self) -> str:
        """``library version dtype kernel``."""
        return f"{self.library} {self.version} {self.dtype} {self.kernel}"


@dataclass(slots=True)
class _Checker:
    """One file being read: the mistakes found so far."""

    file: str
    problems: list[str] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        self.problems.append(f"{self.file}: {where}: {what}")

    def finish(self) -> None:
        if self.problems:
            raise InputError(self.problems)

    def text(self, value: object, where: str) -> str:
        if isinstance(value, str) and value.strip():
            return value
        self.problem(where, f"must be text that says something, found {value!r}")
        return ""

    def number(self, value: object, where: str, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.problem(where, f"must be a number, found {value!r}")
        elif not (math.isfinite(value) and low <= value <= high):
            self.problem(where, f"must be finite, {low:g} to {high:g}, found {value!r}")
        else:
            return float(value)
        return low


def kernel_file(accelerator: str, op: str) -> Path:
    """Return where the shipped sets of an accelerator and operator are; it need not exist."""
    assert op in OPS, op
    return DIRECTORY / f"{accelerator}.{op}.json"


def load_kernel_sets(accelerator: str, op: str | None = None) -> tuple[KernelSet, ...]:
    """Return the shipped kernel sets of an accelerator, empty when none was measured.

    Parameters
    ----------
    accelerator
        Canonical name of a profile, for example ``h100-sxm``.
    op
        One of ``OPS``, or all of them.

    Raises
    ------
    InputError
        A file that breaks a rule of the format: every mistake, one line each.
    """
    found: list[KernelSet] = []
    for one in OPS if op is None else (op,):
        found += _load(kernel_file(accelerator, one))
    return tuple(found)


@lru_cache(maxsize=256)
def _load(path: Path) -> tuple[KernelSet, ...]:
    return read_kernel_sets(path) if path.exists() else ()


def read_kernel_sets(path: Path) -> tuple[KernelSet, ...]:
    """Read one file of kernel sets and refuse anything wrong in it, with where and why.

    Raises
    ------
    InputError
        Not JSON, keys unknown or missing, numbers that are not finite or out of range, a set
        without a source, two sets of one name.
    """
    check = _Checker(path.name)
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("sets"), list):
        raise InputError(f'{path}: must be {{"op": ..., "sets": [...]}}')
    if data.get("format", 1) not in range(1, FORMAT + 1):
        found = data["format"]
        raise InputError(
            f"{path}: format {found!r} is not known; this version reads up to {FORMAT}"
        )
    op = data.get("op")
    if op not in OPS:
        raise InputError(f"{path}: op {op!r} is not known; {nearest(str(op), OPS)}")
    sets = [_set(check, entry, op, f"sets[{i}]") for i, entry in enumerate(data["sets"])]
    names = [one.name for one in sets]
    for name in sorted({name for name in names if names.count(name) > 1}):
        check.problem(name, "appears more than once")
    check.finish()
    return tuple(sets)


def _set(check: _Checker, entry: object, op: str, where: str) -> KernelSet:
    table: dict[str, Any] = entry if isinstance(entry, dict) else {}
    for key in table:
        if key not in _FIELDS:
            check.problem(f"{where}.{key}", f"unknown key; {nearest(key, _FIELDS)}")
    parameters = table.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        check.problem(f"{where}.parameters", "must be a table of named numbers")
        parameters = {}
    for name in parameters:
        if not _NAME.fullmatch(name):
            check.problem(f"{where}.parameters.{name}", "must be a lower-case name with its unit")
    held_out = table.get("held_out")
    if not isinstance(held_out, dict) or not all(key in held_out for key in _STATISTICS):
        check.problem(f"{where}.held_out", f"must have {', '.join(_STATISTICS)}")
        held_out = {}
    texts = {
        key: check.text(table.get(key), f"{where}.{key}")
        for key in ("library", "version", "dtype", "kernel", "split", "date", "source")
    }
    correction = table.get("correction")
    return KernelSet(
        op=op,
        parameters={
            name: check.number(value, f"{where}.parameters.{name}", -1e9, 1e9)
            for name, value in parameters.items()
        },
        correction=(
            None if correction is None else _correction(check, correction, f"{where}.correction")
        ),
        rows=int(check.number(table.get("rows"), f"{where}.rows", 1, 1e9)),
        held_out={
            str(key): check.number(value, f"{where}.held_out.{key}", -1e9, 1e9)
            for key, value in held_out.items()
        },
        **texts,
    )


def _correction(check: _Checker, entry: object, where: str) -> Correction | None:
    axes = entry.get("axes") if isinstance(entry, dict) else None
    values = entry.get("values") if isinstance(entry, dict) else None
    if not isinstance(axes, list) or not axes or not isinstance(values, list):
        check.problem(where, 'must be {"axes": [[NAME, [NODES]], ...], "values": [...]}')
        return None
    read: list[tuple[str, tuple[float, ...]]] = []
    for axis in axes:
        if not (isinstance(axis, list) and len(axis) == 2 and isinstance(axis[1], list)):
            check.problem(where, f"axis must be [NAME, [NODES]], found {axis!r:.60}")
            return None
        name = check.text(axis[0], f"{where}.axes")
        nodes = tuple(check.number(x, f"{where}.axes.{name}", -64, 64) for x in axis[1])
        rising = all(low < high for low, high in itertools.pairwise(nodes))
        if not 1 <= len(nodes) <= MOST_NODES or not rising:
            check.problem(f"{where}.axes.{name}", f"needs 1 to {MOST_NODES} increasing nodes")
        read.append((name, nodes))
    count = math.prod(len(nodes) for _, nodes in read)
    if count != len(values) or count > MOST_VALUES:
        rule = f"needs {count} values (at most {MOST_VALUES}), found {len(values)}"
        check.problem(f"{where}.values", rule)
    numbers = [check.number(v, f"{where}.values", -LARGEST_LOG, LARGEST_LOG) for v in values]
    more = entry.get("more", []) if isinstance(entry, dict) else []
    if not isinstance(more, list) or any(isinstance(g, dict) and "more" in g for g in more):
        check.problem(f"{where}.more", "must be a list of grids that add none themselves")
        more = []
    added = (_correction(check, grid, f"{where}.more[{i}]") for i, grid in enumerate(more))
    return Correction(
        axes=tuple(read),
        values=tuple(numbers),
        more=tuple(grid for grid in added if grid is not None),
    )


def save_kernel_sets(path: Path, sets: Iterable[KernelSet], notes: Iterable[str] = ()) -> None:
    """Write sets of one operator to ``path``, which then reads back equal.

    Parameters
    ----------
    path
        File to write; its directory exists.
    sets
        Sets of one operator.
    notes
        Lines about rows that were left out (host-bound ones, too few), kept in the file.
    """
    sets = tuple(sets)
    ops = {one.op for one in sets}
    if len(ops) != 1:
        raise InputError(f"{path}: a file holds the sets of one operator, found {sorted(ops)}")
    top = {"op": ops.pop(), "format": FORMAT, "notes": list(notes)}
    head = json.dumps(top, ensure_ascii=False)
    lines = [json.dumps(_plain(one), ensure_ascii=False) for one in sets]
    text = head[:-1] + ', "sets": [\n' + ",\n".join(lines) + "\n]}\n"
    path.write_text(text, encoding="utf-8")


def _plain(one: KernelSet) -> dict[str, object]:
    """Return the fields of a set as JSON holds them."""
    plain: dict[str, object] = {key: getattr(one, key) for key in _FIELDS}
    if one.correction is not None:
        plain["correction"] = _plain_grid(one.correction)
    return plain


def _plain_grid(grid: Correction) -> dict[str, object]:
    plain: dict[str, object] = {
        "axes": [[name, list(nodes)] for name, nodes in grid.axes],
        "values": list(grid.values),
    }
    if grid.more:
        plain["more"] = [_plain_grid(one) for one in grid.more]
    return plain
