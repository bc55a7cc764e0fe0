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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.validation.traces.collective_names import collective_of
from ridgeline.validation.traces.columns import DeviceWork, Interner, one_device
from ridgeline.validation.traces.enclosing import innermost
from ridgeline.validation.traces.host import add_host_work
from ridgeline.validation.traces.records import Annotation, Operator, Trace
from ridgeline.validation.traces.streaming import EventStream

MICROSECOND = 1e-6
_DEVICE = ("kernel", "Kernel", "gpu_memcpy", "gpu_memset", "async_gpu", "mtia_ccp_events")
_RUNTIME = ("cuda_runtime", "cuda_driver", "Runtime", "mtia_runtime", "privateuse1_runtime")
_OPERATOR = ("cpu_op", "Operator")
_HOST_SPANS = ("user_annotation",)
_DEVICE_SPANS = ("gpu_user_annotation",)
_WANTED = frozenset((*_DEVICE, *_RUNTIME, *_OPERATOR, *_HOST_SPANS, *_DEVICE_SPANS))
MAX_ANNOTATIONS = 200_000
_DIMS, _OLD_DIMS, _TYPES = "Input Dims", "Input dims", "Input type"
_DIGITS = re.compile(r"\d+")


def read_kineto(path: Path, *, host: bool = False) -> Trace:
    """Read one rank's trace.

    Parameters
    ----------
    path
        The file.
    host
        Take the operators of a trace without kernels for the work of the CPU that ran them.

    Raises
    ------
    InputError
        The file is no trace, or holds no device work.
    """
    stream = EventStream(path)
    work, operators, threads = DeviceWork(), _Operators(), Interner()
    spans: list[Annotation] = []
    with _no_collection():
        for event in stream.events():
            category = event.get("cat")
            if not isinstance(category, str) or category not in _WANTED:
                continue
            if event.get("ph", "X") != "X":
                continue
            start, duration = _number(event.get("ts")), _number(event.get("dur", 0.0))
            if start is None or duration is None or duration < 0.0:
                stream.lost["events without a time left out"] += 1
                continue
            args = event.get("args")
            args = args if isinstance(args, dict) else {}
            name = str(event.get("name", ""))
            if category in _DEVICE:
                work.add(
                    start=start,
                    duration=duration,
                    name=name,
                    device=_whole(args.get("device", event.get("pid"))),
                    stream=_whole(args.get("stream", event.get("tid"))),
                    correlation=_correlation(args),
                    collective=collective_of(name, args),
                    size=_number(args.get("bytes", 0.0)) or 0.0,
                )
            elif category in _RUNTIME:
                correlation = _correlation(args)
                if correlation >= 0:
                    thread = threads.of(_thread(event))
                    work.add_call(correlation=correlation, start=start, thread=thread)
            elif category in _OPERATOR:
                operators.add(name, args, start, start + duration, threads.of(_thread(event)))
            elif len(spans) < MAX_ANNOTATIONS:
                on_device = category in _DEVICE_SPANS
                stream_of = _whole(args.get("stream", event.get("tid"))) if on_device else -1
                spans.append(
                    Annotation(
                        name=name,
                        start_s=start,
                        duration_s=duration,
                        on_device=on_device,
                        stream=stream_of,
                    )
                )
    if host and not len(work) and len(operators):
        return _trace(stream, work, operators, spans, operators.as_work(work))
    if not len(work):
        raise InputError(
            f"{path}: holds no device work (kernels), only the host's; profile with the device's "
            "activity on, or give the trace of a rank that has an accelerator"
        )
    return _trace(stream, work, operators, spans, operators.of(work))


class _Operators:
    """The framework's operators while they stream by."""

    def __init__(self) -> None:
        self.kinds = Interner()
        self._looks: dict[tuple[str, str, str], int] = {}
        self._start = array("d")
        self._end = array("d")
        self._thread = array("i")
        self._kind = array("i")

    def add(self, name: str, args: dict[str, Any], start: float, end: float, thread: int) -> None:
        self._start.append(start)
        self._end.append(end)
        self._thread.append(thread)
        # most calls look like one before: their text tells, without taking it apart
        look = (name, str(args.get(_DIMS, args.get(_OLD_DIMS))), str(args.get(_TYPES)))
        kind = self._looks.get(look)
        if kind is None:
            kind = self.kinds.of((name, _shapes(args), _dtypes(args)))
            self._looks[look] = kind
        self._kind.append(kind)

    def __len__(self) -> int:
        return len(self._start)

    def as_work(self, work: DeviceWork) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Add the operators themselves as device events; return kind and call of each."""
        names = [name for name, *_ in self.kinds]
        return add_host_work(work, names, (self._start, self._end, self._thread, self._kind))

    def of(self, work: DeviceWork) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the kind of operator and the call of it that launched each device event."""
        call, moment, thread = work.calls()
        kind = np.full(len(call), -1, np.int32)
        which = np.full(len(call), -1, np.int64)
        known = call >= 0
        if len(self._start) and known.any():
            which[known] = innermost(
                np.frombuffer(self._start),
                np.frombuffer(self._end),
                np.frombuffer(self._thread, np.int32),
                moment[call[known]],
                thread[call[known]],
            )
            kinds = np.frombuffer(self._kind, np.int32)
            kind = np.where(which >= 0, kinds[which], -1).astype(np.int32)
        return kind, which


def _trace(
    stream: EventStream,
    work: DeviceWork,
    operators: _Operators,
    spans: list[Annotation],
    launched: tuple[NDArray[np.int32], NDArray[np.int64]],
) -> Trace:
    origin = work.origin()
    events, left_out = one_device(work.events(MICROSECOND, *launched))
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
        names=tuple(work.names),
        operators=tuple(Operator(name=n, shapes=s, dtypes=d) for n, s, d in operators.kinds),
        collectives=tuple(work.collectives),
        annotations=tuple(
            replace(
                span,
                start_s=(span.start_s - origin) * MICROSECOND,
                duration_s=span.duration_s * MICROSECOND,
            )
            for span in spans
        ),
        events=events,
        losses=(*stream.losses(), *left_out),
    )


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
    dims = args.get(_DIMS, args.get(_OLD_DIMS))
    if not isinstance(dims, list):
        return ()
    return tuple(
        tuple(d for d in shape if isinstance(d, int) and 0 <= d < 2**62)
        if isinstance(shape, list)
        else ()
        for shape in dims
    )


def _dtypes(args: dict[str, Any]) -> tuple[str, ...]:
    types = args.get(_TYPES)
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
