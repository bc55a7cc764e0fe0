"""Questions about tuning sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ridgeline.workloads.sweeps import hyperband


def _hyperband_trials(ask: Mapping[str, Any]) -> float:
    """Return the configurations that Hyperband tries, of one ``bracket`` or of all."""
    brackets = hyperband(ask["most"], ask["eta"])
    if "bracket" in ask:
        return float(brackets[ask["bracket"]].trials)
    return float(sum(one.trials for one in brackets))


def _hyperband_spent(ask: Mapping[str, Any]) -> float:
    """Return the units of resource that all brackets spend."""
    brackets = hyperband(ask["most"], ask["eta"])
    return sum(one.spent(resume=ask["resume"]) for one in brackets)


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "hyperband-trials": _hyperband_trials,
    "hyperband-spent": _hyperband_spent,
}
"""Kind of question -> what answers it."""
