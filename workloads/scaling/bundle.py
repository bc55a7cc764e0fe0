"""The constants of one published law as one frozen bundle: each with unit, source and status.

Constants of different laws are never mixed: they belong to a tokenizer, a data set and a way to
count parameters. ``data/laws.toml`` says what a law is, ``data/constants.csv`` holds the numbers.
"""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ridgeline.errors import InputError, nearest

STATUSES = ("confirmed", "derived", "memory")
"""Read in the paper, its code or an independent copy; follows by arithmetic from such values;
recollection only, which every output marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One published number."""

    name: str
    value: float
    standard_error: float
    """0 where none was published."""
    unit: str
    status: str
    """One of ``STATUSES``."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Smallest and largest of the runs that a law was fitted to; None where not known."""

    params: tuple[float, float] | None
    tokens: tuple[float, float] | None
    flops: tuple[float, float] | None
    status: str
    """Of the range itself; empty when nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A law's constants, with what they mean."""

    name: str
    title: str
    citation: str
    formula: str
    counts: str
    """How N, D and the loss are counted."""
    embeddings: bool
    """Whether N counts embeddings and head."""
    fitted: Range
    constants: tuple[Constant, ...]

    def __getitem__(self, name: str) -> float:
        return self.constant(name).value

    def constant(self, name: str) -> Constant:
        """Return one constant with its unit and source."""
        for constant in self.constants:
            if constant.name == name:
                return constant
        raise KeyError(f"{self.name} has no constant {name}")

    def marks(self, *names: str) -> tuple[str, ...]:
        """Return a line for each of the named constants (all by default) that is memory only."""
        return tuple(
            f"{self.name}: {constant.name} = {constant.value:g} is from memory ({constant.source})"
            for constant in self.constants
            if constant.status == "memory" and (not names or constant.name in names)
        )

    def beyond(
        self, *, params: float = 0.0, tokens: float = 0.0, flops: float = 0.0
    ) -> tuple[str, ...]:
        """Return which of the given quantities lie outside the runs behind the fit, and how far.

        0 leaves a quantity out.
        """
        lines = []
        for what, value, bounds in (
            ("parameters", params, self.fitted.params),
            ("tokens", tokens, self.fitted.tokens),
            ("FLOP", flops, self.fitted.flops),
        ):
            if not value or bounds is None:
                continue
            low, high = bounds
            if value > high:
                lines.append(f"{value / high:.3g} times the most {what} fitted")
            elif value < low:
                lines.append(f"{low / value:.3g} times below the fewest {what} fitted")
        return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A worked example of a paper, for tests and documentation; NaN where a column is empty."""

    law: str
    case: str
    quantity: str
    flops: float
    params: float
    tokens: float
    value: float
    unit: str
    status: str
    source: str


@cache
def bundle_names() -> tuple[str, ...]:
    """Return the names of all bundles, in the order of ``data/laws.toml``."""
    return tuple(_laws())


@cache
def load_bundle(name: str) -> Bundle:
    """Return the constants of one law.

    Raises
    ------
    InputError
        When there is no such law.
    """
    laws = _laws()
    if name not in laws:
        raise InputError(f"scaling law {name[:200]!r}: is not known; {nearest(name, laws)}")
    law = laws[name]

    def bounds(key: str) -> tuple[float, float] | None:
        return (law[key][0], law[key][1]) if key in law else None

    return Bundle(
        name=name,
        title=law["title"],
        citation=law["citation"],
        formula=law["formula"],
        counts=law["counts"],
        embeddings=law.get("embeddings", True),
        fitted=Range(
            params=bounds("params"),
            tokens=bounds("tokens"),
            flops=bounds("flops"),
            status=law.get("range_status", ""),
        ),
        constants=_constants().get(name, ()),
    )


@cache
def published(law: str) -> tuple[Published, ...]:
    """Return the worked examples of one law."""
    return tuple(
        Published(
            law=row["law"],
            case=row["case"],
            quantity=row["quantity"],
            flops=_number(row["flops"]),
            params=_number(row["params"]),
            tokens=_number(row["tokens"]),
            value=_number(row["value"]),
            unit=row["unit"],
            status=row["status"],
            source=row["source"],
        )
        for row in _rows("published.csv")
        if row["law"] == law
    )


@cache
def _laws() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_text("laws.toml"))


@cache
def _constants() -> dict[str, tuple[Constant, ...]]:
    found: dict[str, list[Constant]] = {}
    for row in _rows("constants.csv"):
        assert row["status"] in STATUSES, row
        found.setdefault(row["law"], []).append(
            Constant(
                name=row["constant"],
                value=float(row["value"]),
                standard_error=float(row["standard_error"] or 0.0),
                unit=row["unit"],
                status=row["status"],
                source=row["source"],
            )
        )
    return {name: tuple(constants) for name, constants in found.items()}


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    return (files("ridgeline.workloads.scaling") / "data" / name).read_text("utf-8")
