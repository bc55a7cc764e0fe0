"""What an accelerator costs by the hour: dated, sourced quotes and the cost of owning one."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from statistics import median

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.amortized import amortized_cost
from ridgeline.hardware.costmethod import method_value
from ridgeline.hardware.energy import pue_of, server_power_w
from ridgeline.hardware.profiles import load_accelerator

LISTED = {
    "on-demand": ("on-demand",),
    "reserved": ("reserved-1y", "reserved-3y"),
    "spot": ("spot",),
    "owned": ("purchase",),
}
"""The kinds of the price list that each kind of price is taken from, the first one first."""
KINDS = tuple(LISTED)
ENOUGH_PROVIDERS = 3
"""A year with quotes of fewer providers is joined with the year before it."""


class NoQuoteError(InputError):
    """The price list has nothing of this kind for this accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one accelerator costs for one hour."""

    usd_per_hour: float
    kind: str
    """One of ``KINDS``."""
    date: str
    """Of the newest quote behind it."""
    source: str
    provider: str
    """Whose price it is; "median of N" when several were quoted."""
    credits_usd: float = 0.0
    """What the provider gives toward the bill."""
    credits_expire: str = ""
    """Last day on which they count, empty when they do not expire."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One line of the price list."""

    accelerator: str
    provider: str
    kind: str
    """on-demand, reserved-1y, reserved-3y, spot, purchase, tco-hyperscaler or tco-neocloud."""
    usd: float
    """USD per accelerator and hour, or per accelerator when ``kind`` is purchase."""
    date: str
    includes_server: bool
    """A purchase price that is a share of a whole server."""
    source: str


@cache
def quotes() -> tuple[Quote, ...]:
    """Return the shipped price list."""
    text = (files("ridgeline.hardware") / "data/prices.csv").read_text("utf-8")
    return tuple(
        Quote(
            accelerator=row["accelerator"],
            provider=row["provider"],
            kind=row["kind"],
            usd=float(row["usd"]),
            date=row["date"],
            includes_server=row["includes_server"] == "yes",
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


@lru_cache(maxsize=1024)
def price(
    accelerator: str | Accelerator,
    kind: str = "on-demand",
    *,
    usd_per_kwh: float = 0.0,
    pue: float = 0.0,
    provider: str = "",
) -> Price:
    """Return the default price of an accelerator-hour.

    Parameters
    ----------
    accelerator
        Name or alias, or a profile: one of a user's own goes by no name.
    kind
        "on-demand", "reserved" (one year, or three when no one-year quote exists), "spot" or
        "owned" (see :func:`owned`).
    usd_per_kwh, pue
        Only for "owned"; 0 takes the defaults.
    provider
        Quotes of this one only, by name; empty for all.

    Notes
    -----
    The default is the median over providers of each one's median quote, among the quotes of the
    newest year; when fewer than three providers quoted in that year, earlier years join one by one
    until three did. Kinds are never mixed.

    Raises
    ------
    InputError
        For an unknown accelerator or kind.
    NoQuoteError
        When no quote of this kind exists; the message names the kinds that do.
    """
    if kind not in KINDS:
        raise InputError(f"price kind {kind!r}: unknown; {nearest(kind, KINDS)}")
    profile = load_accelerator(accelerator) if isinstance(accelerator, str) else accelerator
    if kind == "owned":
        return owned(profile, usd_per_kwh=usd_per_kwh, pue=pue)
    for wanted in LISTED[kind]:
        found = [
            quote
            for quote in _quotes_of(profile, wanted)
            if provider.lower() in ("", quote.provider.lower())
        ]
        if found:
            return _typical(found, kind, wanted, 1 if provider else ENOUGH_PROVIDERS)
    if provider:
        theirs = {quote.provider for name in LISTED[kind] for quote in _quotes_of(profile, name)}
        hint = nearest(provider, theirs) if theirs else "nobody does"
        raise NoQuoteError(f"price of {profile.name}: no {kind} quote of {provider!r}; {hint}")
    have = kinds_of(profile)
    raise NoQuoteError(
        f"price of {profile.name}: no {kind} quote; "
        + (f"there are: {', '.join(have)}" if have else "there is no quote at all")
        + "; or give money.usd_per_accelerator_hour"
    )


def kinds_of(profile: Accelerator) -> tuple[str, ...]:
    """Return the price kinds that an accelerator can be asked for."""
    listed = {quote.kind for quote in _quotes_of(profile)}
    return tuple(kind for kind, names in LISTED.items() if listed.intersection(names))


def _quotes_of(profile: Accelerator, kind: str | None = None) -> list[Quote]:
    return [q for q in quotes() if q.accelerator == profile.name and kind in (None, q.kind)]


def _newest(found: list[Quote], enough: int) -> list[Quote]:
    """Return the quotes of the newest years that hold ``enough`` providers, or all."""
    years = sorted({quote.date[:4] for quote in found}, reverse=True)
    kept: list[Quote] = []
    for year in years:
        kept += [quote for quote in found if quote.date[:4] == year]
        if len({quote.provider for quote in kept}) >= enough:
            break
    return kept


def _typical(found: list[Quote], kind: str, listed_kind: str, enough: int) -> Price:
    kept = _newest(found, enough)
    by_provider: dict[str, list[float]] = defaultdict(list)
    for quote in kept:
        by_provider[quote.provider].append(quote.usd)
    several = len(by_provider) > 1
    first, last = min(q.date for q in kept), max(q.date for q in kept)
    return Price(
        usd_per_hour=median(median(usd) for usd in by_provider.values()),
        kind=kind,
        date=last,
        source=f"price list, {listed_kind}, {first} to {last}: {', '.join(sorted(by_provider))}"
        if several
        else kept[0].source,
        provider=f"median of {len(by_provider)}" if several else kept[0].provider,
    )


def owned(profile: Accelerator, *, usd_per_kwh: float = 0.0, pue: float = 0.0) -> Price:
    """Return the amortized hourly cost of an accelerator that one owns.

    Server = purchase price, times ``server_cost_factor`` when the quote is of a bare accelerator;
    cluster = server / (1 - interconnect share); amortized per hour = cluster * k ln(10) / 8766 with
    k = 0.14 orders of magnitude a year; energy = server power * PUE * price of electricity.
    Method and constants: Cottier et al. 2024, The Rising Costs of Training Frontier AI Models
    (arXiv 2405.21015). Staff, building and financing are not in it.

    Raises
    ------
    NoQuoteError
        When the list has no purchase price.
    """
    server = server_price(profile)
    hourly = amortized_cost(
        server.usd,
        1.0,
        server_w=server_power_w(profile),
        pue=pue or pue_of(),
        usd_per_kwh=usd_per_kwh or method_value("usd_per_kwh"),
    )
    capital = hourly.server_usd + hourly.interconnect_usd
    return Price(
        usd_per_hour=hourly.usd,
        kind="owned",
        date=server.date,
        source=f"Cottier et al. 2024 (arXiv 2405.21015): {server.usd:,.0f} USD a server share "
        f"({server.date[:4]}, {server.quotes} quotes), {capital:.3f} USD/h capital, "
        f"{hourly.energy_usd:.3f} USD/h energy",
        provider="owner",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPrice:
    """What an accelerator costs to buy together with its share of the server."""

    usd: float
    date: str
    """Of the newest quote behind it."""
    quotes: int
    source: str


def server_price(profile: Accelerator) -> ServerPrice:
    """Return the median purchase price of the newest year with one, servers included.

    The price of a bare accelerator counts times ``server_cost_factor`` (Cottier et al. 2024).

    Raises
    ------
    NoQuoteError
        When the list has no purchase price.
    """
    found = _quotes_of(profile, "purchase")
    if not found:
        have = kinds_of(profile)
        raise NoQuoteError(
            f"price of {profile.name}: no purchase price to amortize; "
            + (f"there are: {', '.join(have)}" if have else "there is no quote at all")
            + "; or give money.usd_per_accelerator_hour"
        )
    year = max(quote.date[:4] for quote in found)
    kept = [quote for quote in found if quote.date[:4] == year]
    factor = method_value("server_cost_factor", profile.name)
    return ServerPrice(
        usd=median(quote.usd * (1.0 if quote.includes_server else factor) for quote in kept),
        date=max(quote.date for quote in kept),
        quotes=len(kept),
        source=kept[0].source if len(kept) == 1 else f"price list, purchase, {len(kept)} of {year}",
    )
