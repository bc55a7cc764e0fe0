"""Jobs that come at random: streams of them, drawn anew for every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import numpy as np

from ridgeline.simulator.fleet.spec import Arrivals, Fleet, Job, Rates

LEAST_S = 1e-3
"""Of a job: none is over before it has begun."""


def drawn(fleet: Fleet, seed: int | None = None) -> Fleet:
    """Return a fleet whose streams of arrivals have become jobs.

    Each stream has random numbers of its own, so that a change of anything else leaves its jobs as
    they are.

    Parameters
    ----------
    fleet
        Jobs in order of submission.
    seed
        Instead of the fleet's own.
    """
    seed = fleet.seed if seed is None else seed
    if not fleet.arrivals:
        return fleet if seed == fleet.seed else replace(fleet, seed=seed)
    found = list(fleet.jobs)
    for number, stream in enumerate(fleet.arrivals):
        found += draw_jobs(stream, np.random.default_rng([seed, 0, number]))
    order = sorted(range(len(found)), key=lambda place: found[place].submitted_s)
    places = {before: after for after, before in enumerate(order)}
    jobs = []
    for place in order:
        job = found[place]
        if job.after:
            job = replace(job, after=tuple(sorted(places[parent] for parent in job.after)))
        jobs.append(job)
    return replace(fleet, jobs=tuple(jobs), arrivals=(), seed=seed)


def draw_jobs(stream: Arrivals, rng: np.random.Generator) -> list[Job]:
    """Draw the jobs of a stream, in order of submission.

    Gaps are exponential (a Poisson process); sizes and users are drawn independently of them, and
    lengths by the stream's law: a lognormal one of mean m and log-deviation s has the median
    m exp(-s^2 / 2).
    """
    count = stream.jobs
    at = np.cumsum(rng.exponential(1.0 / stream.rate_per_s, count))
    size = rng.choice(stream.sizes, count, p=stream.shares or None)
    if stream.law == "exponential":
        seconds = rng.exponential(stream.mean_s, count)
    elif stream.law == "lognormal":
        middle = np.log(stream.mean_s) - stream.log_sd**2 / 2.0
        seconds = rng.lognormal(middle, stream.log_sd, count)
    else:
        seconds = np.full(count, stream.mean_s)
    user = rng.integers(0, stream.users, count)
    rows = zip(at.tolist(), size.tolist(), seconds.tolist(), user.tolist(), strict=True)
    like = stream.like
    return [
        job_of(
            like,
            name=f"{stream.name}/{number}",
            rates=stream.rates[accelerators],
            submitted_s=submitted_s,
            accelerators=accelerators,
            seconds=work,
            user=f"{like.user}/{person}" if stream.users > 1 else like.user,
            slack=stream.deadline_slack,
        )
        for number, (submitted_s, accelerators, work, person) in enumerate(rows)
    ]


def job_of(
    like: Job,
    *,
    name: str,
    rates: Mapping[str, Rates],
    submitted_s: float,
    accelerators: int,
    seconds: float,
    user: str,
    slack: float | None,
) -> Job:
    """Return a job as others of its table, with its own size, length and deadline.

    Parameters
    ----------
    like
        Where everything else comes from.
    seconds
        At the rate 1.
    slack
        The deadline is so many times its length after submission; None for none.
    """
    return Job(
        name=name,
        work=max(seconds, LEAST_S),
        rates=rates,
        submitted_s=submitted_s,
        kind=like.kind,
        user=user,
        priority=like.priority,
        deadline_s=inf if slack is None else submitted_s + slack * seconds,
        budget_usd=like.budget_usd,
        accelerators=accelerators,
        start_s=like.start_s,
    )
