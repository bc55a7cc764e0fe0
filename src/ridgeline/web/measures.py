"""The figures by which two answers are compared. Reads results and computes nothing new."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.serving.results import ServingResult
from ridgeline.units import dollars, duration, energy, large, percent

Better: TypeAlias = Literal["less", "more"]
SAME = 0.005
"""Relative difference below which two figures are called the same."""
FAR = 2.0
"""Ratio from which a difference is said as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of an answer."""

    label: str
    value: float
    text: str
    better: Better


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One figure of two answers."""

    label: str
    first: str
    second: str
    difference: str
    """Of the second against the first, in words."""
    winner: Literal["a", "b", ""]


def training_measures(result: TrainingResult) -> tuple[Measure, ...]:
    """Return what decides between training runs; what is not known is left out."""
    whole = result.plan["training"]["tokens"] > 0
    memory = result.worst_memory.total / result.memory_limit
    rows = [
        Measure(
            label="Memory of an accelerator",
            value=memory,
            text=f"{percent(memory)} of {result.memory_limit / 2**30:,.1f} GiB",
            better="less",
        ),
        _time("Step time", result.step_time_s),
        Measure(label="MFU", value=result.mfu, text=percent(result.mfu), better="more"),
        Measure(
            label="Tokens a second",
            value=result.tokens_per_s,
            text=large(result.tokens_per_s),
            better="more",
        ),
        *([_time("Length of the run", result.wall_clock_s)] if whole else []),
        Measure(
            label="Accelerator-hours",
            value=result.accelerator_hours,
            text=large(result.accelerator_hours),
            better="less",
        ),
        *_money("Cost" if whole else "Cost of a step", result.cost_usd),
        Measure(
            label="Energy", value=result.energy_kwh, text=energy(result.energy_kwh), better="less"
        ),
    ]
    return tuple(rows)


def serving_measures(result: ServingResult) -> tuple[Measure, ...]:
    """Return what decides between services; what is not known is left out."""
    promised = any(
        math.isfinite(limit)
        for limit in (result.slo.ttft_s, result.slo.tpot_s, result.slo.latency_s)
    )
    rows = [
        Measure(
            label="Finished requests",
            value=result.finished / result.requests,
            text=percent(result.finished / result.requests),
            better="more",
        ),
        *(
            [
                Measure(
                    label="Within the promise",
                    value=result.goodput_fraction,
                    text=percent(result.goodput_fraction),
                    better="more",
                )
            ]
            if promised
            else []
        ),
        _time("First token, median", result.ttft_s.p50),
        _time("First token, p99", result.ttft_s.p99),
        _time("Per output token, median", result.tpot_s.p50),
        _time("Per output token, p99", result.tpot_s.p99),
        Measure(
            label="Output tokens a second",
            value=result.output_tokens_per_s,
            text=large(result.output_tokens_per_s),
            better="more",
        ),
        *_money("Cost of a million tokens", result.bill.usd_per_million_tokens),
        Measure(
            label="KV cache at most",
            value=result.kv_peak_fraction,
            text=percent(result.kv_peak_fraction),
            better="less",
        ),
    ]
    return tuple(row for row in rows if math.isfinite(row.value))


def contrasts(first: Sequence[Measure], second: Sequence[Measure]) -> tuple[Contrast, ...]:
    """Return the figures that two answers share, side by side."""
    others = {measure.label: measure for measure in second}
    return tuple(_contrast(one, others[one.label]) for one in first if one.label in others)


def _contrast(a: Measure, b: Measure) -> Contrast:
    if abs(b.value - a.value) <= SAME * max(abs(a.value), abs(b.value)):
        difference, winner = "the same", ""
    else:
        less = b.value < a.value
        winner = "b" if less == (a.better == "less") else "a"
        difference = _difference(a.value, b.value)
    return Contrast(
        label=a.label,
        first=a.text,
        second=b.text,
        difference=difference,
        winner=winner,  # type: ignore[arg-type]  # one of its three letters
    )


def _difference(a: float, b: float) -> str:
    if a <= 0.0:
        return "more"
    ratio = b / a
    if ratio >= FAR:
        return f"{ratio:,.3g} times"
    return f"{100 * (ratio - 1):+.1f}%".replace("-", "\N{MINUS SIGN}")


def _time(label: str, seconds: float) -> Measure:
    return Measure(label=label, value=seconds, text=duration(seconds), better="less")


def _money(label: str, usd: float) -> tuple[Measure, ...]:
    """Return the measure of an amount, none where no price is known."""
    if not usd > 0.0:
        return ()
    return (Measure(label=label, value=usd, text=dollars(usd), better="less"),)
