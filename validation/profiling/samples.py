"""Samples of every case, kept in a file so that an interrupted profile goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.errors import InputError

SCHEMA = "ridgeline-profile-samples-1"
MOST_SPREAD = 0.20
"""A figure whose samples spread more than this to either side is not published."""
FEWEST = 3
"""Samples without which a spread means nothing."""


@dataclass(slots=True)
class Samples:
    """Seconds of each case on the slowest rank, one a round."""

    machine: dict[str, Any]
    """What was measured: samples of another machine or setting never mix with these."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    watts: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Limit, idle, under load; 0 where they could not be read."""

    def add(self, key: str, seconds: float) -> None:
        """Keep one sample."""
        self.seconds.setdefault(key, []).append(seconds)

    def median(self, key: str) -> float:
        """Return the median of a case, s."""
        return float(np.median(self.seconds[key]))

    def spread(self, key: str) -> float:
        """Return the spread of a case (``spread_of``)."""
        return spread_of(self.seconds.get(key, []))

    def steady(self, key: str) -> bool:
        """Whether the spread of a case allows to publish it."""
        return self.spread(key) <= MOST_SPREAD

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        record = {"schema": SCHEMA, "machine": self.machine, "watts": self.watts}
        record["seconds"] = self.seconds
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps(record, indent=1), encoding="utf-8")
        draft.replace(path)


def spread_of(values: Sequence[float]) -> float:
    """Return the spread to either side: half the interquartile range over the median.

    Infinite with too few samples.
    """
    if len(values) < FEWEST:
        return float("inf")
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return float(0.5 * (high - low) / middle)


def read_samples(path: Path, machine: dict[str, Any]) -> Samples:
    """Return the samples of ``path``, none when there is no such file.

    Raises
    ------
    InputError
        The file is something else, or of another machine or setting.
    """
    if not path.exists():
        return Samples(machine)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["schema"] == SCHEMA
        seconds = {str(k): [float(x) for x in v] for k, v in record["seconds"].items()}
        watts = [float(x) for x in record["watts"]]
        found = dict(record["machine"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise InputError(
            f"{path}: is no file of samples of this version; remove it to start anew"
        ) from None
    for name, value in machine.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: was measured with {name} = {found.get(name)!r}, now it is {value!r}; "
                f"give another -o, or remove it to start anew"
            )
    return Samples(machine, seconds, watts)
