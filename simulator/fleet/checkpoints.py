"""What saving a run costs and what a failure then loses: policies, tiers, intervals.

Checkpoints lie on a grid of the work of a run, as frameworks write them every so many steps: the
k-th holds the work up to ``k * interval_s``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb, exp, expm1, inf

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.reliability import optimal_interval_s

KINDS = ("synchronous", "asynchronous", "in-memory")
INTERVALS = ("young-daly", "optimised")
_NEWTON_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Bandwidths that a checkpoint meets on its way."""

    gpu_to_host_bytes_per_s: float = 64e9
    """Of an accelerator, to the memory of its host: PCIe 5.0 x16 by default."""
    host_to_nvme_bytes_per_s: float = inf
    """Of a node, to its own drives; infinite when the way to the store does not stop there."""
    peer_bytes_per_s: float = 50e9
    """Of a node, to the memory of others: one 400 Gb/s port of its network by default."""
    store_bytes_per_s: float = 2e12
    """Of all nodes together, to the object store or parallel file system: what Llama 3's storage
    sustained (arXiv 2407.21783, section 3.3.1)."""

    def __post_init__(self) -> None:
        wrong = [
            f"checkpoint tiers: {key} = {getattr(self, key)}: must be above 0"
            for key in self.__slots__
            if not getattr(self, key) > 0
        ]
        if wrong:
            raise InputError(wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCosts:
    """What a policy costs one job, in seconds; all that a replay of the run needs."""

    interval_s: float
    """Work between two checkpoints, infinite without any."""
    pause_s: float
    """Training stands still for each."""
    lag_s: float
    """From the end of the pause until it can be restored after a loss that memory survives."""
    load_s: float
    """To restore that one."""
    store_every: int
    """Every so many checkpoints one goes to the store."""
    store_lag_s: float
    """From the end of the pause until it can be restored from the store."""
    store_load_s: float
    in_memory: bool
    """Whether there is anything nearer than the store."""
    host_bytes: float
    """Memory that it takes on a node, bytes."""

    @property
    def least_interval_s(self) -> float:
        """Work between checkpoints that lets each drain before the next of its kind."""
        return max(self.lag_s, self.store_lag_s / self.store_every)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """How and how often a job saves itself.

    ``synchronous`` stops training until the store has it. ``asynchronous`` stops for the copy to
    host memory alone and drains from there while training goes on. ``in-memory`` keeps the state in
    the memory of hosts, whole on ``copies`` nodes (Gemini, Wang et al., SOSP 2023) or coded into
    ``data`` + ``parity`` shares on as many nodes (as REFT does), and
    writes every ``store_interval_s`` to the store as well.
    """

    kind: str = "synchronous"
    interval: str | float = "young-daly"
    """Work between checkpoints [s], ``young-daly`` or ``optimised`` (:func:`exact_interval_s`)."""
    copies: int = 2
    """In memory: nodes that hold the same share, its own included."""
    data: int = 0
    """Of an erasure code; 0 keeps whole copies."""
    parity: int = 0
    store_interval_s: float = 3 * 3600.0
    """In memory: how often one goes to the store, every three hours as BLOOM's did."""
    tiers: Tiers = Tiers()

    def __post_init__(self) -> None:
        wrong = []
        if self.kind not in KINDS:
            wrong.append(f"checkpoint kind {self.kind!r}: unknown; {nearest(self.kind, KINDS)}")
        if isinstance(self.interval, str):
            if self.interval not in INTERVALS:
                hint = nearest(self.interval, INTERVALS)
                wrong.append(f"checkpoint interval {self.interval!r}: seconds or a rule; {hint}")
        elif not self.interval > 0:
            wrong.append(f"checkpoint interval {self.interval}: must be above 0 s")
        if self.copies < 2:
            wrong.append(f"checkpoint copies {self.copies}: must be 2 or more, its own included")
        if (self.data > 0) != (self.parity > 0) or min(self.data, self.parity) < 0:
            wrong.append(
                f"erasure code {self.data}+{self.parity}: data and parity must both be above 0"
            )
        if not self.store_interval_s > 0:
            wrong.append(f"store interval {self.store_interval_s}: must be above 0 s")
        if wrong:
            raise InputError(wrong)

    @property
    def group(self) -> int:
        """Nodes that hold each other's state."""
        return self.data + self.parity if self.data else self.copies

    @property
    def tolerated(self) -> int:
        """Nodes of a group that may be lost at once."""
        return self.parity if self.data else self.copies - 1

    def costs(
        self, size_bytes: float, nodes: int, accelerators: int, mttf_s: float
    ) -> CheckpointCosts:
        """Return what the policy costs a job.

        Parameters
        ----------
        size_bytes
            A checkpoint of the whole job
            (:func:`ridgeline.simulator.training.checkpoint_bytes`).
        nodes, accelerators
            That hold it, in equal shares.
        mttf_s
            Mean time between failures of the job [s], for an interval that is a rule.

        Notes
        -----
        The stages of a way are pipelined: it takes as long as its slowest. Nothing begins a
        checkpoint before the one before has drained, so the interval is at least that long. An
        erasure code sends a node's share to its group once, plus ``parity / data`` of it.
        """
        tiers = self.tiers
        to_host_s = size_bytes / accelerators / tiers.gpu_to_host_bytes_per_s
        store_s = max(
            to_host_s,
            size_bytes / nodes / tiers.host_to_nvme_bytes_per_s,
            size_bytes / tiers.store_bytes_per_s,
        )
        share = size_bytes / nodes
        if self.kind == "synchronous":
            pause_s, lag_s, store_lag_s, load_s, host = store_s, 0.0, 0.0, store_s, 0.0
        elif self.kind == "asynchronous":
            pause_s, lag_s, store_lag_s, load_s, host = to_host_s, store_s, store_s, store_s, share
        else:
            sent = 1.0 + self.parity / self.data if self.data else self.copies - 1.0
            held = 1.0 + self.parity / self.data if self.data else float(self.copies)
            pause_s = to_host_s
            lag_s = sent * share / tiers.peer_bytes_per_s
            store_lag_s = store_s
            # a node that is new gets its share from its group, the others have theirs
            load_s = share / tiers.peer_bytes_per_s + to_host_s
            # the finished one stays until the next is complete
            host = 2.0 * held * share
        interval_s = max(self._interval_s(pause_s, lag_s, mttf_s), lag_s)
        every = 1
        if self.kind == "in-memory":
            every = max(
                1, round(self.store_interval_s / interval_s), ceil(store_lag_s / interval_s)
            )
        return CheckpointCosts(
            interval_s=interval_s,
            pause_s=pause_s,
            lag_s=lag_s,
            load_s=load_s,
            store_every=every,
            store_lag_s=store_lag_s,
            store_load_s=store_s,
            in_memory=self.kind == "in-memory",
            host_bytes=host,
        )

    def _interval_s(self, pause_s: float, lag_s: float, mttf_s: float) -> float:
        if not isinstance(self.interval, str):
            return self.interval
        if mttf_s == inf:
            return inf
        # what costs nothing is written as often as it drains
        if pause_s == 0.0:
            return max(lag_s, 1.0)
        if self.interval == "young-daly":
            return optimal_interval_s(pause_s, mttf_s)
        return exact_interval_s(pause_s, mttf_s)

    def survival(self, nodes: int, lost: int) -> float:
        """Return the probability that memory survives the loss of nodes anywhere at once.

        The share of the ways to choose ``lost`` of ``nodes`` that take no more than ``tolerated``
        from any group: the coefficient of x^lost in
        (sum over j <= tolerated of C(group, j) x^j)^(nodes / group), over C(nodes, lost). Nodes
        beyond the last whole group form a smaller one.

        Parameters
        ----------
        nodes
            Of the job.
        lost
            Nodes lost at the same time.
        """
        if self.kind != "in-memory" or lost > nodes:
            return 0.0
        sizes = [self.group] * (nodes // self.group)
        if nodes % self.group:
            sizes.append(nodes % self.group)
        ways = [1] + [0] * lost
        for size in sizes:
            # a group that is one node alone has no peer to keep its state
            most = min(self.tolerated, size - 1, lost)
            ways = [
                sum(comb(size, j) * ways[total - j] for j in range(min(most, total) + 1))
                for total in range(lost + 1)
            ]
        return ways[lost] / comb(nodes, lost)


def exact_interval_s(pause_s: float, mttf_s: float) -> float:
    """Return the interval that loses least time when failures are exponential [s].

    The expected time of a run goes with (exp((tau + delta) / M) - 1) / tau
    (:func:`expected_time_s`), which is least where exp(-x - delta / M) = 1 - x with x = tau / M.

    Parameters
    ----------
    pause_s, mttf_s
        delta, M [s].
    """
    ratio = pause_s / mttf_s
    # right of the root, from where Newton's steps fall towards it: the function is concave
    x = min(optimal_interval_s(ratio, 1.0), 1.0)
    for _ in range(_NEWTON_STEPS):
        short = expm1(-x - ratio)
        step = (x + short) / -short
        x -= step
        if abs(step) <= 1e-15 * x:
            break
    return x * mttf_s


def expected_time_s(
    *, work_s: float, interval_s: float, pause_s: float, restart_s: float, mttf_s: float
) -> float:
    """Return the expected time of a run under exponential failures, exactly [s].

    M exp(R / M) (exp((tau + delta) / M) - 1) W / tau (Daly 2006, A higher order estimate of the
    optimum checkpoint interval for restart dumps): failures strike during work, checkpoints and
    restarts alike.

    Parameters
    ----------
    work_s, interval_s, pause_s, restart_s, mttf_s
        W, tau, delta, R, M [s]; W a whole number of intervals, each followed by a checkpoint.
    """
    if mttf_s == inf:
        return work_s * (1.0 + pause_s / interval_s)
    segments = work_s / interval_s
    one = mttf_s * exp(restart_s / mttf_s) * expm1((interval_s + pause_s) / mttf_s)
    return one * segments
