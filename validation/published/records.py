"""Published figures that are recomputed: ``validation/data/published/*.toml``, a file a topic.

Each entry is a figure with its source and the question that is asked of the simulator in its
place. Nothing is fitted to them, and nothing in the simulator knows any of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from ridgeline.errors import InputError, nearest

SPECIFIED = ("yes", "partly", "no")
"""Whether the source says enough to expect agreement."""
STATUS = ("confirmed", "abstract", "derived", "memory")
"""Where the figure is known from: the source's own text, its abstract, arithmetic on its figures,
or recollection (shown, and no ground to judge anything by)."""
OPTIONAL = ("missing", "relation", "blind")
RELATIONS = ("equal", "at least", "at most")
"""What the source says of the figure: its size, or a bound that ours has to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedResult:
    """One figure that somebody published, and the question that we answer in its place."""

    id: str
    topic: str
    """Heading under which the table shows it."""
    claim: str
    """What was measured or counted, in words."""
    source: str
    published: float
    unit: str
    tolerance: float
    """Fraction within which a simulator can be expected to agree, given what is stated."""
    relation: str = "equal"
    blind: bool = True
    """Whether the tolerance was set, or the entry chosen, before ours had been seen."""
    specified: str
    missing: str = ""
    """What the source does not say and we assumed."""
    status: str
    kind: str
    """Which question: a key of ``answers.KINDS``."""
    ask: Mapping[str, Any]
    """What the question needs, for example a plan file's tables."""


def published_results() -> tuple[PublishedResult, ...]:
    """Return all published figures in the order of the files and their entries.

    Raises
    ------
    InputError
        An entry lacks a field, has an unknown one, or repeats an id.
    """
    found: dict[str, PublishedResult] = {}
    folder = files("ridgeline.validation").joinpath("data/published")
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        for number, entry in enumerate(tomllib.loads(file.read_text("utf-8"))["result"], start=1):
            result = _read(entry, f"{file.name}: result {number} ({entry.get('id')})")
            if result.id in found:
                raise InputError(f"{file.name}: {result.id}: stands there twice")
            found[result.id] = result
    return tuple(found.values())


def _read(entry: Mapping[str, Any], where: str) -> PublishedResult:
    known = [field.name for field in fields(PublishedResult)]
    for name in entry:
        if name not in known:
            raise InputError(f"{where}: {name}: unknown key; {nearest(name, known)}")
    for name in known:
        if name not in entry and name not in OPTIONAL:
            raise InputError(f"{where}: {name}: missing")
    checks = (("specified", SPECIFIED), ("status", STATUS), ("relation", RELATIONS))
    for name, allowed in checks:
        value = entry.get(name, allowed[0])
        if value not in allowed:
            raise InputError(f"{where}: {name} = {value!r}: {nearest(value, allowed)}")
    return PublishedResult(**entry)
