"""A run many times over: step time, failure rate, failures, stragglers and rewinds drawn together.

Every run has its own streams of random numbers, one for each thing that is drawn, so that a change
of one thing leaves the luck of the others as it was and no number depends on how many runs there
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InfeasibleError
from ridgeline.hardware.reliability import DAY_S
from ridgeline.simulator.fleet.calendar import _kernels
from ridgeline.simulator.fleet.checkpoints import (
    CheckpointCosts,
    CheckpointPolicy,
    expected_time_s,
)
from ridgeline.simulator.fleet.failures import PROVIDER, FailureEvents, FailureModel

Float64 = NDArray[np.float64]

P90_NORMAL = 1.2815515594
"""The 90th percentile of the standard normal law: a step time's range holds four in five."""
_STEP, _RATE, _FAILURES, _LUCK, _SPIKES = range(5)
_LONGEST = 50.0
"""Times the work, after which a run is said never to end."""
_EVENTS = 2e6
"""About so many events are in memory at once."""
_MOST_LOST = 8
"""Nodes lost at once up to which survival is computed; beyond it is taken as that of so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A run and what surrounds it, all in seconds."""

    work_s: float
    """Steps, batch warm-up and evaluation at the predicted step time."""
    step_low: float
    """P10 of the step time over the predicted one."""
    step_high: float
    """P90, likewise."""
    nodes: int
    accelerators: int
    failures: FailureModel
    policy: CheckpointPolicy
    checkpoint_bytes: float
    at_hand: bool
    """Whether a good node always is, at no cost. Capacity that the provider takes back is not."""
    spikes: float = 0.0
    """Loss spikes expected in ``work_s``."""
    rewind_s: float = 0.0
    """Work that a rewind goes back at least, at the predicted step time."""

    @property
    def costs(self) -> CheckpointCosts:
        """What the policy costs this run."""
        mttf = self.failures.mttf_s(self.nodes)
        return self.policy.costs(self.checkpoint_bytes, self.nodes, self.accelerators, mttf)

    @property
    def spare_nodes(self) -> int:
        """Nodes that are kept and paid for."""
        return 0 if self.at_hand else self.failures.spare_nodes(self.nodes)

    @property
    def restart_s(self) -> float:
        """From nodes at hand to the load of a checkpoint."""
        return self.failures.restart_s(self.accelerators)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """One entry of each array for each run: seconds or counts, infinite where it never ends.

    wall = work + checkpoint + lost + slow + restart + wait, exactly.
    """

    factor: Float64
    """Step time over the predicted one."""
    wall_s: Float64
    work_s: Float64
    checkpoint_s: Float64
    """All pauses, those of work that was lost included."""
    lost_s: Float64
    """Work done again."""
    slow_s: Float64
    """What stragglers and slow links took."""
    restart_s: Float64
    wait_s: Float64
    """For a node."""
    failures: Float64
    rewinds: Float64


def draw(setting: Setting, runs: int, seed: int) -> Drawn:
    """Play a run many times.

    Parameters
    ----------
    setting
        The run.
    runs, seed
        How many, and which.

    Notes
    -----
    The logarithm of the step time is normal on either side of the prediction, with the range's ends
    at its 10th and 90th percentiles. Work between checkpoints is a number of steps, so it is
    stretched along with them. Events are drawn for a horizon; a run that has not ended by then gets
    as much again until it has taken 50 times its work.

    Raises
    ------
    InfeasibleError
        When not even half of the runs end.
    """
    factor = np.array([_step_factor(setting, seed, run) for run in range(runs)])
    work = setting.work_s * factor
    rate = sum(one.per_node_day for one in setting.failures.causes) * setting.nodes / DAY_S
    together = max(1, int(_EVENTS / (1.0 + rate * setting.work_s)))
    columns = np.concatenate(
        [
            _played(setting, seed, range(start, min(start + together, runs)), factor)
            for start in range(0, runs, together)
        ]
    )
    ended = columns[:, _kernels.FINISHED] == 1.0
    if 2 * int(ended.sum()) < runs:
        mttf = setting.failures.mttf_s(setting.nodes)
        raise InfeasibleError(
            f"of {runs} simulated runs {int(ended.sum())} end within {_LONGEST:.0f} times their "
            f"work: the job fails every {mttf / 3600:.2f} h on average; shorten the restart, write "
            "checkpoints more often or keep spares"
        )
    return Drawn(
        factor=factor,
        wall_s=np.where(ended, columns[:, _kernels.WALL], inf),
        work_s=work,
        checkpoint_s=columns[:, _kernels.CHECKPOINT],
        lost_s=columns[:, _kernels.LOST],
        slow_s=columns[:, _kernels.SLOW],
        restart_s=columns[:, _kernels.RESTART],
        wait_s=columns[:, _kernels.WAIT],
        failures=columns[:, _kernels.FAILURES],
        rewinds=columns[:, _kernels.REWINDS],
    )


def _played(setting: Setting, seed: int, runs: range, factor: Float64) -> Float64:
    """Return the kernel's columns of some of the runs."""
    costs = setting.costs
    factor = factor[runs.start : runs.stop]
    work = setting.work_s * factor
    paths = [_Path(setting, costs, seed, run, work[k]) for k, run in enumerate(runs)]
    columns = np.empty((len(runs), _kernels.COLUMNS))
    todo = np.arange(len(runs))
    while len(todo):
        part = _replay(setting, costs, [paths[k] for k in todo], work[todo], factor[todo])
        columns[todo] = part
        running = todo[part[:, _kernels.FINISHED] == 0.0]
        todo = np.array(
            [k for k in running if paths[k].horizon_s < _LONGEST * work[k]], dtype=np.int64
        )
        for k in todo:
            paths[k].extend()
    return columns


def _stream(seed: int, run: int, what: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, run, what]))


def _step_factor(setting: Setting, seed: int, run: int) -> float:
    z = float(_stream(seed, run, _STEP).standard_normal())
    end = setting.step_high if z > 0 else 1.0 / setting.step_low
    return float(np.exp(z * log(end) / P90_NORMAL))


class _Path:
    """What happens to one run, drawn window after window."""

    def __init__(
        self, setting: Setting, costs: CheckpointCosts, seed: int, run: int, work_s: float
    ) -> None:
        self._setting = setting
        self._events = _stream(seed, run, _FAILURES)
        self._luck = _stream(seed, run, _LUCK)
        self._spikes = _stream(seed, run, _SPIKES)
        self._rate = setting.failures.scatter(_stream(seed, run, _RATE))
        mttf = setting.failures.mttf_s(setting.nodes) / self._rate
        restart_s = setting.restart_s + costs.store_load_s
        expected = expected_time_s(
            work_s=work_s,
            interval_s=min(costs.interval_s, work_s),
            pause_s=costs.pause_s,
            restart_s=restart_s,
            mttf_s=max(mttf, restart_s, 1.0),
        )
        self._window_s = 1.1 * min(expected, _LONGEST * work_s) + DAY_S
        self._spike_rate = setting.spikes / work_s
        self.horizon_s = 0.0
        self._at: list[Float64] = []
        self._nodes: list[NDArray[np.int64]] = []
        self._out: list[Float64] = []
        self._chance: list[Float64] = []
        self._slow: list[FailureEvents] = []
        self.extend()

    def extend(self) -> None:
        """Draw one more window."""
        setting, start, length = self._setting, self.horizon_s, self._window_s
        drawn = setting.failures.sample(self._events, setting.nodes, length, factor=self._rate)
        stops = drawn.slowdown == 0.0
        at = drawn.at_s[stops]
        nodes = np.where(drawn.out_s[stops] > 0, drawn.nodes[stops], 0).astype(np.int64)
        out, chance = drawn.out_s[stops], self._luck.random(len(at))
        if setting.at_hand:
            causes = setting.failures.causes
            taken = np.array([one.component == PROVIDER for one in causes], dtype=bool)
            out = np.where(taken[drawn.cause[stops]], out, 0.0)
        count = int(self._spikes.poisson(self._spike_rate * length))
        if count:
            spikes = np.sort(self._spikes.random(count)) * length
            where = np.searchsorted(at, spikes)
            at, nodes = np.insert(at, where, spikes), np.insert(nodes, where, -1)
            out, chance = np.insert(out, where, 0.0), np.insert(chance, where, 0.0)
        self._at.append(at + start)
        self._nodes.append(nodes)
        self._out.append(out)
        self._chance.append(chance)
        slow = drawn.take(~stops)
        self._slow.append(slow)
        self._slow_at = np.concatenate([one.at_s + k * length for k, one in enumerate(self._slow)])
        self.horizon_s = start + length

    def stops(self) -> tuple[Float64, NDArray[np.int64], Float64, Float64]:
        """Return times, nodes, times out and luck of what stops the run, the horizon last."""
        return (
            np.concatenate([*self._at, [self.horizon_s]]),
            np.concatenate([*self._nodes, [0]]),
            np.concatenate([*self._out, [0.0]]),
            np.concatenate([*self._chance, [0.0]]),
        )

    def speeds(self) -> tuple[Float64, Float64]:
        """Return from when on which speed holds: 1 less the worst slowdown there is."""
        start = self._slow_at
        end = start + np.concatenate([one.out_s for one in self._slow])
        size = np.concatenate([one.slowdown for one in self._slow])
        at = np.concatenate([start, end])
        order = np.argsort(at, kind="stable")
        at, change = at[order], np.repeat([1, -1], len(start))[order]
        sizes = np.tile(size, 2)[order]
        worst = np.zeros(len(at))
        for one in np.unique(size):
            here = np.cumsum(np.where(sizes == one, change, 0)) > 0
            worst = np.maximum(worst, np.where(here, one, 0.0))
        at, speed = np.concatenate([[0.0], at]), np.concatenate([[1.0], 1.0 - worst])
        keep = np.concatenate([[True], speed[1:] != speed[:-1]])
        return at[keep], speed[keep]


def _replay(
    setting: Setting, costs: CheckpointCosts, paths: list[_Path], work: Float64, factor: Float64
) -> Float64:
    stops = [path.stops() for path in paths]
    speeds = [path.speeds() for path in paths]
    survival = np.empty(0)
    if costs.in_memory:
        most = min(max(_MOST_LOST, setting.failures.nodes_per_rack), setting.nodes)
        survival = np.array(
            [setting.policy.survival(setting.nodes, lost) for lost in range(most + 1)]
        )
    columns = np.empty((len(paths), _kernels.COLUMNS))
    # beyond the end of the work nothing is saved
    interval = np.minimum(costs.interval_s, 2.0 * setting.work_s) * factor
    _kernels.replay(
        _pointers([len(one[0]) for one in stops]),
        np.concatenate([one[0] for one in stops]),
        np.concatenate([one[1] for one in stops]),
        np.concatenate([one[2] for one in stops]),
        np.concatenate([one[3] for one in stops]),
        _pointers([len(one[0]) for one in speeds]),
        np.concatenate([one[0] for one in speeds]),
        np.concatenate([one[1] for one in speeds]),
        work,
        np.maximum(interval, costs.least_interval_s),
        costs.pause_s,
        costs.lag_s,
        costs.load_s,
        costs.store_every,
        costs.store_lag_s,
        costs.store_load_s,
        survival,
        setting.restart_s,
        setting.rewind_s * factor,
        setting.spare_nodes,
        columns,
    )
    return columns


def _pointers(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
