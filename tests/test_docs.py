"""The pages point at what is there, and the commands in them run."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import run

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLAY = runpy.run_path(str(ROOT / "docs" / "play.py"))
STORIES: tuple[Path, ...] = PLAY["PAGES"]
SLOW = ("calibrate", "compare-hardware", "plan-a-run", "size-a-service", "validate", "tutorial")
"""Stories that take more than two seconds."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONTENTS = re.compile(r"^```\{(toctree)\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
        if page in STORIES:
            continue
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "sh":
                lines = block.replace("\\\n", " ").splitlines()
                found += [(shown(page), line) for line in lines if line.startswith("ridgeline ")]
    once = {line.partition("#")[0].strip(): (page, line) for page, line in reversed(found)}
    return list(reversed(once.values()))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        if fragment:
            assert fragment in anchors(target), link


def test_every_page_is_in_the_table_of_contents_once() -> None:
    index = ROOT / "docs" / "index.md"
    listed = [
        (index.parent / f"{line}.md").resolve()
        for language, block in CONTENTS.findall(index.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    assert sorted(listed) == [page for page in PAGES[1:] if page != index]
    assert index in [(ROOT / link).resolve() for link in links(ROOT / "README.md")]


def test_there_are_links_and_commands() -> None:
    assert sum(len(links(page)) for page in PAGES) > 20
    assert len(commands()) > 5


def marked(page: str, line: str) -> Any:
    """Return a command as a parameter; searches and Monte Carlo take long."""
    long = re.match(r"ridgeline (plan|compare|validate) |.* --(what-if|calendar)", line)
    return pytest.param(page, line, marks=[pytest.mark.slow] if long else [])


@pytest.mark.parametrize(("page", "line"), [marked(*each) for each in commands()])
def test_commands_run(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line, comments=True)[1:]
    if holders := [word for word in words if PLACEHOLDER.search(word)]:
        pytest.skip(f"{page}: {' '.join(holders)} stands for something of the reader's own")
    monkeypatch.chdir(ROOT)
    assert run(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [], id=page.stem)
        for page in STORIES
    ],
)
def test_examples_say_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """Every command of a guide is run, and what it says is what stands under it."""
    text = page.read_text(encoding="utf-8")
    assert PLAY["played"](text, tmp_path) == text, f"run: python docs/play.py {shown(page)}"


def test_stories_are_all_the_guides() -> None:
    assert {page for page in PAGES if page.parent.name == "how-to"} <= set(STORIES)
    for page in STORIES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```text\n") > text.count("<!-- file: "), page


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (None, "a\nb\n\nc\n"),
        ("1-2", "a\nb\n...\n"),
        ("2 4", "...\nb\n...\nc\n"),
        ("1-9", "a\nb\n\nc\n"),
    ],
)
def test_shown_lines(lines: str | None, expected: str) -> None:
    assert PLAY["played"].__globals__["_chosen"]("\na\nb  \n\nc\n\n", lines) == expected


def test_a_wrong_output_and_a_failing_command_are_found(tmp_path: Path) -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    (tmp_path / "one").mkdir()
    assert PLAY["played"](page, tmp_path / "one") == page.replace("3\n", "2\n")
    (tmp_path / "two").mkdir()
    with pytest.raises(AssertionError, match="left with 2"):
        PLAY["played"]("```sh\nridgeline models show nothing\n```\n", tmp_path / "two")


@pytest.mark.parametrize("page", ["clusters", "hardware"])
def test_python_of_reference_pages_runs(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [block for language, block in FENCE.findall(text) if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html"]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "how-to" / "add-a-model.html").is_file()
    assert "simulate_training" in (tmp_path / "api.html").read_text(encoding="utf-8")
