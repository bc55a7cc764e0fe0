"""What no number of replicas can beat, and how many the work takes at least.

Everything here is a lower bound on what ``play`` finds with the same tables, so that what it drops
cannot be an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.serving.choice.goals import Demand, Goal
from ridgeline.simulator.serving.choice.space import Replica
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.traffic.traffic import Traffic

Floats = NDArray[np.float64]

_SAFE = 1.0 - 1e-6
"""Bounds are taken this much lower, so that rounding drops nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a traffic asks of replicas."""

    prompts: Floats
    """[n] tokens of each prompt."""
    computed: Floats
    """[n] of these, what is computed at least."""
    outputs: Floats
    """[n]"""
    steps: Floats
    """[n] decode iterations of each request."""
    contexts: Floats
    """[n] tokens in the cache, summed over these iterations, at least."""
    kept: Floats
    """[n] prompt and output, all of which the cache of one replica must hold."""
    last_s: float
    """Arrival of the last request; infinite where that depends on how others are served."""
    shared: bool
    """Prompts may share blocks of a cache."""


def work_of(traffic: Traffic, tables: IterationTables, *, caching: bool) -> Work:
    """Return the work of a traffic for replicas with these tables.

    Parameters
    ----------
    traffic
        What is asked.
    tables
        For the tokens that an iteration gains.
    caching
        Whether prefixes may be found in a cache: only one token of each prompt is then sure to be
        computed.
    """
    prompts = traffic.input_tokens.astype(np.float64)
    outputs = traffic.output_tokens.astype(np.float64)
    later = np.maximum(outputs - 1.0, 0.0)
    steps = np.ceil(later / tables.tokens_per_step - 1e-9)
    # step j begins with at least j later / steps tokens, rounded down
    grown = np.maximum(later * (steps - 1.0) / 2.0 - steps, 0.0)
    shared = caching and len(traffic.block_ids) > 0
    waits = traffic.concurrency > 0 or bool((traffic.after >= 0).any())
    return Work(
        prompts=prompts,
        computed=np.ones(len(traffic)) if shared else prompts,
        outputs=outputs,
        steps=steps,
        contexts=steps * prompts + grown,
        kept=prompts + outputs,
        last_s=math.inf if waits else float(traffic.arrival_s.max()),
        shared=shared,
    )


def never_kept(replica: Replica, demand: Demand, work: Work, *, role: str = "whole") -> str:
    """Return the figure of a goal that not even idle replicas keep, empty for none.

    A request alone: TTFT is at least the front end and the iterations of its prompt without
    attention, TPOT an iteration of one sequence at the context of its prompt; a request that is
    longer than the cache is rejected.

    Parameters
    ----------
    replica
        A replica.
    demand
        Traffic and goals.
    work
        Of that traffic.
    role
        whole, prefill (TPOT does not depend on it) or decode (TTFT does not).
    """
    refused = work.kept > replica.tables.kv_tokens
    zero = np.zeros(len(refused))
    first = prompt_seconds(replica, work.computed) if role != "decode" else zero
    each = step_seconds(replica, work) if role != "prefill" else zero
    later = np.maximum(work.outputs - 1.0, 1.0)
    values = {
        "ttft": np.where(work.outputs > 0, first, np.nan),
        "tpot": np.where(work.outputs > 1, each / later, np.nan),
        "latency": first + each,
    }
    for goal in demand.goals:
        least = np.where(refused, np.inf, values[goal.figure] * _SAFE)
        if goal.reached_s(least) > goal.limit_s:
            full = goal.reached_s(np.where(refused, np.inf, 0.0)) == math.inf
            return "memory" if full else goal.figure
    return ""


def prompt_seconds(replica: Replica, computed: Floats) -> Floats:
    """Return the least seconds from arrival to the first token of prompts, float64[n].

    A prompt is cut only where the budget of an iteration ends, so that all its iterations but the
    last are full; each takes at least the linear part of its own tokens, or its launches.
    """
    tables, policy = replica.tables, replica.policy

    def iteration(tokens: Floats) -> Floats:
        linear = np.interp(tokens, tables.tokens, tables.mixed_linear_s)
        host = tables.host_s + tables.host_per_sequence_s + tables.host_per_prefill_s
        return np.maximum(linear, tables.eager_floor_s) + host

    seconds = iteration(computed)
    if policy.chunked:
        budget = float(policy.max_tokens)
        full = np.maximum(np.ceil(computed / budget) - 1.0, 0.0)
        cut = full * iteration(np.full(1, budget))[0] + iteration(np.ones(1))[0]
        seconds = np.where(full > 0, cut, seconds)
    return seconds + tables.front_s + tables.front_serial_s


def step_seconds(replica: Replica, work: Work) -> Floats:
    """Return the least seconds of all decode iterations of each request, float64[n]."""
    tables = replica.tables
    attention = np.interp(work.prompts, tables.contexts, tables.decode_attention_s[0])
    step = tables.decode_linear_s[0] + attention + tables.host_s + tables.host_per_sequence_s
    return np.asarray(step * work.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minorants:
    """Lower bounds on an iteration: a + s (decodes + prompt tokens) + r (context tokens)."""

    fixed_s: Floats
    """[m] a."""
    token_s: Floats
    """[m] s."""
    context_s: float
    """r."""


def minorants(replica: Replica, work: Work, *, role: str = "whole") -> Minorants:
    """Return affine lower bounds on the iterations of a replica.

    a = min over tokens of (linear - s tokens) for slopes s of the table: linear parts are pieces of
    lines, and so the minimum lies on a corner. r = min of attention / (sequences x context), which
    on every cell of the bilinear table lies on a corner too.

    Parameters
    ----------
    replica
        A replica.
    work
        For the longest context.
    role
        Iterations hold both (whole), prompts alone (prefill) or decodes alone (decode).
    """
    tables, policy = replica.tables, replica.policy
    decodes = policy.max_sequences * (1 + policy.draft_tokens)
    tokens = _upto(tables.tokens, decodes + max(policy.max_tokens, float(work.kept.max())))
    parts = {"prefill": tables.mixed_linear_s, "decode": tables.decode_linear_s}
    linear = np.min(
        [
            _line(tables.tokens, part, tokens)
            for name, part in parts.items()
            if role in ("whole", name)
        ],
        axis=0,
    )
    slopes = np.diff(linear) / np.diff(tokens)
    chords = (linear[-1] - linear) / np.maximum(tokens[-1] - tokens, 1.0)
    slopes = np.unique(np.maximum(np.concatenate([slopes, chords, [0.0]]), 0.0))
    fixed = (linear[None, :] - slopes[:, None] * tokens[None, :]).min(axis=1)
    sequences = _upto(tables.sequences, float(max(2, policy.max_sequences)))
    contexts = _upto(tables.contexts, max(2.0, float(work.kept.max())))
    rows = np.array(
        [
            _line(tables.sequences, column, sequences)
            for column in np.array(
                [_line(tables.contexts, row, contexts) for row in tables.decode_attention_s]
            ).T
        ]
    ).T
    rate = float((rows / (sequences[:, None] * contexts[None, :])).min())
    useful = fixed >= 0.0
    return Minorants(fixed_s=fixed[useful], token_s=slopes[useful], context_s=max(0.0, rate))


def _upto(grid: Floats, most: float) -> Floats:
    return np.append(grid[grid < most], most)


def _line(grid: Floats, values: Floats, at: Floats) -> Floats:
    """Interpolate; beyond the grid along its last segment, as ``play`` does."""
    inside: Floats = np.interp(at, grid, values)
    if len(grid) < 2:
        return inside
    slope = float((values[-1] - values[-2]) / (grid[-1] - grid[-2]))
    beyond: Floats = np.maximum(at - grid[-1], 0.0) * slope
    return inside + beyond


def least_replicas(replica: Replica, demand: Demand, work: Work, *, role: str = "whole") -> int:
    """Return how many replicas the work takes at least for the goals to be kept.

    Of the share p of requests that keep all their limits the smallest share is counted: P prompt
    tokens, D decode iterations of a sequence, X tokens of context in them. I iterations take
    I (a + host) + (s + host per sequence) D + s P + r X. No iteration holds more than b sequences
    or K tokens of context, hence I >= D / b and I >= X / K. With a limit L on TPOT the mean length
    of an iteration over all decoded tokens is at most L g (g tokens an iteration): with
    A + s b as its least length, sum of b^2 <= (L O - A D) / s over O later tokens, and by Cauchy
    I >= s D^2 / (L O - A D). All of it must happen between the start and the last deadline.

    Parameters
    ----------
    replica, demand, work, role
        As of ``never_kept``; a prefill pool has no decodes and a decode pool no prompts.

    Returns
    -------
    int
        0 where the goals cannot be kept at all.
    """
    tables, policy = replica.tables, replica.policy
    limits = {goal.figure: goal.limit_s for goal in demand.goals}
    count = len(work.prompts)
    # requests that keep every limit at once: the shares that do not may be different ones
    bad = sum(count - goal.needed(count) for goal in demand.goals)
    good = max(0, count - bad)
    prompts = _least(work.computed, good) if role != "decode" else 0.0
    steps = _least(work.steps, good) if role != "prefill" else 0.0
    contexts = _least(work.contexts, good) if role != "prefill" else 0.0
    end = _deadline(demand.goals, work)
    if end == math.inf or role == "prefill":
        # decodes have no deadline, or are none of this pool's: first tokens have one
        steps = contexts = 0.0
        end = min(end, work.last_s + limits.get("ttft", math.inf))
    lower = minorants(replica, work, role=role)
    fixed = lower.fixed_s + tables.host_s
    each = lower.token_s + tables.host_per_sequence_s
    width = float(policy.max_sequences)
    held = 0.0 if work.shared else contexts / tables.kv_tokens
    iterations = np.full(len(fixed), max(steps / width, held))
    budget = max(float(policy.max_tokens), float(work.kept.max()))
    iterations = np.maximum(iterations, prompts / budget)
    if "tpot" in limits and steps > 0.0:
        length = each + lower.context_s * float(work.prompts.min())
        # D and O belong to the same requests: at least one later token to an iteration
        room = limits["tpot"] * tables.tokens_per_step - fixed
        if not bool((room > 0.0).all()):
            return 0
        iterations = np.maximum(iterations, length * steps / room)
    busy = iterations * fixed + each * steps + lower.token_s * prompts + lower.context_s * contexts
    return max(1, math.ceil(float(busy.max()) * _SAFE / end - 1e-9))


def _least(values: Floats, count: int) -> float:
    """Return the sum of the smallest ``count`` values."""
    return float(np.sort(values)[:count].sum())


def _deadline(goals: tuple[Goal, ...], work: Work) -> float:
    """Return when the last request that keeps its limits has ended, s; infinite without one."""
    limits = {goal.figure: goal.limit_s for goal in goals}
    end = limits.get("latency", math.inf)
    if "ttft" in limits and "tpot" in limits:
        longest = float(np.maximum(work.outputs - 1.0, 0.0).max())
        end = min(end, limits["ttft"] + limits["tpot"] * longest)
    return work.last_s + end
