"""Trace files -> traffic: Azure CSV, ShareGPT-like JSONL and Mooncake JSONL, read line by line.

The kind of a file is told from its first line. Times count from the first request.

- Azure LLM inference traces 2023 (Patel et al., "Splitwise", arXiv 2311.18677): CSV with
  ``TIMESTAMP, ContextTokens, GeneratedTokens``.
- Mooncake (Qin et al., arXiv 2407.00079): JSON lines with ``timestamp`` in ms, ``input_length``,
  ``output_length`` and ``hash_ids``, one for each block of 512 prompt tokens.
- JSON lines with a time (``timestamp`` in s or an ISO date, or ``arrival_s``) and either lengths
  (``input_tokens``, ``output_tokens``) or ShareGPT ``conversations``, whose texts are counted at
  four characters a token.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ridgeline.errors import InputError
from ridgeline.workloads.traffic import MAX_REQUESTS
from ridgeline.workloads.traffic.build import make_traffic
from ridgeline.workloads.traffic.lengths import MAX_TOKENS
from ridgeline.workloads.traffic.traffic import Traffic

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_BLOCK = 512
CHARACTERS_PER_TOKEN = 4.0
"""Of English under the byte-pair vocabularies in use; only where a trace holds text."""
MAX_LINE = 16 << 20
_FIRST_SIGNS = 4096


@dataclass(slots=True)
class _Columns:
    """Requests as they are read: 8 bytes a number."""

    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    inputs: array[int] = field(default_factory=lambda: array("q"))
    outputs: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q", [0]))
    ids: array[int] = field(default_factory=lambda: array("q"))


def read_trace(path: str | Path, *, limit: int = 0, speed: float = 1.0) -> Traffic:
    """Read a trace file, plain or gzipped.

    Parameters
    ----------
    path
        ``.csv``, ``.jsonl``, or either with ``.gz`` behind it.
    limit
        Read no more requests than this; 0 reads all.
    speed
        Replay so many times as fast.

    Raises
    ------
    InputError
        With the number of the line: no requests, unknown columns, times that descend or are no
        times, lengths that are not whole numbers in range, text that is not UTF-8.
    """
    where = Path(path)
    if not (math.isfinite(speed) and speed > 0.0):
        raise InputError(f"speed = {speed}: must be above 0")
    columns = _Columns()
    try:
        with _open(where) as text:
            for number, line in _requests(text, where):
                _append(columns, line, where, number)
                if len(columns.inputs) == limit:
                    break
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; give a .csv or .jsonl trace") from None
    except (OSError, EOFError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"{where}: cannot be read: {reason}") from None
    if not columns.inputs:
        raise InputError(f"{where}: no requests; a trace needs at least one")
    times = np.frombuffer(columns.arrival_s, np.float64)
    return make_traffic(
        (times - times[0]) / speed,
        np.frombuffer(columns.inputs, np.int64),
        np.frombuffer(columns.outputs, np.int64),
        block_start=np.frombuffer(columns.starts, np.int64),
        block_ids=np.frombuffer(columns.ids, np.int64) if columns.ids else np.empty(0, np.int64),
        block_tokens=MOONCAKE_BLOCK,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    time: float
    prompt: Any
    output: Any
    ids: Any = ()
    names: tuple[str, str, str] = AZURE


def _open(path: Path) -> TextIO:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a trace file")
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(text: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    while True:
        line = text.readline(MAX_LINE)
        number += 1
        if not line:
            return
        if len(line) == MAX_LINE:
            raise InputError(f"{path}: line {number}: longer than {MAX_LINE >> 20} MiB; no trace")
        if line.strip():
            yield number, line


def _requests(text: TextIO, path: Path) -> Iterator[tuple[int, _Request]]:
    lines = _lines(text, path)
    number, first = next(lines, (1, ""))
    if not first:
        return
    if not first.lstrip().startswith("{"):
        yield from _azure(first, lines, path)
        return
    yield number, _record(first, path, number)
    for number, line in lines:
        yield number, _record(line, path, number)


def _azure(
    first: str, lines: Iterator[tuple[int, str]], path: Path
) -> Iterator[tuple[int, _Request]]:
    names = [name.strip() for name in next(csv.reader([first]))]
    missing = [name for name in AZURE if name not in names]
    if missing:
        raise InputError(
            f"{path}: line 1: no column {missing[0]}; a CSV trace has {', '.join(AZURE)}, "
            "other traces are JSON lines"
        )
    time, prompt, output = (names.index(name) for name in AZURE)
    last_day, day_s = "", 0.0
    for number, line in lines:
        cells = line.rstrip("\r\n").split(",")
        if len(cells) != len(names):
            raise InputError(f"{path}: line {number}: {len(cells)} cells, not {len(names)}")
        stamp = cells[time].strip()
        # one date for thousands of lines: only the time of day is read anew
        day, _, clock = stamp.partition(" ")
        seconds = _clock(clock)
        if seconds is None:
            yield (
                number,
                _Request(
                    time=_time(stamp, path, number), prompt=cells[prompt], output=cells[output]
                ),
            )
            continue
        if day != last_day:
            last_day, day_s = day, _time(day, path, number)
        yield number, _Request(time=day_s + seconds, prompt=cells[prompt], output=cells[output])


def _clock(text: str) -> float | None:
    """Return the seconds of hh:mm:ss.fraction, None where it is written otherwise."""
    if len(text) < 8 or text[2] != ":" or text[5] != ":":
        return None
    try:
        hours, minutes, seconds = int(text[:2]), int(text[3:5]), float(text[6:])
    except ValueError:
        return None
    if hours > 23 or minutes > 59 or not 0.0 <= seconds < 61.0:
        return None
    return 3600.0 * hours + 60.0 * minutes + seconds


def _time(value: Any, path: Path, number: int) -> float:
    """Return a time in seconds from a number or an ISO date."""
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        date = datetime.fromisoformat(str(value).strip())
    except ValueError:
        shown = repr(value)[:60]
        raise InputError(
            f"{path}: line {number}: time {shown} is neither a number nor an ISO date"
        ) from None
    zone = date.utcoffset()
    away = zone.total_seconds() if zone is not None else 0.0
    return (date.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() - away


def _record(line: str, path: Path, number: int) -> _Request:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: line {number}: not JSON") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: line {number}: must be an object with a time and lengths")
    if "input_length" in record:
        time = _time(record.get("timestamp"), path, number) / 1e3
        return _Request(
            time=time,
            prompt=record["input_length"],
            output=record.get("output_length"),
            ids=record.get("hash_ids", ()),
            names=("timestamp", "input_length", "output_length"),
        )
    when = record.get("arrival_s", record.get("timestamp"))
    if when is None:
        raise InputError(
            f"{path}: line {number}: no time; give timestamp or arrival_s, "
            "with input_tokens and output_tokens or conversations"
        )
    seconds = _time(when, path, number)
    if "conversations" in record:
        said, answered = _spoken(record["conversations"], path, number)
        record = {"input_tokens": said, "output_tokens": answered}
    return _Request(
        time=seconds,
        prompt=record.get("input_tokens"),
        output=record.get("output_tokens"),
        names=("timestamp", "input_tokens", "output_tokens"),
    )


def _spoken(turns: Any, path: Path, number: int) -> tuple[int, int]:
    """Return the tokens of all texts but the last, and of the last, which is the answer."""
    said = turns if isinstance(turns, list) else []
    texts = [turn.get("value") if isinstance(turn, dict) else None for turn in said]
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{path}: line {number}: conversations must list at least a question and an answer, "
            "each with its text as value"
        )
    counts = [math.ceil(len(str(text)) / CHARACTERS_PER_TOKEN) for text in texts]
    return sum(counts[:-1]), counts[-1]


def _append(columns: _Columns, request: _Request, path: Path, number: int) -> None:
    time, names = request.time, request.names
    if not math.isfinite(time):
        raise InputError(f"{path}: line {number}: {names[0]} is {time}; must be finite")
    if columns.arrival_s and time < columns.arrival_s[-1]:
        raise InputError(
            f"{path}: line {number}: {names[0]} comes before that of the request above it; "
            "sort the trace by time"
        )
    if len(columns.inputs) == MAX_REQUESTS:
        raise InputError(f"{path}: more than {MAX_REQUESTS:,} requests; read a part (--requests)")
    columns.arrival_s.append(time)
    columns.inputs.append(_length(request.prompt, 1, names[1], path, number))
    columns.outputs.append(_length(request.output, 0, names[2], path, number))
    ids = request.ids
    if not isinstance(ids, list | tuple) or not all(type(one) is int for one in ids):
        raise InputError(f"{path}: line {number}: hash_ids must be a list of whole numbers")
    if any(abs(one) >= 1 << 63 for one in ids):
        raise InputError(f"{path}: line {number}: hash_ids must be below 2^63")
    columns.ids.extend(ids)
    columns.starts.append(len(columns.ids))


def _length(value: Any, least: int, name: str, path: Path, number: int) -> int:
    try:
        length = int(value)
        if length != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        given = "missing" if value is None else repr(value)[:40]
        raise InputError(f"{path}: line {number}: {name} is {given}; must be whole") from None
    if not least <= length <= MAX_TOKENS:
        raise InputError(
            f"{path}: line {number}: {name} = {length}: must be from {least} to {MAX_TOKENS:,}"
        )
    return length
