"""PyTorch Kineto traces (Chrome trace JSON, plain or gzip), old spellings and AMD included.

Times of events are microseconds whatever ``displayTimeUnit`` says. A kernel's operator is the
innermost one that encloses, on its thread, the runtime call of the same correlation id.
"""

from __future__ import annotations

import gc
import math
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.validation.traces.categories import category_of
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.enclosing import innermost
from ridgeline.validation.traces.records import Annotation, Events, Operator, Trace
from ridgeline.validation.traces.streaming import EventStream

_DEVICE = {
    "kernel": "kernel",
    "Kernel": "kernel",
    "gpu_memcpy": "copy",
    "gpu_memset": "copy",
    "async_gpu": "copy",
    "mtia_ccp_events": "kernel",
}
_RUNTIME = ("cuda_runtime", "cuda_driver", "Runtime", "mtia_runtime", "privateuse1_runtime")
_OPERATOR = ("cpu_op", "Operator")
_HOST_SPANS = ("user_annotation",)
_DEVICE_SPANS = ("gpu_user_annotation",)
MAX_ANNOTATIONS = 200_000
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class _Columns:
    """What is gathered while events stream by; typed arrays stay small."""

    start: array[float] = field(default_factory=lambda: array("d"))
    duration: array[float] = field(default_factory=lambda: array("d"))
    name: array[int] = field(default_factory=lambda: array("i"))
    device: array[int] = field(default_factory=lambda: array("i"))
    stream: array[int] = field(default_factory=lambda: array("i"))
    correlation: array[int] = field(default_factory=lambda: array("q"))
    collective: array[int] = field(default_factory=lambda: array("i"))
    bytes: array[float] = field(default_factory=lambda: array("d"))
    call_correlation: array[int] = field(default_factory=lambda: array("q"))
    call_start: array[float] = field(default_factory=lambda: array("d"))
    call_thread: array[int] = field(default_factory=lambda: array("i"))
    op_start: array[float] = field(default_factory=lambda: array("d"))
    op_end: array[float] = field(default_factory=lambda: array("d"))
    op_thread: array[int] = field(default_factory=lambda: array("i"))
    op_kind: array[int] = field(default_factory=lambda: array("i"))


class _Interner(dict[Any, int]):
    """Number distinct values in order of their first appearance."""

    def of(self, value: Any) -> int:
        return self.setdefault(value, len(self))


def read_kineto(path: Path) -> Trace:
    """Read one rank's trace.

    Raises
    ------
    InputError
        The file is no trace, or holds no device work.
    """
    stream = EventStream(path)
    columns, names, threads, kinds = _Columns(), _Interner(), _Interner(), _Interner()
    collectives = _Interner()
    spans: list[Annotation] = []
    lost = stream.lost
    with _no_collection():
        for event in stream.events():
            category = event.get("cat")
            if not isinstance(category, str) or event.get("ph", "X") != "X":
                continue
            if (
                category not in _DEVICE
                and category not in _RUNTIME
                and category not in _OPERATOR
                and category not in _HOST_SPANS
                and category not in _DEVICE_SPANS
            ):
                continue
            start, duration = _number(event.get("ts")), _number(event.get("dur", 0.0))
            if start is None or duration is None or duration < 0.0:
                lost["events without a time left out"] += 1
                continue
            args = event.get("args")
            args = args if isinstance(args, dict) else {}
            name = str(event.get("name", ""))
            if category in _DEVICE:
                columns.start.append(start)
                columns.duration.append(duration)
                columns.name.append(names.of(name))
                columns.device.append(_whole(args.get("device", event.get("pid"))))
                columns.stream.append(_whole(args.get("stream", event.get("tid"))))
                columns.correlation.append(_correlation(args))
                annotated = collective_of(name, args)
                columns.collective.append(collectives.of(annotated) if annotated else -1)
                columns.bytes.append(_number(args.get("bytes", 0.0)) or 0.0)
            elif category in _RUNTIME:
                correlation = _correlation(args)
                if correlation >= 0:
                    columns.call_correlation.append(correlation)
                    columns.call_start.append(start)
                    columns.call_thread.append(threads.of(_thread(event)))
            elif category in _OPERATOR:
                columns.op_start.append(start)
                columns.op_end.append(start + duration)
                columns.op_thread.append(threads.of(_thread(event)))
                columns.op_kind.append(kinds.of((name, _shapes(args), _dtypes(args))))
            elif len(spans) < MAX_ANNOTATIONS:
                spans.append(
                    Annotation(
                        name=name,
                        start_s=start,
                        duration_s=duration,
                        on_device=category in _DEVICE_SPANS,
                    )
                )
    if not columns.start:
        raise InputError(
            f"{path}: holds no device work (kernels), only the host's; profile with the device's "
            "activity on, or give the trace of a rank that has an accelerator"
        )
    return _trace(stream, columns, names, kinds, collectives, spans)


def _trace(
    stream: EventStream,
    columns: _Columns,
    names: _Interner,
    kinds: _Interner,
    collectives: _Interner,
    spans: list[Annotation],
) -> Trace:
    start = np.frombuffer(columns.start)
    origin = float(start.min())
    if len(columns.call_start):
        origin = min(origin, float(np.frombuffer(columns.call_start).min()))
    launch, call, operator = _launches(columns)
    order = np.argsort(start, kind="stable")
    name = np.frombuffer(columns.name, np.int32)
    category = np.array([category_of(n) for n in names], np.int8)
    events = Events(
        start_s=(start - origin) * 1e-6,
        duration_s=np.frombuffer(columns.duration) * 1e-6,
        name=name,
        category=category[name],
        device=np.frombuffer(columns.device, np.int32),
        stream=np.frombuffer(columns.stream, np.int32),
        launch_s=(launch - origin) * 1e-6,
        operator=operator,
        call=call,
        collective=np.frombuffer(columns.collective, np.int32),
        bytes=np.frombuffer(columns.bytes),
    ).take(order)
    about = stream.metadata
    distributed = about.get("distributedInfo")
    distributed = distributed if isinstance(distributed, dict) else {}
    devices = about.get("deviceProperties")
    devices = [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    used = int(events.device[0])
    own = next((d for d in devices if d.get("id") == used), devices[0] if devices else {})
    spans.sort(key=lambda span: span.start_s)
    return Trace(
        format="kineto",
        rank=_whole(distributed.get("rank")),
        world_size=max(0, _whole(distributed.get("world_size"))),
        device_name=str(own.get("name", "")),
        device_memory_bytes=_number(own.get("totalGlobalMem", 0.0)) or 0.0,
        names=tuple(names),
        operators=tuple(Operator(name=n, shapes=s, dtypes=d) for n, s, d in kinds),
        collectives=tuple(collectives),
        annotations=tuple(
            Annotation(
                name=span.name,
                start_s=(span.start_s - origin) * 1e-6,
                duration_s=span.duration_s * 1e-6,
                on_device=span.on_device,
            )
            for span in spans
        ),
        events=events,
        losses=stream.losses(),
    )


def _launches(
    columns: _Columns,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int32]]:
    """Return, for each device event, its launch time, operator call and operator."""
    correlation = np.frombuffer(columns.correlation, np.int64)
    n = len(correlation)
    launch = np.full(n, np.nan)
    call = np.full(n, -1, np.int64)
    operator = np.full(n, -1, np.int32)
    known = np.frombuffer(columns.call_correlation, np.int64)
    if not len(known):
        return launch, call, operator
    order = np.argsort(known, kind="stable")
    ranked = known[order]
    place = np.minimum(np.searchsorted(ranked, correlation), len(ranked) - 1)
    matched = (correlation >= 0) & (ranked[place] == correlation)
    runtime = order[place[matched]]
    launch[matched] = np.frombuffer(columns.call_start)[runtime]
    if len(columns.op_start):
        enclosing = innermost(
            np.frombuffer(columns.op_start),
            np.frombuffer(columns.op_end),
            np.frombuffer(columns.op_thread, np.int32),
            np.frombuffer(columns.call_start)[runtime],
            np.frombuffer(columns.call_thread, np.int32)[runtime],
        )
        call[matched] = enclosing
        kind = np.frombuffer(columns.op_kind, np.int32)
        operator[matched] = np.where(enclosing >= 0, kind[enclosing], -1)
    return launch, call, operator


def _number(value: Any) -> float | None:
    """Return a finite number, also of a string (decimal commas included), else None."""
    if type(value) is float and -1e18 < value < 1e18:  # nearly always
        return value
    if isinstance(value, str):
        value = value.replace(",", ".")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e18 else None


def _whole(value: Any) -> int:
    """Return a small whole number, also out of text such as ``stream 7``; -1 when there is none."""
    if isinstance(value, str):
        found = _DIGITS.search(value)
        value = found[0][:9] if found else -1
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return number if -1 <= number < 2**31 else -1


def _thread(event: dict[str, Any]) -> tuple[str, str]:
    return str(event.get("pid")), str(event.get("tid"))


def _correlation(args: dict[str, Any]) -> int:
    value = args.get("correlation", -1)
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def _shapes(args: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    dims = args.get("Input Dims", args.get("Input dims", ()))
    if not isinstance(dims, list):
        return ()
    return tuple(
        tuple(d for d in shape if isinstance(d, int) and 0 <= d < 2**62)
        if isinstance(shape, list)
        else ()
        for shape in dims
    )


def _dtypes(args: dict[str, Any]) -> tuple[str, ...]:
    types = args.get("Input type", ())
    return tuple(str(t) for t in types) if isinstance(types, list) else ()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the garbage collector off: nothing here is cyclic, and it costs half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
