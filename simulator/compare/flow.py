"""The cash flows of owning as one table: a line for each month, and one with the sums."""

from __future__ import annotations

from dataclasses import asdict
from math import fsum
from typing import Any

from ridgeline.hardware.ownership import MONEY
from ridgeline.simulator.compare.records import Comparison

SUMMED = ("useful_hours", *MONEY, "net_usd", "present_value_usd")


def flow_records(found: Comparison) -> list[dict[str, Any]]:
    """Return the months of every row that can be owned, each followed by the line ``total``.

    A fleet that several rows share (one accelerator of several providers) comes once. Money is in
    whole cents, below 0 where it goes out, but for the present value; the sum of the present values
    is the NPV.
    """
    records: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    for row in found.feasible:
        assert row.result is not None
        key = (row.accelerator, row.result.accelerators)
        if row.owning is None or key in seen:
            continue
        seen.add(key)
        head = {"accelerator": key[0], "accelerators": key[1]}
        months = [
            asdict(month) | {"useful_hours": round(month.useful_hours, 6)}
            for month in row.owning.flow.months
        ]
        records += [{**head, **month} for month in months]
        total: dict[str, Any] = dict.fromkeys(months[0], "") | {"month": "total"}
        total |= {name: round(fsum(month[name] for month in months), 6) for name in SUMMED}
        records.append({**head, **total, "present_value_usd": row.owning.npv_usd})
    return records
