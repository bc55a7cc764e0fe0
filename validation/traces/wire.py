"""The wire format of protocol buffers, as far as reading fields needs it.

Encoding: https://protobuf.dev/programming-guides/encoding (varints, fixed 32 and 64 bits, bytes).
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no message, or end within one."""


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned varint and the place behind it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a number is cut off or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of a message's fields: an int, or the bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has number 0")
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"a field has the unknown type {kind}")
        if at + size > len(data):
            raise WireError("a field is cut off")
        yield number, data[at : at + size]
        at += size


def signed(value: int | memoryview) -> int:
    """Return a varint as int64; 0 for anything else."""
    if not isinstance(value, int):
        return 0
    return value - 2**64 if value >= 2**63 else value


def text(value: int | memoryview) -> str:
    """Return bytes as text; '' for a number."""
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")
