"""The plan space as a Gymnasium environment."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.plan import Training
from ridgeline.simulator.search.environment import REFUSED, PlanEnvironment
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import Space
from ridgeline.workloads import load_model

gymnasium = pytest.importorskip("gymnasium")


def space(**changes: tuple[int, ...]) -> Space:
    return Space(
        model=load_model("llama3-8b"),
        clusters=(make_cluster("2x8xh100-sxm"),),
        training=Training(seq_len=8192, global_batch_seqs=32, micro_batch_seqs=1),
        stack="megatron-core",
        **changes,
    )


def test_gymnasium_finds_nothing_wrong() -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on normalising, no fault
        check_env(PlanEnvironment(space()), skip_render_check=True)


def test_trying_every_plan_finds_what_the_search_finds() -> None:
    small = space(tp=(1, 2, 4, 8), pp=(1, 2), vpp=(1,), micro_batch_seqs=(1, 2))
    environment = PlanEnvironment(small, tries=10_000)
    environment.reset(seed=0)
    best = np.inf
    for action in np.ndindex(*environment.action_space.nvec):
        _, reward, terminated, _, info = environment.step(np.array(action))
        assert not terminated
        if "refused" in info:
            assert reward == REFUSED
        else:
            best = min(best, info["result"].step_time_s)
    found = search(small)
    assert best == pytest.approx(found.best.result.step_time_s, rel=1e-9)


def test_an_episode_ends_after_its_tries() -> None:
    environment = PlanEnvironment(space(), tries=2)
    environment.reset(seed=1)
    action = environment.action_space.sample()
    assert environment.step(action)[3] is False
    assert environment.step(action)[3] is True


def test_a_space_of_one_plan_is_refused() -> None:
    one = space(tp=(8,), pp=(1,), vpp=(1,), cp=(1,), micro_batch_seqs=(1,), zero_stage=(1,))
    with pytest.raises(InputError, match="one plan"):
        PlanEnvironment(replace(one, recompute=("none",)))
