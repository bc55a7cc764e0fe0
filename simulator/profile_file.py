"""Named profiles in TOML (stacks, serving engines): ``key = { value = ..., source = "..." }``.

The fields of a frozen dataclass are the keys, their annotations the kinds of value. All mistakes of
a file are reported together.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from ridgeline.errors import InputError, nearest

T = TypeVar("T")

_OWN = ("name", "sources")
"""Fields that the reader fills."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProfileKind(Generic[T]):
    """What profiles of a kind are called, where they ship, and the rules of their values."""

    noun: str
    """As complaints call one: stack, engine."""
    make: Callable[..., T]
    """The dataclass; it has at least ``name``, ``description`` and ``sources``."""
    package: str
    folder: str
    """Folder of the package that holds the shipped files."""
    texts: Mapping[str, tuple[str, ...]]
    """Field -> the texts that it may hold."""
    shares: tuple[str, ...] = ()
    """Fields from 0 to 1."""
    counts: tuple[str, ...] = ()
    """Fields that are whole numbers of at least 1."""
    positive: tuple[str, ...] = ()
    """Fields above 0, because something is divided by them."""
    readers: Mapping[str, Callable[[object], tuple[object, str]]] = field(default_factory=dict)
    """Field without a source -> what reads its entry, into a value and what is wrong with it."""


@cache
def profile_names(kind: ProfileKind[Any]) -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted."""
    folder = files(kind.package).joinpath(kind.folder)
    found = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


@cache
def profile_aliases(kind: ProfileKind[Any]) -> dict[str, str]:
    """Return the other names of shipped profiles, with the name that each stands for."""
    return {
        alias: name
        for name in profile_names(kind)
        for alias in _document(kind, name, _shipped(kind, name)).get("aliases", ())
    }


def load_profile(kind: ProfileKind[T], name: str) -> T:
    """Load a shipped profile by name or alias, or a user's own from a path that ends in ``.toml``.

    Raises
    ------
    InputError
        Unknown name (with the nearest one), unknown key, or a value of the wrong kind.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{kind.noun} {name[:200]}: no such file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not text in UTF-8"
            raise InputError(
                f"{kind.noun} {name[:200]}: cannot be read: {reason.lower()}"
            ) from None
        return _parse(kind, path.stem, _document(kind, name, text))
    aliases = profile_aliases(kind)
    stem = aliases.get(name.lower(), name.lower())
    known = profile_names(kind)
    if stem not in known:
        closest = nearest(stem[:200], (*known, *aliases))
        raise InputError(f"{kind.noun} {name[:200]!r}: unknown; {closest}")
    return _parse(kind, stem, _document(kind, stem, _shipped(kind, stem)))


def _shipped(kind: ProfileKind[Any], name: str) -> str:
    resource = files(kind.package).joinpath(kind.folder, f"{name}.toml")
    return resource.read_text(encoding="utf-8")


def _document(kind: ProfileKind[Any], name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{kind.noun} {name}: not TOML: {error}") from None


def _parse(kind: ProfileKind[T], name: str, raw: dict[str, Any]) -> T:
    known: dict[str, Field[Any]] = {f.name: f for f in fields(kind.make)}  # type: ignore[arg-type]  # a dataclass, which no protocol says
    values: dict[str, Any] = {"name": name}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for key, entry in raw.items():
        complaint = ""
        if key == "aliases":
            complaint = _not_texts(entry)
        elif key == "description":
            complaint = "" if isinstance(entry, str) and entry else f" = {entry!r}: must be a text"
            values[key] = entry
        elif key in kind.readers:
            values[key], complaint = kind.readers[key](entry)
        elif key not in known or key in _OWN:
            complaint = f": unknown key; {nearest(key, known)}"
        elif not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            complaint = ': write { value = ..., source = "..." }'
        else:
            value, source = entry["value"], entry["source"]
            wrong = _wrong(kind, key, value, str(known[key].type))
            if wrong:
                complaint = f" = {value!r}: {wrong}"
            elif not isinstance(source, str) or not source:
                complaint = ": source must be a text that says where from"
            else:
                values[key], sources[key] = _made(value, str(known[key].type)), source
        if complaint:
            problems.append(f"{kind.noun} {name}: {key}{complaint}")
    problems += [
        f"{kind.noun} {name}: {f.name}: missing"
        for f in known.values()
        if f.default is MISSING and f.default_factory is MISSING and f.name not in {*values, *raw}
    ]
    if problems:
        raise InputError(problems)
    return kind.make(**values, sources=sources)


def _made(value: Any, annotation: str) -> Any:
    if annotation == "float":
        return float(value)
    return tuple(value) if annotation.startswith("tuple") else value


def _not_texts(value: object) -> str:
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return "" if texts else f" = {value!r}: must be a list of texts"


def _wrong(kind: ProfileKind[Any], key: str, value: object, annotation: str) -> str:
    """Return the rule that a value breaks, empty where it breaks none."""
    if key in kind.texts:
        allowed = kind.texts[key]
        return "" if value in allowed else f"must be one of {', '.join(allowed)}"
    if annotation == "bool":
        return "" if isinstance(value, bool) else "must be true or false"
    if annotation == "tuple[str, ...]":
        return "must be a list of texts" if _not_texts(value) else ""
    if annotation == "dict[str, str]":
        formats = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        return "" if formats else "must be a table: precision = number format"
    if isinstance(value, dict) != annotation.startswith("dict"):
        return "must be a number" if isinstance(value, dict) else "must be a table: name = number"
    for number in value.values() if isinstance(value, dict) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            return "must be a number"
        if not math.isfinite(number) or number < 0:
            return "must be a finite number of at least 0"
        if key in kind.shares and number > 1:
            return "must be a share from 0 to 1"
        if key in kind.positive and number == 0:
            return "must be above 0"
        if key in kind.counts and (number < 1 or number != int(number)):
            return "must be a whole number of at least 1"
    return ""
