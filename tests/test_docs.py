"""The pages point at what is there, and the commands in them run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ridgeline.cli import run

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]+\b(?:\.[a-z]+)?|\bmine\.toml\b|^\[")
"""What stands for something of the reader's own: PLAN.toml, FILE.csv, NAME, mine.toml, [--json]."""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """Return where a page points inside the project."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in LINK.findall(prose) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Return the fragments that the headings of a page make: lower case, hyphens, no marks."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def commands() -> list[tuple[str, str]]:
    """Return page and text of each line of a shell block that calls ``ridgeline``."""
    found = []
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "sh":
                lines = block.replace("\\\n", " ").splitlines()
                found += [(shown(page), line) for line in lines if line.startswith("ridgeline ")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        if fragment:
            assert fragment in anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


def test_there_are_links_and_commands() -> None:
    assert sum(len(links(page)) for page in PAGES) > 20
    assert len(commands()) > 5


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_run(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line, comments=True)[1:]
    if holders := [word for word in words if PLACEHOLDER.search(word)]:
        pytest.skip(f"{page}: {' '.join(holders)} stands for something of the reader's own")
    monkeypatch.chdir(ROOT)
    assert run(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
