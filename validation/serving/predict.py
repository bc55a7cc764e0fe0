"""What the simulator says to a question: latencies and throughput as the row states them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.play import Played, Pool, play, play_pools
from ridgeline.simulator.serving.policy import Policy, policy_of
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.static import generation_seconds, prefill_seconds
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.validation.serving.rows import CLOSED, DISAGGREGATED, STATIC, Question
from ridgeline.validation.spelling import Skip
from ridgeline.workloads.traffic.traffic import Traffic

Tabulate = Callable[[Service], IterationTables]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds, and tokens per second and accelerator; None for what a row does not ask."""

    ttft_s: float | None
    tpot_s: float | None
    tokens_per_s_per_accelerator: float


def predict(question: Question, tabulate: Tabulate = iteration_tables) -> Prediction | Skip:
    """Predict what a row measured, or say why not (weights that do not fit, an illegal split)."""
    try:
        if question.kind == STATIC:
            return _static(question)
        if question.kind == DISAGGREGATED:
            return _disaggregated(question, tabulate)
        return _served(question, tabulate)
    except InputError as error:
        return Skip("; ".join(error.problems))
    except InfeasibleError as error:
        return Skip(str(error))


def closed_loop_rate(concurrency: int, output_len: int, ttft_s: float, tpot_s: float) -> float:
    """Return output tokens per second of a closed loop in its steady state.

    Little's law: concurrency requests are in flight, each for TTFT + TPOT (output - 1).
    """
    return concurrency * output_len / (ttft_s + tpot_s * (output_len - 1))


def _static(q: Question) -> Prediction:
    first = prefill_seconds(q.service, q.concurrency, q.input_len)
    whole = generation_seconds(q.service, q.concurrency, q.input_len, max(1, q.output_len))
    steps = max(1, q.output_len) - 1
    decodes, first = whole - first, q.ttft_scale * first
    rate = q.concurrency * max(1, q.output_len) / (first + decodes)
    return Prediction(
        ttft_s=first,
        tpot_s=decodes / steps if steps else None,
        tokens_per_s_per_accelerator=rate / q.accelerators,
    )


def traffic_of(q: Question) -> Traffic:
    """Return the requests of a closed loop as the source's client draws them.

    Lengths are uniform whole numbers from the client's share of the stated length to the length
    itself; the seed is a hash of the lengths and the number of prompts.
    """
    n = q.prompts
    low = q.client.length_low
    if low < 1.0:
        seed = zlib.crc32(f"{q.input_len} {q.output_len} {n}".encode())
        random = np.random.default_rng(seed)
        inputs = random.integers(max(1, round(low * q.input_len)), q.input_len + 1, n)
        outputs = random.integers(max(1, round(low * q.output_len)), q.output_len + 1, n)
    else:
        inputs, outputs = np.full(n, q.input_len), np.full(n, q.output_len)
    return Traffic(
        arrival_s=np.zeros(n),
        input_tokens=inputs.astype(np.int64),
        output_tokens=outputs.astype(np.int64),
        after=np.full(n, -1, np.int64),
        pause_s=np.zeros(n),
        priority=np.zeros(n, np.int64),
        block_start=np.zeros(n + 1, np.int64),
        block_ids=np.empty(0, np.int64),
        concurrency=min(q.concurrency, n),
    )


def policy_for(q: Question) -> Policy:
    """Return the scheduler of a question: its service's, as the source started it."""
    policy = policy_of(q.service)
    return replace(
        policy, admit_every=q.admit_every or policy.admit_every, kind=q.scheduler or policy.kind
    )


def _served(q: Question, tabulate: Tabulate) -> Prediction:
    played = play(tabulate(q.service), policy_for(q), traffic_of(q), log_lines=0)
    return _read(q, played)


def _read(q: Question, played: Played) -> Prediction:
    done = played.finished
    if not done.any():
        raise InfeasibleError(f"no request of {len(played)} finished: the cache is too small")
    pick = np.median if q.client.statistic == "median" else np.mean
    ttft = float(pick(played.ttft_s[done]))
    several = done & (played.output_tokens > 1)
    tpot = float(pick(played.tpot_s[several])) if several.any() else None
    if q.kind in (CLOSED, DISAGGREGATED) and tpot is not None:
        rate = closed_loop_rate(q.concurrency, q.output_len, ttft, tpot)
    else:
        rate = float(played.output_tokens[done].sum()) / played.end_time_s
    return Prediction(ttft_s=ttft, tpot_s=tpot, tokens_per_s_per_accelerator=rate / q.accelerators)


def _disaggregated(q: Question, tabulate: Tabulate) -> Prediction:
    assert q.prefill is not None
    pools = []
    for service, role in ((q.prefill, "prefill"), (q.service, "decode")):
        tables = tabulate(replace(service, replicas=1))
        link = service.cluster.accelerator.scaleup_bytes_per_s
        move = tables.kv_bytes_per_token / link if role == "prefill" else 0.0
        pools.append(
            Pool(
                tables=tables,
                policy=policy_of(service),
                replicas=service.replicas,
                role=role,
                transfer_s_per_token=move,
                speaks=role == "decode" and q.decode_speaks,
            )
        )
    played = play_pools(pools, traffic_of(q), router=q.router, log_lines=0)
    return _read(q, played)
