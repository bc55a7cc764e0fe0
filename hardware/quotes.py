"""A user's own quotes: read from a table, checked row by row, laid over the price list."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.prices import NoQuoteError, Price, price
from ridgeline.hardware.profiles import load_accelerator

KINDS = {
    "list": "on-demand",
    "on-demand": "on-demand",
    "negotiated": "negotiated",
    "reserved": "reserved",
    "spot": "spot",
    "owned": "owned",
}
"""What a row may call its kind, and the kind of price that it is."""
REQUIRED = ("accelerator", "usd_per_hour", "kind", "provider", "date")
OPTIONAL = ("region", "commitment", "credits_usd", "credits_expire")
MAX_FILE_BYTES = 1 << 20
MAX_MISTAKES = 20
MAX_USD_PER_HOUR = 1e6
MAX_CREDITS_USD = 1e12
STALE_DAYS = 90
"""Older prices warn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnQuote:
    """One row of a user's table."""

    accelerator: str
    usd_per_hour: float
    """Per accelerator."""
    kind: str
    """on-demand, negotiated, reserved, spot or owned."""
    provider: str
    date: str
    """YYYY-MM-DD."""
    region: str = ""
    commitment: str = ""
    """What it binds to, in the user's words."""
    credits_usd: float = 0.0
    """What the provider gives toward the bill."""
    credits_expire: str = ""
    """Last day on which they count; empty when they do not expire."""
    source: str = ""
    """File and row."""


def read_quotes(path: str | Path, as_of: str) -> tuple[OwnQuote, ...]:
    """Read a table of quotes.

    Parameters
    ----------
    path
        CSV with a header: accelerator, usd_per_hour, kind, provider, date and, where known, region,
        commitment, credits_usd, credits_expire.
    as_of
        Day of the question, YYYY-MM-DD; a quote of a later day is a slip.

    Raises
    ------
    InputError
        With all mistakes, one line each with its row (the header being row 1).
    """
    where = Path(path)
    today = parse_day(as_of, "as_of")
    rows = _rows(where)
    header = rows[0] if rows else []
    problems = _header_problems(where, header)
    if problems:
        raise InputError(problems)
    found: list[OwnQuote] = []
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        label = f"{where}: row {number}: "
        if len(cells) != len(header):
            problems.append(f"{label}has {len(cells)} columns, the header has {len(header)}")
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        quote, mistakes = _quote(row, today, f"{where.name} row {number}")
        problems += [label + mistake for mistake in mistakes]
        if quote is not None:
            found.append(quote)
    if problems:
        more = len(problems) - MAX_MISTAKES
        tail = [f"{where}: and {more:,} more mistakes"] if more > 0 else []
        raise InputError(problems[:MAX_MISTAKES] + tail)
    if not found:
        raise InputError(f"{where}: no quote; give rows of {', '.join(REQUIRED)}")
    return tuple(found)


def _rows(where: Path) -> list[list[str]]:
    try:
        if where.is_dir():
            raise InputError(f"{where}: is a folder; give a CSV file of quotes")
        with where.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{where}: cannot be read: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{where}: larger than {MAX_FILE_BYTES // 1024} KiB; no table of quotes")
    try:
        text = content.decode("utf-8-sig")
        return list(csv.reader(text.splitlines(), strict=True))
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{where}: not CSV: {error}") from None


def _header_problems(where: Path, header: list[str]) -> list[str]:
    known = (*REQUIRED, *OPTIONAL)
    problems = [f"{where}: column {name!r}: missing" for name in REQUIRED if name not in header]
    problems += [
        f"{where}: column {name!r}: unknown; {nearest(name, known)}"
        for name in header
        if name not in known
    ]
    problems += [
        f"{where}: column {name!r}: given twice" for name in known if header.count(name) > 1
    ]
    return problems


def _quote(row: dict[str, str], today: date, source: str) -> tuple[OwnQuote | None, list[str]]:
    mistakes: list[str] = []
    accelerator = row["accelerator"]
    try:
        accelerator = load_accelerator(accelerator).name
    except InputError as error:
        mistakes += error.problems
    usd = _amount(row["usd_per_hour"], "usd_per_hour", MAX_USD_PER_HOUR, mistakes)
    if usd == 0.0:
        mistakes.append("usd_per_hour 0: must be more than 0")
    kind = KINDS.get(row["kind"].lower())
    if kind is None:
        mistakes.append(f"kind {row['kind']!r}: unknown; {nearest(row['kind'], KINDS)}")
    if not row["provider"]:
        mistakes.append("provider: missing; say whose price it is")
    day = _day(row["date"], "date", mistakes)
    if day is not None and day > today:
        mistakes.append(f"date {day}: after {today}, the day of the question (--as-of)")
    credits_usd = 0.0
    if row.get("credits_usd"):
        credits_usd = _amount(row["credits_usd"], "credits_usd", MAX_CREDITS_USD, mistakes)
    expire = row.get("credits_expire", "")
    if expire:
        _day(expire, "credits_expire", mistakes)
        if not row.get("credits_usd"):
            mistakes.append(f"credits_expire {expire}: no credits_usd that could expire")
    if mistakes or kind is None:
        return None, mistakes
    return OwnQuote(
        accelerator=accelerator,
        usd_per_hour=usd,
        kind=kind,
        provider=row["provider"],
        date=row["date"],
        region=row.get("region", ""),
        commitment=row.get("commitment", ""),
        credits_usd=credits_usd,
        credits_expire=expire,
        source=source,
    ), []


def _amount(text: str, name: str, most: float, mistakes: list[str]) -> float:
    try:
        value = float(text)
    except ValueError:
        mistakes.append(f"{name} {text!r}: must be a number")
        return math.nan
    if not 0.0 <= value <= most:
        mistakes.append(f"{name} {text}: must be a number from 0 to {most:g}")
    return value


def _day(text: str, name: str, mistakes: list[str]) -> date | None:
    try:
        return parse_day(text, name)
    except InputError as error:
        mistakes += error.problems
        return None


def parse_day(text: str, name: str) -> date:
    """Return a day written YYYY-MM-DD.

    Raises
    ------
    InputError
        It is written otherwise, or there is no such day.
    """
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise InputError(f"{name} {text!r}: must be a day written YYYY-MM-DD")
    return found


def current_price(
    accelerator: str | Accelerator,
    kind: str,
    *,
    quotes: Sequence[OwnQuote] = (),
    as_of: str = "",
    provider: str = "",
    usd_per_kwh: float = 0.0,
    pue: float = 0.0,
) -> Price:
    """Return the price of an accelerator-hour: the user's own, else that of the list.

    Of the user's quotes of this kind, the newest of each provider and region and then the cheapest;
    quotes of other kinds are never used instead, but named in a warning. With ``as_of``, prices
    more than 90 days old and credits that have expired warn.

    Parameters
    ----------
    accelerator
        Name or alias, or a profile.
    kind
        on-demand, negotiated (own quotes only), reserved, spot or owned.
    quotes, as_of
        The user's, and the day of the question (YYYY-MM-DD); without it nothing is too old.
    provider
        Of this one only, by name; empty for any.
    usd_per_kwh, pue
        For "owned" by the list.

    Raises
    ------
    InputError
        For an unknown accelerator or kind.
    NoQuoteError
        When nobody quotes this kind.
    """
    profile = load_accelerator(accelerator) if isinstance(accelerator, str) else accelerator
    name = profile.name
    mine = [
        quote
        for quote in quotes
        if quote.accelerator == name and provider.lower() in ("", quote.provider.lower())
    ]
    fitting = [quote for quote in mine if quote.kind == kind]
    others = sorted({quote.kind for quote in mine} - {kind})
    if fitting:
        found = _own_price(fitting, as_of)
    elif kind == "negotiated":
        have = f"; the quotes are {', '.join(others)}" if others else ""
        raise NoQuoteError(f"price of {name}: no negotiated quote{have}; add one to --prices")
    else:
        found = price(profile, kind, usd_per_kwh=usd_per_kwh, pue=pue, provider=provider)
    warnings = list(found.warnings)
    if others and not fitting:
        warnings.append(
            f"price of {name}: from the price list; your {' and '.join(others)} quotes are of "
            f"another kind than {kind} (--price-kind)"
        )
    if as_of:
        age = _age_days(found.date, parse_day(as_of, "as_of"))
        if age > STALE_DAYS:
            warnings.append(
                f"price of {name}: {found.usd_per_hour:.2f} USD/h {found.kind} is of {found.date}, "
                f"{age} days old; ask for a new one"
            )
    return replace(found, warnings=tuple(warnings))


def _own_price(fitting: Sequence[OwnQuote], as_of: str) -> Price:
    newest: dict[tuple[str, str], OwnQuote] = {}
    for quote in fitting:
        key = (quote.provider.lower(), quote.region.lower())
        # of several of one day the cheapest
        if key not in newest or (quote.date, -quote.usd_per_hour) > (
            newest[key].date,
            -newest[key].usd_per_hour,
        ):
            newest[key] = quote
    best = min(newest.values(), key=lambda q: (q.usd_per_hour, q.provider, q.region))
    terms = ", ".join(part for part in (best.region, best.commitment) if part)
    cheapest = f"; cheapest of {len(newest)}" if len(newest) > 1 else ""
    expired = bool(best.credits_expire and as_of and best.credits_expire < as_of)
    lost = f"credits of {best.provider}: {best.credits_usd:,.0f} USD expired {best.credits_expire}"
    return Price(
        usd_per_hour=best.usd_per_hour,
        kind=best.kind,
        date=best.date,
        source=f"{best.source}: {best.provider}{f' ({terms})' if terms else ''}{cheapest}",
        provider=best.provider,
        credits_usd=0.0 if expired else best.credits_usd,
        credits_expire=best.credits_expire,
        warnings=(lost,) if expired else (),
    )


def _age_days(written: str, today: date) -> int:
    """Return the age of a price; a year or a month alone counts to its end, no date as today."""
    if not written:
        return 0
    year, _, rest = written.partition("-")
    month, _, day = rest.partition("-")
    if day:
        latest = date.fromisoformat(written)
    elif month:
        following = date(int(year) + int(month) // 12, int(month) % 12 + 1, 1)
        latest = following - timedelta(days=1)
    else:
        latest = date(int(year), 12, 31)
    return (today - latest).days


def credits_used(found: Price, usd: float, seconds: float, as_of: str) -> float:
    """Return how much of a bill the credits pay.

    The bill runs up evenly from ``as_of`` on; what falls after the day on which the credits expire
    is not paid by them.

    Parameters
    ----------
    found
        The price, with its credits.
    usd, seconds
        Of the whole run.
    as_of
        Its first day, YYYY-MM-DD.
    """
    if not found.credits_usd:
        return 0.0
    share = 1.0
    if found.credits_expire and as_of and seconds > 0:
        days = (parse_day(found.credits_expire, "credits_expire") - parse_day(as_of, "as_of")).days
        share = min(1.0, max(0.0, (days + 1) * 86400.0 / seconds))
    return min(found.credits_usd, usd * share)
