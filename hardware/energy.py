"""Power an accelerator and its host draw, and what a kilowatt-hour emits."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.costmethod import method_value

DEFAULT_SITE = "industry average"
DEFAULT_REGION = "world"


def average_power_w(accelerator: Accelerator, utilisation: float) -> float:
    """Average electrical power of one accelerator, without its host [W].

    P = idle + u (load_fraction * TDP - idle): idle when nothing runs, ``load_fraction`` of TDP in a
    training step; u is the share of time spent in steps.

    Parameters
    ----------
    utilisation
        u, 0 to 1.
    """
    assert 0.0 <= utilisation <= 1.0, utilisation
    busy = accelerator.load_fraction * accelerator.tdp_w
    return accelerator.idle_w + utilisation * (busy - accelerator.idle_w)


def host_power_w(accelerator: Accelerator) -> float:
    """Share of one accelerator in the host's average power: CPUs, memory, NICs, fans [W].

    (f - 1) * TDP * a, with f the maximum power of the server per accelerator over its TDP and a the
    average over the maximum (Cottier et al. 2024, ``cost_method.csv``). Switches outside the server
    are not in it.
    """
    name = accelerator.name
    share = method_value("average_power_share", name)
    return (method_value("server_power_factor", name) - 1.0) * accelerator.tdp_w * share


def server_power_w(accelerator: Accelerator, utilisation: float = 1.0) -> float:
    """Average power of one accelerator and its share of the host [W]."""
    return average_power_w(accelerator, utilisation) + host_power_w(accelerator)


def energy_kwh(
    accelerator: Accelerator, accelerator_hours: float, utilisation: float, pue: float
) -> float:
    """Energy drawn from the grid: server power * hours * PUE [kWh]."""
    return server_power_w(accelerator, utilisation) * accelerator_hours * pue / 1000.0


@cache
def _pue_table() -> dict[str, tuple[str, float]]:
    """Newest PUE by site: year and value."""
    text = (files("ridgeline.hardware") / "data/pue.csv").read_text("utf-8")
    table: dict[str, tuple[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["provider"] not in table or row["year"] > table[row["provider"]][0]:
            table[row["provider"]] = (row["year"], float(row["pue"]))
    return table


def pue_of(site: str = "") -> float:
    """Power usage effectiveness: facility power over server power, newest value of the table.

    Parameters
    ----------
    site
        A provider, empty for the industry average (Uptime Institute survey).

    Raises
    ------
    InputError
        For an unknown site, with the nearest one.
    """
    wanted = site.strip().lower() or DEFAULT_SITE
    table = _pue_table()
    if wanted not in table:
        raise InputError(f"PUE of {site!r}: unknown; {nearest(wanted, table)}")
    return table[wanted][1]


@cache
def _carbon_table() -> dict[str, float]:
    text = (files("ridgeline.hardware") / "data/carbon.csv").read_text("utf-8")
    return {
        row["region"]: float(row["gco2_per_kwh"]) / 1000.0
        for row in csv.DictReader(text.splitlines())
    }


def carbon_kg_per_kwh(region: str = "") -> float:
    """Carbon intensity of the grid [kg CO2 per kWh].

    Parameters
    ----------
    region
        ``gcp:us-central1``, ``country:fra``, ``us-state:tx``, ``canada:quebec``, ``nordic:se3``,
        without the prefix where that is unambiguous; empty for the world average (IEA 2019).

    Raises
    ------
    InputError
        For an unknown or ambiguous region, with the nearest one.
    """
    table = _carbon_table()
    wanted = region.strip().lower() or DEFAULT_REGION
    if wanted in table:
        return table[wanted]
    ends = [name for name in table if name.partition(":")[2] == wanted]
    if len(ends) == 1:
        return table[ends[0]]
    if ends:
        raise InputError(f"region {region!r}: ambiguous; write {' or '.join(sorted(ends))}")
    bare = {name.partition(":")[2] or name for name in table}
    known = table if ":" in wanted else bare
    raise InputError(f"region {region!r}: unknown; {nearest(wanted, known)}")
