"""The plan space as a Gymnasium environment, for agents that learn to search (ArchGym's use).

An action picks a value for every dimension of the space; the reward says how fast the plan is.
Gymnasium is an extra (``pip install 'ridgeline[gym]'``); nothing else here imports this module.
"""

from __future__ import annotations

from dataclasses import fields
from math import log
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.space import Candidates, Space, plan_at
from ridgeline.simulator.training import simulate_training

REFUSED = -5.0
"""Reward of a combination that cannot run or does not fit: worse than 100 times the reference."""

Action = NDArray[np.int64]
Observation = NDArray[np.float32]


class PlanEnvironment(gymnasium.Env[Observation, Action]):
    """Search a space of plans, one plan a step.

    The action is a place in the values of each dimension that varies (``MultiDiscrete``), in the
    order of ``dimensions``. The observation is the last action, each part scaled to 0 to 1, then
    whether it ran, the logarithm of its step time over the reference, and the share of memory it
    took. The reward is -log(step time / reference), ``REFUSED`` where a plan cannot run or fit.

    Parameters
    ----------
    space
        Plans to search; the same space as ``search`` takes.
    tries
        Plans that an episode may price; it is then truncated.

    Raises
    ------
    InputError
        No plan of the space is legal, or nothing varies, or ``tries`` is below 1.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own attribute)

    def __init__(self, space: Space, tries: int = 64) -> None:
        if tries < 1:
            raise InputError(f"tries = {tries}: must be at least 1")
        self._space, self._tries = space, tries
        self._candidates = enumerate_plans(space)
        columns = {f.name: getattr(self._candidates, f.name) for f in fields(Candidates)}
        values = {name: np.unique(column) for name, column in columns.items()}
        self.dimensions = {
            name: tuple(int(value) for value in found)
            for name, found in values.items()
            if len(found) > 1
        }
        """Name of each dimension that varies -> its values; ``recompute``, ``schedule``,
        ``offload`` and ``cluster`` are places in the tuples of the space."""
        if not self.dimensions:
            raise InputError("the space holds one plan; let something vary")
        rows = zip(*(columns[name].tolist() for name in self.dimensions), strict=True)
        self._row = {tuple(values): row for row, values in reversed(list(enumerate(rows)))}
        self._answers: dict[int, TrainingResult] = {}
        self._reference_s = self._priced(0).step_time_s
        sizes = [len(values) for values in self.dimensions.values()]
        self.action_space = gymnasium.spaces.MultiDiscrete(sizes)
        width = len(sizes)
        self.observation_space = gymnasium.spaces.Box(
            low=np.array([0.0] * width + [0.0, -20.0, 0.0], np.float32),
            high=np.array([1.0] * width + [1.0, 20.0, 1e3], np.float32),
        )
        self._done = 0

    def _priced(self, row: int) -> TrainingResult:
        if row not in self._answers:
            plan = plan_at(self._space, self._candidates, row)
            self._answers[row] = simulate_training(plan)
        return self._answers[row]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; nothing has been tried."""
        super().reset(seed=seed, options=options)
        self._done = 0
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Price the plan of an action.

        Returns
        -------
        tuple
            Observation, reward, terminated (never), truncated (after ``tries``), and what was
            found: ``refused`` with the reason, or ``result``, the prediction.
        """
        places = [int(place) for place in action]
        picked = tuple(
            values[place] for values, place in zip(self.dimensions.values(), places, strict=True)
        )
        tops = (len(values) - 1 for values in self.dimensions.values())
        scaled = [place / top for place, top in zip(places, tops, strict=True)]
        self._done += 1
        truncated = self._done >= self._tries
        row = self._row.get(picked)
        if row is None:
            tail, reward, found = [0.0, 0.0, 0.0], REFUSED, {"refused": "no such legal plan"}
            return np.array(scaled + tail, np.float32), reward, False, truncated, dict(found)
        result = self._priced(row)
        slower = log(result.step_time_s / self._reference_s)
        memory = result.worst_memory.total / result.memory_limit
        info: dict[str, Any] = {"result": result}
        if not result.fits:
            info["refused"] = f"takes {memory:.2f} of the memory"
        observation = np.array([*scaled, 1.0, slower, min(memory, 1e3)], np.float32)
        return observation, -slower if result.fits else REFUSED, False, truncated, info
