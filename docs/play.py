"""Play the examples of pages: run their commands and write what came of them beside.

``python docs/play.py [PAGE ...]`` rewrites the outputs; ``tests/test_docs.py`` fails when one is
not what the commands say today.

A page is a story that is played in an empty folder, in which ``examples`` and ``validation`` are
those of the project. In the order of the page

- a block behind ``<!-- file: NAME -->`` is written to that file;
- a ``sh`` block that begins with ``ridgeline`` (or ``cat``) is run line by line;
- a ``python`` block is run, with the names that earlier ones of the page defined;
- a ``text`` block right behind one of these holds what it said, at 80 columns: all of it, or under
  ``<!-- lines: 1-4 9 -->`` those lines, with dots for what is left out.

A command that fails without an output block beside it is a mistake of the page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ridgeline.cli import run

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "docs" / "tutorial.md",
    ROOT / "docs" / "api.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
)
_BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<body>.*?)^```\n"
    r"(?P<behind>\n*(?:<!-- lines: (?P<lines>[\d -]+) -->\n)?```text\n.*?^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def played(text: str, folder: Path) -> str:
    """Return the text of a page with the outputs of today, after playing it in ``folder``."""
    for name in ("examples", "validation"):
        (folder / name).symlink_to(ROOT / name)
    names: dict[str, Any] = {"__name__": "__page__"}

    def play(match: re.Match[str]) -> str:
        body = match["body"]
        if match["file"]:
            (folder / match["file"]).write_text(body, encoding="utf-8")
            return match[0]
        if match["language"] == "python":
            said = _said_by_python(body, names)
        elif match["language"] == "sh" and re.match(r"ridgeline |cat ", body):
            said = _said_by_commands(body, shown=match["behind"] is not None)
        else:
            return match[0]
        if match["behind"] is None:
            return match[0]
        head, _, _ = match["behind"].partition("```text\n")
        before = match[0][: len(match[0]) - len(match["behind"])]
        return f"{before}{head}```text\n{_chosen(said, match['lines'])}```\n"

    with _inside(folder):
        return _BLOCK.sub(play, text)


def _said_by_python(body: str, names: dict[str, Any]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(body, "page", "exec"), names)
    return said.getvalue()


def _said_by_commands(body: str, *, shown: bool) -> str:
    said = io.StringIO()
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["cat"]:
            said.write(Path(words[1]).read_text(encoding="utf-8"))
            continue
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = run(words[1:])
        if code and not shown:
            raise AssertionError(f"{line}: left with {code}: {said.getvalue()}")
    return said.getvalue()


def _chosen(said: str, lines: str | None) -> str:
    """Return an output, or the lines of it that are to be shown, without blank ends."""
    every = [line.rstrip() for line in said.strip("\n").splitlines()]
    if lines is None:
        return "".join(f"{line}\n" for line in every)
    found: list[str] = []
    last = 0
    for part in lines.split():
        first, _, end = part.partition("-")
        if int(first) > last + 1:
            found.append("...")
        last = int(end or first)
        found += every[int(first) - 1 : last]
    if last < len(every):
        found.append("...")
    return "".join(f"{line}\n" for line in found)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in ``folder``, in a window of 80 columns without colours."""
    wanted = {"COLUMNS": "80", "NO_COLOR": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    here = Path.cwd()
    os.environ.update(wanted)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    """Rewrite the outputs of pages, of all by default."""
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            text = played(page.read_text(encoding="utf-8"), Path(folder))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
