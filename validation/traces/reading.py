"""Read whatever a profiler wrote: the format is told by the content, never by the name."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.validation.traces.cupti import looks_like_cupti, read_cupti
from ridgeline.validation.traces.kineto import read_kineto
from ridgeline.validation.traces.nsys import read_nsys
from ridgeline.validation.traces.records import Trace
from ridgeline.validation.traces.streaming import GZIP, inflated
from ridgeline.validation.traces.xla import read_xla_json, read_xplane

_HEAD = 1 << 16
_SQLITE = b"SQLite format 3\0"
_ENDINGS = (".json", ".json.gz", ".sqlite", ".xplane.pb", ".pb", ".gz")
_ITERATION = re.compile(r"iteration[_-]?(\d+)", re.IGNORECASE)
_RANK = re.compile(r"(?:rank|(?<![a-z])r)[_-]?(\d+)", re.IGNORECASE)
_XLA = re.compile(rb'"/device:(?:TPU|GPU|CUSTOM)|"XLA Ops"')
MAX_RANKS = 4096
MODEL = "config.json"
"""In a folder of traces: no trace but the model, as ``ridgeline profile --train`` leaves it."""


def read_trace(path: Path, *, host: bool = False) -> Trace:
    """Read one file; ``host`` takes a CPU's operators for its work where there are no kernels.

    Raises
    ------
    InputError
        In one line: the file is missing, empty, of no known format, or holds no device work.
    """
    head = _head(path)
    if not head:
        raise InputError(f"{path}: is empty; give the trace that the profiler exported")
    if head.startswith(_SQLITE):
        return read_nsys(path)
    packed = head.startswith(GZIP)
    plain = _unpacked(head) if packed else head
    start = plain.lstrip(b"\xef\xbb\xbf \t\r\n\0")
    if start[:1] in (b"{", b"["):
        return read_xla_json(path) if _XLA.search(plain) else read_kineto(path, host=host)
    if packed:
        raise InputError(f"{path}: the packed content is no JSON trace")
    if looks_like_cupti(plain[:4096].decode("utf-8", "replace")):
        return read_cupti(path)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: is a pointer of git-lfs, not the file itself; run git lfs pull")
    if plain[:1] == b"\n" or b"/device:" in plain or path.name.endswith(".pb"):
        return read_xplane(path)
    raise InputError(
        f"{path}: is no trace that is known: Kineto or XLA JSON (also gzip), an sqlite export of "
        "Nsight Systems, xplane.pb, or CUPTI text"
    )


def read_ranks(path: Path, *, host: bool = False) -> tuple[Trace, ...]:
    """Read a file, or a folder with a file a rank, by rank; ``host`` as in ``read_trace``.

    Of a folder with folders ``iteration_N`` the last one is read. A rank is what the trace says,
    or else the number behind ``rank`` in the file's name.

    Raises
    ------
    InputError
        Nothing can be read, or two files say that they are the same rank.
    """
    if not path.is_dir():
        return (read_trace(path, host=host),)
    files = sorted(
        p for p in path.rglob("*") if p.is_file() and p.name.endswith(_ENDINGS) and p.name != MODEL
    )
    iterations = {p: int(found[1]) for p in files if (found := _ITERATION.search(str(p.parent)))}
    if iterations:
        last = max(iterations.values())
        files = [p for p in files if iterations.get(p) == last]
    if not files:
        raise InputError(f"{path}: holds no trace (.json, .json.gz, .sqlite or .pb)")
    if len(files) > MAX_RANKS:
        raise InputError(f"{path}: holds {len(files)} files; give at most {MAX_RANKS}")
    seen: dict[int, Path] = {}
    traces: list[Trace] = []
    for file in files:
        trace = read_trace(file, host=host)
        named = _RANK.search(file.name)
        rank = trace.rank if trace.rank >= 0 else int(named[1]) if named else -1
        if rank < 0 and len(files) > 1:
            raise InputError(f"{file}: says no rank; name the files rank0, rank1, ...")
        if rank in seen:
            raise InputError(f"{file}: says rank {rank}, and so does {seen[rank].name}; keep one")
        seen[rank] = file
        traces.append(replace(trace, rank=rank))
    return tuple(sorted(traces, key=lambda trace: trace.rank))


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give one file of it")
        with path.open("rb") as file:
            return file.read(_HEAD)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _unpacked(head: bytes) -> bytes:
    return inflated(zlib.decompressobj(wbits=31), head)[0]
