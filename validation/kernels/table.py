"""Read tables of measured kernels: CSV, plain or gzipped, checked column by column."""

from __future__ import annotations

import csv
import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.validation.kernels.columns import (
    MOST_COUNT,
    MOST_LATENCY_US,
    OTHER_KINDS,
    Kind,
    tell_kind,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES = 2 * 2**30
"""Larger files are refused, also when only what they unpack to is larger."""
MOST_PROBLEMS = 20
LEAST_LATENCY_US = 0.2
"""No kernel starts and ends in less: an empty one takes about 1 us in a replayed CUDA graph."""
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_LFS = b"version https://git-lfs"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTable:
    """Measured kernels of one kind, N rows."""

    path: str
    kind: str
    """gemm, prefill, decode, moe or collective (custom all-reduce included)."""
    columns: Mapping[str, NDArray[Any]]
    """Column -> array[N]: counts int64, ``latency_us`` float64, the others text."""
    rows: NDArray[np.int64]
    """Row numbers in the file, from 0 for the first below the header."""
    filtered: tuple[tuple[int, str], ...] = field(default=())
    """(row, reason) of rows left out because they measure something else."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Return one column."""
        return self.columns[column]

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """Measured microseconds, float64[N]."""
        return self.columns["latency_us"]

    @property
    def ops(self) -> NDArray[Any]:
        """Operator of every row: the kind, of collectives their name."""
        if self.kind == "collective":
            return self.columns["op"]
        return np.full(len(self), self.kind)

    @property
    def dtypes(self) -> NDArray[Any]:
        """Number format that sets are kept by; of attention ``attn_dtype/kv_dtype``."""
        if self.kind in ("prefill", "decode"):
            return np.char.add(np.char.add(self["attn_dtype"], "/"), self["kv_dtype"])
        return self.columns["dtype"]

    def take(self, where: NDArray[Any]) -> KernelTable:
        """Return the rows that ``where`` (indices or bool[N]) picks; row numbers stay."""
        return KernelTable(
            path=self.path,
            kind=self.kind,
            columns={name: column[where] for name, column in self.columns.items()},
            rows=self.rows[where],
        )

    def sets(self) -> Iterator[tuple[tuple[str, str, str, str, str], NDArray[np.int64]]]:
        """Yield (op, library, version, dtype, kernel) and the indices of its rows, sorted."""
        keys = list(
            zip(
                self.ops, self["backend"], self["version"], self.dtypes, self["kernel"], strict=True
            )
        )
        members: dict[tuple[str, str, str, str, str], list[int]] = {}
        for index, (op, library, version, dtype, kernel) in enumerate(keys):
            key = (str(op), str(library), str(version), str(dtype), str(kernel))
            members.setdefault(key, []).append(index)
        for key in sorted(members):
            yield key, np.array(members[key], np.int64)


def read_kernel_table(path: str | Path) -> KernelTable:
    """Read a table of measured kernels; its kind is told from its columns.

    Parameters
    ----------
    path
        UTF-8 CSV, plain or gzipped (told from its first bytes), with the columns of one kind
        (``docs/kernels.md``) in any order; other columns are ignored.

    Raises
    ------
    InputError
        All mistakes at once, the first 20 with their rows and a count of the rest: no such file,
        above 2 GiB, truncated gzip, not UTF-8, empty, missing or repeated columns, lines with too
        few or too many cells, NaN, infinite, zero or negative numbers, fractions where counts
        belong, latencies that no kernel has.
    """
    name = Path(path)
    raw = _read(name)
    header = _header(name, raw)
    kind = tell_kind(name, header)
    _check_lengths(name, raw, len(header))
    frame = _parse(name, raw, header, kind)
    problems = _Problems()
    columns = _columns(frame, kind, problems)
    problems.finish(name)
    if not len(frame):
        raise InputError(f"{name}: no rows below the header")
    if kind in OTHER_KINDS:
        from ridgeline.validation.kernels.downloaded import CONVERTERS

        return CONVERTERS[kind](str(name), columns)
    return KernelTable(
        path=str(name), kind=kind.name, columns=columns, rows=np.arange(len(frame), dtype=np.int64)
    )


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a CSV file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{path}: {size:,} bytes; a kernel table has at most {MOST_BYTES:,}")
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if raw.startswith(_GZIP):
        raw = _unpack(path, raw)
    if raw.startswith(_PARQUET):
        raw = _as_csv(path)
    if raw.startswith(_LFS):
        raise InputError(f"{path}: is a pointer of git-lfs, not the file itself; run git lfs pull")
    if not raw.strip():
        raise InputError(f"{path}: empty; the first line must name the columns")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8; save the table as UTF-8 text") from None
    if b"\0" in raw:
        raise InputError(f"{path}: has NUL bytes; not a CSV file")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _as_csv(path: Path) -> bytes:
    """Return a Parquet table as CSV; needs pyarrow (extra ``parquet``)."""
    import pandas as pd

    try:
        text: str = pd.read_parquet(path, engine="pyarrow").to_csv(index=False)
    except ImportError:
        raise InputError(
            f"{path}: is Parquet, which needs pyarrow (the extra parquet); or save it as CSV"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged Parquet: {' '.join(str(error).split())[:200]}") from None
    return text.encode()


def _unpack(path: Path, raw: bytes) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = raw
    try:
        while rest.startswith(_GZIP):
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof:
                part = stream.decompress(rest, _CHUNK)
                rest = stream.unconsumed_tail
                size += len(part)
                if size > MOST_BYTES:
                    raise InputError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes")
                if not part and not rest and not stream.eof:
                    raise InputError(f"{path}: gzip ends early; fetch the file again")
                parts.append(part)
            rest = stream.unused_data
    except zlib.error as error:
        raise InputError(f"{path}: damaged gzip: {error}; fetch the file again") from None
    return b"".join(parts)


def _header(path: Path, raw: bytes) -> list[str]:
    line = raw.lstrip(b"\r\n").split(b"\n", 1)[0].decode("utf-8")
    try:
        cells = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:1: not CSV: {error} (a quote left open?)") from None
    return [cell.strip() for cell in cells]


def _check_lengths(path: Path, raw: bytes, width: int) -> None:
    """Refuse lines with too few or too many cells, which the parser would fill up or cut off."""
    if b'"' in raw:
        reader = csv.reader(io.StringIO(raw.decode("utf-8"), newline=""))
        counts = [len(cells) for cells in reader if cells]
    else:
        counts = [line.count(b",") + 1 for line in raw.split(b"\n") if line.strip()]
    wrong = [(row, count) for row, count in enumerate(counts[1:]) if count != width]
    if not wrong:
        return
    shown = [
        f"{path}: row {row}: {'truncated' if count < width else 'too long'}: "
        f"{count} cells, the header has {width}"
        for row, count in wrong[:MOST_PROBLEMS]
    ]
    if len(wrong) > MOST_PROBLEMS:
        shown.append(f"{path}: and {len(wrong) - MOST_PROBLEMS:,} more such rows")
    raise InputError(shown)


def _parse(path: Path, raw: bytes, header: list[str], kind: Kind) -> pd.DataFrame:
    import pandas as pd

    with warnings.catch_warnings():
        # Lines longer than the header are only warned about.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        try:
            return pd.read_csv(
                io.BytesIO(raw),
                header=0,
                names=header,
                usecols=_wanted(header, kind),
                index_col=False,
                dtype=dict.fromkeys((*kind.texts, *kind.optional), str),
                na_values={},
                keep_default_na=False,
                skipinitialspace=True,
                low_memory=False,
            )
        except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
            text = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
            raise InputError(f"{path}: not a table: {text}") from None


def _wanted(header: list[str], kind: Kind) -> list[str]:
    more = (*kind.optional, *kind.optional_counts)
    return [*kind.columns, *(column for column in more if column in header)]


class _Problems:
    """Mistakes of rows: the text of the first ones, and how many there are."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.count = 0

    def add(self, bad: NDArray[np.bool_], text: Callable[[int], str]) -> None:
        """Take note of the rows where ``bad``; ``text`` is asked only for those shown."""
        rows = np.flatnonzero(bad)
        self.count += len(rows)
        self.found += [(int(row), text(int(row))) for row in rows[:MOST_PROBLEMS]]

    def finish(self, path: Path) -> None:
        """Raise ``InputError`` when there were any."""
        if not self.count:
            return
        first = sorted(self.found)[:MOST_PROBLEMS]
        shown = [f"{path}: row {row}: {text}" for row, text in first]
        if self.count > len(shown):
            shown.append(f"{path}: and {self.count - len(shown):,} more mistakes")
        raise InputError(shown)


def _columns(frame: pd.DataFrame, kind: Kind, problems: _Problems) -> dict[str, NDArray[Any]]:
    """Return the arrays of a table; mistakes go to ``problems``."""

    def cell(column: str, rule: str) -> Callable[[int], str]:
        return lambda row: f"{column} = {str(frame[column].iloc[row])[:40]!r}: {rule}"

    def absent(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name not in frame]

    columns: dict[str, NDArray[Any]] = {}
    for name in (*kind.counts, *(c for c in kind.optional_counts if c in frame)):
        least = 0 if name in kind.may_be_zero else 1
        numbers = _numbers(frame[name])
        bad = ~((numbers >= least) & (numbers <= MOST_COUNT) & (numbers == np.floor(numbers)))
        problems.add(bad, cell(name, f"must be a whole number of at least {least}"))
        columns[name] = np.where(bad, least, numbers).astype(np.int64)
    columns |= {name: np.zeros(len(frame), np.int64) for name in absent(kind.optional_counts)}
    if kind.latency:
        latency = _numbers(frame[kind.latency]) * kind.to_us
        bad = ~((latency > 0) & (latency <= MOST_LATENCY_US))
        problems.add(bad, cell(kind.latency, "must be a finite number above 0"))
        unit = "microseconds" if kind.to_us == 1.0 else "milliseconds"
        rule = f"no kernel is faster than {LEAST_LATENCY_US:g} us; {unit} expected"
        problems.add(~bad & (latency < LEAST_LATENCY_US), cell(kind.latency, rule))
        columns["latency_us"] = latency
    for name in kind.numbers:
        columns[name] = _numbers(frame[name])
        empty = frame[name].isna() | (frame[name].astype(str).str.strip() == "")
        bad = ~(np.isfinite(columns[name]) & (columns[name] >= 0)) & ~empty.to_numpy(bool)
        problems.add(bad, cell(name, "must be a finite number of at least 0, or empty"))
    columns |= {name: np.full(len(frame), "unknown") for name in absent(kind.optional)}
    for name in (*kind.texts, *(c for c in kind.optional if c in frame)):
        text = frame[name].fillna("").to_numpy(dtype=str)
        problems.add(np.char.str_len(text) == 0, cell(name, "must not be empty"))
        columns[name] = text
    for low, high in _AT_MOST:
        if low in columns and high in columns:
            few, many = columns[low], columns[high]
            problems.add(few > many, _relation(low, few, high, many))
    if "num_gpus" in columns:
        problems.add(columns["num_gpus"] < 2, cell("num_gpus", "a collective has at least 2"))
    return columns


_AT_MOST = (("kv_heads", "heads"), ("top_k", "experts"), ("ep", "experts"), ("tp", "ffn"))


def _relation(
    low: str, few: NDArray[np.int64], high: str, many: NDArray[np.int64]
) -> Callable[[int], str]:
    return lambda row: f"{low} = {few[row]}, {high} = {many[row]}: {low} must be at most {high}"


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    import pandas as pd

    if column.dtype.kind in "iuf":
        return column.to_numpy(dtype=np.float64)
    return pd.to_numeric(column.astype(str), errors="coerce").to_numpy(dtype=np.float64)
