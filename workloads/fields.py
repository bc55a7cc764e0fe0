"""Checked reading of a JSON object: every mistake is collected, none stops the reading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_LAYERS = 100_000
MAX_SIZE = 1_000_000_000

Json = Mapping[str, Any]


class Fields:
    """The fields of one JSON object, read by name and checked on the way.

    A getter with several names reads the first that is present (families spell one fact in
    several ways). An absent or null field takes the default; without one it is a problem. After a
    problem a getter returns a harmless value, so that the rest of the file is checked too.

    Parameters
    ----------
    config
        The object.
    where
        Prefix of every problem: the file or the name of the model.
    problems
        The list that problems are added to.
    """

    def __init__(self, config: Json, where: str, problems: list[str]) -> None:
        self._config = config
        self._where = where
        self.problems = problems
        self._bad: set[str] = set()

    def problem(self, text: str, *names: str) -> None:
        """Record a problem.

        Where it is one between fields, give their names: it is then left out if one of them has
        a problem of its own, which it would only repeat.
        """
        if self._bad.isdisjoint(names):
            self.problems.append(f"{self._where}: {text}")

    def _reject(self, names: Sequence[str], text: str) -> None:
        self.problem(text)
        self._bad.update(names)

    def _find(self, names: Sequence[str]) -> tuple[str, Any]:
        for name in names:
            value = self._config.get(name)
            if value is not None:
                return name, value
        return names[0], None

    def _missing(self, names: Sequence[str]) -> None:
        also = f" (or {', '.join(repr(name) for name in names[1:])})" if len(names) > 1 else ""
        self._reject(names, f"missing field {names[0]!r}{also}")

    def has(self, name: str) -> bool:
        """Whether a field is present and not null."""
        return self._config.get(name) is not None

    def integer(
        self,
        *names: str,
        default: int | None = None,
        minimum: int = 1,
        maximum: int = MAX_SIZE,
    ) -> int:
        """Read a whole number within bounds."""
        name, value = self._find(names)
        safe = max(minimum, 1)
        if value is None:
            if default is None:
                self._missing(names)
                return safe
            return default
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._reject(names, f"{name!r} is {_shown(value)}: must be a whole number")
            return safe
        if not minimum <= value <= maximum:
            self._reject(names, f"{name!r} is {_shown(value)}: must be from {minimum} to {maximum}")
            return safe
        return value

    def number(
        self, *names: str, default: float | None = None, minimum: float = 0.0, maximum: float = 1e9
    ) -> float:
        """Read a finite number within bounds."""
        name, value = self._find(names)
        if value is None:
            if default is None:
                self._missing(names)
                return max(minimum, 1.0)
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not minimum <= value <= maximum:
            self._reject(
                names, f"{name!r} is {_shown(value)}: must be from {minimum:g} to {maximum:g}"
            )
            return max(minimum, 1.0)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Read true or false."""
        value = self._config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._reject((name,), f"{name!r} is {_shown(value)}: must be true or false")
            return default
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Read a string."""
        value = self._config.get(name)
        if value is None:
            if default is None:
                self._missing((name,))
                return ""
            return default
        if not isinstance(value, str):
            self._reject((name,), f"{name!r} is {_shown(value)}: must be a string")
            return default or ""
        return value

    def entries(self, name: str) -> list[Any]:
        """Read a list, empty when absent."""
        value = self._config.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._reject((name,), f"{name!r} is {_shown(value)}: must be a list")
            return []
        return value

    def others(self, known: Sequence[str]) -> list[str]:
        """Return the names of fields that are not ``known``."""
        return [name for name in self._config if name not in known]

    def section(self, name: str) -> Fields:
        """Read a nested object, empty when absent."""
        value = self._config.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.problem(f"{name!r} is {_shown(value)}: must be an object")
            value = None
        return Fields(value or {}, f"{self._where}: {name}", self.problems)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= 40 else text[:37] + "..."
