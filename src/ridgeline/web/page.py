"""Pages: forms and answers as HTML. Everything that a visitor wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ridgeline import __version__
from ridgeline.hardware import load_accelerator
from ridgeline.units import large
from ridgeline.web.answers import Answer
from ridgeline.web.fields import GROUPS, Field, Kind, fields_of
from ridgeline.web.measures import Contrast, contrasts
from ridgeline.web.scenario import SECOND, Scenario
from ridgeline.workloads import load_model
from ridgeline.workloads.parameters import parameters

if TYPE_CHECKING:
    from jinja2 import Environment

TITLES: dict[Kind, str] = {"train": "Training", "serve": "Serving"}
SHARED = ("model.", "cluster.", "money.")
"""Keys that a visitor takes along from training to serving and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the scenarios on a page."""

    letter: str
    """a or b."""
    texts: Mapping[str, str]
    """By key, as the form shows them again."""
    scenario: Scenario | None = None
    """None where the texts are none."""
    answer: Answer | None = None
    problems: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """In front of the keys in a link."""
        return SECOND if self.letter == "b" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: one scenario, or two to compare."""

    kind: Kind
    sides: tuple[Side, ...]
    problems: tuple[str, ...] = ()
    """Of the link as a whole."""

    @property
    def flawed(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.problems) or any(side.problems for side in self.sides)

    @property
    def link(self) -> str:
        """The link that holds all of it; empty while something is wrong."""
        if self.flawed:
            return ""
        pairs = [
            pair
            for side in self.sides
            if side.scenario is not None
            for pair in side.scenario.pairs(side.prefix)
        ]
        return f"/{self.kind}?{urlencode(pairs)}"

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Figures side by side, where there are two answers."""
        answers = [side.answer for side in self.sides if side.answer is not None]
        if len(answers) < 2:
            return ()
        return contrasts(answers[0].measures, answers[1].measures)

    @property
    def differences(self) -> tuple[tuple[str, str, str], ...]:
        """What the scenarios differ in: label, first, second."""
        if len(self.sides) < 2 or any(side.scenario is None for side in self.sides):
            return ()
        first, second = (side.scenario.texts for side in self.sides if side.scenario)
        return tuple(
            (one.label, first.get(key, usual(one)), second.get(key, usual(one)))
            for key, one in fields_of(self.kind).items()
            if first.get(key) != second.get(key)
        )


def flaws(kind: Kind, side: Side) -> dict[str, str]:
    """Return the first problem with each field, by key."""
    found: dict[str, str] = {}
    for key, one in fields_of(kind).items():
        starts = tuple(name + end for name in (one.label, key) for end in (" ", ":"))
        for line in side.problems:
            if line.startswith(starts):
                found.setdefault(key, line)
    return found


def usual(one: Field) -> str:
    """Return what a field stands at when nothing is said."""
    if isinstance(one.default, bool):
        return str(one.default).lower()
    return "by default" if one.default in (None, "", 0, 0.0) else str(one.default)


def switched(page: Page) -> dict[Kind, str]:
    """Return the links to the two kinds of question, with what both share taken along."""
    links: dict[Kind, str] = {}
    for kind in TITLES:
        if kind == page.kind:
            links[kind] = page.link or f"/{kind}"
            continue
        pairs = [
            (side.prefix + key, text)
            for side in page.sides
            if side.scenario is not None
            for key, text in side.scenario.pairs()
            if key.startswith(SHARED)
        ]
        starts = [
            (side.prefix + key, one.start)
            for side in page.sides
            for key, one in fields_of(kind).items()
            if one.start and not key.startswith(SHARED)
        ]
        links[kind] = f"/{kind}?{urlencode(pairs + starts)}" if pairs else f"/{kind}"
    return links


def compared(page: Page) -> str:
    """Return the link to the page with a second scenario, a copy of the first."""
    scenario = page.sides[0].scenario
    if scenario is None:
        return ""
    return f"/{page.kind}?{urlencode(scenario.pairs() + scenario.pairs(SECOND))}"


@cache
def choices_of(key: str, kind: Kind) -> tuple[tuple[str, str], ...]:
    """Return what a field offers: value and words."""
    one = fields_of(kind)[key]
    assert one.names is not None
    names = one.names()
    if key == "model.name":
        return tuple((name, _model(name)) for name in names)
    if key == "cluster.accelerator":
        return tuple((name, _accelerator(name)) for name in names)
    return tuple((name, name) for name in names if name)


def _model(name: str) -> str:
    return f"{name} · {large(parameters(load_model(name)).total)}"


def _accelerator(name: str) -> str:
    return f"{name} · {load_accelerator(name).memory_bytes / 2**30:.0f} GiB"


def render_page(page: Page) -> str:
    """Return the whole page."""
    return _environment().get_template("page.html").render(**_context(page))


def render_answer(page: Page) -> str:
    """Return the part of the page that changes when a form does."""
    return _environment().get_template("answer.html").render(**_context(page))


def render_error(status: int, line: str) -> str:
    """Return a page that says what was wrong with a request."""
    return _environment().get_template("error.html").render(
        status=status, line=line, titles=TITLES, version=__version__
    )  # fmt: skip


def _context(page: Page) -> dict[str, object]:
    return {
        "page": page,
        "groups": GROUPS[page.kind],
        "titles": TITLES,
        "switched": switched(page),
        "compared": compared(page),
        "choices_of": choices_of,
        "usual": usual,
        "flaws": flaws,
        "version": __version__,
    }


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ridgeline.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
