"""Runs of a Monte Carlo in an SQLite file as they end, so that a killed one can go on.

A run is written in one transaction: after a crash it is there whole or not at all. Fleets are told
apart by a hash of all that a run depends on but its seed.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from hashlib import sha256
from inspect import getsource
from pathlib import Path

from ridgeline import __version__
from ridgeline.errors import InputError
from ridgeline.simulator.fleet.policies import make_policy
from ridgeline.simulator.fleet.results import FleetResult
from ridgeline.simulator.fleet.spec import Fleet

LAYOUT = 1
"""Of a run in the file; another one is another fleet."""
WAIT_S = 60.0
"""For another process that is writing."""
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    fleet TEXT NOT NULL, seed INTEGER NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (fleet, seed)
) WITHOUT ROWID;
"""


def fleet_key(fleet: Fleet) -> str:
    """Return a name for a fleet: equal for equal ones, whatever their seed, to one version."""
    policy = getsource(type(make_policy(fleet.policy, fleet.options)))
    parts = (__version__, LAYOUT, replace(fleet, seed=0), policy)
    return sha256(repr(parts).encode()).hexdigest()


class RunStore:
    """The runs of one fleet that are known already.

    Raises
    ------
    InputError
        The file is no SQLite file, or cannot be written.
    """

    def __init__(self, path: Path, fleet: Fleet) -> None:
        self._path = path
        self._key = fleet_key(fleet)
        try:
            self._file = sqlite3.connect(path, timeout=WAIT_S)
            self._file.executescript(_TABLE)
        except sqlite3.Error as error:
            raise self._complaint(error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self) -> dict[int, FleetResult]:
        """Return the runs by seed."""
        rows = self._file.execute(
            "SELECT seed, result FROM runs WHERE fleet = ? ORDER BY seed", (self._key,)
        )
        return {seed: FleetResult.from_dict(json.loads(text)) for seed, text in rows}

    def write(self, result: FleetResult) -> None:
        """Add a run."""
        try:
            with self._file:
                self._file.execute(
                    "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)",
                    (self._key, result.seed, json.dumps(result.to_dict())),
                )
        except sqlite3.Error as error:
            raise self._complaint(error) from None

    def _complaint(self, error: sqlite3.Error) -> InputError:
        return InputError(f"{self._path}: cannot be used as a store of runs: {error}")
