"""Rules that begin at an amount of training compute, as data with dates."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A rule for models trained with more than so many FLOPs."""

    flops: float
    what: str
    """Whose rule, and what it asks for."""
    since: str
    """First day, ISO 8601."""
    until: str = ""
    """Last day; empty while the rule stands."""
    source: str

    def __str__(self) -> str:
        """Return the rule in a line."""
        days = f"{self.since} to {self.until}" if self.until else f"since {self.since}"
        return f"above 1e{math.log10(self.flops):g} FLOP: {self.what} ({days}; {self.source})"


@lru_cache(maxsize=1)
def thresholds() -> tuple[Threshold, ...]:
    """Return all rules, the lowest first."""
    text = files("ridgeline.workloads").joinpath("data/thresholds.toml").read_text("utf-8")
    rules = (Threshold(**entry) for entry in tomllib.loads(text)["threshold"])
    return tuple(sorted(rules, key=lambda rule: (rule.flops, rule.since)))


def crossed(flops: float) -> tuple[Threshold, ...]:
    """Return the rules that a run of so many FLOPs (operations needed, none repeated) falls under.

    Past ones too: the caller shows their days, so that an answer does not depend on the day.
    """
    return tuple(rule for rule in thresholds() if flops > rule.flops)
