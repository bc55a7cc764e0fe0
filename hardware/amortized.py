"""The amortized cost of training hardware after Cottier et al. 2024.

The Rising Costs of Training Frontier AI Models, arXiv 2405.21015; code
epoch-research/training-cost-trends. Constants are in ``data/cost_method.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from ridgeline.hardware.costmethod import method_value

HOURS_PER_YEAR = 8766.0
"""365.25 days, as in the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmortizedCost:
    """What accelerator-hours of hardware that one owns cost."""

    server_usd: float
    """Accelerators and their share of the servers."""
    interconnect_usd: float
    """Their share of the network between servers."""
    energy_usd: float

    @property
    def usd(self) -> float:
        """All of it."""
        return self.server_usd + self.interconnect_usd + self.energy_usd


def value_after(price_usd: float, years: float) -> float:
    """Return what hardware is worth some time after it was bought.

    V(t) = V(0) 10^(-k t) with k = 0.14 orders of magnitude a year, the pace at which newer hardware
    gives more for the same money. Before the purchase (``years`` < 0) it is worth more.
    """
    return float(price_usd * 10.0 ** (-method_value("depreciation_per_year") * years))


def cluster_price(server_usd: float) -> float:
    """Return the price of an accelerator with its share of server and network.

    C = S / (1 - f), f = 0.19 being the share of the network between servers in a cluster's cost.
    """
    return server_usd / (1.0 - method_value("interconnect_share"))


def capital_per_hour(value_usd: float) -> float:
    """Return what an hour takes of a value: V k ln(10) / 8766, 32.2% of it a year."""
    return value_usd * method_value("depreciation_per_year") * log(10.0) / HOURS_PER_YEAR


def amortized_cost(
    server_usd: float,
    accelerator_hours: float,
    *,
    age_years: float = 0.0,
    server_w: float,
    pue: float,
    usd_per_kwh: float,
) -> AmortizedCost:
    """Return the amortized cost of a run on hardware that one owns.

    Parameters
    ----------
    server_usd
        Price of one accelerator with its share of the server, when it was bought.
    accelerator_hours
        Of the run.
    age_years
        From the purchase to the start of the run.
    server_w
        Average draw of one accelerator and its share of the server [W].
    pue
        Power usage effectiveness of the building.
    usd_per_kwh
        Price of electricity.
    """
    server = capital_per_hour(value_after(server_usd, age_years)) * accelerator_hours
    return AmortizedCost(
        server_usd=server,
        interconnect_usd=cluster_price(server) - server,
        energy_usd=server_w * pue * usd_per_kwh / 1000.0 * accelerator_hours,
    )
