"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

_LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def figures(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant figures and no exponent: 1,234 or 0.0123."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        return text
    whole, _, rest = text.partition(".")
    significant = (whole + rest).lstrip("-0")
    return text if len(significant) >= digits else f"{value:#.{digits}g}"


def large(value: float) -> str:
    """Return a count with a suffix: 15.6T, 408M, 12.3k, 512."""
    for unit, suffix in _LARGE:
        if abs(value) >= unit:
            return figures(value / unit) + suffix
    return figures(value)


def counted(value: int, noun: str) -> str:
    """Return a number of things: 1 step, 1,024 steps."""
    return f"{value:,} {noun}" + ("" if value == 1 else "s")


_TIMES = (
    (1e-3, 1e-6, "us"),
    (1.0, 1e-3, "ms"),
    (600.0, 1.0, "s"),
    (3 * 3600.0, 60.0, "min"),
    (3 * 86400.0, 3600.0, "hours"),
    (3 * 365.0 * 86400.0, 86400.0, "days"),
    (float("inf"), 365.25 * 86400.0, "years"),
)
"""Below this many seconds, the unit in seconds, its name."""


def duration(seconds: float) -> str:
    """Return a time in the unit a person would choose: 812 us, 24.1 ms, 9.87 s, 3.1 days."""
    unit, name = next(((u, n) for below, u, n in _TIMES if abs(seconds) < below), (1.0, "s"))
    return f"{figures(seconds / unit)} {name}"


def column_of_times(seconds: Sequence[float]) -> list[str]:
    """Return times in one unit, that of the longest, so that they compare at a glance."""
    longest = max(seconds, default=0.0)
    unit, name = next(((u, n) for below, u, n in _TIMES if longest < below), (1.0, "s"))
    places = max(0, 2 - len(str(int(longest / unit))) + 1)
    return [f"{value / unit:,.{places}f} {name}" for value in seconds]


def dollars(value: float) -> str:
    """Return an amount: $76.1M, $12,300, $2.47."""
    if value >= 1e6:
        return "$" + large(value)
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def energy(kwh: float) -> str:
    """Return an energy from kWh: 21.4 GWh, 812 MWh, 3.2 kWh."""
    for unit, name in ((1e6, "GWh"), (1e3, "MWh")):
        if kwh >= unit:
            return f"{figures(kwh / unit)} {name}"
    return f"{figures(kwh)} kWh"


def mass(kg: float) -> str:
    """Return a mass from kg: 8,560 t, 12.1 kg."""
    return f"{figures(kg / 1e3)} t" if kg >= 1e3 else f"{figures(kg)} kg"


def percent(fraction: float) -> str:
    """Return a fraction as per cent with one decimal."""
    return f"{100 * fraction:.1f}%"
