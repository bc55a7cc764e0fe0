"""Results of a search in an SQLite file as they come, so that a killed search can go on.

A block of plans and what is left of it are written in one transaction: after a crash a block is
there whole or not at all. Searches are told apart by a hash of everything their answer depends on;
several may use one file at a time, also several processes of one search.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path

import numpy as np

from ridgeline import __version__
from ridgeline.errors import InputError
from ridgeline.simulator.search.enumerate import COLUMNS
from ridgeline.simulator.search.evaluate import Kept, Question
from ridgeline.simulator.search.results import Counts
from ridgeline.simulator.search.space import Candidates
from ridgeline.simulator.stacks import load_stack

LAYOUT = 1
"""Of the tables; another one is another search."""
WAIT_S = 60.0
"""For another process that is writing."""

_COUNTS = tuple(f.name for f in fields(Counts))
_QUOTED = tuple(f'"{name}"' for name in _COUNTS)  # one is a word of SQL
_TABLES = f"""
CREATE TABLE IF NOT EXISTS blocks (
    search TEXT NOT NULL, first INTEGER NOT NULL,
    {", ".join(f"{name} INTEGER NOT NULL" for name in _QUOTED)},
    PRIMARY KEY (search, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plans (
    search TEXT NOT NULL, place INTEGER NOT NULL, first INTEGER NOT NULL,
    accelerators TEXT NOT NULL, {", ".join(f"{name} INTEGER NOT NULL" for name in COLUMNS)},
    step_s REAL NOT NULL,
    PRIMARY KEY (search, place)
) WITHOUT ROWID;
"""


def search_key(question: Question, block: int) -> str:
    """Return a name for a search: equal for equal questions to one version, in equal blocks."""
    stack = load_stack(question.space.stack)
    parts = (__version__, LAYOUT, block, question, stack)
    return sha256(repr(parts).encode()).hexdigest()


class Store:
    """What one search knows already, in a file that outlives it.

    Raises
    ------
    InputError
        The file is no SQLite file, or cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        try:
            self._file = sqlite3.connect(path, timeout=WAIT_S)
            self._file.executescript(_TABLES)
        except sqlite3.Error as error:
            raise self._complaint(error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def forget(self) -> None:
        """Drop what is known of this search."""
        with self._file:
            for table in ("blocks", "plans"):
                self._file.execute(f"DELETE FROM {table} WHERE search = ?", (self._key,))

    def read(self, candidates: Candidates) -> Iterator[tuple[int, Kept, Counts]]:
        """Yield first place, what is left and counts of every block that is there."""
        kept: dict[int, list[tuple[int, float]]] = {}
        rows = self._file.execute(
            "SELECT first, place, step_s FROM plans WHERE search = ? ORDER BY place", (self._key,)
        )
        for first, place, step_s in rows:
            kept.setdefault(first, []).append((place, step_s))
        blocks = self._file.execute(
            f"SELECT first, {', '.join(_QUOTED)} FROM blocks WHERE search = ? ORDER BY first",
            (self._key,),
        )
        for first, *counts in blocks:
            order = np.array([place for place, _ in kept.get(first, [])], np.int64)
            step = np.array([step_s for _, step_s in kept.get(first, [])], np.float64)
            left = Kept(candidates=candidates.take(order), order=order, step_s=step)
            yield first, left, Counts(**dict(zip(_COUNTS, counts, strict=True)))

    def write(self, first: int, kept: Kept, counts: Counts, names: list[str]) -> None:
        """Add a block: counts, plans that are left, and the name of each plan's cluster.

        A block that another process has added meanwhile stays as it is, with its plans: both say
        the same of every plan that can be an answer.
        """
        marks = ", ".join("?" * (2 + len(_COUNTS)))
        columns = [getattr(kept.candidates, name).tolist() for name in COLUMNS]
        rows = zip(kept.order.tolist(), names, *columns, kept.step_s.tolist(), strict=True)
        try:
            with self._file:
                added = self._file.execute(
                    f"INSERT OR IGNORE INTO blocks VALUES ({marks})",
                    (self._key, first, *asdict(counts).values()),
                )
                if added.rowcount:
                    marks = ", ".join("?" * (5 + len(COLUMNS)))
                    self._file.executemany(
                        f"INSERT OR IGNORE INTO plans VALUES ({marks})",
                        ((self._key, place, first, *rest) for place, *rest in rows),
                    )
        except sqlite3.Error as error:
            raise self._complaint(error) from None

    def _complaint(self, error: sqlite3.Error) -> InputError:
        return InputError(f"{self._path}: cannot be used as a store of results: {error}")
