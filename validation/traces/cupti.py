"""vTrain's CUPTI text: one activity a line, times in nanoseconds.

``start,duration,KERNEL,name,device,context,stream,grid x3,block x3,correlation``, and likewise
for RUNTIME, DRIVER, MEMCPY and MEMSET (vTrain, profiler/README.md). Names of kernels contain
commas, so a line is taken apart from its end.
"""

from __future__ import annotations

from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.columns import DeviceWork, closed
from ridgeline.validation.traces.records import COPY, Trace

NANOSECOND = 1e-9
_KINDS = ("KERNEL", "MEMCPY", "MEMSET", "RUNTIME", "DRIVER")
_KERNEL_TAIL = 10
"""Fields behind the name of a kernel."""
MAX_LINE = 1 << 16


def looks_like_cupti(head: str) -> bool:
    """Say whether the first lines of a file are such activities."""
    for line in head.splitlines()[:20]:
        parts = line.split(",", 3)
        if len(parts) == 4 and parts[0].strip().isdigit() and parts[2].strip() in _KINDS:
            return True
    return False


def read_cupti(path: Path) -> Trace:
    """Read the activities.

    Raises
    ------
    InputError
        Not one kernel can be read.
    """
    work = DeviceWork()
    lost = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            if line.strip() and not _add(line.strip(), work):
                lost += 1
    if not len(work):
        raise InputError(f"{path}: holds no KERNEL line; give the text that the profiler wrote")
    losses = [f"{lost:,} lines that are no activity left out"] if lost else []
    return closed("cupti", work, NANOSECOND, losses)


def _add(line: str, work: DeviceWork) -> bool:
    """Add one activity; False when the line is none."""
    head = line.split(",", 3)
    if len(head) < 4:
        return False
    kind, rest = head[2].strip(), head[3].split(",")
    try:
        start, duration = int(head[0]), int(head[1])
        if duration < 0 or start < 0 or start >= 2**62:
            return False
        if kind == "KERNEL" and len(rest) > _KERNEL_TAIL:
            tail = [int(value) for value in rest[-_KERNEL_TAIL:]]
            name = ",".join(rest[:-_KERNEL_TAIL]).strip()
            work.add(
                start=float(start),
                duration=float(duration),
                name=name,
                device=_small(tail[0]),
                stream=_small(tail[2]),
                correlation=_small(tail[-1]),
                collective=collective_of(name, {}),
            )
            return True
        if kind in ("MEMCPY", "MEMSET") and len(rest) >= 5:
            device, _, stream, correlation = (int(value) for value in rest[-4:])
            work.add(
                start=float(start),
                duration=float(duration),
                name=kind.capitalize(),
                device=_small(device),
                stream=_small(stream),
                correlation=_small(correlation),
                category=COPY,
            )
            return True
        if kind in ("RUNTIME", "DRIVER") and len(rest) >= 4:
            work.add_call(correlation=_small(int(rest[-1])), start=float(start))
            return True
    except ValueError:
        return False
    return False


def _small(value: int) -> int:
    return value if 0 <= value < 2**31 else -1
