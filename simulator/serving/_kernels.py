"""Compiled event loop of serving replicas, iteration by iteration (docs/serving-engine.md).

Cost: O(1) amortised for an iteration and for each block of KV cache that a sequence takes, O(log
waiting) for an admission, O(running) for a preemption, O(replicas) for an event.

Contexts are kept in fixed point (``ONE`` is a token), so that their sum over a batch is exact
whatever the order in which sequences come and go.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.jit import inner, kernel

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

SHIFT = 20
ONE = 1 << SHIFT
KEY_SHIFT = 44
RING_SLACK = 2

# columns of a request
INPUT, OUTPUT, KEY, RATE, STATE, REPLICA = 0, 1, 2, 3, 4, 5
EMITTED, COMPUTED, TARGET, HELD, SHARED, STEP0 = 6, 7, 8, 9, 10, 11
STEPS, EVENT, NEXT, PREV, PLACE, SIBLING = 12, 13, 14, 15, 16, 17
CHILD, PREEMPTED, HITS, TURN, NEXT_TURN, REASON = 18, 19, 20, 21, 22, 23
LEAVING, NEXT_LEAVING, BEFORE, NUMBER, USER, SERVED = 24, 25, 26, 27, 28, 29
REQUEST_COLUMNS = 30
# times of a request
ARRIVAL, ADMITTED, FIRST, END, LAST, READY, PAUSE, DUE, LEFT, LOAD = range(10)
TIME_COLUMNS = 10
# states of a request
PENDING, QUEUED, PREFILLING, DECODING, SWAPPED, MOVED, DONE, REJECTED, LOADING = range(9)
# why a request was rejected
TOO_LONG, TURN_LOST, QUEUE_FULL = 1, 2, 3

# columns of a replica
POOL, STATUS, INBOX, INBOX_TAIL, WAITING, LINE = 0, 1, 2, 3, 4, 5
DECODERS, RUNNING, PARTIAL, STEP, CONTEXT, RATE_SUM = 6, 7, 8, 9, 10, 11
FREE, EVICTABLE, OLDEST, NEWEST, CHUNKS, DECODED = 12, 13, 14, 15, 16, 17
OUTSTANDING, NEW_TOKENS, IDS, POLLED, ENDED, FRESH = 18, 19, 20, 21, 22, 23
RELEASING, RELEASING_TAIL, ITERATIONS, PREEMPTIONS, HIT_TOKENS, MOST_BLOCKS = 24, 25, 26, 27, 28, 29
INPUT_DONE, OUTPUT_DONE, TOUCHED, HOST_FREE, HOST_OLDEST, HOST_NEWEST = 30, 31, 32, 33, 34, 35
REFRESHED = 36
REPLICA_COLUMNS = 37
# and behind them, of each user: tokens served, place in line, requests there
USER_COLUMNS = 3
ANSWER_WEIGHT = 2
# clocks of a replica
WAKE, BEGAN, FRONT_FREE, LINK_FREE, LAST_DECODE, BUSY_S = 0, 1, 2, 3, 4, 5
PREFILL_S, BLOCK_S, ON_SINCE, ON_S, EXTRA_S, MOVED_BYTES = 6, 7, 8, 9, 10, 11
CLOCK_COLUMNS = 12
# status of a replica
OFF, STARTING, ON, DRAINING = 0, 1, 2, 3

# whole numbers of a policy, one row a pool
KIND, CHUNKED, MAX_TOKENS, MAX_SEQUENCES, BLOCK_TOKENS, BLOCKS = 0, 1, 2, 3, 4, 5
WATERMARK, SWAP, ADMIT_EVERY, DECODE_TOKENS, ID_BLOCKS, CACHING = 6, 7, 8, 9, 10, 11
ROLE, MOST_QUEUED, FIRST_REPLICA, REPLICAS, LEAST_ON, HOST_BLOCKS = 12, 13, 14, 15, 16, 17
FAIR_EVERY, SPEAKS = 18, 19
POLICY_COLUMNS = 20
# kinds of policy
MIXED, PREFILL_FIRST, STATIC = 0, 1, 2
# roles of a pool
WHOLE, PREFILL_ONLY, DECODE_ONLY = 0, 1, 2
# real numbers of a pool
HOST_S, HOST_PER_SEQUENCE_S, HOST_PER_PREFILL_S, EAGER_FLOOR_S, FRONT_S, FRONT_SERIAL_S = range(6)
SWAP_S_PER_TOKEN, RESERVE, MOVE_LATENCY_S, MOVE_S_PER_TOKEN, TARGET_LOAD, START_UP_S = range(6, 12)
LEAST_ITERATION_S, DATA_RANKS = 12, 13
PARAMETER_COLUMNS = 14
# routers
ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE = 0, 1, 2

# columns of the log of iterations
LOG_REPLICA, LOG_DECODERS, LOG_CONTEXT, LOG_NEW, LOG_PROMPTS, LOG_BLOCKS, LOG_IDS = range(7)
LOG_COLUMNS = 7

# bins of the histogram of inter-token latencies: LEAST_S * GROWTH ** bin
LEAST_S, GROWTH, BINS = 1e-6, 1.005, 5200
_LOG_GROWTH = math.log(GROWTH)

# places of what the loop keeps for itself
CURSOR, SCHEDULED, SEEN, IN_SYSTEM, ROUND, LOGGED, STRIDE, TICKS, MOVED_SEEN = range(9)
SELF_COLUMNS = 9
NOW, AREA, GAP_SUM, GAP_MOST, NEXT_TICK = range(5)
SELF_TIMES = 5


@inner
def _locate(grid: Float64, size: int, x: float) -> int:
    """Return i with grid[i] <= x < grid[i + 1], held to the first and the last segment."""
    low, high = 0, size - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if grid[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@inner
def _share(grid: Float64, size: int, at: int, x: float) -> float:
    """Return how far x lies in segment ``at``; 0 before the grid, above 1 beyond it."""
    if size < 2 or x <= grid[0]:
        return 0.0
    return float((x - grid[at]) / (grid[at + 1] - grid[at]))


@inner
def _line(grid: Float64, size: int, values: Float64, x: float) -> float:
    at = _locate(grid, size, x)
    share = _share(grid, size, at, x)
    if share == 0.0:
        return float(values[at])
    return float(values[at] + share * (values[at + 1] - values[at]))


@inner
def _plane(
    rows: Float64,
    row_size: int,
    columns: Float64,
    column_size: int,
    values: Float64,
    y: float,
    x: float,
) -> float:
    i, j = _locate(rows, row_size, y), _locate(columns, column_size, x)
    down, right = _share(rows, row_size, i, y), _share(columns, column_size, j, x)
    value = values[i, j]
    if right > 0.0:
        value += right * (values[i, j + 1] - value)
    if down > 0.0:
        below = values[i + 1, j]
        if right > 0.0:
            below += right * (values[i + 1, j + 1] - below)
        value += down * (below - value)
    return float(value)


@inner
def _price(
    r: int,
    rep: Int64,
    slots: Int64,
    q: Int64,
    policy: Int64,
    parameter: Float64,
    sizes: Int64,
    axes: Float64,
    linear: Float64,
    decode: Float64,
    prefill: Float64,
    decoders: int,
) -> float:
    """Return the seconds of the iteration that replica r is about to run."""
    pool = rep[r, POOL]
    chunks, fresh = rep[r, CHUNKS], rep[r, NEW_TOKENS]
    # what verification adds to decodes alone is in their table
    tokens = float(decoders * policy[pool, DECODE_TOKENS] + fresh if chunks > 0 else decoders)
    device = _line(axes[pool, 0], sizes[pool, 0], linear[pool, 1 if chunks > 0 else 0], tokens)
    ranks, uneven = parameter[pool, DATA_RANKS], 1.0
    if ranks > 1.0 and chunks > 0:
        # a prompt runs on one data rank: the others wait for the one with most of them
        most = math.ceil(float(chunks) / ranks) * float(fresh) / float(chunks)
        most = min(most, float(policy[pool, MAX_TOKENS]) / ranks)
        for c in range(chunks):
            most = max(most, float(slots[r, c, 2]))
        uneven = max(1.0, most * ranks / float(fresh))
        fullest = tokens + (uneven - 1.0) * float(fresh)
        device += _line(axes[pool, 0], sizes[pool, 0], linear[pool, 2], fullest)
        device -= _line(axes[pool, 0], sizes[pool, 0], linear[pool, 2], tokens)
    if decoders > 0:
        mean = float(rep[r, CONTEXT]) / float(ONE) / float(decoders)
        device += _plane(
            axes[pool, 1],
            sizes[pool, 1],
            axes[pool, 2],
            sizes[pool, 2],
            decode[pool],
            float(decoders),
            mean,
        )
    for c in range(chunks):
        i = slots[r, c, 1]
        device += uneven * _plane(
            axes[pool, 3],
            sizes[pool, 3],
            axes[pool, 4],
            sizes[pool, 4],
            prefill[pool],
            float(slots[r, c, 2]),
            float(q[i, COMPUTED]),
        )
    if chunks > 0 and device < parameter[pool, EAGER_FLOOR_S]:
        device = parameter[pool, EAGER_FLOOR_S]
    seconds = device + parameter[pool, HOST_S]
    seconds += parameter[pool, HOST_PER_SEQUENCE_S] * float(decoders + chunks)
    if chunks > 0:
        seconds += parameter[pool, HOST_PER_PREFILL_S]
    return float(max(seconds, parameter[pool, LEAST_ITERATION_S]))


@inner
def _meld(a: int, b: int, q: Int64, by_time: bool, w: Float64) -> int:
    """Join two pairing heaps, by ``KEY`` or by ``DUE``, and return the root."""
    if a < 0:
        return b
    if b < 0:
        return a
    if by_time:
        first = w[a, DUE] < w[b, DUE] or (w[a, DUE] == w[b, DUE] and a < b)
    else:
        first = q[a, KEY] < q[b, KEY]
    if not first:
        a, b = b, a
    q[b, SIBLING] = q[a, CHILD]
    q[a, CHILD] = b
    return a


@inner
def _push(root: int, item: int, q: Int64, by_time: bool, w: Float64) -> int:
    q[item, CHILD] = -1
    q[item, SIBLING] = -1
    return _meld(root, item, q, by_time, w)


@inner
def _pop(root: int, q: Int64, by_time: bool, w: Float64) -> int:
    """Remove the root and return the new one, -1 when the heap is empty."""
    rest = q[root, CHILD]
    paired = -1
    while rest >= 0:
        a = rest
        b = q[a, SIBLING]
        if b < 0:
            q[a, SIBLING] = paired
            paired = a
            break
        rest = q[b, SIBLING]
        top = _meld(a, b, q, by_time, w)
        q[top, SIBLING] = paired
        paired = top
    root = -1
    while paired >= 0:
        following = q[paired, SIBLING]
        root = _meld(root, paired, q, by_time, w)
        paired = following
    if root >= 0:
        q[root, SIBLING] = -1
    return root


@inner
def _sort(items: Int64, count: int, q: Int64, column: int) -> None:
    """Sort requests by a column in place (Shell 1959; NumPy's sort takes seconds to compile)."""
    step = 1
    while step < count // 3:
        step = 3 * step + 1
    while step > 0:
        for place in range(step, count):
            item = items[place]
            at = place
            while at >= step and q[items[at - step], column] > q[item, column]:
                items[at] = items[at - step]
                at -= step
            items[at] = item
        step //= 3


@inner
def _gap(seconds: float, count: int, histogram: Int64, own: Float64) -> None:
    """Count gaps between tokens."""
    if count <= 0:
        return
    place = 0
    if seconds > LEAST_S:
        place = min(int(math.log(seconds / LEAST_S) / _LOG_GROWTH), BINS - 1)
    histogram[place] += count
    own[GAP_SUM] += seconds * float(count)
    own[GAP_MOST] = max(own[GAP_MOST], seconds)


@inner
def _enter(r: int, i: int, q: Int64, rep: Int64, slots: Int64) -> None:
    """List a request among the running ones of a replica."""
    slots[r, rep[r, RUNNING], 0] = i
    q[i, PLACE] = rep[r, RUNNING]
    rep[r, RUNNING] += 1


@inner
def _leave(r: int, i: int, q: Int64, rep: Int64, slots: Int64) -> None:
    rep[r, RUNNING] -= 1
    last = slots[r, rep[r, RUNNING], 0]
    slots[r, q[i, PLACE], 0] = last
    q[last, PLACE] = q[i, PLACE]


@inner
def _unlist(r: int, i: int, older: Int32, newer: Int32, rep: Int64) -> None:
    """Take a cached block out of the list of those that nobody holds."""
    a, b = older[r, i], newer[r, i]
    if a >= 0:
        newer[r, a] = b
    else:
        rep[r, OLDEST] = b
    if b >= 0:
        older[r, b] = a
    else:
        rep[r, NEWEST] = a
    rep[r, EVICTABLE] -= 1


@inner
def _evict(
    r: int,
    blocks: int,
    per_id: int,
    refs: Int32,
    older: Int32,
    newer: Int32,
    host: Int32,
    rep: Int64,
) -> None:
    """Free cached blocks that nobody holds, least recently used first, until enough are free."""
    while rep[r, FREE] < blocks and rep[r, OLDEST] >= 0:
        i = rep[r, OLDEST]
        _unlist(r, i, older, newer, rep)
        refs[r, i] = -1
        rep[r, FREE] += per_id
        if host.shape[1] > 0 and host[r, i, 0] < 0:
            _tier(r, i, host, rep)


@inner
def _tier(r: int, i: int, host: Int32, rep: Int64) -> None:
    """Keep an evicted block in host memory, in place of the one that came there first."""
    if rep[r, HOST_FREE] == 0:
        oldest = rep[r, HOST_OLDEST]
        if oldest < 0:
            return
        rep[r, HOST_OLDEST] = host[r, oldest, 1]
        if rep[r, HOST_OLDEST] < 0:
            rep[r, HOST_NEWEST] = -1
        host[r, oldest, 0] = -1
    else:
        rep[r, HOST_FREE] -= 1
    host[r, i, 0] = 1
    host[r, i, 1] = -1
    if rep[r, HOST_NEWEST] >= 0:
        host[r, rep[r, HOST_NEWEST], 1] = i
    else:
        rep[r, HOST_OLDEST] = i
    rep[r, HOST_NEWEST] = i


@inner
def _cached_run(r: int, i: int, most: int, refs: Int32, start: Int64, ids: Int32) -> int:
    """Return how many leading blocks of a prompt the cache of a replica holds."""
    count = 0
    end = min(start[i + 1] - start[i], most)
    while count < end and refs[r, ids[start[i] + count]] >= 0:
        count += 1
    return count


@inner
def _register(
    r: int, i: int, owner: int, tokens: int, per_id: int, id_tokens: int,
    q: Int64, rep: Int64, refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Make blocks of request i that are full shareable, under the identities of ``owner``."""
    end = min(start[owner + 1] - start[owner], tokens // id_tokens)
    while q[i, SHARED] < end:
        block = ids[start[owner] + q[i, SHARED]]
        if refs[r, block] < 0:
            refs[r, block] = 1
        else:
            # another request computed the same block meanwhile: one copy is enough
            if refs[r, block] == 0:
                _unlist(r, block, older, newer, rep)
            refs[r, block] += 1
            rep[r, FREE] += per_id
        q[i, HELD] -= per_id
        q[i, SHARED] += 1


@inner
def _release(
    r: int, i: int, owner: int,
    q: Int64, rep: Int64, refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Give back the blocks of a request; shareable ones stay cached, the last of them oldest."""
    for k in range(q[i, SHARED] - 1, -1, -1):
        block = ids[start[owner] + k]
        refs[r, block] -= 1
        if refs[r, block] == 0:
            older[r, block] = rep[r, NEWEST]
            newer[r, block] = -1
            if rep[r, NEWEST] >= 0:
                newer[r, rep[r, NEWEST]] = block
            else:
                rep[r, OLDEST] = block
            rep[r, NEWEST] = block
            rep[r, EVICTABLE] += 1
    rep[r, FREE] += q[i, HELD]
    q[i, HELD] = 0
    q[i, SHARED] = 0


@inner
def _gained(i: int, steps: int, q: Int64) -> int:
    """Return the tokens that a decoding sequence has gained after so many steps."""
    return int(min((steps * q[i, RATE]) >> SHIFT, q[i, OUTPUT] - q[i, EMITTED]))


@inner
def _list_event(r: int, i: int, q: Int64, rep: Int64, ring: Int64, policy: Int64) -> None:
    """Enter a decoding sequence where it next needs a block or ends, in the ring of steps."""
    pool = rep[r, POOL]
    done = rep[r, STEP] - q[i, STEP0]
    room = (q[i, HELD] + q[i, SHARED] * policy[pool, ID_BLOCKS]) * policy[pool, BLOCK_TOKENS]
    lacking = room - q[i, TARGET] - policy[pool, DECODE_TOKENS] + 1
    due = 0
    if lacking > 0:
        due = ((lacking << SHIFT) + q[i, RATE] - 1) // q[i, RATE]
    due = min(due, q[i, STEPS], done + ring.shape[1] - 1)
    q[i, EVENT] = q[i, STEP0] + max(due, done)
    place = q[i, EVENT] & (ring.shape[1] - 1)
    q[i, PREV] = -1
    q[i, NEXT] = ring[r, place]
    if ring[r, place] >= 0:
        q[ring[r, place], PREV] = i
    ring[r, place] = i


@inner
def _unlist_event(r: int, i: int, q: Int64, ring: Int64) -> None:
    a, b = q[i, PREV], q[i, NEXT]
    if a >= 0:
        q[a, NEXT] = b
    else:
        ring[r, q[i, EVENT] & (ring.shape[1] - 1)] = b
    if b >= 0:
        q[b, PREV] = a


@inner
def _join(
    r: int,
    i: int,
    q: Int64,
    w: Float64,
    rep: Int64,
    slots: Int64,
    fresh_s: Float64,
    ring: Int64,
    policy: Int64,
) -> None:
    """Let a running request whose KV is there decode from the next step on."""
    left = q[i, OUTPUT] - q[i, EMITTED]
    q[i, STATE] = DECODING
    q[i, STEP0] = rep[r, STEP]
    q[i, STEPS] = ((left << SHIFT) + q[i, RATE] - 1) // q[i, RATE]
    rep[r, DECODERS] += 1
    rep[r, CONTEXT] += (q[i, TARGET] + 1) << SHIFT
    rep[r, RATE_SUM] += q[i, RATE]
    rep[r, IDS] += i + 1
    last = rep[r, FRESH] - 1
    if last >= 0 and fresh_s[r, last] == w[i, LAST]:
        slots[r, last, 3] += 1
    else:
        fresh_s[r, last + 1] = w[i, LAST]
        slots[r, last + 1, 3] = 1
        rep[r, FRESH] += 1
    _list_event(r, i, q, rep, ring, policy)


@inner
def _stop(r: int, i: int, q: Int64, rep: Int64) -> None:
    """Take a sequence out of the sums over those that decode."""
    steps = rep[r, STEP] - q[i, STEP0]
    rep[r, DECODERS] -= 1
    rep[r, CONTEXT] -= ((q[i, TARGET] + 1) << SHIFT) + steps * q[i, RATE]
    rep[r, RATE_SUM] -= q[i, RATE]
    rep[r, IDS] -= i + 1


@inner
def _preempt(
    r: int, i: int, q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64,
    fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Send a running request back to the line, its KV dropped or moved to the host."""
    pool = rep[r, POOL]
    swap = False
    if q[i, STATE] == DECODING:
        steps = rep[r, STEP] - q[i, STEP0]
        _unlist_event(r, i, q, ring)
        _stop(r, i, q, rep)
        gained = _gained(i, steps, q)
        q[i, EMITTED] += gained
        if steps > 0:
            w[i, LAST] = clock[r, LAST_DECODE]
        else:
            for k in range(rep[r, FRESH]):
                if fresh_s[r, k] == w[i, LAST]:
                    slots[r, k, 3] -= 1
                    break
        swap = policy[pool, SWAP] == 1
        if swap:
            q[i, TARGET] += gained
            clock[r, EXTRA_S] += parameter[pool, SWAP_S_PER_TOKEN] * float(q[i, TARGET])
        else:
            q[i, TARGET] = q[i, INPUT] + q[i, EMITTED]
    if rep[r, PARTIAL] == i:
        rep[r, PARTIAL] = -1
    _leave(r, i, q, rep, slots)
    _release(r, i, i, q, rep, refs, older, newer, start, ids)
    q[i, COMPUTED] = 0
    q[i, STATE] = SWAPPED if swap else QUEUED
    q[i, PREEMPTED] += 1
    rep[r, PREEMPTIONS] += 1
    rep[r, LINE] += 1
    rep[r, WAITING] = _push(rep[r, WAITING], i, q, False, w)


@inner
def _grow(
    r: int, scratch: Int64, q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64,
    fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, host: Int32, start: Int64, ids: Int32,
) -> bool:  # fmt: skip
    """Give every decoding sequence room for its next tokens; return whether one was preempted."""
    pool = rep[r, POOL]
    size, per_id = policy[pool, BLOCK_TOKENS], policy[pool, ID_BLOCKS]
    place = rep[r, STEP] & (ring.shape[1] - 1)
    count, need = 0, 0
    i = ring[r, place]
    while i >= 0:
        tokens = q[i, TARGET] + _gained(i, rep[r, STEP] - q[i, STEP0], q)
        blocks = -(-(tokens + policy[pool, DECODE_TOKENS]) // size)
        need += max(0, blocks - q[i, HELD] - q[i, SHARED] * per_id)
        scratch[count] = i
        count += 1
        i = q[i, NEXT]
    short = need > rep[r, FREE] + rep[r, EVICTABLE] * per_id
    if short:
        _sort(scratch, count, q, KEY)
    preempted = False
    for k in range(count):
        i = scratch[k]
        if q[i, STATE] != DECODING:
            continue
        tokens = q[i, TARGET] + _gained(i, rep[r, STEP] - q[i, STEP0], q)
        blocks = -(-(tokens + policy[pool, DECODE_TOKENS]) // size)
        blocks = max(0, blocks - q[i, HELD] - q[i, SHARED] * per_id)
        kept = True
        while blocks > rep[r, FREE] + rep[r, EVICTABLE] * per_id:
            victim = slots[r, 0, 0]
            for k2 in range(1, rep[r, RUNNING]):
                if q[slots[r, k2, 0], KEY] > q[victim, KEY]:
                    victim = slots[r, k2, 0]
            _preempt(
                r, victim, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
                refs, older, newer, start, ids,
            )  # fmt: skip
            preempted = True
            if victim == i:
                kept = False
                break
        if kept:
            _unlist_event(r, i, q, ring)
            _evict(r, blocks, per_id, refs, older, newer, host, rep)
            rep[r, FREE] -= blocks
            q[i, HELD] += blocks
            _list_event(r, i, q, rep, ring, policy)
    return preempted


@inner
def _chunk(r: int, i: int, tokens: int, rep: Int64, slots: Int64) -> None:
    slots[r, rep[r, CHUNKS], 1] = i
    slots[r, rep[r, CHUNKS], 2] = tokens
    rep[r, CHUNKS] += 1
    rep[r, NEW_TOKENS] += tokens


@inner
def _continue_prompt(
    r: int, budget: int, q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64,
    fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, host: Int32, start: Int64, ids: Int32,
) -> bool:  # fmt: skip
    """Take the next chunk of the prompt that is under way; return whether it was preempted."""
    i = rep[r, PARTIAL]
    if i < 0 or budget <= 0:
        return False
    pool = rep[r, POOL]
    per_id = policy[pool, ID_BLOCKS]
    tokens = min(q[i, TARGET] - q[i, COMPUTED], budget)
    blocks = -(-(q[i, COMPUTED] + tokens) // policy[pool, BLOCK_TOKENS])
    blocks = max(0, blocks - q[i, HELD] - q[i, SHARED] * per_id)
    if blocks > rep[r, FREE] + rep[r, EVICTABLE] * per_id:
        _preempt(
            r, i, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
            refs, older, newer, start, ids,
        )  # fmt: skip
        return True
    _evict(r, blocks, per_id, refs, older, newer, host, rep)
    rep[r, FREE] -= blocks
    q[i, HELD] += blocks
    _chunk(r, i, tokens, rep, slots)
    if q[i, COMPUTED] + tokens == q[i, TARGET]:
        rep[r, PARTIAL] = -1
    return False


@inner
def _admit(
    r: int, budget: int, now: float, q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64,
    fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, host: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Start requests of the line while tokens, sequences and blocks last, in order."""
    pool = rep[r, POOL]
    size, per_id = policy[pool, BLOCK_TOKENS], policy[pool, ID_BLOCKS]
    id_tokens = size * per_id
    caching = policy[pool, CACHING] == 1
    static = policy[pool, KIND] == STATIC
    while rep[r, WAITING] >= 0 and rep[r, RUNNING] < policy[pool, MAX_SEQUENCES]:
        i = rep[r, WAITING]
        watermark = policy[pool, WATERMARK] if rep[r, RUNNING] > 0 else 0
        reserved = q[i, INPUT] + math.ceil(parameter[pool, RESERVE] * float(q[i, OUTPUT]))
        if q[i, STATE] == SWAPPED or q[i, STATE] == MOVED:
            if policy[pool, KIND] == MIXED and budget < policy[pool, DECODE_TOKENS]:
                break
            tokens = q[i, TARGET] + policy[pool, DECODE_TOKENS]
            if parameter[pool, RESERVE] > 0.0:
                tokens = max(tokens, reserved)
            blocks = -(-tokens // size)
            if blocks + watermark > rep[r, FREE] + rep[r, EVICTABLE] * per_id:
                break
            if q[i, STATE] == SWAPPED:
                clock[r, EXTRA_S] += parameter[pool, SWAP_S_PER_TOKEN] * float(q[i, TARGET])
            rep[r, WAITING] = _pop(i, q, False, w)
            rep[r, LINE] -= 1
            _evict(r, blocks, per_id, refs, older, newer, host, rep)
            rep[r, FREE] -= blocks
            q[i, HELD] = blocks
            _enter(r, i, q, rep, slots)
            if q[i, STATE] == MOVED and policy[pool, SPEAKS] == 1:
                w[i, FIRST] = now
                w[i, LAST] = now
            _join(r, i, q, w, rep, slots, fresh_s, ring, policy)
            budget -= policy[pool, DECODE_TOKENS]
            continue
        if budget <= 0 and not static:
            break
        hits, idle, from_host = 0, 0, 0
        if caching:
            most = (q[i, TARGET] - 1) // id_tokens
            hits = _cached_run(r, i, most, refs, start, ids)
            for k in range(hits):
                if refs[r, ids[start[i] + k]] == 0:
                    idle += 1
            if host.shape[1] > 0:
                end = min(start[i + 1] - start[i], most)
                while hits + from_host < end:
                    block = ids[start[i] + hits + from_host]
                    if refs[r, block] >= 0 or host[r, block, 0] < 0:
                        break
                    from_host += 1
        left = q[i, TARGET] - (hits + from_host) * id_tokens
        tokens = left
        if not static and left > budget:
            if policy[pool, CHUNKED] == 1:
                tokens = budget
            elif rep[r, CHUNKS] > 0 or left <= policy[pool, MAX_TOKENS]:
                # a whole prompt beyond the budget of any iteration goes as the only one
                break
        # only where decodes share the iteration may a prompt wait for blocks half way: elsewhere it
        # would hold them up for good
        kept = q[i, TARGET] - left + tokens if policy[pool, KIND] == MIXED else q[i, TARGET]
        if parameter[pool, RESERVE] > 0.0:
            kept = max(kept, reserved)
        blocks = -(-kept // size) - hits * per_id
        if blocks + watermark > rep[r, FREE] + (rep[r, EVICTABLE] - idle) * per_id:
            break
        rep[r, WAITING] = _pop(i, q, False, w)
        rep[r, LINE] -= 1
        for k in range(hits):
            block = ids[start[i] + k]
            if refs[r, block] == 0:
                _unlist(r, block, older, newer, rep)
            refs[r, block] += 1
        _evict(r, blocks, per_id, refs, older, newer, host, rep)
        rep[r, FREE] -= blocks
        q[i, SHARED] = hits
        q[i, HELD] = blocks
        q[i, COMPUTED] = (hits + from_host) * id_tokens
        if from_host > 0:
            moved = float(from_host * id_tokens)
            clock[r, EXTRA_S] += parameter[pool, SWAP_S_PER_TOKEN] * moved
            _register(
                r, i, i, q[i, COMPUTED], per_id, id_tokens, q, rep, refs, older, newer, start, ids
            )
        q[i, HITS] += q[i, COMPUTED]
        rep[r, HIT_TOKENS] += q[i, COMPUTED]
        q[i, STATE] = PREFILLING
        if math.isnan(w[i, ADMITTED]):
            w[i, ADMITTED] = now
        _enter(r, i, q, rep, slots)
        _chunk(r, i, tokens, rep, slots)
        budget -= tokens
        if tokens < left:
            rep[r, PARTIAL] = i


@inner
def _account(r: int, i: int, served: int, q: Int64, rep: Int64) -> None:
    """Count what a request got beyond what was counted, for its user."""
    more = served - q[i, SERVED]
    if more > 0:
        rep[r, REPLICA_COLUMNS + q[i, USER]] += more
        q[i, SERVED] = served


@inner
def _welcome(r: int, i: int, q: Int64, rep: Int64) -> None:
    """Give a request its user's place in line; who was away has saved up nothing meanwhile."""
    users = (rep.shape[1] - REPLICA_COLUMNS) // USER_COLUMNS
    own = REPLICA_COLUMNS + q[i, USER]
    if rep[r, own + 2 * users] == 0:
        least = -1
        for other in range(users):
            at = REPLICA_COLUMNS + other
            if rep[r, at + 2 * users] > 0 and (least < 0 or rep[r, at] < least):
                least = rep[r, at]
        rep[r, own] = max(rep[r, own], least)
    rep[r, own + 2 * users] += 1
    q[i, KEY] += rep[r, own + users] << KEY_SHIFT


@inner
def _take_turns(
    r: int, q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64, fresh_s: Float64,
    ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Order users by what they got, and preempt for the first in line whoever got more.

    Counters are those of virtual token counters (Sheng et al. 2024, arXiv 2401.00588): a prompt
    token counts once, one of an answer ``ANSWER_WEIGHT`` times.
    """
    pool = rep[r, POOL]
    size, per_id = policy[pool, BLOCK_TOKENS], policy[pool, ID_BLOCKS]
    users = (rep.shape[1] - REPLICA_COLUMNS) // USER_COLUMNS
    rep[r, REFRESHED] = rep[r, STEP]
    for k in range(rep[r, RUNNING]):
        i = slots[r, k, 0]
        prompt, answer = min(q[i, COMPUTED], q[i, INPUT]), q[i, EMITTED]
        if q[i, STATE] == DECODING:
            prompt = q[i, INPUT]
            answer += _gained(i, rep[r, STEP] - q[i, STEP0], q)
        _account(r, i, prompt + ANSWER_WEIGHT * answer, q, rep)
    for user in range(users):
        ahead = 0
        for other in range(users):
            if rep[r, REPLICA_COLUMNS + other] < rep[r, REPLICA_COLUMNS + user]:
                ahead += 1
        rep[r, REPLICA_COLUMNS + users + user] = ahead
    low = (1 << KEY_SHIFT) - 1
    line = -1
    while rep[r, WAITING] >= 0:
        i = rep[r, WAITING]
        rep[r, WAITING] = _pop(i, q, False, w)
        q[i, NEXT] = line
        line = i
    while line >= 0:
        i = line
        line = q[i, NEXT]
        q[i, KEY] = (rep[r, REPLICA_COLUMNS + users + q[i, USER]] << KEY_SHIFT) + (q[i, KEY] & low)
        rep[r, WAITING] = _push(rep[r, WAITING], i, q, False, w)
    for k in range(rep[r, RUNNING]):
        i = slots[r, k, 0]
        q[i, KEY] = (rep[r, REPLICA_COLUMNS + users + q[i, USER]] << KEY_SHIFT) + (q[i, KEY] & low)
    first = rep[r, WAITING]
    tokens = q[first, TARGET] + policy[pool, DECODE_TOKENS]
    if parameter[pool, RESERVE] > 0.0:
        reserve = math.ceil(parameter[pool, RESERVE] * float(q[first, OUTPUT]))
        tokens = max(tokens, q[first, INPUT] + reserve)
    need = -(-tokens // size) + policy[pool, WATERMARK]
    while rep[r, RUNNING] > 0:
        room = rep[r, FREE] + rep[r, EVICTABLE] * per_id
        if rep[r, RUNNING] < policy[pool, MAX_SEQUENCES] and need <= room:
            break
        victim = slots[r, 0, 0]
        for k in range(1, rep[r, RUNNING]):
            if q[slots[r, k, 0], KEY] > q[victim, KEY]:
                victim = slots[r, k, 0]
        if q[victim, KEY] >> KEY_SHIFT <= q[first, KEY] >> KEY_SHIFT:
            break
        _preempt(
            r, victim, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
            refs, older, newer, start, ids,
        )  # fmt: skip


@inner
def _schedule(
    r: int, now: float, scratch: Int64, q: Int64, w: Float64, rep: Int64, clock: Float64,
    slots: Int64, fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    refs: Int32, older: Int32, newer: Int32, host: Int32, start: Int64, ids: Int32,
) -> bool:  # fmt: skip
    """Choose what the next iteration of a replica holds; return whether there is one."""
    pool = rep[r, POOL]
    fair = policy[pool, FAIR_EVERY]
    if fair > 0 and rep[r, WAITING] >= 0 and rep[r, STEP] - rep[r, REFRESHED] >= fair:
        _take_turns(
            r, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
            refs, older, newer, start, ids,
        )  # fmt: skip
    mixed = policy[pool, KIND] == MIXED
    rep[r, CHUNKS] = 0
    rep[r, NEW_TOKENS] = 0
    rep[r, DECODED] = 0
    budget = policy[pool, MAX_TOKENS]
    asks = True
    if policy[pool, KIND] == STATIC:
        asks = rep[r, RUNNING] == 0
    elif rep[r, DECODERS] > 0 and rep[r, PARTIAL] < 0:
        since = rep[r, STEP] - rep[r, POLLED]
        asks = since == 0 or since >= policy[pool, ADMIT_EVERY]
    preempted = False
    for turn in range(2):
        if mixed == (turn == 0):
            # decodes come first where prompts share their iteration, else where there are none
            if rep[r, CHUNKS] == 0 and rep[r, DECODERS] > 0:
                preempted = _grow(
                    r, scratch, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
                    refs, older, newer, host, start, ids,
                )  # fmt: skip
                rep[r, DECODED] = 1 if rep[r, DECODERS] > 0 else 0
                if mixed:
                    budget -= rep[r, DECODERS] * policy[pool, DECODE_TOKENS]
        elif asks:
            polled = rep[r, POLLED]
            rep[r, POLLED] = rep[r, STEP]
            preempted |= _continue_prompt(
                r, budget, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
                refs, older, newer, host, start, ids,
            )  # fmt: skip
            if not preempted:
                _admit(
                    r, budget - rep[r, NEW_TOKENS], now, q, w, rep, clock, slots, fresh_s, ring,
                    policy, parameter, refs, older, newer, host, start, ids,
                )  # fmt: skip
            if mixed and rep[r, WAITING] >= 0:
                # more is in line than an iteration takes: look again at once
                rep[r, POLLED] = polled
            if mixed and rep[r, DECODERS] > 0:
                rep[r, DECODED] = 1
    return bool(rep[r, CHUNKS] > 0 or rep[r, DECODED] == 1)


@inner
def _finish(
    r: int, i: int, now: float, q: Int64, w: Float64, rep: Int64, slots: Int64,
    counts: Int64, policy: Int64, refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """End a request on its last replica and make its later turns due."""
    pool = rep[r, POOL]
    owner = i
    if policy[pool, FAIR_EVERY] > 0:
        _account(r, i, q[i, INPUT] + ANSWER_WEIGHT * q[i, OUTPUT], q, rep)
        users = (rep.shape[1] - REPLICA_COLUMNS) // USER_COLUMNS
        rep[r, REPLICA_COLUMNS + 2 * users + q[i, USER]] -= 1
    if policy[pool, CACHING] == 1:
        per_id = policy[pool, ID_BLOCKS]
        id_tokens = per_id * policy[pool, BLOCK_TOKENS]
        written = q[i, INPUT] + max(q[i, OUTPUT] - 1, 0)
        turn = q[i, TURN]
        if turn >= 0 and start[turn + 1] - start[turn] >= q[i, SHARED]:
            same = True
            for k in range(q[i, SHARED]):
                same &= ids[start[turn] + k] == ids[start[i] + k]
            if same:
                # what was generated is part of the next prompt, which names its blocks
                owner = turn
        _register(r, i, owner, written, per_id, id_tokens, q, rep, refs, older, newer, start, ids)
    _leave(r, i, q, rep, slots)
    _release(r, i, owner, q, rep, refs, older, newer, start, ids)
    w[i, END] = now
    q[i, STATE] = DONE
    q[i, EMITTED] = q[i, OUTPUT]
    rep[r, OUTSTANDING] -= 1
    rep[r, OUTPUT_DONE] += q[i, OUTPUT]
    counts[IN_SYSTEM] -= 1
    _follow(i, now, q, w, counts)


@inner
def _follow(i: int, now: float, q: Int64, w: Float64, counts: Int64) -> None:
    """Schedule what waits for the end of a request: later turns, or the next of a closed loop."""
    turn = q[i, TURN]
    while turn >= 0:
        w[turn, DUE] = now + w[turn, PAUSE]
        counts[SCHEDULED] = _push(counts[SCHEDULED], turn, q, True, w)
        turn = q[turn, NEXT_TURN]
    if counts[ROUND] > 0 and counts[CURSOR] < len(q):
        following = counts[CURSOR]
        counts[CURSOR] += 1
        w[following, DUE] = now + w[following, PAUSE]
        counts[SCHEDULED] = _push(counts[SCHEDULED], following, q, True, w)


@inner
def _reject(i: int, reason: int, now: float, q: Int64, w: Float64, counts: Int64) -> None:
    q[i, STATE] = REJECTED
    q[i, REASON] = reason
    w[i, END] = now
    counts[IN_SYSTEM] -= 1
    _follow(i, now, q, w, counts)


@inner
def _fits(i: int, pool: int, q: Int64, policy: Int64) -> bool:
    tokens = q[i, INPUT]
    if policy[pool, ROLE] != PREFILL_ONLY and q[i, OUTPUT] > 1:
        tokens += q[i, OUTPUT] - 2 + policy[pool, DECODE_TOKENS]
    return bool(-(-tokens // policy[pool, BLOCK_TOKENS]) <= policy[pool, BLOCKS])


@inner
def _route(
    i: int, role: int, router: int, q: Int64, rep: Int64, policy: Int64, counts: Int64,
    refs: Int32, start: Int64, ids: Int32,
) -> int:  # fmt: skip
    """Return the replica for a request, or minus the reason why none takes it."""
    best, best_load, best_hits = -1, 0, -1
    reason = TOO_LONG
    replicas = len(rep)
    # prompts and decodes take turns of their own
    turn = MOVED_SEEN if role == DECODE_ONLY else SEEN
    first = counts[turn] % replicas if router == ROUND_ROBIN else 0
    for k in range(replicas):
        r = (first + k) % replicas
        pool = rep[r, POOL]
        takes = policy[pool, ROLE]
        if rep[r, STATUS] != ON or (takes == DECODE_ONLY) != (role == DECODE_ONLY):
            continue
        if not _fits(i, pool, q, policy):
            continue
        if policy[pool, MOST_QUEUED] > 0 and rep[r, LINE] >= policy[pool, MOST_QUEUED]:
            reason = QUEUE_FULL
            continue
        if router == ROUND_ROBIN:
            counts[turn] = r + 1
            return r
        hits = 0
        if router == PREFIX_AWARE and policy[pool, CACHING] == 1:
            hits = _cached_run(r, i, len(ids), refs, start, ids)
        load = rep[r, OUTSTANDING]
        if best < 0 or hits > best_hits or (hits == best_hits and load < best_load):
            best, best_load, best_hits = r, load, hits
    return best if best >= 0 else -reason


@inner
def _queue(r: int, i: int, ready: float, q: Int64, w: Float64, rep: Int64, clock: Float64) -> None:
    """Put a request where a replica sees it from ``ready`` on."""
    w[i, READY] = ready
    q[i, SIBLING] = -1
    if rep[r, INBOX] < 0:
        rep[r, INBOX] = i
    else:
        q[rep[r, INBOX_TAIL], SIBLING] = i
    rep[r, INBOX_TAIL] = i
    rep[r, LINE] += 1
    if rep[r, CHUNKS] == 0 and rep[r, DECODED] == 0:
        clock[r, WAKE] = min(clock[r, WAKE], ready)


@inner
def _loaded(r: int, i: int, now: float, q: Int64, w: Float64, rep: Int64, clock: Float64) -> None:
    """Show a replica a request at once, before those that are still on their way to it."""
    q[i, STATE] = QUEUED
    w[i, READY] = now
    q[i, SIBLING] = rep[r, INBOX]
    if rep[r, INBOX] < 0:
        rep[r, INBOX_TAIL] = i
    rep[r, INBOX] = i
    rep[r, LINE] += 1
    if rep[r, CHUNKS] == 0 and rep[r, DECODED] == 0:
        clock[r, WAKE] = min(clock[r, WAKE], now)


@inner
def _arrive(
    i: int, now: float, router: int, q: Int64, w: Float64, rep: Int64, clock: Float64,
    policy: Int64, parameter: Float64, counts: Int64, refs: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    counts[IN_SYSTEM] += 1
    q[i, KEY] = (q[i, KEY] << KEY_SHIFT) + counts[TICKS]
    counts[TICKS] += 1
    w[i, ARRIVAL] = now
    before = q[i, BEFORE]
    if before >= 0 and q[before, STATE] == REJECTED:
        _reject(i, TURN_LOST, now, q, w, counts)
        return
    r = _route(i, WHOLE, router, q, rep, policy, counts, refs, start, ids)
    if r < 0:
        _reject(i, -r, now, q, w, counts)
        return
    q[i, STATE] = QUEUED
    q[i, REPLICA] = r
    q[i, TARGET] = q[i, INPUT]
    rep[r, OUTSTANDING] += 1
    pool = rep[r, POOL]
    if policy[pool, FAIR_EVERY] > 0:
        _welcome(r, i, q, rep)
    clock[r, FRONT_FREE] = max(now, clock[r, FRONT_FREE]) + parameter[pool, FRONT_SERIAL_S]
    ready = clock[r, FRONT_FREE] + parameter[pool, FRONT_S]
    if w[i, LOAD] > 0.0:
        # what it needs on the accelerators comes meanwhile, and others go before it
        q[i, STATE] = LOADING
        w[i, DUE] = ready + w[i, LOAD]
        counts[SCHEDULED] = _push(counts[SCHEDULED], i, q, True, w)
        return
    _queue(r, i, ready, q, w, rep, clock)


@inner
def _hand_over(
    r: int, i: int, now: float, router: int, q: Int64, w: Float64, rep: Int64, clock: Float64,
    slots: Int64, policy: Int64, parameter: Float64, counts: Int64,
    refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Send the KV of a prompt to a decoding replica; its own blocks are free once it has left."""
    pool = rep[r, POOL]
    _leave(r, i, q, rep, slots)
    rep[r, OUTSTANDING] -= 1
    to = _route(i, DECODE_ONLY, router, q, rep, policy, counts, refs, start, ids)
    if to < 0:
        _release(r, i, i, q, rep, refs, older, newer, start, ids)
        _reject(i, -to, now, q, w, counts)
        return
    rep[to, OUTSTANDING] += 1
    moved = max(now, clock[r, LINK_FREE])
    moved += parameter[pool, MOVE_S_PER_TOKEN] * float(q[i, TARGET])
    clock[r, LINK_FREE] = moved
    q[i, LEAVING] = q[i, HELD]
    q[i, HELD] = 0
    _release(r, i, i, q, rep, refs, older, newer, start, ids)
    w[i, LEFT] = moved
    q[i, NEXT_LEAVING] = -1
    if rep[r, RELEASING] < 0:
        rep[r, RELEASING] = i
    else:
        q[rep[r, RELEASING_TAIL], NEXT_LEAVING] = i
    rep[r, RELEASING_TAIL] = i
    q[i, STATE] = MOVED
    q[i, REPLICA] = to
    w[i, DUE] = moved + parameter[pool, MOVE_LATENCY_S]
    counts[SCHEDULED] = _push(counts[SCHEDULED], i, q, True, w)


@inner
def _free_what_left(r: int, now: float, q: Int64, w: Float64, rep: Int64) -> None:
    while rep[r, RELEASING] >= 0 and w[rep[r, RELEASING], LEFT] <= now:
        i = rep[r, RELEASING]
        rep[r, FREE] += q[i, LEAVING]
        rep[r, RELEASING] = q[i, NEXT_LEAVING]


@inner
def _step(
    r: int, now: float, rep: Int64, clock: Float64, slots: Int64, fresh_s: Float64,
    histogram: Int64, own: Float64,
) -> None:  # fmt: skip
    """Count the tokens of a decode that ends, and let all contexts grow."""
    old = rep[r, DECODERS]
    for k in range(rep[r, FRESH]):
        old -= slots[r, k, 3]
        _gap(now - fresh_s[r, k], slots[r, k, 3], histogram, own)
    _gap(now - clock[r, LAST_DECODE], old, histogram, own)
    rep[r, FRESH] = 0
    clock[r, LAST_DECODE] = now
    rep[r, STEP] += 1
    rep[r, CONTEXT] += rep[r, RATE_SUM]


@inner
def _end_iteration(
    r: int, router: int, scratch: Int64, q: Int64, w: Float64, rep: Int64, clock: Float64,
    slots: Int64, fresh_s: Float64, ring: Int64, policy: Int64, parameter: Float64,
    histogram: Int64, own: Float64, counts: Int64,
    refs: Int32, older: Int32, newer: Int32, start: Int64, ids: Int32,
) -> None:  # fmt: skip
    """Emit the tokens of the iteration that ends, and end what is complete."""
    pool = rep[r, POOL]
    now = clock[r, WAKE]
    ended = 0
    if rep[r, DECODED] == 1:
        _step(r, now, rep, clock, slots, fresh_s, histogram, own)
        i = ring[r, rep[r, STEP] & (ring.shape[1] - 1)]
        while i >= 0:
            if q[i, STEP0] + q[i, STEPS] == rep[r, STEP]:
                scratch[ended] = i
                ended += 1
            i = q[i, NEXT]
        _sort(scratch, ended, q, NUMBER)
        for k in range(ended):
            _unlist_event(r, scratch[k], q, ring)
        if policy[pool, KIND] == STATIC:
            # places in the batch stay taken until all have ended: they go on as padding
            rep[r, ENDED] += ended
            ended = 0
    for c in range(rep[r, CHUNKS]):
        i = slots[r, c, 1]
        q[i, COMPUTED] += slots[r, c, 2]
        if policy[pool, CACHING] == 1:
            per_id = policy[pool, ID_BLOCKS]
            _register(
                r, i, i, min(q[i, COMPUTED], q[i, INPUT]), per_id,
                per_id * policy[pool, BLOCK_TOKENS],
                q, rep, refs, older, newer, start, ids,
            )  # fmt: skip
        if q[i, COMPUTED] < q[i, TARGET]:
            continue
        if math.isnan(w[i, FIRST]):
            rep[r, INPUT_DONE] += q[i, INPUT]
        if q[i, OUTPUT] > 0:
            q[i, EMITTED] += 1
            if math.isnan(w[i, FIRST]):
                w[i, FIRST] = now
            else:
                _gap(now - w[i, LAST], 1, histogram, own)
            w[i, LAST] = now
        if q[i, EMITTED] == q[i, OUTPUT]:
            scratch[ended] = i
            ended += 1
        elif policy[pool, ROLE] == PREFILL_ONLY:
            _hand_over(
                r, i, now, router, q, w, rep, clock, slots, policy, parameter, counts,
                refs, older, newer, start, ids,
            )  # fmt: skip
        else:
            _join(r, i, q, w, rep, slots, fresh_s, ring, policy)
    if rep[r, ENDED] > 0 and rep[r, ENDED] == rep[r, DECODERS]:
        rep[r, ENDED] = 0
        ended = rep[r, RUNNING]
        for k in range(ended):
            scratch[k] = slots[r, k, 0]
        _sort(scratch, ended, q, NUMBER)
    for k in range(ended):
        i = scratch[k]
        if q[i, STATE] == DECODING:
            _stop(r, i, q, rep)
        _finish(r, i, now, q, w, rep, slots, counts, policy, refs, older, newer, start, ids)
    rep[r, CHUNKS] = 0
    rep[r, DECODED] = 0


@inner
def _log(
    r: int, seconds: float, rep: Int64, clock: Float64, slots: Int64, policy: Int64,
    counts: Int64, log: Int64, log_s: Float64,
) -> None:  # fmt: skip
    """Note every ``STRIDE``-th iteration; when the log is full, drop every other line of it."""
    number = counts[LOGGED]
    counts[LOGGED] += 1
    if len(log) == 0 or number % counts[STRIDE] != 0:
        return
    line = number // counts[STRIDE]
    if line == len(log):
        for k in range(len(log) // 2):
            for column in range(LOG_COLUMNS):
                log[k, column] = log[2 * k, column]
            log_s[k, 0] = log_s[2 * k, 0]
            log_s[k, 1] = log_s[2 * k, 1]
        counts[STRIDE] *= 2
        if number % counts[STRIDE] != 0:
            return
        line = number // counts[STRIDE]
    log_s[line, 0] = clock[r, BEGAN]
    log_s[line, 1] = seconds
    decoding = rep[r, DECODED] == 1
    log[line, LOG_REPLICA] = r
    log[line, LOG_DECODERS] = rep[r, DECODERS] if decoding else 0
    log[line, LOG_CONTEXT] = rep[r, CONTEXT] >> SHIFT if decoding else 0
    log[line, LOG_NEW] = rep[r, NEW_TOKENS]
    log[line, LOG_PROMPTS] = rep[r, CHUNKS]
    pool = rep[r, POOL]
    idle = rep[r, EVICTABLE] * policy[pool, ID_BLOCKS]
    log[line, LOG_BLOCKS] = policy[pool, BLOCKS] - rep[r, FREE] - idle
    signature = rep[r, IDS] if decoding else 0
    for c in range(rep[r, CHUNKS]):
        signature += (slots[r, c, 1] + 1) * slots[r, c, 2]
    log[line, LOG_IDS] = signature


@inner
def _scale(now: float, rep: Int64, clock: Float64, policy: Int64, parameter: Float64) -> None:
    """Start or drain one replica of every pool whose load is off its target."""
    for pool in range(len(policy)):
        if parameter[pool, TARGET_LOAD] <= 0.0:
            continue
        first = policy[pool, FIRST_REPLICA]
        serving, starting, load = 0, 0, 0
        last_on, last_starting, off = -1, -1, -1
        for r in range(first, first + policy[pool, REPLICAS]):
            load += rep[r, OUTSTANDING]
            if rep[r, STATUS] == ON:
                serving += 1
                last_on = r
            elif rep[r, STATUS] == STARTING:
                starting += 1
                last_starting = r
            elif off < 0 and rep[r, STATUS] == OFF:
                off = r
        on = serving + starting
        if float(load) > parameter[pool, TARGET_LOAD] * float(on) and off >= 0:
            rep[off, STATUS] = STARTING
            clock[off, WAKE] = now + parameter[pool, START_UP_S]
            clock[off, ON_SINCE] = now
        elif float(load) < parameter[pool, TARGET_LOAD] * float(on - 1):
            # what has not started yet goes first: somebody must be there to answer
            if starting > 0:
                rep[last_starting, STATUS] = DRAINING
                _turn_off(last_starting, now, rep, clock)
            elif serving > policy[pool, LEAST_ON]:
                rep[last_on, STATUS] = DRAINING
                _turn_off(last_on, now, rep, clock)


@inner
def _turn_off(r: int, now: float, rep: Int64, clock: Float64) -> None:
    """Switch off a draining replica that has nothing left."""
    if rep[r, STATUS] == DRAINING and rep[r, OUTSTANDING] == 0 and rep[r, RELEASING] < 0:
        rep[r, STATUS] = OFF
        clock[r, ON_S] += now - clock[r, ON_SINCE]
        clock[r, WAKE] = np.inf


@kernel
def play(
    closed: int, router: int, tick_s: float, until_s: float,
    q: Int64, w: Float64, rep: Int64, clock: Float64, slots: Int64, fresh_s: Float64, ring: Int64,
    policy: Int64, parameter: Float64, sizes: Int64, axes: Float64, linear: Float64,
    decode: Float64, prefill: Float64, refs: Int32, older: Int32, newer: Int32, host: Int32,
    start: Int64, ids: Int32, opening: Int64, histogram: Int64, counts: Int64, own: Float64,
    log: Int64, log_s: Float64,
) -> float:  # fmt: skip
    """Play all requests; return the time of the last event.

    At one time all iterations end first, then requests arrive, then replicas that are free start
    their next iteration: replicas and requests in the order of their numbers. ``opening`` lists
    the requests that wait for no other by arrival; of a closed loop the first ``closed`` requests
    arrive at once and the others when one ends.
    """
    replicas = len(rep)
    n = len(q)
    scratch = np.empty(max(slots.shape[1], 1), np.int64)
    counts[SCHEDULED] = -1
    counts[STRIDE] = 1
    counts[ROUND] = closed
    opened = 0
    if closed > 0:
        for i in range(min(closed, n)):
            w[i, DUE] = w[i, PAUSE]
            counts[SCHEDULED] = _push(counts[SCHEDULED], i, q, True, w)
        counts[CURSOR] = min(closed, n)
        opened = len(opening)
    own[NEXT_TICK] = tick_s if tick_s > 0.0 else np.inf
    coupled = closed > 0
    for i in range(n):
        coupled |= q[i, TURN] >= 0
    now = 0.0
    while True:
        following = np.inf
        for r in range(replicas):
            following = min(following, clock[r, WAKE])
        if opened < len(opening):
            following = min(following, w[opening[opened], DUE])
        if counts[SCHEDULED] >= 0:
            following = min(following, w[counts[SCHEDULED], DUE])
        if following == np.inf:
            break
        following = min(following, own[NEXT_TICK])
        if following > until_s:
            own[AREA] += float(counts[IN_SYSTEM]) * (until_s - now)
            now = until_s
            break
        own[AREA] += float(counts[IN_SYSTEM]) * (following - now)
        now = following
        for r in range(replicas):
            if clock[r, WAKE] > now:
                continue
            if rep[r, DECODED] == 1 and rep[r, CHUNKS] == 0 and rep[r, LINE] == 0:
                horizon = _horizon(
                    r, now, coupled, opened, until_s, w, rep, clock, policy, opening, counts, own
                )
                _run_ahead(
                    r, horizon, q, rep, clock, slots, fresh_s, ring, policy, parameter, sizes,
                    axes, linear, decode, histogram, own, counts, log, log_s,
                )  # fmt: skip
                if clock[r, WAKE] > now:
                    continue
            rep[r, TOUCHED] = 1
            if rep[r, STATUS] == STARTING:
                rep[r, STATUS] = ON
            if rep[r, CHUNKS] > 0 or rep[r, DECODED] == 1:
                _end_iteration(
                    r, router, scratch, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
                    histogram, own, counts, refs, older, newer, start, ids,
                )  # fmt: skip
            clock[r, WAKE] = np.inf
        while True:
            i = counts[SCHEDULED]
            if i >= 0 and w[i, DUE] <= now:
                first_open = opened < len(opening) and w[opening[opened], DUE] <= now
                if first_open and opening[opened] < i and w[opening[opened], DUE] <= w[i, DUE]:
                    i = opening[opened]
                    opened += 1
                else:
                    counts[SCHEDULED] = _pop(i, q, True, w)
            elif opened < len(opening) and w[opening[opened], DUE] <= now:
                i = opening[opened]
                opened += 1
            else:
                break
            if q[i, STATE] == LOADING:
                _loaded(q[i, REPLICA], i, now, q, w, rep, clock)
            elif q[i, STATE] == MOVED:
                _queue(q[i, REPLICA], i, now, q, w, rep, clock)
            else:
                _arrive(
                    i, now, router, q, w, rep, clock, policy, parameter, counts, refs, start, ids
                )
        if now >= own[NEXT_TICK]:
            _scale(now, rep, clock, policy, parameter)
            own[NEXT_TICK] += tick_s
        for r in range(replicas):
            if rep[r, TOUCHED] == 0 and clock[r, WAKE] > now:
                continue
            rep[r, TOUCHED] = 0
            if rep[r, CHUNKS] > 0 or rep[r, DECODED] == 1 or rep[r, STATUS] == STARTING:
                continue
            while rep[r, INBOX] >= 0 and w[rep[r, INBOX], READY] <= now:
                i = rep[r, INBOX]
                rep[r, INBOX] = q[i, SIBLING]
                rep[r, WAITING] = _push(rep[r, WAITING], i, q, False, w)
            _free_what_left(r, now, q, w, rep)
            goes = _schedule(
                r, now, scratch, q, w, rep, clock, slots, fresh_s, ring, policy, parameter,
                refs, older, newer, host, start, ids,
            )  # fmt: skip
            if goes:
                _begin(
                    r, now, q, rep, clock, slots, policy, parameter, sizes, axes, linear, decode,
                    prefill, counts, log, log_s,
                )  # fmt: skip
                continue
            wake = np.inf
            if rep[r, INBOX] >= 0:
                wake = w[rep[r, INBOX], READY]
            if rep[r, RELEASING] >= 0:
                wake = min(wake, w[rep[r, RELEASING], LEFT])
            clock[r, WAKE] = wake
            _turn_off(r, now, rep, clock)
    for r in range(replicas):
        if rep[r, STATUS] != OFF:
            clock[r, ON_S] += now - clock[r, ON_SINCE]
    return now


@inner
def _begin(
    r: int, now: float, q: Int64, rep: Int64, clock: Float64, slots: Int64, policy: Int64,
    parameter: Float64, sizes: Int64, axes: Float64, linear: Float64, decode: Float64,
    prefill: Float64, counts: Int64, log: Int64, log_s: Float64,
) -> None:  # fmt: skip
    """Price the iteration that a replica starts and book its time."""
    decoders = rep[r, DECODERS] if rep[r, DECODED] == 1 else 0
    seconds = _price(
        r, rep, slots, q, policy, parameter, sizes, axes, linear, decode, prefill, decoders
    )
    extra = clock[r, EXTRA_S]
    clock[r, EXTRA_S] = 0.0
    if decoders == 0:
        clock[r, PREFILL_S] += seconds
    elif rep[r, CHUNKS] > 0:
        # what the prompts add to the decodes that they share the iteration with
        chunks, tokens = rep[r, CHUNKS], rep[r, NEW_TOKENS]
        rep[r, CHUNKS] = 0
        rep[r, NEW_TOKENS] = 0
        alone = _price(
            r, rep, slots, q, policy, parameter, sizes, axes, linear, decode, prefill, decoders
        )
        rep[r, CHUNKS] = chunks
        rep[r, NEW_TOKENS] = tokens
        clock[r, PREFILL_S] += max(0.0, seconds - alone)
    seconds += extra
    _book(r, now, seconds, rep, clock, policy)
    if len(log) > 0:
        _log(r, seconds, rep, clock, slots, policy, counts, log, log_s)


@inner
def _book(r: int, now: float, seconds: float, rep: Int64, clock: Float64, policy: Int64) -> None:
    """Enter the iteration that a replica starts in its clocks."""
    pool = rep[r, POOL]
    clock[r, BEGAN] = now
    clock[r, WAKE] = now + seconds
    clock[r, BUSY_S] += seconds
    blocks = policy[pool, BLOCKS] - rep[r, FREE] - rep[r, EVICTABLE] * policy[pool, ID_BLOCKS]
    clock[r, BLOCK_S] += seconds * float(blocks)
    rep[r, MOST_BLOCKS] = max(rep[r, MOST_BLOCKS], blocks)
    rep[r, ITERATIONS] += 1


@inner
def _run_ahead(
    r: int, horizon: float, q: Int64, rep: Int64, clock: Float64, slots: Int64, fresh_s: Float64,
    ring: Int64, policy: Int64, parameter: Float64, sizes: Int64, axes: Float64, linear: Float64,
    decode: Float64, histogram: Int64, own: Float64, counts: Int64, log: Int64, log_s: Float64,
) -> None:  # fmt: skip
    """Run the iterations of a replica that nobody outside it can tell from one another.

    While nothing waits, no sequence ends and blocks are free, an iteration changes only contexts.
    Such iterations follow each other here, with the very arithmetic of ``_price``, up to the one
    that is under way at ``horizon``, before which nothing new can reach this replica.
    """
    pool = rep[r, POOL]
    if policy[pool, KIND] == STATIC:
        return
    decoders = float(rep[r, DECODERS])
    size, per_id = policy[pool, BLOCK_TOKENS], policy[pool, ID_BLOCKS]
    most_new = policy[pool, DECODE_TOKENS] // size + 1
    mask = ring.shape[1] - 1
    fixed = _line(axes[pool, 0], sizes[pool, 0], linear[pool, 0], decoders)
    row = _locate(axes[pool, 1], sizes[pool, 1], decoders)
    down = _share(axes[pool, 1], sizes[pool, 1], row, decoders)
    grid, last = axes[pool, 2], sizes[pool, 2] - 2
    column = -1
    host = parameter[pool, HOST_PER_SEQUENCE_S] * decoders
    while clock[r, WAKE] < horizon:
        place = (rep[r, STEP] + 1) & mask
        due = 0
        i = ring[r, place]
        while i >= 0:
            if q[i, STEP0] + q[i, STEPS] == rep[r, STEP] + 1:
                return
            due += 1
            i = q[i, NEXT]
        if due * most_new > rep[r, FREE]:
            return
        now = clock[r, WAKE]
        _step(r, now, rep, clock, slots, fresh_s, histogram, own)
        i = ring[r, place]
        ring[r, place] = -1
        while i >= 0:
            following = q[i, NEXT]
            tokens = q[i, TARGET] + _gained(i, rep[r, STEP] - q[i, STEP0], q)
            blocks = -(-(tokens + policy[pool, DECODE_TOKENS]) // size)
            blocks = max(0, blocks - q[i, HELD] - q[i, SHARED] * per_id)
            rep[r, FREE] -= blocks
            q[i, HELD] += blocks
            _list_event(r, i, q, rep, ring, policy)
            i = following
        if rep[r, STEP] - rep[r, POLLED] >= policy[pool, ADMIT_EVERY]:
            rep[r, POLLED] = rep[r, STEP]
        mean = float(rep[r, CONTEXT]) / float(ONE) / decoders
        if column < 0:
            column = _locate(grid, sizes[pool, 2], mean)
        while column < last and grid[column + 1] <= mean:
            column += 1
        right = _share(grid, sizes[pool, 2], column, mean)
        value = decode[pool, row, column]
        if right > 0.0:
            value += right * (decode[pool, row, column + 1] - value)
        if down > 0.0:
            below = decode[pool, row + 1, column]
            if right > 0.0:
                below += right * (decode[pool, row + 1, column + 1] - below)
            value += down * (below - value)
        seconds = max(
            fixed + value + parameter[pool, HOST_S] + host, parameter[pool, LEAST_ITERATION_S]
        )
        _book(r, now, seconds, rep, clock, policy)
        if len(log) > 0:
            if counts[LOGGED] % counts[STRIDE] == 0:
                _log(r, seconds, rep, clock, slots, policy, counts, log, log_s)
            else:
                counts[LOGGED] += 1


@inner
def _horizon(
    r: int, now: float, coupled: bool, opened: int, until_s: float, w: Float64, rep: Int64,
    clock: Float64, policy: Int64, opening: Int64, counts: Int64, own: Float64,
) -> float:  # fmt: skip
    """Return a time before which nothing new reaches a replica, whatever the others do."""
    horizon = min(until_s, own[NEXT_TICK])
    if opened < len(opening):
        horizon = min(horizon, w[opening[opened], DUE])
    if counts[SCHEDULED] >= 0:
        horizon = min(horizon, w[counts[SCHEDULED], DUE])
    fed = policy[rep[r, POOL], ROLE] == DECODE_ONLY
    if not coupled and not fed:
        return float(horizon)
    for other in range(len(rep)):
        gives = fed and policy[rep[other, POOL], ROLE] == PREFILL_ONLY
        if other != r and (coupled or gives):
            horizon = min(horizon, now if rep[other, TOUCHED] == 1 else clock[other, WAKE])
    return float(horizon)
