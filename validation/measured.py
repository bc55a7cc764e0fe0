"""Read tables of measured training steps: one CSV row for each, checked cell by cell."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.validation.vtrain import as_measured, is_vtrain

MOST_BYTES = 256 * 2**20
"""Larger files are refused: the largest table known is below a megabyte."""
MOST_CELL = 100_000
MOST_PROBLEMS = 20
LEAST_NUMBER, MOST_NUMBER = 1e-9, 1e12
"""Numbers other than 0 outside these bounds are slips: no second, byte or count comes near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One measured training step, as written. None or an empty text is an empty cell.

    Field names are the columns (``docs/validation.md``); counts are those of accelerators.
    """

    line: int
    """Line of the file, counting the header as 1."""
    tier: str
    id: str
    source: str
    source_detail: str
    accelerator: str
    accel_per_node: int | None
    num_accel: int | None
    interconnect: str
    model: str
    params_b: float | None
    layers: int | None
    hidden: int | None
    ffn_hidden: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocab: int | None
    seq_len: int | None
    global_batch_seqs: int | None
    micro_batch_seqs: int | None
    tp: int | None
    pp: int | None
    dp: int | None
    cp: int | None
    ep: int | None
    etp: int | None
    vpp: int | None
    zero_stage: str
    seq_parallel: str
    recompute: str
    schedule: str
    precision: str
    num_experts: int | None
    top_k: int | None
    task: str
    framework: str
    iter_time_s: float | None
    tokens_per_s_per_accel: float | None
    tflops_per_accel: float | None
    mfu_pct: float | None
    hfu_pct: float | None
    notes: str


COLUMNS = tuple(field.name for field in fields(MeasuredRow) if field.name != "line")
_TYPES = {field.name: str(field.type) for field in fields(MeasuredRow)}


def read_measured(path: str | Path) -> tuple[MeasuredRow, ...]:
    """Read a CSV file of measured training steps.

    Parameters
    ----------
    path
        UTF-8, comma-separated, with a header that has every column of ``COLUMNS`` in any order
        (other columns are ignored). Unknown values are empty cells. Also vTrain's tables of
        measured iterations (``vtrain``).

    Raises
    ------
    InputError
        All mistakes at once: no such file, above 256 MiB, not UTF-8, missing or repeated columns,
        lines with too few or too many cells, text where a number belongs, NaN, negative or zero
        numbers, repeated ids.
    """
    name, text = Path(path), read_table_text(Path(path))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    problems: list[str] = []
    rows: list[MeasuredRow] = []
    seen: dict[str, int] = {}
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_header(name, header)
                continue
            if not cells:
                continue
            row, found = _row(header, cells, reader.line_num)
            if row is not None and row.id in seen:
                found.append(f"id = {row.id!r}: already on line {seen[row.id]}; ids must differ")
            problems += [f"{name}:{reader.line_num}: {problem}" for problem in found]
            if row is not None:
                seen.setdefault(row.id, reader.line_num)
                rows.append(row)
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not CSV: {error} (a quote left open?)")
    if header is None:
        raise InputError(f"{name}: empty; the first line must name the columns")
    if len(problems) > MOST_PROBLEMS:
        rest = len(problems) - MOST_PROBLEMS
        problems = [*problems[:MOST_PROBLEMS], f"{name}: and {rest} more mistakes"]
    if problems:
        raise InputError(problems)
    return tuple(rows)


def read_table_text(path: Path) -> str:
    """Return the text of a table.

    Raises
    ------
    InputError
        A folder, no such file, above 256 MiB, not UTF-8, NUL bytes.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a CSV file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{path}: {size:,} bytes; a measured table has at most {MOST_BYTES:,} "
                f"(is it a trace? see --trace)"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8; save the table as UTF-8 text") from None
    if "\0" in text:
        raise InputError(f"{path}: has NUL bytes; not a CSV file")
    return text


def _check_header(name: Path, header: list[str]) -> None:
    problems = []
    missing = [column for column in COLUMNS if column not in header]
    if missing and not is_vtrain(header):
        problems.append(
            f"{name}: missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            "every column must be there, unknown cells empty"
        )
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        problems.append(f"{name}: column {', '.join(repeated)} appears more than once")
    if problems:
        raise InputError(problems)


def _row(header: list[str], cells: list[str], line: int) -> tuple[MeasuredRow | None, list[str]]:
    if len(cells) != len(header):
        kind = "truncated line" if len(cells) < len(header) else "too many cells"
        return None, [f"{kind}: {len(cells)} cells, the header has {len(header)}"]
    given = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    if is_vtrain(header):
        given = as_measured(given, line, COLUMNS)
    problems: list[str] = []
    if not given["id"]:
        problems.append("id: empty; every row needs one")
    values = {column: _value(column, given[column], problems) for column in COLUMNS}
    if problems:
        return None, problems
    return MeasuredRow(line=line, **values), []  # type: ignore[arg-type]  # checked by _value


def _value(column: str, cell: str, problems: list[str]) -> str | int | float | None:
    kind = _TYPES[column]
    if kind == "str":
        if len(cell) > MOST_CELL:
            problems.append(f"{column}: a cell of {len(cell):,} characters")
        return cell
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        problems.append(f"{column} = {cell!r}: not a number (leave unknown cells empty)")
        return None
    if not isfinite(number) or number < 0:
        problems.append(f"{column} = {cell!r}: must be a finite number of at least 0")
        return None
    whole = kind.startswith("int")
    if number == 0 and column not in ("num_experts", "top_k", "mfu_pct", "hfu_pct", "etp"):
        problems.append(f"{column} = {cell!r}: must be above 0 (leave unknown cells empty)")
        return None
    if number and not LEAST_NUMBER <= number <= MOST_NUMBER:
        problems.append(
            f"{column} = {cell!r}: must lie between {LEAST_NUMBER:g} and {MOST_NUMBER:g}"
        )
        return None
    if whole and number != int(number):
        problems.append(f"{column} = {cell!r}: must be a whole number")
        return None
    return int(number) if whole else number
