"""vLLM's scheduler as SimPy processes: lists of sequences, one dictionary each, nothing clever.

Written from the scheduler of vLLM V1 (chunked prefill, first come first served, preemption by
recomputation of the newest): every iteration visits all running sequences in order of arrival.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right

import simpy


def line(grid, values, x):
    """Linear between grid points, constant before them, the last segment prolonged beyond."""
    if len(grid) == 1 or x <= grid[0]:
        return values[0]
    at = min(max(bisect_right(grid, x) - 1, 0), len(grid) - 2)
    return values[at] + (x - grid[at]) / (grid[at + 1] - grid[at]) * (values[at + 1] - values[at])


def plane(rows, columns, values, y, x):
    """First along the columns, then along the rows."""
    return line(rows, [line(columns, row, x) for row in values], y)


def iteration_seconds(tables, decoding, prompts, budget):
    """Price an iteration of contexts that decode and of (new, prior) tokens of prompts."""
    tokens = len(decoding) + sum(new for new, _ in prompts)
    linear = tables.mixed_linear_s if prompts else tables.decode_linear_s
    device = line(list(tables.tokens), list(linear), tokens)
    uneven = 1.0
    if prompts and tables.data_ranks > 1:
        ranks, chunks = tables.data_ranks, [new for new, _ in prompts]
        dealt = -(-len(chunks) // ranks) * sum(chunks) / len(chunks)
        most = max(max(chunks), min(dealt, budget / ranks))
        uneven = max(1.0, most / (sum(chunks) / ranks))
        fullest = tokens + (uneven - 1.0) * sum(chunks)
        rank = list(tables.rank_linear_s)
        device += line(list(tables.tokens), rank, fullest)
        device -= line(list(tables.tokens), rank, tokens)
    if decoding:
        mean = sum(decoding) / len(decoding)
        device += plane(
            list(tables.sequences),
            list(tables.contexts),
            tables.decode_attention_s.tolist(),
            len(decoding),
            mean,
        )
    for new, prior in prompts:
        device += uneven * plane(
            list(tables.new_tokens),
            list(tables.prior_tokens),
            tables.prefill_attention_s.tolist(),
            new,
            prior,
        )
    if prompts:
        device = max(device, tables.eager_floor_s)
    seconds = device + tables.host_s
    seconds += tables.host_per_sequence_s * (len(decoding) + len(prompts))
    seconds += tables.host_per_prefill_s if prompts else 0.0
    return max(seconds, tables.least_s)


class Server:
    """One vLLM replica."""

    def __init__(self, env, tables, policy):
        self.env = env
        self.tables = tables
        self.policy = policy
        self.size = policy.block_tokens or tables.block_tokens
        self.blocks = tables.kv_tokens // self.size
        self.watermark = int(policy.watermark * self.blocks)
        self.waiting = []
        self.running = []
        self.front_free = 0.0
        self.log = []
        self.sleeper = None
        self.on_end = lambda request: None
        self.requests = []
        self.got, self.rank = {}, {}
        self.steps = self.refreshed = 0
        env.process(self.serve())

    # the front end

    def submit(self, request):
        request["arrival"] = self.env.now
        last = request["input"] + max(request["output"] - 1, 0)
        if math.ceil(last / self.size) > self.blocks:
            request["rejected"] = True
            request["end"] = self.env.now
            self.on_end(request)
            return
        if self.policy.fair_every:
            self.welcome(request)
        self.front_free = max(self.env.now, self.front_free) + self.tables.front_serial_s
        ready = self.front_free + self.tables.front_s + request["load"]
        self.env.process(self.deliver(request, ready))

    def deliver(self, request, at):
        # the event is put at the very time that was computed, not at now plus a difference
        event = self.env.event()
        event._ok, event._value = True, None
        heapq.heappush(self.env._queue, (at, 1, next(self.env._eid), event))
        yield event
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r["key"])
        if self.sleeper is not None and not self.sleeper.triggered:
            self.sleeper.succeed()

    # whose turn it is

    def welcome(self, request):
        user = request["user"]
        here = [r["user"] for r in self.requests if r["here"]]
        if user not in here:
            least = min((self.got[other] for other in here), default=0)
            self.got[user] = max(self.got[user], least)
        request["here"] = True
        request["key"] = (self.rank[user], request["key"][1])

    def account(self, request):
        if request["end"] is not None:
            served = request["input"] + 2 * request["output"]
        else:
            prompt = request["input"] if request["decodes"] else request["computed"]
            served = min(prompt, request["input"]) + 2 * request["emitted"]
        self.got[request["user"]] += max(0, served - request["served"])
        request["served"] = max(served, request["served"])

    def take_turns(self):
        self.refreshed = self.steps
        for request in self.running:
            self.account(request)
        for user in self.got:
            self.rank[user] = sum(other < self.got[user] for other in self.got.values())
        for request in self.running + self.waiting:
            request["key"] = (self.rank[request["user"]], request["key"][1])
        self.waiting.sort(key=lambda r: r["key"])
        first = self.waiting[0]
        tokens = first["target"] + 1
        if self.policy.reserve_output:
            most = first["input"] + math.ceil(self.policy.reserve_output * first["output"])
            tokens = max(tokens, most)
        need = math.ceil(tokens / self.size) + self.watermark
        most = min(self.policy.max_sequences, self.policy.max_tokens)
        while self.running:
            if len(self.running) < most and need <= self.blocks - self.used():
                break
            victim = max(self.running, key=lambda r: r["key"])
            if victim["key"][0] <= first["key"][0]:
                break
            self.preempt(victim)

    # the scheduler

    def used(self):
        return sum(request["blocks"] for request in self.running)

    def take(self, request, tokens, spare=0):
        """Give a request blocks for ``tokens`` in all; False when there are too few."""
        more = max(0, math.ceil(tokens / self.size) - request["blocks"])
        if more + spare > self.blocks - self.used():
            return False
        request["blocks"] += more
        return True

    def preempt(self, request):
        self.running.remove(request)
        request["blocks"] = 0
        request["computed"] = 0
        request["target"] = request["input"] + request["emitted"]
        request["preemptions"] += 1
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r["key"])

    def schedule(self):
        """Return the requests that decode, and (request, new tokens) for prompts."""
        fair = self.policy.fair_every
        if fair and self.waiting and self.steps - self.refreshed >= fair:
            self.take_turns()
        budget = self.policy.max_tokens
        decoding, prompts = [], []
        preempted = False
        decodes_first = sorted(self.running, key=lambda r: (not r["decodes"], r["key"]))
        for request in decodes_first:
            if request not in self.running:
                continue
            if request["decodes"]:
                new = 1
            else:
                new = min(request["target"] - request["computed"], budget)
                if new == 0:
                    continue
            kept = True
            while not self.take(request, request["computed"] + new):
                victim = max(self.running, key=lambda r: r["key"])
                if not request["decodes"]:
                    victim = request
                self.preempt(victim)
                preempted = True
                if victim is request:
                    kept = False
                    break
            if kept:
                budget -= new
                if request["decodes"]:
                    decoding.append(request)
                else:
                    prompts.append((request, new))
        decoding = [request for request in decoding if request in self.running]
        budget = self.policy.max_tokens - len(decoding) - sum(new for _, new in prompts)
        most = min(self.policy.max_sequences, self.policy.max_tokens)
        while self.waiting and not preempted and budget > 0 and len(self.running) < most:
            request = self.waiting[0]
            left = request["target"]
            new = min(left, budget) if self.policy.chunked else left
            if new > budget and (prompts or left <= self.policy.max_tokens):
                break
            reserved = 0
            if self.policy.reserve_output:
                reserved = request["input"] + math.ceil(
                    self.policy.reserve_output * request["output"]
                )
            if not self.take(request, max(new, reserved), self.watermark if self.running else 0):
                break
            self.waiting.pop(0)
            self.running.append(request)
            request["decodes"] = False
            if request["admitted"] is None:
                request["admitted"] = self.env.now
            prompts.append((request, new))
            budget -= new
        return decoding, prompts

    def serve(self):
        while True:
            # whoever is due at this very time has been heard before the scheduler looks
            for _ in range(6):
                yield self.env.timeout(0)
            decoding, prompts = self.schedule()
            if not decoding and not prompts:
                self.sleeper = self.env.event()
                yield self.sleeper
                continue
            contexts = [request["computed"] + 1 for request in decoding]
            chunks = [(new, request["computed"]) for request, new in prompts]
            seconds = iteration_seconds(self.tables, contexts, chunks, self.policy.max_tokens)
            self.log.append(
                (
                    self.env.now,
                    seconds,
                    tuple(sorted(request["number"] for request in decoding)),
                    tuple((request["number"], new) for request, new in prompts),
                    sum(contexts),
                    self.used(),
                )
            )
            yield self.env.timeout(seconds)
            self.steps += bool(decoding)
            ended = []
            for request in decoding:
                request["computed"] += 1
                request["emitted"] += 1
                if request["emitted"] == request["output"]:
                    ended.append(request)
            for request, new in prompts:
                request["computed"] += new
                if request["computed"] < request["target"]:
                    continue
                request["decodes"] = True
                if request["output"] > 0:
                    request["emitted"] += 1
                    if request["first"] is None:
                        request["first"] = self.env.now
                if request["emitted"] == request["output"]:
                    ended.append(request)
            for request in ended:
                self.running.remove(request)
                request["blocks"] = 0
                request["end"] = self.env.now
                request["here"] = False
                if self.policy.fair_every:
                    self.account(request)
                self.on_end(request)


def play(tables, policy, traffic, loads_s=None, users=None):
    """Return (requests, log of iterations)."""
    env = simpy.Environment()
    server = Server(env, tables, policy)
    requests = [
        {
            "number": i,
            "input": int(traffic.input_tokens[i]),
            "output": int(traffic.output_tokens[i]),
            "target": int(traffic.input_tokens[i]),
            "computed": 0,
            "emitted": 0,
            "blocks": 0,
            "preemptions": 0,
            "decodes": False,
            "user": 0 if users is None else int(users[i]),
            "served": 0,
            "load": 0.0 if loads_s is None else float(loads_s[i]),
            "rejected": False,
            "arrival": None,
            "admitted": None,
            "first": None,
            "end": None,
        }
        for i in range(len(traffic))
    ]
    for request in requests:
        request["here"] = False
        server.got[request["user"]] = server.rank[request["user"]] = 0
    server.requests = requests
    order = iter(range(len(traffic)))

    def submit(request):
        request["key"] = (int(traffic.priority[request["number"]]), next(order))
        server.submit(request)

    def later(request, seconds):
        yield env.timeout(seconds)
        submit(request)

    following = iter(requests)
    if traffic.concurrency:

        def on_end(_):
            request = next(following, None)
            if request is not None:
                env.process(later(request, float(traffic.pause_s[request["number"]])))

        server.on_end = on_end
        for _ in range(traffic.concurrency):
            on_end(None)
    else:

        def on_end(request):
            for turn in requests:
                if traffic.after[turn["number"]] == request["number"]:
                    env.process(later(turn, float(traffic.pause_s[turn["number"]])))

        server.on_end = on_end
        for request in requests:
            if traffic.after[request["number"]] < 0:
                env.process(later(request, float(traffic.arrival_s[request["number"]])))
    env.run()
    return requests, server.log
