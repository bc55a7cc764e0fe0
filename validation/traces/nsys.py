"""Nsight Systems exports (``nsys export --type sqlite``).

Times are nanoseconds. Tables are made only when something fills them, so an absent one is no
error. The export holds neither shapes nor message sizes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.columns import DeviceWork
from ridgeline.validation.traces.records import COPY, Annotation, Trace

NANOSECOND = 1e-9
MAX_ANNOTATIONS = 200_000
_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_KERNEL_COLUMNS = (
    "start",
    "end",
    "deviceId",
    "streamId",
    "correlationId",
    "demangledName",
    "shortName",
)
_COPIES = ("CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET")


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
    if _KERNELS not in tables:
        raise InputError(
            f"{path}: holds no table {_KERNELS}; profile with --trace=cuda and export to sqlite"
        )
    strings: dict[int, str] = {}
    if "StringIds" in tables:
        strings = {
            i: v for i, v in _rows(base, "StringIds", tables, "id", "value") if v is not None
        }
    work = DeviceWork()
    lost = 0
    for start, end, device, stream, correlation, full, short in _rows(
        base, _KERNELS, tables, *_KERNEL_COLUMNS
    ):
        if not _times(start, end):
            lost += 1
            continue
        name = strings.get(full) or strings.get(short) or "kernel without a name"
        work.add(
            start=float(start),
            duration=float(end - start),
            name=name,
            device=_small(device),
            stream=_small(stream),
            correlation=_small(correlation),
            collective=collective_of(name, {}),
        )
    for table in _COPIES:
        for start, end, device, stream, correlation, size in _rows(
            base, table, tables, "start", "end", "deviceId", "streamId", "correlationId", "bytes"
        ):
            if not _times(start, end):
                lost += 1
                continue
            work.add(
                start=float(start),
                duration=float(end - start),
                name="Memset" if table.endswith("SET") else "Memcpy",
                device=_small(device),
                stream=_small(stream),
                correlation=_small(correlation),
                size=float(size) if isinstance(size, int) else 0.0,
                category=COPY,
            )
    if not len(work):
        raise InputError(f"{path}: holds no kernels; profile with --trace=cuda")
    for correlation, start in _rows(
        base, "CUPTI_ACTIVITY_KIND_RUNTIME", tables, "correlationId", "start"
    ):
        if isinstance(start, int):
            work.add_call(correlation=_small(correlation), start=float(start))
    origin = work.origin()
    name, memory = _device(base, tables)
    return Trace(
        format="nsys",
        rank=-1,
        world_size=0,
        device_name=name,
        device_memory_bytes=memory,
        names=tuple(work.names),
        operators=(),
        collectives=tuple(work.collectives),
        annotations=tuple(_ranges(base, tables, strings, origin)),
        events=work.events(NANOSECOND),
        losses=(f"{lost:,} events without a time left out",) if lost else (),
    )


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
    base: sqlite3.Connection, tables: dict[str, set[str]], strings: dict[int, str], origin: float
) -> Iterator[Annotation]:
    found: list[Annotation] = []
    for start, end, text, text_id in _rows(
        base, "NVTX_EVENTS", tables, "start", "end", "text", "textId"
    ):
        name = text or strings.get(text_id)
        if name and _times(start, end) and len(found) < MAX_ANNOTATIONS:
            found.append(
                Annotation(
                    name=str(name),
                    start_s=(start - origin) * NANOSECOND,
                    duration_s=(end - start) * NANOSECOND,
                    on_device=False,
                )
            )
    yield from sorted(found, key=lambda one: one.start_s)


def _device(base: sqlite3.Connection, tables: dict[str, set[str]]) -> tuple[str, float]:
    for name, memory in _rows(base, "TARGET_INFO_GPU", tables, "name", "totalMemory"):
        return str(name or ""), float(memory) if isinstance(memory, int) else 0.0
    return "", 0.0


def _times(start: Any, end: Any) -> bool:
    return isinstance(start, int) and isinstance(end, int) and end >= start


def _small(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else -1
