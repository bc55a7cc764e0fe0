"""Changes as a user writes them: ``spares=2%,checkpoint=in-memory``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.fleet.checkpoints import INTERVALS

Reader = Callable[[str], dict[str, Any]]
"""From the text of a value to the fields that it changes; ``ValueError`` with the rule."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(s|min|h|d)", re.IGNORECASE)


def parse_changes(text: str, option: str, keys: Mapping[str, Reader]) -> dict[str, dict[str, Any]]:
    """Return what each ``KEY=VALUE`` of a comma-separated list changes.

    Parameters
    ----------
    text
        For example ``spares=2%,checkpoint=in-memory``.
    option
        What to call it in a complaint.
    keys
        What may be changed, each with what reads its value.

    Returns
    -------
    dict
        By the text of each change, fields and their values.

    Raises
    ------
    InputError
        All mistakes together.
    """
    changes: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    seen: set[str] = set()
    for part in text.split(","):
        one = part.strip()
        key, equals, value = (piece.strip() for piece in one.partition("="))
        if not equals or not value:
            wrong.append(f"{option} {one!r}: must be KEY=VALUE, such as spares=2%")
        elif key not in keys:
            wrong.append(f"{option} {key}: unknown; {nearest(key, keys)}")
        elif key in seen:
            wrong.append(f"{option} {key}: given twice")
        else:
            seen.add(key)
            try:
                changes[f"{key}={value}"] = keys[key](value)
            except ValueError as error:
                wrong.append(f"{option} {key}={value}: {error}")
    if wrong:
        raise InputError(wrong)
    return changes


def number(text: str, most: float = inf) -> float:
    """Return a finite number from 0 on; ``ValueError`` otherwise, as of all readers here."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not 0.0 <= value <= most or value == inf:
        bound = "" if most == inf else f" and at most {most:g}"
        raise ValueError(f"must be 0 or more{bound}, and finite")
    return value


def share(text: str) -> float:
    """Return a share such as 2% or 0.02."""
    return number(text.removesuffix("%"), 100.0) / 100.0 if "%" in text else number(text, 1.0)


def whole(text: str) -> int:
    """Return a whole number."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError("must be a whole number")
    return int(text)


def parse_time(text: str) -> float:
    """Return a time with its unit, such as 15min, 2.2h or 3d [s]; ``ValueError`` otherwise."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("must be a time with its unit, such as 15min, 2.2h or 3d")
    return float(match[1]) * _UNITS[match[2].lower()]


def positive_time(text: str) -> float:
    """Return a time above 0 [s]."""
    value = parse_time(text)
    if not value:
        raise ValueError("must be above 0")
    return value


def interval(text: str) -> str | float:
    """Return a rule for the interval of checkpoints, or a time [s]."""
    return text if text in INTERVALS else positive_time(text)


def code(text: str) -> dict[str, Any]:
    """Return an erasure code such as 8+2."""
    match = re.fullmatch(r"(\d{1,4})\+(\d{1,4})", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise ValueError("must be DATA+PARITY, such as 8+2")
    return {"data": int(match[1]), "parity": int(match[2])}


def field(name: str, read: Callable[[str], Any]) -> Reader:
    """Return what reads the value of a single field."""
    return lambda text: {name: read(text)}
