"""What a played service says: flat frozen records. Rendering reads them and computes nothing."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.coserve import FineTuning
from ridgeline.simulator.serving.play import REASONS, Played

SCHEMA_VERSION = 1
SHARES = (0.5, 0.9, 0.95, 0.99)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean and percentiles of a time, s; nan where nothing was counted."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Return the spread of the values that are not nan (linear between ranks)."""
        counted = values[~np.isnan(values)]
        if counted.size == 0:
            return cls(**dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "most"), math.nan))
        p50, p90, p95, p99 = (float(x) for x in np.quantile(counted, SHARES))
        return cls(
            mean=float(counted.mean()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            most=float(counted.max()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits that a good request keeps, s; infinity is no limit."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    latency_s: float = math.inf

    def kept(self, played: Played) -> NDArray[np.bool_]:
        """Mask of the finished requests that keep every limit; one without a figure keeps it."""
        good = played.finished
        for value, limit in (
            (played.ttft_s, self.ttft_s),
            (played.tpot_s, self.tpot_s),
            (played.latency_s, self.latency_s),
        ):
            good = good & ~(value > limit)
        return good


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Money, energy and carbon of a service while it was played.

    Input and output share the bill by the seconds that each kept the replicas busy; idle time is
    part of both.
    """

    accelerator_hours: float
    usd_per_accelerator_hour: float
    """0 when no price is known."""
    usd: float
    idle_usd: float
    """Of ``usd``, for replicas that were on without work."""
    usd_per_million_input_tokens: float
    usd_per_million_output_tokens: float
    usd_per_million_tokens: float
    """Input and output together."""
    energy_kwh: float
    kwh_per_million_tokens: float
    co2_kg: float
    co2_kg_per_million_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """One pool's part of the work and of the bill, whose sums are those of ``Bill``."""

    role: str
    """whole, prefill or decode."""
    cluster: str
    engine: str
    replicas: int
    accelerators: int
    finished: int
    """Requests that ended in it; those that were handed over ended elsewhere."""
    utilisation: float
    """Share of the time that its replicas were on in which they iterated."""
    accelerator_hours: float
    usd_per_accelerator_hour: float
    """0 when no price is known."""
    usd: float
    idle_usd: float
    energy_kwh: float
    co2_kg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUse:
    """KV cache in use at a time."""

    time_s: float
    replica: int
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUse:
    """What one user got."""

    user: int
    requests: int
    tokens: int
    """Of the prompts and answers that ended."""
    ttft_p50_s: float
    ttft_p90_s: float
    preemptions: int


def user_uses(played: Played, users: NDArray[np.int64]) -> tuple[UserUse, ...]:
    """Return what each user got, in the order of their numbers."""
    found = []
    for user in range(int(users.max()) + 1):
        own = users == user
        spread = Spread.of(played.ttft_s[own])
        done = own & played.finished
        found.append(
            UserUse(
                user=user,
                requests=int(own.sum()),
                tokens=int((played.input_tokens + played.output_tokens)[done].sum()),
                ttft_p50_s=spread.p50,
                ttft_p90_s=spread.p90,
                preemptions=int(played.preemptions[own].sum()),
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingResult:
    """A predicted service. Times in seconds, fractions 0 to 1."""

    name: str
    model: str
    cluster: str
    """Of all pools, joined by " + "."""
    accelerators: int
    """Of all replicas."""
    engine: str
    """The same."""
    plan: dict[str, Any]
    """Settings, defaults resolved."""
    requests: int
    finished: int
    rejected: int
    running: int
    """Still in the system when play was cut off."""
    not_arrived: int
    """Later turns that were due after that."""
    rejections: dict[str, int]
    """By reason."""
    duration_s: float
    """From the start to the last end."""
    ttft_s: Spread
    ttft_low_s: float
    ttft_high_s: float
    """Around the median, where four of five measured services of this ``evidence`` lie."""
    tpot_s: Spread
    """Of requests: (end - first token) / (tokens - 1)."""
    tpot_low_s: float
    tpot_high_s: float
    """The same."""
    itl_s: Spread
    """Between tokens, each counted."""
    latency_s: Spread
    queue_s: Spread
    """From arrival to the first iteration."""
    idealized_runtime_s: float
    """Of a request of mean lengths, alone (``idealized``); nan where none has an answer."""
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_low: float | None
    output_tokens_per_s_high: float | None
    """The same where the service sets the pace (a closed loop, a batch); None in an open loop,
    whose arrivals do."""
    tokens_per_s_per_accelerator: float
    """Input and output."""
    output_tokens_per_s_per_accelerator: float
    output_tokens_per_s_per_user: float
    """1 / median TPOT."""
    slo: Slo
    goodput_fraction: float
    """Of all requests that came, those that finished within the SLO."""
    goodput_requests_per_s: float
    utilisation: float
    """Share of the time that replicas were on in which they iterated."""
    prefill_share: float
    """Of the busy time."""
    iterations: int
    mean_in_system: float
    """Requests in the system over time, by Little's law their rate times their time in it."""
    preemptions: int
    cached_fraction: float
    """Of prompt tokens, found in the prefix cache."""
    kv_tokens: int
    """Capacity of one replica."""
    kv_peak_fraction: float
    kv_mean_fraction: float
    """Over busy time."""
    kv_use: tuple[KvUse, ...]
    """Over time, at most 512 lines."""
    bill: Bill
    usd_per_million_tokens_low: float | None
    usd_per_million_tokens_high: float | None
    """The range of the bill's, by that of the throughput."""
    pools: tuple[PoolUse, ...]
    """Parts of the bill, by pool."""
    evidence: str
    """What was measured that is like this: one of ``ranges.GRADES``."""
    provenance: tuple[str, ...]
    warnings: tuple[str, ...]
    finetuning: FineTuning | None = None
    """Beside the requests; None without, and then no key of the record."""
    users: tuple[UserUse, ...] = ()
    """Where there are several; else no key of the record."""

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ridgeline.simulator.notebook import serving_html

        return serving_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        record = {"schema": "ridgeline.infer", "schema_version": SCHEMA_VERSION, **asdict(self)}
        if self.finetuning is None:
            del record["finetuning"]
        if not self.users:
            del record["users"]
        return record


def per_request(played: Played) -> dict[str, NDArray[Any]]:
    """Return the requests as columns, ready for a table."""
    return {
        "request": np.arange(len(played)),
        "state": np.array(["finished", "rejected", "running", "not arrived"])[played.state],
        "reason": np.array(REASONS)[played.reason],
        "arrival_s": played.arrival_s,
        "input_tokens": played.input_tokens,
        "output_tokens": played.output_tokens,
        "priority": played.priority,
        "queue_s": played.admitted_s - played.arrival_s,
        "ttft_s": played.ttft_s,
        "tpot_s": played.tpot_s,
        "latency_s": played.latency_s,
        "preemptions": played.preemptions,
        "cached_tokens": played.cached_tokens,
        "replica": played.replica,
    }


def requests_csv(played: Played) -> str:
    """Return the requests as CSV text with a header; figures that do not exist are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = per_request(played)
    writer.writerow(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        writer.writerow(["" if cell != cell else cell for cell in row])
    return text.getvalue()


def gaps(played: Played) -> Spread:
    """Return the spread of the inter-token latency, percentiles to within 0.25%."""
    p50, p90, p95, p99 = (played.gap_quantile_s(share) for share in SHARES)
    most = played.gap_most_s if played.gap_counts.any() else math.nan
    return Spread(mean=played.gap_mean_s, p50=p50, p90=p90, p95=p95, p99=p99, most=most)


def check_conservation(played: Played) -> None:
    """Assert what holds for every play: nothing is lost, and Little's law.

    The integral of the requests in the system, counted event by event, equals the sum over
    requests of the time that each was in it (Little 1961: L T = sum of W).
    """
    arrived = ~np.isnan(played.arrival_s)
    ended = np.where(np.isnan(played.end_s), played.end_time_s, played.end_s)
    spent = float((ended - played.arrival_s)[arrived].sum())
    scale = max(1.0, abs(spent), abs(played.in_system_s))
    assert abs(played.in_system_s - spent) <= 1e-6 * scale, (played.in_system_s, spent)
    done = played.finished
    assert not np.isnan(played.end_s[done]).any()
    spoke = done & (played.output_tokens > 0)
    assert bool(np.all(played.first_token_s[spoke] > played.arrival_s[spoke]))
    assert bool(np.all(played.end_s[spoke] >= played.first_token_s[spoke]))
