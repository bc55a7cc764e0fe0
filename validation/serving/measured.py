"""Read tables of measured serving: one row for each, checked cell by cell.

Two schemas, told apart by their columns: serving rows (latencies and throughput of a service) and
cards (latency or queries per second of a quantised model, as vendors print them).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ridgeline.errors import InputError, nearest
from ridgeline.validation.measured import read_table_text

MOST_COLUMNS = 3
"""Columns that a mistake names."""
MOST_PROBLEMS = 20
MOST_NUMBER = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRow:
    """One measured service, as written. None or an empty text is an empty cell."""

    line: int
    """Line of the file, counting the header as 1."""
    id: str
    source: str
    source_detail: str = ""
    accelerator: str
    num_accel: int | None = None
    engine: str
    engine_version: str = ""
    model: str
    precision: str = ""
    kv_precision: str = ""
    tp: int | None = None
    pp: int | None = None
    ep: int | None = None
    """0 in some rows of its source, which stands for 1."""
    dp: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    at_most: bool = False
    """The lengths are maxima of a distribution (written ``<=1024``)."""
    batch_or_concurrency: int | None = None
    request_rate: str = ""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    throughput_tok_s_total: float | None = None
    throughput_tok_s_per_accel: float | None = None
    notes: str = ""


COLUMNS = tuple(one.name for one in fields(ServingRow) if one.name not in ("line", "at_most"))
CARD_COLUMNS = (
    "model",
    "accelerator",
    "num_accel",
    "engine",
    "engine_version",
    "precision",
    "input_len",
    "output_len",
    "mode",
    "latency_s",
    "max_qps",
    "output_tok_s",
    "queries_per_dollar",
    "price_implied_usd_per_gpu_h",
    "source",
)
_COUNTS = {"num_accel": 1, "tp": 1, "pp": 1, "ep": 0, "dp": 0, "batch_or_concurrency": 1}
_LENGTHS = {"input_len": 1, "output_len": 0}
_NUMBERS = (
    "ttft_ms",
    "tpot_ms",
    "throughput_tok_s_total",
    "throughput_tok_s_per_accel",
    "latency_s",
    "max_qps",
    "output_tok_s",
)
CARD_SOURCE = "vLLM model cards"
"""Source of every row of the second schema."""
BATCH_ONE, MOST_LOAD = "single-stream (batch 1) latency", "multi-stream max throughput"
"""Its two modes."""


def read_serving(path: str | Path) -> tuple[ServingRow, ...]:
    """Read a CSV file of measured serving.

    Parameters
    ----------
    path
        UTF-8, comma-separated; its header has the columns of ``COLUMNS`` or of ``CARD_COLUMNS``
        in any order and no others. Unknown values are empty cells. Rows of cards get an id
        (``card_`` and their line) and their figures in the first schema's columns.

    Raises
    ------
    InputError
        All mistakes at once: no such file, not UTF-8, missing, unknown or repeated columns, lines
        of another width, text where a number belongs, NaN, negative numbers, repeated ids.
    """
    name = Path(path)
    reader = csv.reader(io.StringIO(read_table_text(name), newline=""), strict=True)
    problems: list[str] = []
    rows: list[ServingRow] = []
    seen: dict[str, int] = {}
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = _header(name, [cell.strip() for cell in cells])
                continue
            if not cells:
                continue
            found: list[str] = []
            if len(cells) != len(header):
                found.append(f"{len(cells)} cells; the header has {len(header)}")
            else:
                record = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                row = _row(record, reader.line_num, found)
                if row.id in seen:
                    found.append(
                        f"id = {row.id!r}: already on line {seen[row.id]}; ids must differ"
                    )
                seen.setdefault(row.id, reader.line_num)
                rows.append(row)
            problems += [f"{name}:{reader.line_num}: {problem}" for problem in found]
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: not CSV: {error} (a quote left open?)")
    if header is None:
        raise InputError(f"{name}: empty; the first line must name the columns")
    if not rows and not problems:
        raise InputError(f"{name}: has a header and no rows; a table has at least one")
    if len(problems) > MOST_PROBLEMS:
        rest = len(problems) - MOST_PROBLEMS
        problems = [*problems[:MOST_PROBLEMS], f"{name}: and {rest} more mistakes"]
    if problems:
        raise InputError(problems)
    return tuple(rows)


def read_ids(path: str | Path, known: Iterable[str]) -> frozenset[str]:
    """Read the ids of rows to leave out: a CSV file with a column ``id``.

    Raises
    ------
    InputError
        The file cannot be read, has no such column, or names no row of the table.
    """
    name = Path(path)
    reader = csv.DictReader(io.StringIO(read_table_text(name), newline=""))
    if reader.fieldnames is None or "id" not in reader.fieldnames:
        raise InputError(f"{name}: no column id; a list of rows to leave out needs one")
    ids = frozenset(str(record["id"]).strip() for record in reader)
    if not ids & set(known):
        raise InputError(f"{name}: none of its {len(ids)} ids is in the table; is it its list?")
    return ids


def _header(name: Path, header: list[str]) -> list[str]:
    wanted = CARD_COLUMNS if "mode" in header or "latency_s" in header else COLUMNS
    unknown = [column for column in dict.fromkeys(header) if column not in wanted]
    problems = [
        _named("no column", [column for column in wanted if column not in header], ""),
        _named("column", unknown, f" is not known; {nearest(unknown[0], wanted)}")
        if len(unknown) == 1
        else _named("column", unknown, " are not known"),
        _named("column", sorted({c for c in header if header.count(c) > 1}), " is there twice"),
    ]
    if any(problems):
        rule = "; the columns are in docs/serving-accuracy.md"
        raise InputError(f"{name}: {'; '.join(filter(None, problems))}{rule}")
    return header


def _named(what: str, columns: list[str], rule: str) -> str:
    """Return a mistake of columns in one phrase, nothing without any."""
    if not columns:
        return ""
    more = f" and {len(columns) - MOST_COLUMNS} more" if len(columns) > MOST_COLUMNS else ""
    names = ", ".join(repr(column[:40]) for column in columns[:MOST_COLUMNS])
    return f"{what}{'s' if len(columns) > 1 else ''} {names}{more}{rule}"


def _row(record: dict[str, str], line: int, problems: list[str]) -> ServingRow:
    values: dict[str, object] = {"line": line}
    at_most = False
    for column, text in record.items():
        if column in _COUNTS:
            values[column] = _count(column, text, _COUNTS[column], problems)
        elif column in _LENGTHS:
            at_most = at_most or text.startswith("<=")
            values[column] = _count(column, text.removeprefix("<="), _LENGTHS[column], problems)
        elif column in _NUMBERS:
            values[column] = _number(column, text, problems)
        else:
            values[column] = text
    if "mode" in record:
        return _card(values, line, problems)
    if not record["id"]:
        problems.append("id: empty; each row needs one")
    return ServingRow(**values, at_most=at_most)  # type: ignore[arg-type]  # by column above


def _card(values: dict[str, object], line: int, problems: list[str]) -> ServingRow:
    mode, latency, qps = values["mode"], values["latency_s"], values["max_qps"]
    needed = {BATCH_ONE: ("latency_s", latency), MOST_LOAD: ("max_qps", qps)}
    output = values["output_len"]
    rate = None
    if mode not in needed:
        problems.append(f"mode = {mode!r}: must be {BATCH_ONE!r} or {MOST_LOAD!r}")
    elif needed[str(mode)][1] is None:
        problems.append(f"{needed[str(mode)][0]}: empty; mode {mode!r} needs it")
    elif isinstance(output, int):
        number = float(needed[str(mode)][1])  # type: ignore[arg-type]  # not None here
        rate = output / number if mode == BATCH_ONE else output * number
    count = values["num_accel"]
    per_accel = rate / count if rate is not None and isinstance(count, int) else None
    same = ("accelerator", "num_accel", "engine", "engine_version", "model", "precision")
    return ServingRow(
        line=line,
        id=f"card_{line}",
        source=CARD_SOURCE,
        source_detail=str(values["source"]),
        tp=count if isinstance(count, int) else None,
        pp=1,
        input_len=values["input_len"],  # type: ignore[arg-type]  # a count or None
        output_len=output,  # type: ignore[arg-type]  # a count or None
        batch_or_concurrency=1 if mode == BATCH_ONE else None,
        throughput_tok_s_total=rate,
        throughput_tok_s_per_accel=per_accel,
        notes=str(mode),
        **{name: values[name] for name in same},  # type: ignore[arg-type]  # by column
    )


def _count(column: str, text: str, least: int, problems: list[str]) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,12}(\.0*)?", text) or int(float(text)) < least:
        problems.append(f"{column} = {text[:40]!r}: must be a whole number of at least {least}")
        return None
    return int(float(text))


def _number(column: str, text: str, problems: list[str]) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not 0 < value <= MOST_NUMBER:
        problems.append(f"{column} = {text[:40]!r}: must be a number above 0")
        return None
    return value
