"""The slow obvious twin of the collectives kernel: it walks ranks, hops and links one by one."""

from __future__ import annotations

from math import ceil, inf, log2, sqrt

from ridgeline.hardware.cluster import Cluster, Torus
from ridgeline.hardware.efficiency import CollectiveEfficiency


def ranks_per_level(blocks: list[int], size: int, stride: int) -> list[int]:
    """Try every number of ranks that could fill a block; the outermost level joins all."""
    out, joined = [], 1
    for level, block in enumerate(blocks):
        best = joined
        for n in range(joined, size + 1, joined):
            if size % n == 0 and block % (n * stride) == 0:
                best = n
        if level == len(blocks) - 1:
            best = size
        out.append(best // joined)
        joined = best
    return out


def digits(rank: int, ranks: list[int]) -> list[int]:
    """Where a rank is at every level, innermost first."""
    out = []
    for n in ranks:
        out.append(rank % n)
        rank //= n
    return out


def level_between(a: int, b: int, ranks: list[int]) -> int:
    """Outermost level at which two ranks differ."""
    return max(
        k for k, (x, y) in enumerate(zip(digits(a, ranks), digits(b, ranks), strict=True)) if x != y
    )


class Naive:
    """Prices one group on one cluster."""

    def __init__(
        self, cluster: Cluster, size: int, stride: int, sharing: float, switch: list[float]
    ) -> None:
        self.cluster, self.size, self.stride, self.sharing = cluster, size, stride, sharing
        self.switch = switch
        blocks = [t.size for t in cluster.tiers]
        self.latency = [t.latency_s for t in cluster.tiers]
        self.rate = [
            t.bytes_per_s * t.efficiency / t.oversubscription / sharing for t in cluster.tiers
        ]
        if cluster.torus:
            chips = 1
            for dim in cluster.torus.dims:
                chips *= dim
            blocks.insert(0, chips)
            self.latency.insert(0, inf)
            self.rate.insert(0, inf)
        self.ranks = ranks_per_level(blocks, size, stride)
        self.used = [k for k, n in enumerate(self.ranks) if n > 1]

    def fit(self, operation: str) -> CollectiveEfficiency | None:
        name = {"broadcast": "all_gather", "send_recv": "all_to_all"}.get(operation, operation)
        if self.cluster.torus:
            return None
        return self.cluster.accelerator.efficiency.collectives.get(name)

    def inside(self, k: int) -> int:
        out = 1
        for n in self.ranks[:k]:
            out *= n
        return out

    def bandwidth(self, operation: str, k: int, n: int) -> float:
        fit = self.fit(operation)
        if k == 0 and fit:
            return self.rate[0] * fit.bandwidth * n / (n + fit.delta)
        return self.rate[k]

    @staticmethod
    def ramp(fit: CollectiveEfficiency, amount: float) -> float:
        return fit.ramp_s * (amount / 1e6) ** fit.gamma if amount else 0.0

    def ring_volume(self, operation: str, n: int) -> float:
        """Chunks that one rank sends on a ring of n, over n."""
        if operation == "broadcast":
            return 1.0
        sent = sum(1 for _ in range(n - 1))
        return (2 if operation == "all_reduce" else 1) * sent / n

    def ring(self, operation: str, amount: float, logarithmic: bool) -> float:
        fit = self.fit(operation)
        passes = 2 if operation == "all_reduce" else 1
        hops = dict.fromkeys(self.used, 0)
        if logarithmic:
            for k in self.used:
                hops[k] = ceil(log2(self.ranks[k]))
        else:
            for r in range(self.size - 1):
                hops[level_between(r, r + 1, self.ranks)] += 1
        seconds = fit.base_s if fit else 0.0
        for k, count in hops.items():
            if k == 0 and fit:
                seconds += fit.per_rank_s * (count - 1) + self.ramp(fit, amount)
            else:
                seconds += passes * count * self.latency[k]
        slowest = min(
            self.inside(k) * self.bandwidth(operation, k, self.ranks[k]) for k in self.used
        )
        return seconds + self.ring_volume(operation, self.size) * amount / slowest

    def tree(self, amount: float, switches: bool) -> float:
        fit = self.fit("all_reduce")
        seconds = fit.base_s if fit else 0.0
        depth, slowest = 0.0, 0.0
        for k in self.used:
            n = self.ranks[k]
            levels = 0
            while 2**levels < n:
                levels += 1
            if switches and self.switch[k]:
                slowest = max(slowest, amount / self.inside(k) / (self.rate[k] * self.switch[k]))
            else:
                volume = 1 if n == 2 else 2
                rate = self.bandwidth("all_reduce", k, n)
                slowest = max(slowest, volume * amount / self.inside(k) / rate)
            if k == 0 and fit:
                seconds += fit.per_rank_s * min(n - 2, 2 * levels) + self.ramp(fit, amount)
            elif switches and self.switch[k]:
                seconds += 2 * self.latency[k]
            else:
                depth += 2 * levels * self.latency[k]
        return seconds + (sqrt(depth) + sqrt(slowest)) ** 2

    def one_level(self, operation: str, amount: float, k: int) -> float:
        n, fit = self.ranks[k], self.fit(operation)
        volume = self.ring_volume(operation, n)
        seconds = volume * amount / self.bandwidth(operation, k, n)
        if k == 0 and fit:
            return seconds + fit.base_s + fit.per_rank_s * (n - 2) + self.ramp(fit, amount)
        return seconds + (2 if operation == "all_reduce" else 1) * (n - 1) * self.latency[k]

    def hierarchical(self, operation: str, amount: float, levels: list[int]) -> float:
        """Recursively: scatter in the fast tier, the rest on a part of the bytes, gather."""
        if not levels:
            return 0.0
        k = levels[0]
        if operation == "all_reduce" and len(levels) == 1:
            return self.one_level(operation, amount, k)
        part = amount if operation == "broadcast" else amount / self.ranks[k]
        rest = self.hierarchical(operation, part, levels[1:])
        if operation == "all_reduce":
            scatter = self.one_level("reduce_scatter", amount, k)
            return scatter + rest + self.one_level("all_gather", amount, k)
        return self.one_level(operation, amount, k) + rest

    def all_to_all(self, amount: float, in_flight: int, first: int = 0) -> float:
        fit = self.fit("all_to_all")
        seconds = fit.base_s if fit else 0.0
        slowest = 0.0
        for k in [k for k in self.used if k >= first]:
            peers = [level_between(0, r, self.ranks) for r in range(1, self.size)]
            mine = sum(1 for level in peers if level == k)
            through = mine if k == 0 else sum(1 for level in peers if level >= k)
            rate = self.bandwidth("all_to_all", k, self.ranks[k])
            slowest = max(slowest, through * (amount / self.size) / rate)
            if k == 0 and fit:
                seconds += fit.per_rank_s * (mine - 1) + self.ramp(fit, amount)
            else:
                seconds += self.latency[k] * max(1.0, mine / in_flight)
        return seconds + slowest

    def send_recv(self, amount: float) -> float:
        k, fit = self.used[-1], self.fit("send_recv")
        seconds = amount / self.bandwidth("send_recv", k, 2) + (fit.base_s if fit else 0.0)
        if k == 0 and fit:
            return seconds + self.ramp(fit, 2 * amount)
        return seconds + self.latency[k]

    def seconds(self, operation: str, amount: float, algorithm: str) -> float:
        if self.size == 1:
            return 0.0
        torus = self.cluster.torus
        if torus:
            return self.on_torus(torus, operation, amount)
        if operation == "send_recv":
            return self.send_recv(amount)
        if operation == "all_to_all":
            return self.all_to_all(amount, 8 if algorithm == "auto" else 1)
        if algorithm == "hierarchical":
            return self.hierarchical(operation, amount, self.used)
        if operation != "all_reduce":
            alone = self.ranks[0] == 1 and operation != "broadcast"
            return self.ring(
                operation, amount, algorithm == "tree" or (algorithm == "auto" and alone)
            )
        options = {
            "ring": self.ring("all_reduce", amount, False),
            "tree": self.tree(amount, False),
            "in_switch": self.tree(amount, True),
        }
        return min(options.values()) if algorithm == "auto" else options[algorithm]

    def on_torus(self, torus: Torus, operation: str, amount: float) -> float:
        in_slice = self.ranks[0]
        outside = [k for k in self.used if k > 0]
        if operation == "send_recv":
            return self.send_recv(amount) if outside else self.in_slice(torus, operation, amount)
        if operation == "all_to_all":
            part = amount * in_slice / self.size
            return self.all_to_all(amount, 8, 1) + self.in_slice(torus, operation, part)
        part = amount if operation == "broadcast" else amount / in_slice
        return self.in_slice(torus, operation, amount) + self.hierarchical(operation, part, outside)

    def in_slice(self, torus: Torus, operation: str, amount: float) -> float:
        n = self.ranks[0]
        if n == 1:
            return 0.0
        blocks, chips = [], 1
        for dim in torus.dims:
            chips *= dim
            blocks.append(chips)
        hops, bandwidth, exchange, message = 0, 0.0, 0.0, 0.0
        for axis, ranks in enumerate(ranks_per_level(blocks, n, self.stride)):
            if ranks == 1:
                continue
            apart = max(1, self.stride * torus.dims[axis] // blocks[axis])
            link = torus.link_bytes_per_s * torus.efficiency / self.sharing / apart
            closed = torus.wraparound[axis] and ranks * apart == torus.dims[axis]
            farthest = max(min(d, ranks - d) if closed else d for d in range(ranks))
            hops += farthest * apart
            bandwidth += 2 * link if closed else link
            # chunks over the busiest directed link when every pair exchanges one by shortest paths
            if closed:
                busiest = sum(min(d, ranks - d) for d in range(ranks)) / 2
            else:
                busiest = max((cut + 1) * (ranks - 1 - cut) for cut in range(ranks - 1))
            exchange = max(exchange, busiest * amount / ranks / link)
            message = max(message, apart * torus.latency_s + amount / link)
        if operation == "send_recv":
            return message
        if operation == "all_to_all":
            return hops * torus.latency_s + exchange
        passes = 2 if operation == "all_reduce" else 1
        volume = self.ring_volume(operation, n)
        return passes * hops * torus.latency_s + volume * amount / bandwidth
