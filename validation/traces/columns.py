"""Gather a trace's device work and launches while it streams by; typed arrays stay small."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.validation.traces.categories import category_of
from ridgeline.validation.traces.records import Annotation, Collective, Events, Trace


class Interner(dict[Any, int]):
    """Number distinct values in order of their first appearance."""

    def of(self, value: Any) -> int:
        """Return the number of a value."""
        return self.setdefault(value, len(self))


def one_device(events: Events) -> tuple[Events, tuple[str, ...]]:
    """Return the events of the device with the most of them, and what is left out for that."""
    devices, counts = np.unique(events.device, return_counts=True)
    if len(devices) < 2:
        return events, ()
    kept = int(devices[np.argmax(counts)])
    return events.take(events.device == kept), (
        f"{len(devices) - 1} other devices left out, device {kept} read",
    )


def closed(
    kind: str,
    work: DeviceWork,
    unit_s: float,
    losses: Sequence[str],
    *,
    annotations: Iterable[Annotation] = (),
    device: tuple[str, float] = ("", 0.0),
) -> Trace:
    """Return the trace of a format without ranks and operators: the busiest device's work.

    Parameters
    ----------
    kind
        The format.
    work, unit_s
        Everything that was read, and its unit of time, s.
    losses
        What was lost on the way.
    annotations
        Spans of the program, s from the first moment of the trace.
    device
        Name and memory, bytes, as far as the trace says them.
    """
    events, left_out = one_device(work.events(unit_s))
    name, memory_bytes = device
    return Trace(
        format=kind,
        rank=-1,
        world_size=0,
        device_name=name,
        device_memory_bytes=memory_bytes,
        names=tuple(work.names),
        operators=(),
        collectives=tuple(work.collectives),
        annotations=tuple(annotations),
        events=events,
        losses=(*losses, *left_out),
    )


class DeviceWork:
    """Device events and the runtime calls that launched them, in the trace's own unit of time."""

    def __init__(self) -> None:
        self.names = Interner()
        self.collectives = Interner()
        self._start = array("d")
        self._duration = array("d")
        self._name = array("i")
        self._device = array("i")
        self._stream = array("i")
        self._correlation = array("q")
        self._collective = array("i")
        self._bytes = array("d")
        self._call_correlation = array("q")
        self._call_start = array("d")
        self._call_thread = array("i")
        self._categories: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._start)

    def add(
        self,
        *,
        start: float,
        duration: float,
        name: str,
        device: int = 0,
        stream: int = -1,
        correlation: int = -1,
        collective: Collective | None = None,
        size: float = 0.0,
        category: int = -1,
    ) -> None:
        """Add an event; its category is told by its name unless the trace says it."""
        place = self.names.of(name)
        if category >= 0:
            self._categories[place] = category
        self._start.append(start)
        self._duration.append(duration)
        self._name.append(place)
        self._device.append(device)
        self._stream.append(stream)
        self._correlation.append(correlation)
        self._collective.append(-1 if collective is None else self.collectives.of(collective))
        self._bytes.append(size)

    def add_call(self, *, correlation: int, start: float, thread: int = 0) -> None:
        """Add a runtime call."""
        self._call_correlation.append(correlation)
        self._call_start.append(start)
        self._call_thread.append(thread)

    def calls(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]:
        """Return the call of each event (-1 for none), and start and thread of each call."""
        correlation = np.frombuffer(self._correlation, np.int64)
        known = np.frombuffer(self._call_correlation, np.int64)
        call = np.full(len(correlation), -1, np.int64)
        if len(known):
            order = np.argsort(known, kind="stable")
            ranked = known[order]
            place = np.minimum(np.searchsorted(ranked, correlation), len(ranked) - 1)
            matched = (correlation >= 0) & (ranked[place] == correlation)
            call[matched] = order[place[matched]]
        return call, np.frombuffer(self._call_start), np.frombuffer(self._call_thread, np.int32)

    def origin(self) -> float:
        """Return the first moment of the trace, in its own unit."""
        first = float(np.frombuffer(self._start).min())
        return (
            min(first, float(np.frombuffer(self._call_start).min())) if self._call_start else first
        )

    def events(
        self,
        unit_s: float,
        operator: NDArray[np.int32] | None = None,
        operator_call: NDArray[np.int64] | None = None,
    ) -> Events:
        """Return the device events by start, in seconds from the first moment."""
        start = np.frombuffer(self._start)
        origin = self.origin()
        call, call_start, _ = self.calls()
        launch = np.full(len(start), np.nan)
        launch[call >= 0] = call_start[call[call >= 0]]
        name = np.frombuffer(self._name, np.int32)
        category = np.array(
            [self._categories.get(place, category_of(n)) for n, place in self.names.items()],
            np.int8,
        )
        unknown = np.full(len(start), -1)
        return Events(
            start_s=(start - origin) * unit_s,
            duration_s=np.frombuffer(self._duration) * unit_s,
            name=name,
            category=category[name],
            device=np.frombuffer(self._device, np.int32),
            stream=np.frombuffer(self._stream, np.int32),
            launch_s=(launch - origin) * unit_s,
            operator=unknown.astype(np.int32) if operator is None else operator,
            call=unknown if operator_call is None else operator_call,
            collective=np.frombuffer(self._collective, np.int32),
            bytes=np.frombuffer(self._bytes),
        ).take(np.argsort(start, kind="stable"))
