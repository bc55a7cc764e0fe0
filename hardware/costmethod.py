"""Constants of the method that amortizes owned hardware, each with its source in the data file."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from importlib.resources import files


@cache
def _method_table() -> dict[str, dict[str, float]]:
    text = (files("ridgeline.hardware") / "data/cost_method.csv").read_text("utf-8")
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for row in csv.DictReader(text.splitlines()):
        table[row["key"]][row["applies_to"]] = float(row["value"])
    return dict(table)


def method_value(key: str, accelerator: str = "") -> float:
    """Return a constant of ``cost_method.csv``: the one whose name begins the accelerator's."""
    rows = _method_table()[key]
    for prefix, value in rows.items():
        if prefix != "default" and accelerator.startswith(prefix):
            return value
    return rows["default"]
