"""Mistakes of a plan, each in the words of whoever gave the value: the file, or a flag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


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
