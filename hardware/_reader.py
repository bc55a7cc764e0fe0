"""Read sourced numbers out of a TOML file, collecting every mistake of the file."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest

UNITS: dict[str, float] = {
    "tflops": 1e12,
    "tflop_per_s": 1e12,
    "gb_per_s": 1e9,
    "gb": 1e9,
    "gib": 2.0**30,
    "mib": 2.0**20,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "ps_per_score": 1e-12,
    "w": 1.0,
}
"""Unit that a key ends in -> SI."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """A number with where it comes from."""

    value: float
    source: str
    confirmed: bool


@dataclass(slots=True)
class Reader:
    """One file being read: its citations and the mistakes found so far."""

    file: str
    citations: dict[str, str]
    problems: list[str] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        """Note a mistake; :meth:`finish` raises all of them together."""
        self.problems.append(f"{self.file}: {where}: {what}")

    def finish(self) -> None:
        """Raise InputError with every mistake found, if there was one."""
        if self.problems:
            raise InputError(self.problems)

    def table(self, parent: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
        """Return the sub-table ``key`` (empty when absent)."""
        value = parent.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem(where or key, f"must be a table, found {value!r}")
        return {}

    def known(self, table: dict[str, Any], allowed: Iterable[str], where: str) -> None:
        """Refuse keys that are not in ``allowed``."""
        allowed = tuple(allowed)
        for key in table:
            if key not in allowed:
                path = f"{where}.{key}" if where else key
                self.problem(path, f"unknown key; {nearest(key, allowed)}")

    def cite(self, keys: object, where: str) -> str:
        """Return the citation behind a key (or several) of ``[sources]``."""
        names = [keys] if isinstance(keys, str) else keys
        if not isinstance(names, list) or not names:
            self.problem(where, 'has no source; add source = "KEY" with KEY from [sources]')
            return ""
        found: list[str] = []
        for name in names:
            if isinstance(name, str) and name in self.citations:
                found.append(self.citations[name])
            else:
                self.problem(where, f"source {name!r} is not in [sources]")
        return "; ".join(found)

    def number(self, value: object, where: str, *, zero: bool = False, most: float = 1e9) -> float:
        """Return a finite number above zero (or from zero) and at most ``most``."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.problem(where, f"must be a number, found {value!r}")
            return 1.0
        low_ok = value >= 0 if zero else value > 0
        if not (math.isfinite(value) and low_ok and value <= most):
            low = "at least 0" if zero else "above 0"
            self.problem(where, f"must be {low} and at most {most:g}, found {value!r}")
            return 1.0
        return float(value)

    def sourced(
        self, entry: object, where: str, *, zero: bool = False, most: float = 1e9
    ) -> Sourced:
        """Return ``{ value = ..., source = ..., confirmed = ... }`` as a checked number."""
        if not isinstance(entry, dict):
            self.problem(where, f'must be {{ value = ..., source = "KEY" }}, found {entry!r}')
            return Sourced(1.0, "", True)
        self.known(entry, ("value", "source", "confirmed"), where)
        return Sourced(
            self.number(entry.get("value"), where, zero=zero, most=most),
            self.cite(entry.get("source"), where),
            self.flag(entry, where),
        )

    def flag(self, entry: dict[str, Any], where: str) -> bool:
        """Return the ``confirmed`` flag of an entry (true unless said otherwise)."""
        confirmed = entry.get("confirmed", True)
        if not isinstance(confirmed, bool):
            self.problem(f"{where}.confirmed", f"must be true or false, found {confirmed!r}")
            return True
        return confirmed


def parse(text: str, file: str) -> dict[str, Any]:
    """Parse TOML text, naming the file in the error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from None


def open_text(path: Path) -> str:
    """Read a UTF-8 file, or raise InputError naming it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def citations(document: dict[str, Any], file: str) -> dict[str, str]:
    """Return the ``[sources]`` table, checked to map keys to text."""
    sources = document.get("sources", {})
    if not isinstance(sources, dict) or not all(
        isinstance(text, str) and text.strip() for text in sources.values()
    ):
        raise InputError(f"{file}: sources: must map keys to citations (text)")
    return sources


def normalise(name: str) -> str:
    """Return ``name`` in lower case with ``-`` for spaces and underscores."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def scale(key: str) -> float:
    """Return what turns the unit that ``key`` ends in into SI (1 when it names none)."""
    return next((si for unit, si in UNITS.items() if key.endswith("_" + unit)), 1.0)
