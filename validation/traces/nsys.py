"""Nsight Systems exports (``nsys export --type sqlite``).

Times are nanoseconds. Tables are made only when something fills them, so an absent one is no
error. The export holds neither shapes nor message sizes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.columns import DeviceWork, closed
from ridgeline.validation.traces.records import COPY, OTHER, Annotation, Trace

NANOSECOND = 1e-9
MAX_ANNOTATIONS = 200_000
_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
"""Replayed graphs as a whole, when their kernels were not traced (``--cuda-graph-trace=graph``)."""
_COPIES = {
    "CUPTI_ACTIVITY_KIND_MEMCPY": "Memcpy",
    "CUPTI_ACTIVITY_KIND_MEMSET": "Memset",
}
_WHERE = ("globalPid", "deviceId")
_WHEN = ("start", "end", "streamId", "correlationId")
_PROCESS_SHIFT = 24
"""A serialised thread holds its process above these bits (Nsight Systems, exported data)."""


def read_nsys(path: Path) -> Trace:
    """Read an export, without writing to it.

    Raises
    ------
    InputError
        The file is no export of Nsight Systems, is damaged, or holds no kernels.
    """
    where = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(where, uri=True)) as base:
            return _read(path, base)
    except (sqlite3.Error, UnicodeError) as error:
        # a damaged schema is quoted in the message, whatever it holds
        reason = "its schema is damaged" if isinstance(error, UnicodeError) else str(error)
        shown = "".join(c if c.isprintable() else " " for c in reason)[:120]
        raise InputError(
            f"{path}: cannot be read as an sqlite export of Nsight Systems ({shown}); export it "
            "again: nsys export --type sqlite"
        ) from None


def _read(path: Path, base: sqlite3.Connection) -> Trace:
    base.text_factory = lambda raw: raw.decode("utf-8", "replace")
    tables = _tables(base)
    if _KERNELS not in tables and _GRAPHS not in tables:
        raise InputError(
            f"{path}: holds no table {_KERNELS}; profile with --trace=cuda and export to sqlite"
        )
    strings: dict[int, str] = {}
    if "StringIds" in tables:
        strings = {
            i: v for i, v in _rows(base, "StringIds", tables, "id", "value") if v is not None
        }
    place, losses = _busiest(base, tables)
    work = DeviceWork()
    lost = 0

    def add(table: str, *more: str) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
        """Yield what every device event of the place has, and more columns of it."""
        nonlocal lost
        for process, device, start, end, stream, correlation, *rest in _rows(
            base, table, tables, *_WHERE, *_WHEN, *more
        ):
            if (process, device) != place:
                continue
            if not _times(start, end):
                lost += 1
                continue
            yield (
                {
                    "start": float(start),
                    "duration": float(end - start),
                    "device": _small(device),
                    "stream": _small(stream),
                    "correlation": _small(correlation),
                },
                tuple(rest),
            )

    for event, (full, short) in add(_KERNELS, "demangledName", "shortName"):
        name = strings.get(full) or strings.get(short) or "kernel without a name"
        work.add(name=name, collective=collective_of(name, {}), **event)
    whole = 0
    for event, _ in add(_GRAPHS):
        work.add(name="CUDA graph", category=OTHER, **event)
        whole += 1
    if whole:
        losses.append(
            f"{whole:,} replayed graphs are not broken down into kernels: profile with "
            "--cuda-graph-trace=node"
        )
    for table, name in _COPIES.items():
        for event, (size,) in add(table, "bytes"):
            size = float(size) if isinstance(size, int) else 0.0
            work.add(name=name, size=size, category=COPY, **event)
    if not len(work):
        raise InputError(f"{path}: holds no kernels; profile with --trace=cuda")
    for thread, correlation, start in _rows(
        base, "CUPTI_ACTIVITY_KIND_RUNTIME", tables, "globalTid", "correlationId", "start"
    ):
        # correlation ids are those of a process
        if isinstance(start, int) and _within(thread, place[0]):
            work.add_call(correlation=_small(correlation), start=float(start))
    if lost:
        losses.append(f"{lost:,} events without a time left out")
    spans = _ranges(base, tables, strings, work.origin(), place[0])
    device = _device(base, tables, place[1])
    return closed("nsys", work, NANOSECOND, losses, annotations=spans, device=device)


def _tables(base: sqlite3.Connection) -> dict[str, set[str]]:
    """Return the columns of every table."""
    names = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    quoted = {name: name.replace('"', '""') for name in names}
    return {
        name: {row[1] for row in base.execute(f'PRAGMA table_info("{quoted[name]}")')}
        for name in names
    }


def _rows(
    base: sqlite3.Connection, table: str, tables: dict[str, set[str]], *columns: str
) -> Iterator[tuple[Any, ...]]:
    """Yield some columns of a table, None for those that it lacks; nothing without the table."""
    if table not in tables:
        return
    wanted = ", ".join(f'"{c}"' if c in tables[table] else "NULL" for c in columns)
    # table and columns are names of this module, never of the file
    yield from base.execute(f'SELECT {wanted} FROM "{table}"')


def _ranges(
    base: sqlite3.Connection,
    tables: dict[str, set[str]],
    strings: dict[int, str],
    origin: float,
    process: Any,
) -> Iterator[Annotation]:
    found: list[Annotation] = []
    for thread, start, end, text, text_id in _rows(
        base, "NVTX_EVENTS", tables, "globalTid", "start", "end", "text", "textId"
    ):
        name = text or strings.get(text_id)
        if (
            name
            and _within(thread, process)
            and _times(start, end)
            and len(found) < MAX_ANNOTATIONS
        ):
            found.append(
                Annotation(
                    name=str(name),
                    start_s=(start - origin) * NANOSECOND,
                    duration_s=(end - start) * NANOSECOND,
                    on_device=False,
                )
            )
    yield from sorted(found, key=lambda one: one.start_s)


def _device(
    base: sqlite3.Connection, tables: dict[str, set[str]], device: Any
) -> tuple[str, float]:
    """Return name and memory of a device, or of the first where none has its number."""
    found = list(_rows(base, "TARGET_INFO_GPU", tables, "id", "name", "totalMemory"))
    for _, name, memory in sorted(found, key=lambda row: row[0] != device)[:1]:
        return str(name or ""), float(memory) if isinstance(memory, int) else 0.0
    return "", 0.0


def _busiest(
    base: sqlite3.Connection, tables: dict[str, set[str]]
) -> tuple[tuple[Any, Any], list[str]]:
    """Return process and device with the most events, and what is left out for that."""
    count: Counter[tuple[Any, Any]] = Counter()
    for table in (_KERNELS, _GRAPHS):
        count.update(_rows(base, table, tables, *_WHERE))
    if not count:
        return (None, None), []
    # of equals the first, by process and device
    place = min(count, key=lambda one: (-count[one], _small(one[1]), repr(one)))
    rest = len(count) - 1
    losses = [f"{rest} other processes or devices left out, the busiest read"] if rest else []
    return place, losses


def _within(thread: Any, process: Any) -> bool:
    """Say whether a thread is of a process; where either is unknown it may be."""
    if not isinstance(thread, int) or not isinstance(process, int):
        return True
    return thread >> _PROCESS_SHIFT == process >> _PROCESS_SHIFT


def _times(start: Any, end: Any) -> bool:
    return isinstance(start, int) and isinstance(end, int) and end >= start


def _small(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else -1
