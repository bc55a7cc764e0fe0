"""Where output goes: the terminal, a machine on the other end of a pipe, a file."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from ridgeline.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 80
"""Columns when nobody's terminal says otherwise."""
WIDEST = 100
"""Tables wider than this are harder to read, not easier."""


def quiet() -> bool:
    """Whether the command line asks for the answer alone (``--quiet``)."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("quiet"))


def watched() -> bool:
    """Whether somebody sees standard error, where progress is shown, and wants to."""
    return sys.stderr is not None and sys.stderr.isatty() and not quiet()


def note(text: str) -> None:
    """Say beside the answer what was done, on standard error, unless told to be quiet."""
    if not quiet():
        click.echo(text, err=True)


def console() -> Console:
    """Return a console for people: at most 100 columns, without colour when piped."""
    from rich.console import Console

    class Screen(Console):
        """A console that leaves a broken pipe to the caller (rich exits with 1, no answer here)."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    screen = Screen(highlight=False, soft_wrap=False)
    if screen.is_terminal:
        return Screen(highlight=False, width=min(screen.width, WIDEST))
    width = screen.width if "COLUMNS" in os.environ else PLAIN_WIDTH
    file = cast("TextIO", _Trimmed(sys.stdout)) if sys.stdout is not None else None
    return Screen(highlight=False, width=min(width, WIDEST), file=file)


class _Trimmed:
    """Standard output that is no terminal: tables come padded, and nobody wants the spaces."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, which rich gives in whole lines, without spaces at their ends."""
        self._stream.write(re.sub(r" +$", "", text, flags=re.MULTILINE))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def to_json(value: Any) -> str:
    """Return ``value`` as JSON text that every reader accepts (infinity and NaN become null)."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def emit(text: str) -> None:
    """Write text for a machine to standard output."""
    click.echo(text.rstrip("\n"))


def write_file(path: Path, text: str, *, inputs: tuple[Path | None, ...] = ()) -> None:
    """Write ``text`` to ``path`` whole or not at all.

    Parameters
    ----------
    path
        Where to; an existing file is replaced in one step.
    text
        What.
    inputs
        Files that the command read: these are never replaced.

    Raises
    ------
    InputError
        ``path`` is one of the inputs, or cannot be written.
    """
    try:
        for given in inputs:
            if given is not None and path.exists() and given.exists() and path.samefile(given):
                raise InputError(f"{path}: is the input of this command; give another name")
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written: {reason}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "item"):  # a NumPy scalar
        return _finite(value.item())
    return value


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as dotted columns; lists of records are left out of a row."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif not isinstance(value, list | tuple):
            flat[prefix + key] = value
    return flat


def to_csv(records: list[dict[str, Any]]) -> str:
    """Return records as CSV with a header; columns are those of the first record."""
    import csv
    import io

    rows = [flatten(record) for record in records]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(rows[0]) if rows else [], lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
