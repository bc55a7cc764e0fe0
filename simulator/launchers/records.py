"""What a conversion gives, and how one setting of a program answers one key of a plan file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ridgeline.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A program's settings as tables of a plan file."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    model_config: dict[str, Any] | None = None
    """A Hugging Face configuration, when the settings spell the model out and the catalogue has
    none like it."""
    unmapped: tuple[str, ...] = ()
    """Settings that say nothing to a plan, or that a plan cannot say; one line each."""

    def put(self, key: str, value: Any) -> None:
        """Set ``section.key``."""
        section, _, name = key.partition(".")
        self.tables.setdefault(section, {})[name] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return ``section.key``, or the default."""
        section, _, name = key.partition(".")
        return self.tables.get(section, {}).get(name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A plan as a program's settings."""

    text: str
    unmapped: tuple[str, ...] = ()
    """What the plan says and the program has no setting for."""


def same(value: Any) -> Any:
    """Return the value as it is."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting of a program beside one key of a plan file."""

    theirs: str
    ours: str
    read: Callable[[Any], Any] = same
    write: Callable[[Any], Any] = same


def read_keys(settings: Mapping[str, Any], keys: Iterable[Key], into: Converted) -> set[str]:
    """Put every setting that has a key into the tables; return the names of those read.

    Raises
    ------
    InputError
        A number is none.
    """
    seen = set()
    for key in keys:
        if key.theirs in settings:
            seen.add(key.theirs)
            try:
                value = key.read(settings[key.theirs])
            except (TypeError, ValueError, OverflowError):
                given = str(settings[key.theirs])[:100]
                raise InputError(f"launcher: {key.theirs} = {given!r}: must be a number") from None
            if value is not None:
                into.put(key.ours, value)
    return seen
