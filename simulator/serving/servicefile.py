"""The TOML plan file as a question about serving: what is deployed, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ridgeline.errors import InputError
from ridgeline.simulator.plan_mistakes import Mistakes
from ridgeline.simulator.plan_schema import ServiceFile, ServingSection
from ridgeline.simulator.plan_values import parse_slo
from ridgeline.simulator.planfile import read_file
from ridgeline.simulator.serving.deployment import Deployment
from ridgeline.simulator.serving.poolfile import read_pools
from ridgeline.simulator.serving.results import Slo
from ridgeline.workloads.traffic.build import (
    closed_loop,
    diurnal_arrivals,
    gamma_arrivals,
    open_loop,
)
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.sessions import Sessions, session_traffic
from ridgeline.workloads.traffic.traces import read_trace
from ridgeline.workloads.traffic.traffic import Traffic

PROMPTS_PER_CONCURRENCY = 10
"""Length of a closed loop that gives no number of requests: what benchmark clients do."""
OPEN_REQUESTS = 1000
"""Length of an open loop that gives neither requests nor a duration."""
KINDS = ("batch", "concurrency", "request_rate", "rates", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceQuestion:
    """What to predict."""

    deployed: tuple[Deployment, ...]
    section: ServingSection
    trace: Path | None
    """A trace file, relative to here."""

    @property
    def slo(self) -> Slo:
        """Limits that goodput counts."""
        limits = parse_slo(self.section.slo)
        return Slo(**{f"{name}_s": limit for name, limit in limits.items()})

    @property
    def until_s(self) -> float:
        """When play is cut off."""
        return self.section.until_s or math.inf

    @property
    def asked(self) -> str:
        """What is asked, in words."""
        s = self.section
        lengths = f"{s.input_len:,} + {s.output_len:,} tokens"
        lengths += "" if s.lengths == "fixed" else f", {s.lengths}"
        if s.trace:
            return f"trace {s.trace}" + ("" if s.speed == 1.0 else f" at {s.speed:g}x speed")
        if s.batch:
            return f"one static batch of {s.batch:,}, {lengths}"
        if s.concurrency:
            return f"closed loop of {s.concurrency:,} in flight, {lengths}"
        turns = f"conversations of {s.turns} turns" if s.turns > 1 else "requests"
        rate = f"{s.request_rate:g}" if s.request_rate else f"up to {max(s.rates):g}"
        return f"{rate} {turns} a second, {lengths}"


def read_service(
    path: str | Path | None,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> ServiceQuestion:
    """Read a plan file and return the question about serving that it and the overrides describe.

    Parameters
    ----------
    path
        A TOML file; None when the overrides say everything.
    overrides, labels
        As of ``planfile.read_plan``.

    Raises
    ------
    InputError
        With all mistakes of the input, one line each.
    """
    where = None if path is None else Path(path)
    parsed, model, cluster, money, mistakes = read_file(where, overrides, labels, ServiceFile)
    section = parsed.serving
    _check(section, mistakes)
    deployed = read_pools(parsed, model, cluster, money, where, mistakes)
    if mistakes.lines:
        raise InputError(mistakes.lines)
    trace = None
    if section.trace:
        given = Path(section.trace).expanduser()
        from_flag = "serving.trace" in (overrides or {})
        trace = given if where is None or from_flag else where.parent / given
    return ServiceQuestion(deployed=deployed, section=section, trace=trace)


def _check(s: ServingSection, mistakes: Mistakes) -> None:
    given = [kind for kind in KINDS if getattr(s, kind)]
    if len(given) != 1:
        both = " and ".join(f"serving.{kind}" for kind in given) or "serving"
        mistakes.add(
            both,
            None,
            "give exactly one of batch, concurrency, request_rate, rates and trace "
            "(--batch, --concurrency, --request-rate, --trace)",
        )
    if s.turns > 1 and not (s.request_rate or s.rates):
        mistakes.add("serving.turns", s.turns, "conversations need request_rate or rates")
    if s.rates and not s.duration_s:
        mistakes.add("serving.rates", None, "a curve of rates needs duration_s")


def make_question_traffic(question: ServiceQuestion) -> Traffic:
    """Return the traffic of a question, drawn from its seed or read from its trace.

    Raises
    ------
    InputError
        What cannot be, or a trace with a mistake.
    """
    s, traffic = question.section, _traffic(question)
    if s.urgent_share == 0.0:
        return traffic
    drawn = np.random.default_rng([s.seed, 5]).random(len(traffic))
    return replace(traffic, priority=(drawn >= s.urgent_share).astype(np.int64))


def _traffic(question: ServiceQuestion) -> Traffic:
    s = question.section
    if question.trace is not None:
        return read_trace(question.trace, limit=s.requests, speed=s.speed)
    inputs = Lengths(mean=s.input_len, kind=s.lengths, low=s.length_low, cv=s.length_cv)
    outputs = Lengths(mean=s.output_len, kind=s.lengths, low=s.length_low, cv=s.length_cv)
    if s.batch:
        return closed_loop(s.batch, s.batch, inputs, outputs, seed=s.seed)
    if s.concurrency:
        count = s.requests or PROMPTS_PER_CONCURRENCY * s.concurrency
        return closed_loop(s.concurrency, count, inputs, outputs, seed=s.seed)
    if s.rates:
        times = diurnal_arrivals(
            s.rates, s.duration_s, period_s=s.period_s, cv=s.burstiness, seed=s.seed
        )
    else:
        count = s.requests or math.ceil(s.request_rate * s.duration_s) or OPEN_REQUESTS
        times = gamma_arrivals(s.request_rate, count, cv=s.burstiness, seed=s.seed)
    if s.turns == 1 and not s.system_tokens:
        return open_loop(times, inputs, outputs, seed=s.seed)
    sessions = Sessions(
        turns=Lengths(mean=s.turns),
        system_tokens=s.system_tokens,
        said=inputs,
        answers=outputs,
        pause_s=s.pause_s,
    )
    return session_traffic(np.asarray(times), sessions, seed=s.seed)
