"""Tables, policy, traffic -> when every request began, spoke and ended.

The validated face of ``_kernels.play``. One call plays one or many replicas: pools of them, each
with tables and a policy of its own, behind a router.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InfeasibleError, InputError, nearest
from ridgeline.simulator.serving import _kernels as k
from ridgeline.simulator.serving.policy import KINDS, Policy
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.workloads.traffic.traffic import Traffic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROLES = ("whole", "prefill", "decode")
ROUTERS = ("round-robin", "least-loaded", "prefix-aware")
FINISHED, REJECTED, RUNNING, NOT_ARRIVED = 0, 1, 2, 3
REASONS = (
    "",
    "prompt and output are longer than the KV cache",
    "an earlier turn of the session was rejected",
    "the line is full",
)
"""Why a request was rejected, by its number."""
MAX_USERS = 1000
MAX_CACHE_CELLS = 200_000_000
"""Replicas times distinct blocks: 12 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """Starts and stops replicas of a pool by its load."""

    least: int = 1
    """Replicas that are always on."""
    load_per_replica: float = 0.0
    """Requests in a replica (running or in line) that one more replica is started above; 0 keeps
    all on."""
    start_up_s: float = 0.0
    """From the decision to the first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one kind."""

    tables: IterationTables
    policy: Policy = field(default_factory=Policy)
    replicas: int = 1
    """The most, where an autoscaler turns some off."""
    role: str = "whole"
    """whole, or prefill and decode where these are apart."""
    transfer_s_per_token: float = 0.0
    """Of a prefill pool: seconds of a replica's link for the KV of one prompt token."""
    transfer_latency_s: float = 0.0
    speaks: bool = False
    """Of a decode pool: whether the client gets the first token from it, when it takes the request
    in, and not from the pool that read the prompt (NVIDIA Dynamo)."""
    autoscaler: Autoscaler = field(default_factory=Autoscaler)


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationLog:
    """Iterations in the order of their starts, every ``stride``-th of them."""

    stride: int
    start_s: Floats
    seconds: Floats
    replica: Ints
    decoding: Ints
    """Sequences that decode."""
    context_tokens: Ints
    """Of these together."""
    prompt_tokens: Ints
    prompts: Ints
    """Prompts of which it computes a part."""
    blocks: Ints
    """Blocks of KV cache in use."""
    signature: Ints
    """Sum of (number + 1) over requests that decode and of (number + 1) * tokens over prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What happened to n requests on R replicas. Times in seconds from the start."""

    state: Ints
    """[n] FINISHED, REJECTED, RUNNING or NOT_ARRIVED (later turns, when play was cut off)."""
    reason: Ints
    """[n] index into ``REASONS``."""
    arrival_s: Floats
    """[n] nan for one that never came."""
    admitted_s: Floats
    """[n] start of the first iteration that computes a part of the prompt; nan for none."""
    first_token_s: Floats
    """[n] nan where no token was asked for or came."""
    end_s: Floats
    """[n] last token, or rejection; nan for one still running."""
    replica: Ints
    """[n] that ended it, -1 for none."""
    input_tokens: Ints
    output_tokens: Ints
    priority: Ints
    """[n] of the line: the smallest goes first."""
    preemptions: Ints
    """[n]"""
    cached_tokens: Ints
    """[n] prompt tokens found in the prefix cache."""
    end_time_s: float
    """When the last request ended, or play was cut off."""
    in_system_s: float
    """Integral over time of the requests in the system, counted event by event."""
    gap_counts: Ints
    """Histogram of inter-token latencies; ``gap_quantile_s`` reads it."""
    gap_mean_s: float
    gap_most_s: float
    iterations: Ints
    """[R]"""
    busy_s: Floats
    """[R] in iterations."""
    prefill_s: Floats
    """[R] of ``busy_s``, what prompts added to it."""
    on_s: Floats
    """[R] switched on, started or starting."""
    block_s: Floats
    """[R] integral of blocks in use over busy time."""
    most_blocks: Ints
    """[R] peak."""
    blocks: Ints
    """[R] blocks of the cache."""
    pool: Ints
    """[R] number of the replica's pool."""
    log: IterationLog

    def __len__(self) -> int:
        return len(self.state)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Mask of the requests that ended with all their tokens."""
        return np.asarray(self.state == FINISHED)

    @property
    def ttft_s(self) -> Floats:
        """Time to first token of every request; nan where none came."""
        return self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after the first: (end - first) / (tokens - 1); nan below two."""
        later = np.maximum(self.output_tokens - 1, 1)
        seconds = np.where(
            self.output_tokens > 1, (self.end_s - self.first_token_s) / later, np.nan
        )
        return np.where(self.finished, seconds, np.nan)

    @property
    def latency_s(self) -> Floats:
        """End to end; nan for what did not finish."""
        return np.where(self.finished, self.end_s - self.arrival_s, np.nan)

    def gap_quantile_s(self, share: float) -> float:
        """Return a quantile of the inter-token latency, to within 0.25%; nan without tokens.

        Parameters
        ----------
        share
            0 to 1.
        """
        total = int(self.gap_counts.sum())
        if total == 0:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self.gap_counts), share * total))
        middle = float(k.LEAST_S * k.GROWTH ** (min(place, k.BINS - 1) + 0.5))
        return min(middle, self.gap_most_s)


def play(
    tables: IterationTables,
    policy: Policy,
    traffic: Traffic,
    *,
    steps: Ints | None = None,
    loads_s: Floats | None = None,
    users: Ints | None = None,
    until_s: float = math.inf,
    log_lines: int = 4096,
) -> Played:
    """Play a traffic on one replica; see ``play_pools``."""
    pool = Pool(tables=tables, policy=policy)
    return play_pools(
        (pool,),
        traffic,
        steps=steps,
        loads_s=loads_s,
        users=users,
        until_s=until_s,
        log_lines=log_lines,
    )


def play_pools(
    pools: Sequence[Pool],
    traffic: Traffic,
    *,
    router: str = "round-robin",
    steps: Ints | None = None,
    loads_s: Floats | None = None,
    users: Ints | None = None,
    scale_every_s: float = 10.0,
    until_s: float = math.inf,
    log_lines: int = 4096,
) -> Played:
    """Play a traffic on pools of replicas behind a router, iteration by iteration.

    Parameters
    ----------
    pools
        All of role whole, or some prefill and some decode.
    traffic
        Requests; in a closed loop the first ``concurrency`` arrive at once, then one as one ends.
    router
        round-robin, least-loaded (fewest requests in it), or prefix-aware (longest prefix in its
        cache, then least loaded).
    steps
        int64[n], decode iterations that each request takes, at least (output - 1) over the tokens
        that an iteration can gain; by default (output - 1) / tokens_per_step, rounded up.
    loads_s
        float64[n], what each request waits for beside the line, such as its adapter; by default
        nothing.
    users
        int64[n], whose each request is, from 0; by default all are one's. Policies with
        ``fair_every`` part the replicas between them.
    scale_every_s
        Time between decisions of autoscalers.
    until_s
        Cut off here; what runs is left as running.
    log_lines
        Iterations kept in the log; of more, every second, fourth ... one.

    Raises
    ------
    InputError
        Pools, policies or steps that cannot be.
    InfeasibleError
        A cache that does not hold one block.
    """
    _check(pools, router, traffic, until_s, scale_every_s)
    state = _State(pools, traffic, steps, log_lines)
    if loads_s is not None:
        state.w[:, k.LOAD] = loads_s
    state.part(users, traffic)
    scaled = any(pool.autoscaler.load_per_replica > 0 for pool in pools)
    end = k.play(
        traffic.concurrency,
        ROUTERS.index(router),
        scale_every_s if scaled else 0.0,
        until_s,
        *state.arguments(),
    )
    return state.played(end, traffic)


def _check(
    pools: Sequence[Pool], router: str, traffic: Traffic, until_s: float, scale_every_s: float
) -> None:
    problems = [line for pool in pools for line in pool.policy.problems()]
    if router not in ROUTERS:
        problems.append(f"router = {router!r}: is not known; {nearest(router, ROUTERS)}")
    if not until_s > 0.0:
        problems.append(f"until_s = {until_s}: must be above 0")
    if not (math.isfinite(scale_every_s) and scale_every_s > 0.0):
        problems.append(f"scale_every_s = {scale_every_s}: must be above 0")
    for pool in pools:
        if pool.role not in ROLES:
            problems.append(f"pool.role = {pool.role!r}: is not known; {nearest(pool.role, ROLES)}")
        if pool.replicas < 1:
            problems.append(f"pool.replicas = {pool.replicas}: must be at least 1")
        if pool.policy.fair_every and pool.role != "whole":
            problems.append(
                "policy.fair_every: prompts and decodes apart know nothing of each other's users; "
                "leave one of them out"
            )
        if not 1 <= pool.autoscaler.least <= max(1, pool.replicas):
            problems.append(
                f"autoscaler.least = {pool.autoscaler.least}: must be from 1 to the "
                f"{pool.replicas} replicas of the pool"
            )
    roles = {pool.role for pool in pools}
    if roles not in ({"whole"}, {"prefill", "decode"}):
        problems.append("pools: must be whole, or at least one prefill and one decode pool")
    if traffic.concurrency and bool(np.any(traffic.after >= 0)):
        problems.append("traffic: a closed loop has no later turns; leave one of them out")
    if problems:
        raise InputError(problems)


def _sequences(pool: Pool) -> int:
    """Return the most sequences that run at once: all must fit into one iteration."""
    policy = pool.policy
    return max(1, min(policy.max_sequences, policy.max_tokens // (1 + policy.draft_tokens)))


class _State:
    """Arrays of the event loop."""

    def __init__(
        self, pools: Sequence[Pool], traffic: Traffic, steps: Ints | None, log_lines: int
    ) -> None:
        n = len(traffic)
        self._pools(pools, traffic)
        self._tables(pools)
        self._replicas(pools)
        self._requests(pools, traffic, steps)
        self._blocks(traffic)
        self.histogram = np.zeros(k.BINS, np.int64)
        self.counts = np.zeros(k.SELF_COLUMNS, np.int64)
        self.own = np.zeros(k.SELF_TIMES)
        self.log = np.zeros((log_lines - log_lines % 2, k.LOG_COLUMNS), np.int64)
        self.log_s = np.zeros((len(self.log), 2))
        first = np.flatnonzero(traffic.after < 0) if not traffic.concurrency else np.empty(0, int)
        self.opening = first[np.argsort(traffic.arrival_s[first], kind="stable")].astype(np.int64)
        assert n == len(self.q)

    def _pools(self, pools: Sequence[Pool], traffic: Traffic) -> None:
        self.policy = np.zeros((len(pools), k.POLICY_COLUMNS), np.int64)
        self.parameter = np.zeros((len(pools), k.PARAMETER_COLUMNS))
        first = 0
        for row, real, pool in zip(self.policy, self.parameter, pools, strict=True):
            policy, tables = pool.policy, pool.tables
            size = policy.block_tokens or tables.block_tokens
            blocks = tables.kv_tokens // size
            if blocks < 1:
                raise InfeasibleError(
                    f"the KV cache holds {tables.kv_tokens} tokens, less than one block of {size}"
                )
            caching = policy.prefix_caching and len(traffic.block_ids) > 0
            if caching and traffic.block_tokens % size:
                raise InputError(
                    f"traffic.block_tokens = {traffic.block_tokens}: prefix caching needs a "
                    f"multiple of the {size} tokens of a block of the cache"
                )
            row[k.KIND] = KINDS.index(policy.kind)
            row[k.CHUNKED] = policy.chunked
            row[k.MAX_TOKENS] = policy.max_tokens
            row[k.MAX_SEQUENCES] = _sequences(pool)
            row[k.BLOCK_TOKENS] = size
            row[k.BLOCKS] = blocks
            row[k.WATERMARK] = int(policy.watermark * blocks)
            row[k.SWAP] = policy.preemption == "swap"
            row[k.ADMIT_EVERY] = policy.admit_every
            row[k.DECODE_TOKENS] = 1 + policy.draft_tokens
            row[k.ID_BLOCKS] = traffic.block_tokens // size if caching else 1
            row[k.CACHING] = caching
            row[k.ROLE] = ROLES.index(pool.role)
            row[k.MOST_QUEUED] = policy.max_queue
            row[k.FIRST_REPLICA] = first
            row[k.REPLICAS] = pool.replicas
            row[k.LEAST_ON] = pool.autoscaler.least
            row[k.FAIR_EVERY] = policy.fair_every
            row[k.SPEAKS] = pool.speaks
            row[k.HOST_BLOCKS] = policy.host_cache_tokens // traffic.block_tokens if caching else 0
            first += pool.replicas
            real[k.HOST_S] = tables.host_s
            real[k.HOST_PER_SEQUENCE_S] = tables.host_per_sequence_s
            real[k.HOST_PER_PREFILL_S] = tables.host_per_prefill_s
            real[k.EAGER_FLOOR_S] = tables.eager_floor_s
            real[k.LEAST_ITERATION_S] = tables.least_s
            real[k.FRONT_S] = tables.front_s
            real[k.FRONT_SERIAL_S] = tables.front_serial_s
            if tables.swap_bytes_per_s > 0.0:
                real[k.SWAP_S_PER_TOKEN] = tables.kv_bytes_per_token / tables.swap_bytes_per_s
            real[k.RESERVE] = 1.0 if policy.kind == "static" else policy.reserve_output
            real[k.MOVE_LATENCY_S] = pool.transfer_latency_s
            real[k.MOVE_S_PER_TOKEN] = pool.transfer_s_per_token
            real[k.TARGET_LOAD] = pool.autoscaler.load_per_replica
            real[k.START_UP_S] = pool.autoscaler.start_up_s
            real[k.DATA_RANKS] = tables.data_ranks

    def _tables(self, pools: Sequence[Pool]) -> None:
        """Pad the tables of all pools to one size; ``sizes`` says what is theirs."""
        axes = [
            [t.tokens, t.sequences, t.contexts, t.new_tokens, t.prior_tokens]
            for t in (pool.tables for pool in pools)
        ]
        self.sizes = np.array([[len(axis) for axis in one] for one in axes], np.int64)
        most = self.sizes.max(axis=0)
        self.axes = np.zeros((len(pools), 5, int(most.max())))
        self.linear = np.zeros((len(pools), 3, most[0]))
        self.decode = np.zeros((len(pools), most[1], most[2]))
        self.prefill = np.zeros((len(pools), most[3], most[4]))
        for g, pool in enumerate(pools):
            for a, axis in enumerate(axes[g]):
                self.axes[g, a, : len(axis)] = axis
            t, size = pool.tables, self.sizes[g]
            self.linear[g, 0, : size[0]] = t.decode_linear_s
            self.linear[g, 1, : size[0]] = t.mixed_linear_s
            self.linear[g, 2, : size[0]] = t.rank_linear_s if t.data_ranks > 1 else 0.0
            self.decode[g, : size[1], : size[2]] = t.decode_attention_s
            self.prefill[g, : size[3], : size[4]] = t.prefill_attention_s

    def _replicas(self, pools: Sequence[Pool]) -> None:
        pool_of = np.repeat(np.arange(len(pools)), [pool.replicas for pool in pools])
        count = len(pool_of)
        self.rep = np.zeros((count, k.REPLICA_COLUMNS), np.int64)
        self.clock = np.zeros((count, k.CLOCK_COLUMNS))
        self.clock[:, k.WAKE] = np.inf
        self.rep[:, k.POOL] = pool_of
        for column in (
            k.INBOX,
            k.INBOX_TAIL,
            k.WAITING,
            k.PARTIAL,
            k.OLDEST,
            k.NEWEST,
            k.RELEASING,
            k.HOST_OLDEST,
            k.HOST_NEWEST,
        ):
            self.rep[:, column] = -1
        self.rep[:, k.FREE] = self.policy[pool_of, k.BLOCKS]
        self.rep[:, k.HOST_FREE] = self.policy[pool_of, k.HOST_BLOCKS]
        place = np.arange(count) - self.policy[pool_of, k.FIRST_REPLICA]
        scaled = self.parameter[pool_of, k.TARGET_LOAD] > 0.0
        on = ~scaled | (place < self.policy[pool_of, k.LEAST_ON])
        self.rep[:, k.STATUS] = np.where(on, k.ON, k.OFF)
        width = int(self.policy[:, k.MAX_SEQUENCES].max()) + 1
        self.slots = np.zeros((count, width, 4), np.int64)
        self.fresh = np.zeros((count, width))
        span = int(self.policy[:, k.BLOCK_TOKENS].max())
        self.ring = np.full((count, 1 << (span + 1).bit_length()), -1, np.int64)

    def part(self, users: Ints | None, traffic: Traffic) -> None:
        """Say whose the requests are, with room for what each user got."""
        if not self.policy[:, k.FAIR_EVERY].any():
            return
        if bool(np.any(traffic.priority != 0)):
            raise InputError("policy.fair_every: users have the priorities; leave others out")
        if users is not None:
            self.q[:, k.USER] = users
        count = int(self.q[:, k.USER].max()) + 1
        if not 1 <= count <= MAX_USERS or int(self.q[:, k.USER].min()) < 0:
            raise InputError(f"users: {count:,} of them; must be from 1 to {MAX_USERS:,}")
        self.rep = np.hstack(
            [self.rep, np.zeros((len(self.rep), k.USER_COLUMNS * count), np.int64)]
        )

    def _requests(self, pools: Sequence[Pool], traffic: Traffic, steps: Ints | None) -> None:
        n = len(traffic)
        q = np.zeros((n, k.REQUEST_COLUMNS), np.int64)
        w = np.full((n, k.TIME_COLUMNS), np.nan)
        q[:, k.INPUT], q[:, k.OUTPUT] = traffic.input_tokens, traffic.output_tokens
        q[:, k.KEY] = traffic.priority
        q[:, k.NUMBER] = np.arange(n)
        for column in (k.REPLICA, k.TURN, k.NEXT_TURN, k.BEFORE):
            q[:, column] = -1
        later = np.maximum(traffic.output_tokens - 1, 0)
        if steps is None:
            gain = max(pool.tables.tokens_per_step for pool in pools)
            steps = np.ceil(later / gain - 1e-9).astype(np.int64)
        elif steps.shape != (n,) or bool(np.any((steps > later) | ((steps < 1) & (later > 0)))):
            raise InputError("steps: must be from 1 to output - 1 for every request")
        takes = np.maximum(steps, 1)
        q[:, k.RATE] = np.maximum(-((-(later << k.SHIFT)) // takes), k.ONE)
        w[:, k.PAUSE] = traffic.pause_s
        w[:, k.LOAD] = 0.0
        w[:, k.DUE] = traffic.arrival_s
        followers = np.flatnonzero(traffic.after >= 0)
        for turn in followers[::-1].tolist():
            before = int(traffic.after[turn])
            q[turn, k.BEFORE] = before
            q[turn, k.NEXT_TURN] = q[before, k.TURN]
            q[before, k.TURN] = turn
        self.q, self.w = q, w

    def _blocks(self, traffic: Traffic) -> None:
        replicas = len(self.rep)
        if bool(self.policy[:, k.CACHING].any()):
            distinct, ids = np.unique(traffic.block_ids, return_inverse=True)
            if len(distinct) * replicas > MAX_CACHE_CELLS:
                raise InputError(
                    f"traffic: {len(distinct):,} distinct blocks on {replicas} replicas are more "
                    f"than {MAX_CACHE_CELLS:,}; play a part of it or use larger blocks"
                )
            self.ids, self.start = ids.astype(np.int32), traffic.block_start.astype(np.int64)
            kinds = len(distinct)
        else:
            self.ids, self.start = np.empty(0, np.int32), np.zeros(len(traffic) + 1, np.int64)
            kinds = 0
        self.refs = np.full((replicas, kinds), -1, np.int32)
        self.older, self.newer = self.refs.copy(), self.refs.copy()
        tiered = bool(self.policy[:, k.HOST_BLOCKS].any())
        self.host = np.full((replicas, kinds if tiered else 0, 2), -1, np.int32)

    def arguments(self) -> tuple[Any, ...]:
        """Return the arrays in the order of ``_kernels.play``."""
        return (
            self.q, self.w, self.rep, self.clock, self.slots, self.fresh, self.ring,
            self.policy, self.parameter, self.sizes, self.axes, self.linear, self.decode,
            self.prefill, self.refs, self.older, self.newer, self.host, self.start, self.ids,
            self.opening, self.histogram, self.counts, self.own, self.log, self.log_s,
        )  # fmt: skip

    def played(self, end: float, traffic: Traffic) -> Played:
        """Return the columns by name."""
        q, w, rep, clock = self.q, self.w, self.rep, self.clock
        state = np.full(len(q), RUNNING, np.int64)
        state[q[:, k.STATE] == k.DONE] = FINISHED
        state[q[:, k.STATE] == k.REJECTED] = REJECTED
        state[np.isnan(w[:, k.ARRIVAL])] = NOT_ARRIVED
        stride = max(1, int(self.counts[k.STRIDE]))
        lines = min(len(self.log), -(-int(self.counts[k.LOGGED]) // stride))
        log, log_s = self.log[:lines], self.log_s[:lines]
        if len(rep) > 1:
            by_time = np.lexsort((log[:, k.LOG_REPLICA], log_s[:, 0]))
            log, log_s = log[by_time], log_s[by_time]
        gaps = int(self.histogram.sum())
        return Played(
            state=state,
            reason=q[:, k.REASON].copy(),
            arrival_s=w[:, k.ARRIVAL].copy(),
            admitted_s=w[:, k.ADMITTED].copy(),
            first_token_s=w[:, k.FIRST].copy(),
            end_s=w[:, k.END].copy(),
            replica=q[:, k.REPLICA].copy(),
            input_tokens=traffic.input_tokens,
            output_tokens=traffic.output_tokens,
            priority=traffic.priority,
            preemptions=q[:, k.PREEMPTED].copy(),
            cached_tokens=q[:, k.HITS].copy(),
            end_time_s=end,
            in_system_s=float(self.own[k.AREA]),
            gap_counts=self.histogram,
            gap_mean_s=float(self.own[k.GAP_SUM]) / gaps if gaps else math.nan,
            gap_most_s=float(self.own[k.GAP_MOST]),
            iterations=rep[:, k.ITERATIONS].copy(),
            busy_s=clock[:, k.BUSY_S].copy(),
            prefill_s=clock[:, k.PREFILL_S].copy(),
            on_s=clock[:, k.ON_S].copy(),
            block_s=clock[:, k.BLOCK_S].copy(),
            most_blocks=rep[:, k.MOST_BLOCKS].copy(),
            blocks=self.policy[rep[:, k.POOL], k.BLOCKS],
            pool=rep[:, k.POOL].copy(),
            log=IterationLog(
                stride=stride,
                start_s=log_s[:, 0].copy(),
                seconds=log_s[:, 1].copy(),
                replica=log[:, k.LOG_REPLICA].copy(),
                decoding=log[:, k.LOG_DECODERS].copy(),
                context_tokens=log[:, k.LOG_CONTEXT].copy(),
                prompt_tokens=log[:, k.LOG_NEW].copy(),
                prompts=log[:, k.LOG_PROMPTS].copy(),
                blocks=log[:, k.LOG_BLOCKS].copy(),
                signature=log[:, k.LOG_IDS].copy(),
            ),
        )
