"""Read the events of a Chrome trace in bounded memory, and go on behind what is broken.

The text is decoded value by value (``json.JSONDecoder.raw_decode``) from a window that slides over
the file, so memory does not grow with it. A value that cannot be decoded is mended when its defect
is one of those that profilers are known to write, or else skipped up to where the next event
begins; both are counted.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError

WINDOW = 1 << 20
"""Characters read at a time; also the longest event that is waited for."""
_NEAR = 4096
"""Characters that are tried first where events are decoded one by one: most are shorter."""
MAX_STRANGERS = 100_000
"""A list that begins with so many values, none of them an event, is no trace."""
MAX_METADATA = 64 << 20
"""Longest top-level value beside the events, characters."""
_SPACE = re.compile(r"[\s\ufeff\x00]*")
_NEXT_EVENT = re.compile(r"\}\s*,\s*(?=\{\s*\"(?:ph|name|cat|pid|tid|ts|args|dur|id)\")")
_BACKSLASH = re.compile(r"\\(?![\"\\/bfnrt]|u[0-9a-fA-F]{4})")
_DECIMAL_COMMA = re.compile(r'("(?:ts|dur)"\s*:\s*\d+),(\d+)(?=\s*[,}])')
_NAME = re.compile(
    r'("name"\s*:\s*")(.*?)("\s*,\s*"(?:ph|cat|pid|tid|ts|dur|id|args)"\s*:)', re.DOTALL
)
_LONE_QUOTE = re.compile(r'(?<!\\)"')
_STRANGERS = "values that are no event left out"
_TRIES = 8
_LIST_END = re.compile(r"\}(?=\s*\]\s*(?:[,}]|$))")
GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""
_LFS = "version https://git-lfs"


class EventStream:
    """Events of a Chrome trace and, after them, the other top-level values.

    Parameters
    ----------
    path
        ``.json`` or gzip, told by its first bytes; an object with ``traceEvents`` or a bare list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        """Top-level values beside the events."""
        self.lost: Counter[str] = Counter()
        """What was lost or mended, by what happened."""
        self.ended_early = ""
        """Why the file ended before its events did; empty when it did not."""
        self.count = 0
        self._text = ""
        self._at = 0
        self._refused = 0
        """Up to here events are decoded one by one, since one of them is damaged."""
        self._done = False
        self._decode = json.JSONDecoder(strict=False).raw_decode
        self._source = self._read()

    def _read(self) -> Iterator[str]:
        """Yield the file's text, unpacked."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self.path.open("rb") as file:
            head = file.read(2)
            file.seek(0)
            packed = zlib.decompressobj(wbits=31) if head == GZIP else None
            while data := file.read(WINDOW // 4 if packed else WINDOW):
                if packed is None:
                    yield decoder.decode(data)
                    continue
                while data:
                    out, sound = inflated(packed, data)
                    if out:
                        yield decoder.decode(out)
                    if not sound:
                        self.ended_early = "the gzip stream is damaged"
                        return
                    data = packed.unconsumed_tail
                    if packed.eof and packed.unused_data:  # gzip members follow each other
                        data = packed.unused_data
                        packed = zlib.decompressobj(wbits=31)
                        if not data.startswith(GZIP):
                            return
            if packed is not None and not packed.eof:
                self.ended_early = "the gzip stream ends early"
            yield decoder.decode(b"", final=True)

    def _more(self) -> bool:
        """Slide the window; False at the end of the file."""
        if self._done:
            return False
        for chunk in self._source:
            if chunk:
                self._text = self._text[self._at :] + chunk
                self._refused = max(0, self._refused - self._at)
                self._at = 0
                return True
        self._done = True
        return False

    def _peek(self) -> str:
        """Return the next character that is not space, '' at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self, longest: int) -> Any:
        """Decode the next value, waiting for up to ``longest`` characters of it."""
        self._peek()
        near = self._text[self._at : self._at + _NEAR]
        if len(near) == _NEAR:
            # an error counts the lines before it: of a whole window that would take too long
            try:
                value, end = self._decode(near, 0)
            except (json.JSONDecodeError, RecursionError) as error:
                if _is_damage(error):
                    raise _DamagedError from error
            else:
                if end < _NEAR:
                    self._at += end
                    return value
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                held = len(self._text) - self._at
                # twice as much each time, so that a long value is not decoded again and again
                while held < longest and len(self._text) - self._at < 2 * held and self._more():
                    pass
                if len(self._text) - self._at > held:
                    continue
                raise _DamagedError from error
            # a number may go on behind the window
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._more():
                continue
            self._at = end
            return value

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield every event that can be read.

        Raises
        ------
        InputError
            The file is not a trace.
        """
        first = self._peek()
        if first == "[":
            self._at += 1
            yield from self._list()
            return
        if first != "{":
            raise InputError(f"{self.path}: {self._not_a_trace(first)}")
        self._at += 1
        found = False
        while (mark := self._peek()) and mark != "}":
            if mark == ",":
                self._at += 1
                continue
            try:
                key = self._value(WINDOW)
                if self._peek() != ":":
                    raise _DamagedError
                self._at += 1
                if key == "traceEvents" and self._peek() == "[":
                    found = True
                    self._at += 1
                    yield from self._list()
                    continue
                self.metadata[str(key)] = self._value(MAX_METADATA)
            except _DamagedError:
                if not self._skip_to_events():
                    break
                found = True
                yield from self._list()
        if not mark and not self.ended_early:
            self.ended_early = "the file ends early"
        if not found:
            raise InputError(
                f"{self.path}: holds no traceEvents; give the trace that the profiler exported"
            )

    def _not_a_trace(self, first: str) -> str:
        if not first:
            return "is empty; give the trace that the profiler exported"
        if self._text.startswith(_LFS, self._at):
            return "is a pointer of git-lfs, not the file itself; run git lfs pull"
        return "is no JSON trace (it begins with neither { nor [)"

    def _skip_to_events(self) -> bool:
        """Pass over damaged metadata; True when the list of events follows."""
        self.lost["damaged metadata skipped"] += 1
        while True:
            place = self._text.find('"traceEvents"', self._at)
            if place >= 0:
                self._at = place + len('"traceEvents"')
                if self._peek() == ":":
                    self._at += 1
                    if self._peek() == "[":
                        self._at += 1
                        return True
                continue
            self._at = max(self._at, len(self._text) - 16)
            if not self._more():
                return False

    def _list(self) -> Iterator[dict[str, Any]]:
        """Yield the events of the list that has just been opened."""
        text_end = ("", "]")
        while (mark := self._peek()) not in text_end:
            if mark == ",":
                self._at += 1
                continue
            if batch := self._batch():
                self.count += len(batch)
                yield from batch
                continue
            try:
                event = self._value(WINDOW)
            except _DamagedError:
                event = self._mend()
                if event is None:
                    break
            if isinstance(event, dict) and event:
                self.count += 1
                yield event
            elif event:
                self.lost[_STRANGERS] += 1
                if not self.count and self.lost[_STRANGERS] > MAX_STRANGERS:
                    raise InputError(f"{self.path}: is a JSON list, but not of a trace's events")
        if self._peek() == "]":
            self._at += 1
        elif not self.ended_early:
            self.ended_early = "the file ends early"

    def _batch(self) -> list[dict[str, Any]]:
        """Decode all whole events of the window at once; none where one of them is damaged."""
        if self._at < self._refused:
            return []
        last = None
        for back in (1 << 13, 1 << 16):
            near = max(self._at, len(self._text) - back)
            if found := list(_NEXT_EVENT.finditer(self._text, near)):
                last = found[-1]
                break
        if last is None:
            self._refused = len(self._text)
            return []
        end = last.start() + 1
        try:
            batch = self._decode(f"[{self._text[self._at : end]}]", 0)[0]
        except (json.JSONDecodeError, RecursionError):
            batch = None
        if batch is None or not all(type(event) is dict for event in batch):
            self._refused = end
            return []
        self._at = end
        return [event for event in batch if event]

    def _mend(self) -> dict[str, Any] | None:
        """Repair or pass over a damaged event; None when nothing follows it."""
        while not (found := _NEXT_EVENT.search(self._text, self._at)):
            if len(self._text) - self._at > 8 * WINDOW:
                self._at = len(self._text) - WINDOW
            if not self._more():
                break
        if found:
            ends = [found.start() + 1]
        else:
            # the last event: its list may close behind it, and more may follow
            closing = islice(_LIST_END.finditer(self._text, self._at), _TRIES)
            ends = [*(end.start() + 1 for end in closing), len(self._text)]
        for end in ends:
            mended = repaired(self._text[self._at : end])
            if mended is not None:
                self._at = end
                self.lost["events mended"] += 1
                return mended
        if found or len(ends) > 1:
            self._at = ends[0]
            self.lost["damaged events left out"] += 1
            return {}
        self._at = len(self._text)
        self.ended_early = self.ended_early or "the file ends within an event"
        return None

    def losses(self) -> tuple[str, ...]:
        """Say what was lost, one line each; call it when the events are read."""
        lines = [f"{count:,} {what}" for what, count in sorted(self.lost.items())]
        if self.ended_early:
            lines.append(f"{self.ended_early} after {self.count:,} events: the rest is missing")
        return tuple(lines)


def inflated(packed: zlib._Decompress, data: bytes) -> tuple[bytes, bool]:
    """Unpack up to ``WINDOW`` bytes; (what comes before any damage, whether there was none)."""
    before = packed.copy()
    try:
        return packed.decompress(data, WINDOW), True
    except zlib.error:
        return b"".join(_bytewise(before, data)), False


def _bytewise(packed: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """Yield all that comes before the damage."""
    with suppress(zlib.error):
        for at in range(len(data)):
            yield packed.decompress(data[at : at + 1])


def _is_damage(error: json.JSONDecodeError | RecursionError) -> bool:
    """Say whether the first ``_NEAR`` characters are broken, not only cut off."""
    return (
        isinstance(error, json.JSONDecodeError)
        and not error.msg.startswith("Unterminated string")
        and error.pos < _NEAR - 16
    )


class _DamagedError(Exception):
    """A value that cannot be decoded."""


def repaired(span: str) -> dict[str, Any] | None:
    """Return the event of a damaged span when its defect is a known one, else None.

    Known: a backslash that escapes nothing, a decimal comma, a quote inside a name.
    """
    decode = json.JSONDecoder(strict=False).raw_decode
    mended = _DECIMAL_COMMA.sub(r"\1.\2", _BACKSLASH.sub(r"\\\\", span))
    for attempt in (mended, _NAME.sub(_escape_quotes, mended, count=1)):
        try:
            event, _ = decode(attempt.strip())
        except (json.JSONDecodeError, RecursionError):
            continue
        return event if isinstance(event, dict) else None
    return None


def _escape_quotes(found: re.Match[str]) -> str:
    return found[1] + _LONE_QUOTE.sub(lambda _: '\\"', found[2]) + found[3]
