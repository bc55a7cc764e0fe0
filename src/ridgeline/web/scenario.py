"""A scenario: what a link says, checked, and the plan file that says the same.

A link names the keys of the plan file, ``/train?model.name=llama3.1-8b&cluster.count=64``; those of
a second scenario to compare with begin with ``b.``. Nothing else is ever kept.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.serving.servicefile import ServiceQuestion, read_service
from ridgeline.web.fields import Field, Kind, fields_of

Value = bool | int | float | str

MOST_PAIRS = 160
"""Twice the questions of a form, and room."""
LONGEST_VALUE = 100
SECOND = "b."
"""In front of the keys of the second scenario."""
_SHORT_NAME = re.compile(r"[a-z0-9][a-z0-9 .:*_-]*", re.IGNORECASE)
"""Of a cluster; no way to write a path."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:e[+-]?[0-9]{1,3})?", re.IGNORECASE
)
_TYPES = {"whole": "must be a whole number", "number": "must be a number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question: values by key of the plan file, in the order of the form, defaults left out."""

    kind: Kind
    values: tuple[tuple[str, Value], ...]

    @property
    def query(self) -> str:
        """The link's part behind the question mark."""
        return urlencode(self.pairs())

    @property
    def texts(self) -> dict[str, str]:
        """Values as a link writes them, by key."""
        return dict(self.pairs())

    def pairs(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return keys, ``prefix`` before each, and values as a link writes them."""
        return [(prefix + key, written(value)) for key, value in self.values]

    def tables(self) -> dict[str, dict[str, Value]]:
        """Return the sections of the plan file."""
        sections: dict[str, dict[str, Value]] = {}
        for key, value in self.values:
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        return sections

    @property
    def command(self) -> str:
        """The command that answers the same in a terminal."""
        return f"ridgeline {'train' if self.kind == 'train' else 'infer'} plan.toml"

    def toml(self) -> str:
        """Return the text of the plan file."""
        lines = [f"# {self.command}", ""]
        for name, table in self.tables().items():
            # Texts and numbers of TOML are those of JSON.
            lines += [f"[{name}]", *(f"{key} = {json.dumps(v)}" for key, v in table.items()), ""]
        return "\n".join(lines)

    def replaced(self, texts: Mapping[str, str]) -> Scenario:
        """Return the scenario with other values; an empty text takes one away.

        Raises
        ------
        InputError
            As ``make_scenario``.
        """
        return make_scenario(self.kind, self.texts | dict(texts))

    def plan(self) -> Plan:
        """Return the training run, read as a plan file is.

        Raises
        ------
        InputError
            With all mistakes, one line each.
        """
        return read_plan(None, dict(self.values), labels_of(self.kind))

    def service(self) -> ServiceQuestion:
        """Return the service, read as a plan file is.

        Raises
        ------
        InputError
            With all mistakes, one line each.
        """
        return read_service(None, dict(self.values), labels_of(self.kind))


def labels_of(kind: Kind) -> dict[str, str]:
    """Return what a form calls each key."""
    return {key: field.label for key, field in fields_of(kind).items()}


def first_scenario(kind: Kind) -> Scenario:
    """Return what a visitor sees who has asked nothing yet."""
    given = [(key, field.start) for key, field in fields_of(kind).items() if field.start]
    return make_scenario(kind, given)


def read_query(query: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a link says of the first and of the second scenario, unchecked, by key.

    Raises
    ------
    InputError
        Text that is no query, a key given twice.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PAIRS, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise InputError(
            f"link: must be UTF-8 text of at most {MOST_PAIRS} keys and values"
        ) from None
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    problems = []
    for key, value in pairs:
        side = sides[key.startswith(SECOND)]
        name = key.removeprefix(SECOND)
        if name in side:
            problems.append(f"{shown(key)}: given twice; keep one")
        side[name] = value.strip()
    if problems:
        raise InputError(problems)
    return sides


def make_scenario(kind: Kind, given: Mapping[str, str] | Iterable[tuple[str, str]]) -> Scenario:
    """Return the scenario that texts by key describe.

    Parameters
    ----------
    kind
        Of question.
    given
        Key of the plan file and text; an empty text says nothing.

    Raises
    ------
    InputError
        With all mistakes that show before the plan file is read, one line each: unknown keys, texts
        that are no number, names that are on no list.
    """
    fields, texts = fields_of(kind), dict(given)
    problems = [_unknown(key, kind) for key in texts if key not in fields]
    values: list[tuple[str, Value]] = []
    for key, field in fields.items():
        text = texts.get(key, "")
        if not text:
            continue
        try:
            value = _value(field, text)
        except ValueError as error:
            problems.append(f"{field.label} {shown(text)}: {error}")
            continue
        if type(value) is not type(field.default) or value != field.default:
            values.append((key, value))
    if problems:
        raise InputError(problems)
    return Scenario(kind=kind, values=tuple(values))


def _unknown(key: str, kind: Kind) -> str:
    name = key.rpartition(".")[2]
    if any(word in name for word in ("config", "graph", "trace", "prices", "expert_load")):
        return f"{shown(key)}: a link reads no file; use the command line for that"
    return f"{shown(key)}: unknown key; {nearest(key[:LONGEST_VALUE], fields_of(kind))}"


def _value(field: Field, text: str) -> Value:
    """Return the value of a text.

    Raises
    ------
    ValueError
        With the rule that it breaks.
    """
    if len(text) > LONGEST_VALUE:
        raise ValueError(f"must be at most {LONGEST_VALUE} characters")
    if field.shape == "switch":
        if text not in ("true", "false"):
            raise ValueError("must be true or false")
        return text == "true"
    if field.shape in _TYPES:
        return _amount(field, text)
    if field.shape == "choice":
        return _name(field, text)
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be plain text")
    if field.key == "cluster.spec" and (
        _SHORT_NAME.fullmatch(text) is None or text.lower().endswith(".toml")
    ):
        raise ValueError("must be a short name such as 16x8xh100-sxm or tpu-v5p:8x8x16")
    return text


def _amount(field: Field, text: str) -> int | float:
    pattern = _WHOLE if field.shape == "whole" else _NUMBER
    if pattern.fullmatch(text) is None:
        raise ValueError(_TYPES[field.shape])
    amount = int(text) if field.shape == "whole" else float(text)
    if not math.isfinite(amount):
        raise ValueError(_TYPES[field.shape])
    if field.most and amount > field.most:
        raise ValueError(f"must be at most {field.most:,.0f} on a page; ridgeline infer plays more")
    return amount


def _name(field: Field, text: str) -> str:
    assert field.names is not None
    names, aliases = field.names(), field.aliases() if field.aliases else {}
    name = text.lower()
    name = aliases.get(name, name)
    if name not in names:
        raise ValueError(f"is not on the list; {nearest(name, (*names, *aliases))}")
    return name


def written(value: Value) -> str:
    """Return a value as a link writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)


def shown(text: str) -> str:
    """Return what a visitor wrote as a complaint shows it: on one line, of bearable length."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return ascii(short)
