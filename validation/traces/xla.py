"""Traces of JAX and XLA: ``xplane.pb``, and the ``trace.json.gz`` made from it.

An XSpace holds planes, a plane lines, a line events; times are picoseconds from the line's start
(tensorflow/tsl, profiler/protobuf/xplane.proto). On a TPU the operators say their category; on a
GPU they are kernels.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.columns import DeviceWork, Interner, closed
from ridgeline.validation.traces.records import (
    ATTENTION,
    COMMUNICATION,
    COPY,
    ELEMENTWISE,
    GEMM,
    Annotation,
    Trace,
)
from ridgeline.validation.traces.streaming import EventStream
from ridgeline.validation.traces.wire import WireError, fields, signed, text

PICOSECOND = 1e-12
MICROSECOND = 1e-6
MAX_ANNOTATIONS = 200_000
_DEVICE_PLANE = re.compile(r"^/device:(TPU|GPU|CUSTOM)[^\d]*(\d+)")
_OPS = re.compile(r"^(?:XLA Ops|Async XLA Ops|Stream #\d+)")
_STEPS = ("Steps",)
_CATEGORIES = (
    (COMMUNICATION, r"all-?reduce|all-?gather|reduce-?scatter|all-?to-?all|collective|send|recv"),
    (ATTENTION, r"attention|flash|splash"),
    # XLA lowers every matrix product of a TPU to a convolution
    (GEMM, r"convolution|dot|matmul|gemm"),
    (COPY, r"^copy|infeed|outfeed|host transfer"),
    (
        ELEMENTWISE,
        r"fusion|elementwise|reduce|data formatting|broadcast|transpose|slice|rng|scatter",
    ),
)
_COMPILED = tuple((place, re.compile(rule, re.IGNORECASE)) for place, rule in _CATEGORIES)


def category_of_op(hlo_category: str, name: str) -> int:
    """Return the category of an XLA operator, -1 when only its name can tell."""
    for said in (hlo_category, name) if hlo_category else ():
        for place, rule in _COMPILED:
            if rule.search(said):
                return place
    return -1


@dataclass(slots=True)
class _Plane:
    """One plane, its metadata read."""

    name: str = ""
    lines: list[memoryview] = field(default_factory=list)
    events: dict[int, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """Name and text statistics by metadata id."""
    stats: dict[int, str] = field(default_factory=dict)


def read_xplane(path: Path) -> Trace:
    """Read the first device's plane of an ``xplane.pb``.

    Raises
    ------
    InputError
        The file is no XSpace, or holds no device plane.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; give the trace that the profiler exported")
    with path.open("rb") as file:
        # views of it outlive this call, so the collector closes it, not a with
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _xspace(path, memoryview(mapped))


def _xspace(path: Path, data: memoryview) -> Trace:
    losses: list[str] = []
    planes: list[_Plane] = []
    try:
        for number, value in fields(data):
            if number == 1 and not isinstance(value, int) and _is_device(value):
                plane = _plane(value)
                if plane.lines:
                    planes.append(plane)
    except WireError as error:
        losses.append(f"{error}: what follows is missing")
    if not planes:
        raise InputError(
            f"{path}: holds no plane of a device (/device:TPU:0 or /device:GPU:0)"
            + (f"; {losses[0]}" if losses else "; profile on the machine with the device")
        )
    first = min(planes, key=lambda plane: plane.name)
    if len(planes) > 1:
        losses.append(f"{len(planes) - 1} planes of other devices left out, {first.name} read")
    work, spans = DeviceWork(), []
    for line in first.lines:
        try:
            spans += _line(first, line, work)
        except WireError as error:
            losses.append(f"{error}: the rest of a line is missing")
    if not len(work):
        raise InputError(f"{path}: the device's plane holds no operators")
    spans_of = _from(spans, work.origin(), PICOSECOND)
    return closed("xplane", work, PICOSECOND, losses, annotations=spans_of)


def _from(
    spans: list[tuple[str, float, float]], origin: float, unit_s: float
) -> tuple[Annotation, ...]:
    spans.sort(key=lambda span: span[1])
    return tuple(
        Annotation(
            name=name,
            start_s=(start - origin) * unit_s,
            duration_s=duration * unit_s,
            on_device=True,
        )
        for name, start, duration in spans[:MAX_ANNOTATIONS]
    )


def _is_device(data: memoryview) -> bool:
    """Say by its name whether a plane is a device's; the host's may be far larger."""
    return any(number == 2 and _DEVICE_PLANE.match(text(value)) for number, value in fields(data))


def _plane(data: memoryview) -> _Plane:
    plane = _Plane()
    raw: list[memoryview] = []
    for number, value in fields(data):
        if number == 2:
            plane.name = text(value)
        elif isinstance(value, int):
            continue
        elif number == 3:
            plane.lines.append(value)
        elif number == 4:
            raw.append(value)
        elif number == 5:
            key, entry = _entry(value)
            for inner, name in fields(entry):
                if inner == 2:
                    plane.stats[key] = text(name)
    for value in raw:
        key, entry = _entry(value)
        plane.events[key] = _event_metadata(entry, plane.stats)
    return plane


def _entry(data: memoryview) -> tuple[int, memoryview]:
    """Return key and value of one entry of a map."""
    key, value = 0, memoryview(b"")
    for number, part in fields(data):
        if number == 1:
            key = signed(part)
        elif number == 2 and not isinstance(part, int):
            value = part
    return key, value


def _event_metadata(data: memoryview, stats: dict[int, str]) -> tuple[str, dict[str, str]]:
    name, display, found = "", "", {}
    for number, value in fields(data):
        if number == 2:
            name = text(value)
        elif number == 4:
            display = text(value)
        elif number == 5 and not isinstance(value, int):
            label, said = _stat(value, stats)
            if said:
                found[label] = said
    return display or name, found


def _stat(data: memoryview, stats: dict[int, str]) -> tuple[str, str]:
    """Return the name of a statistic and its value as text ('' for numbers)."""
    label, said = "", ""
    for number, value in fields(data):
        if number == 1:
            label = stats.get(signed(value), "")
        elif number == 5:
            said = text(value)
        elif number == 7:
            said = stats.get(signed(value), "")
    return label, said


def _line(plane: _Plane, data: memoryview, work: DeviceWork) -> list[tuple[str, float, float]]:
    """Add the operators of a line, or return the steps that it holds, in picoseconds."""
    name, began_ps = "", 0
    identity = -1
    for number, value in fields(data):
        if number == 1:
            identity = signed(value)
        elif number in (2, 11) and text(value):
            name = text(value)
        elif number == 3:
            began_ps = signed(value) * 1000
    steps = name in _STEPS
    if not steps and not _OPS.match(name):
        return []
    found = _DEVICE_PLANE.match(plane.name)
    device = int(found[2]) if found else 0
    spans: list[tuple[str, float, float]] = []
    # again for the events alone, which are too many to hold
    for field_number, event in fields(data):
        if field_number != 4 or isinstance(event, int):
            continue
        key = offset = duration = 0
        for number, value in fields(event):
            if number == 1:
                key = signed(value)
            elif number == 2:
                offset = signed(value)
            elif number == 3:
                duration = signed(value)
        label, said = plane.events.get(key, ("operator without a name", {}))
        start = float(began_ps + offset)
        if duration < 0:
            continue
        if steps:
            spans.append((label, start, float(duration)))
            continue
        work.add(
            start=start,
            duration=float(duration),
            name=label,
            device=device,
            stream=identity if 0 <= identity < 2**31 else -1,
            collective=collective_of(label, {}),
            category=category_of_op(said.get("hlo_category", ""), label),
        )
    return spans


def read_xla_json(path: Path) -> Trace:
    """Read a ``trace.json(.gz)`` of JAX: devices are processes named ``/device:...``.

    Raises
    ------
    InputError
        The file is no trace, or no process of it is a device.
    """
    stream = EventStream(path)
    devices: dict[str, int] = {}
    lines: dict[tuple[str, str], str] = {}
    threads = Interner()
    work, spans = DeviceWork(), []
    for event in stream.events():
        args = event.get("args")
        args = args if isinstance(args, dict) else {}
        process, thread = str(event.get("pid")), str(event.get("tid"))
        if event.get("ph") == "M":
            named = str(args.get("name", ""))
            found = _DEVICE_PLANE.match(named)
            if event.get("name") == "process_name" and found:
                devices[process] = int(found[2])
            elif event.get("name") == "thread_name":
                lines[process, thread] = named
            continue
        line = lines.get((process, thread), "")
        if process not in devices or event.get("ph") != "X":
            continue
        times = _times(event, args)
        if times is None:
            stream.lost["events without a time left out"] += 1
            continue
        name = str(event.get("name", ""))
        if line in _STEPS:
            spans.append((name, *times))
        elif _OPS.match(line) and devices[process] == min(devices.values()):
            work.add(
                start=times[0],
                duration=times[1],
                name=name,
                device=devices[process],
                stream=threads.of((process, thread)),
                collective=collective_of(name, {}),
                category=category_of_op(str(args.get("hlo_category", "")), name),
            )
    if not len(work):
        raise InputError(f"{path}: no process of it is a device with operators (XLA Ops)")
    spans_of = _from(spans, work.origin(), MICROSECOND)
    return closed("xla-json", work, MICROSECOND, stream.losses(), annotations=spans_of)


def _times(event: dict[str, Any], args: dict[str, Any]) -> tuple[float, float] | None:
    """Return start and duration, microseconds, by the device's own duration where it is said."""
    try:
        start, duration = float(event["ts"]), float(event.get("dur", 0.0))
        if "device_duration_ps" in args:
            duration = float(args["device_duration_ps"]) * 1e-6
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (start, duration) if abs(start) < 1e18 and 0.0 <= duration < 1e18 else None
