"""Traffic made from an arrival process and lengths; every draw comes from an explicit seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ridgeline.errors import InputError
from ridgeline.workloads.traffic import MAX_REQUESTS
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.traffic import Traffic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S = 86400.0


def make_traffic(
    arrival_s: ArrayLike,
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    *,
    after: ArrayLike | None = None,
    pause_s: ArrayLike | None = None,
    priority: ArrayLike | None = None,
    block_start: ArrayLike | None = None,
    block_ids: ArrayLike | None = None,
    block_tokens: int = 16,
    concurrency: int = 0,
) -> Traffic:
    """Return checked traffic from columns.

    Parameters
    ----------
    arrival_s
        [n], ascending from 0 or later.
    input_tokens, output_tokens
        [n], at least 1 and at least 0.
    after, pause_s, priority, block_start, block_ids, block_tokens, concurrency
        See :class:`Traffic`; none, 0, 0 and no blocks when not given.

    Raises
    ------
    InputError
        No requests, columns of different lengths, times that descend or are not finite, lengths
        out of range: with the number of the request, from 0.
    """
    arrival = np.asarray(arrival_s, np.float64)
    n = arrival.size
    prompts, outputs = _whole(input_tokens, "input_tokens"), _whole(output_tokens, "output_tokens")
    waits = np.full(n, -1, np.int64) if after is None else _whole(after, "after")
    pauses = np.zeros(n) if pause_s is None else np.asarray(pause_s, np.float64)
    ranks = np.zeros(n, np.int64) if priority is None else _whole(priority, "priority")
    starts = np.zeros(n + 1, np.int64) if block_start is None else _whole(block_start, "starts")
    ids = np.empty(0, np.int64) if block_ids is None else _whole(block_ids, "block_ids")
    if n == 0:
        raise InputError("traffic: no requests; give at least one")
    if n > MAX_REQUESTS:
        raise InputError(f"traffic: {n:,} requests; at most {MAX_REQUESTS:,} are played at once")
    for name, column, size in (
        ("arrival_s", arrival, n),
        ("input_tokens", prompts, n),
        ("output_tokens", outputs, n),
        ("after", waits, n),
        ("pause_s", pauses, n),
        ("priority", ranks, n),
        ("block_start", starts, n + 1),
    ):
        if column.shape != (size,):
            raise InputError(f"traffic.{name}: has shape {column.shape}, not ({size},)")
    _each(np.isfinite(arrival) & (arrival >= 0.0), arrival, "arrival_s", "must be at least 0")
    _each(np.isfinite(pauses) & (pauses >= 0.0), pauses, "pause_s", "must be at least 0")
    _each(prompts >= 1, prompts, "input_tokens", "must be at least 1")
    _each(outputs >= 0, outputs, "output_tokens", "must be at least 0")
    _each(np.abs(ranks) < 1 << 18, ranks, "priority", f"must be within {(1 << 18) - 1:,}")
    own = np.arange(n)
    _each((waits >= -1) & (waits < own), waits, "after", "must be an earlier request or -1")
    free = waits < 0
    ordered = np.ones(n, np.bool_)
    ordered[np.flatnonzero(free)[1:]] = np.diff(arrival[free]) >= 0.0
    _each(ordered, arrival, "arrival_s", "comes before the request above it; sort by time")
    if starts[0] != 0 or starts[-1] != ids.size or bool(np.any(np.diff(starts) < 0)):
        raise InputError("traffic.block_start: must ascend from 0 to the number of block_ids")
    if block_tokens < 1:
        raise InputError(f"traffic.block_tokens = {block_tokens}: must be at least 1")
    if concurrency < 0:
        raise InputError(f"traffic.concurrency = {concurrency}: must be at least 0 (0: open loop)")
    return Traffic(
        arrival_s=arrival,
        input_tokens=prompts,
        output_tokens=outputs,
        after=waits,
        pause_s=pauses,
        priority=ranks,
        block_start=starts,
        block_ids=ids,
        block_tokens=block_tokens,
        concurrency=concurrency,
    )


def closed_loop(
    concurrency: int, prompts: int, inputs: Lengths, outputs: Lengths, *, seed: int = 0
) -> Traffic:
    """Return ``prompts`` requests of which ``concurrency`` are always in flight.

    Raises
    ------
    InputError
        Nothing in flight, or lengths that cannot be.
    """
    if concurrency < 1:
        raise InputError(f"concurrency = {concurrency}: must be at least 1")
    _count(prompts)
    rng = np.random.default_rng(seed)
    return make_traffic(
        np.zeros(prompts),
        inputs.draw(prompts, rng),
        outputs.draw(prompts, rng, 0),
        concurrency=concurrency,
    )


def open_loop(arrival_s: ArrayLike, inputs: Lengths, outputs: Lengths, *, seed: int = 0) -> Traffic:
    """Return a request of drawn lengths at each of the listed times.

    Raises
    ------
    InputError
        Times that descend, or lengths that cannot be.
    """
    times = np.asarray(arrival_s, np.float64)
    # lengths and arrivals of one seed must not be drawn from one stream
    rng = np.random.default_rng([seed, 1])
    return make_traffic(times, inputs.draw(times.size, rng), outputs.draw(times.size, rng, 0))


def gamma_arrivals(rate: float, count: int, *, cv: float = 1.0, seed: int = 0) -> Floats:
    """Return ``count`` times of arrival whose gaps are Gamma: Poisson at cv = 1, bursts above.

    Gaps have mean 1/rate and shape 1/cv^2; below a cv of 1e-6 they are even.

    Parameters
    ----------
    rate
        Requests per second.
    count
        Requests.
    cv
        Standard deviation of a gap over its mean.
    seed
        The same seed gives the same bytes.
    """
    _count(count)
    if not (math.isfinite(rate) and rate > 0.0):
        raise InputError(f"request rate = {rate}: must be above 0 requests a second")
    if not (math.isfinite(cv) and 0.0 <= cv <= 100.0):
        raise InputError(f"cv = {cv}: must be from 0 (even) to 100; 1 is Poisson")
    if cv < 1e-6:
        return np.arange(1, count + 1) / rate
    shape = 1.0 / cv**2
    gaps = np.random.default_rng(seed).gamma(shape, 1.0 / (rate * shape), count)
    times: Floats = np.cumsum(gaps)
    return times


def diurnal_arrivals(
    rates: Sequence[float],
    duration_s: float,
    *,
    period_s: float = DAY_S,
    cv: float = 1.0,
    seed: int = 0,
) -> Floats:
    """Return times of arrival whose rate follows a curve, by thinning (Lewis and Shedler 1979).

    Candidates come at the peak rate; one at time t stays with probability rate(t) / peak. At
    cv = 1 that is exactly the Poisson process of the curve.

    Parameters
    ----------
    rates
        Requests per second at times evenly spread over a period, linear between them; the curve
        goes on periodically.
    duration_s
        Until when.
    period_s
        A day by default.
    cv
        Burstiness of the candidates; see ``gamma_arrivals``.
    seed
        The same seed gives the same bytes.
    """
    curve = np.asarray(rates, np.float64)
    if curve.ndim != 1 or curve.size < 1:
        raise InputError("rates: must be a list of at least one number")
    _each(np.isfinite(curve) & (curve >= 0.0), curve, "rates", "must be at least 0")
    for name, value in (("duration_s", duration_s), ("period_s", period_s)):
        if not (math.isfinite(value) and value > 0.0):
            raise InputError(f"{name} = {value}: must be above 0")
    peak = float(curve.max())
    expected = peak * duration_s
    if expected == 0.0:
        raise InputError("rates: all are 0; nothing would arrive")
    _count(math.ceil(expected))
    rng = np.random.default_rng([seed, 2])
    most = math.ceil(expected + 6.0 * max(1.0, cv) * math.sqrt(expected) + 10.0)
    times = gamma_arrivals(peak, most, cv=cv, seed=seed)
    times = times[times < duration_s]
    grid = np.arange(curve.size + 1) * (period_s / curve.size)
    at = np.interp(times % period_s, grid, np.append(curve, curve[0]))
    kept: Floats = times[rng.random(times.size) * peak < at]
    if kept.size == 0:
        raise InputError("rates: nothing arrived; lengthen duration_s or raise the rates")
    return kept


def _count(count: int) -> None:
    if not 1 <= count <= MAX_REQUESTS:
        raise InputError(f"{count:,} requests: must be from 1 to {MAX_REQUESTS:,}")


def _whole(values: ArrayLike, name: str) -> Ints:
    given = np.asarray(values)
    if given.dtype.kind == "f" and given.size:
        _each(np.isfinite(given) & (given == np.rint(given)), given, name, "must be whole")
    return given.astype(np.int64)


def _each(good: NDArray[np.bool_], values: NDArray[np.generic], name: str, rule: str) -> None:
    """Refuse the first value that breaks a rule, by its number."""
    if good.all():
        return
    first = int(np.argmin(good))
    raise InputError(f"traffic.{name}[{first}] = {values[first]}: {rule}")
