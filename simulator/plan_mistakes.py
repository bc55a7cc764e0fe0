"""Mistakes of a plan, each in the words of whoever gave the value: the file, or a flag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ridgeline.errors import nearest

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


@dataclass(slots=True)
class Mistakes:
    """Collects mistakes and says each in the words of whoever gave the value."""

    source: str
    labels: Mapping[str, str]
    lines: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, rule: str) -> None:
        """Add one mistake; ``value`` is left out when it is None."""
        shown = "" if value is None else _shown(value)
        if key in self.labels:
            place = f"{self.labels[key]} {shown}".rstrip()
        else:
            place = f"{self.source}{key} = {shown}" if shown else f"{self.source}{key}"
        self.lines.append(f"{place}: {rule}")

    def add_line(self, line: str) -> None:
        """Add a line of ``legality``, which begins with its key."""
        match = re.match(r"([a-z_]+\.[a-z_]+)( = )?", line)
        if match is not None and match[1] in self.labels:
            self.lines.append(
                self.labels[match[1]] + (" " if match[2] else "") + line[match.end() :]
            )
        else:
            self.lines.append(self.source + line)


def _shown(value: object) -> str:
    """Return a value as a complaint shows it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def without_subject(line: str) -> str:
    """Return a complaint without the leading ``model 'x': ``, which our own place replaces."""
    named = r"^(?:model|cluster|stack|engine|accelerator|config|region)\b[^:]{0,200}?'[^']*': "
    return re.sub(named, "", line)


def table_problems(
    error: ValidationError, place: str, known: Iterable[str], example: str = ""
) -> list[str]:
    """Return what pydantic found wrong in a file's one table, a line each.

    Parameters
    ----------
    place
        The file and the table, as the lines begin.
    known
        Keys of the table.
    example
        Of a value to give where a key is missing.
    """
    return [_problem(detail, place, known, example) for detail in error.errors()]


def _problem(detail: ErrorDetails, place: str, known: Iterable[str], example: str) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    key = f"{place}.{name}"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown; {nearest(name, known)}"
    if detail["type"] == "missing":
        return f"{key}: missing" + (f"; {example}" if example else "")
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = detail["input"]
    shown = "" if isinstance(value, dict | list) else f" = {value!r:.60}"
    return f"{key}{shown}: {rule[0].lower() + rule[1:]}"
