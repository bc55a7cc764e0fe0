"""Failures while a fleet plays: who is struck, what stays out, what gets slow, and when it ends."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from ridgeline.simulator.fleet.failures import LINK, PROVIDER, FailureEvents, FailureModel
from ridgeline.simulator.fleet.state import PoolState, Run

if TYPE_CHECKING:
    from ridgeline.simulator.fleet.play import Playing

WINDOW_S = 90.0 * 86400.0
"""Failures are drawn for so long at a time when a fleet has no horizon."""


class Strikes:
    """What goes wrong in the pools of a fleet."""

    def __init__(self, playing: Playing) -> None:
        self._playing = playing
        self._rng = np.random.default_rng([playing.seed, 1])

    def strike_pool(
        self, state: PoolState, model: FailureModel, number: int
    ) -> Generator[simpy.Event, Any, None]:
        """Let happen to a pool what its model draws; a SimPy process."""
        playing = self._playing
        horizon_s = playing.fleet.horizon_s
        rng = np.random.default_rng([playing.seed, 2, number])
        factor = model.scatter(rng)
        begin = 0.0
        while True:
            window = min(WINDOW_S, horizon_s - begin)
            drawn = model.sample(rng, state.pool.nodes, window, factor=factor)
            for place, at in enumerate(drawn.at_s.tolist()):
                wait = begin + at - playing.now
                if wait > 0:
                    yield playing.env.timeout(wait)
                self._strike(state, model, drawn, place)
            begin += window
            if begin >= horizon_s:
                return
            yield playing.env.timeout(begin - playing.now)

    def _strike(
        self, state: PoolState, model: FailureModel, drawn: FailureEvents, place: int
    ) -> None:
        """Let one event happen: nodes get slow, or jobs stop and nodes go out."""
        playing = self._playing
        playing.events += 1
        first = int(drawn.first_node[place])
        nodes = range(first, first + int(drawn.nodes[place]))
        slowdown, out_s = float(drawn.slowdown[place]), float(drawn.out_s[place])
        component = model.causes[int(drawn.cause[place])].component
        if slowdown > 0.0:
            slow = state.thin if component == LINK else state.slow
            self.slow_down(state, slow, nodes, slowdown, out_s)
            return
        struck = [node for node in nodes if node not in state.nodes.out]
        victims = sorted({run.index: run for node in struck for run in state.tenants[node]}.items())
        lost_here = [(run, sum(node in struck for node, _ in run.allocation)) for _, run in victims]
        for run, lost in lost_here:
            self._interrupt(run, lost if out_s else 0, component, model)
        if out_s:
            self._take_out(state, struck, out_s)
        for run, _ in lost_here:
            # who was struck goes on at once where there is room, before those that wait
            if state.nodes.fits(run.accelerators):
                playing.seat(run, state, run.accelerators)
            else:
                playing.enqueue(run)
        playing.wake()

    def _interrupt(self, run: Run, lost_nodes: int, component: str, model: FailureModel) -> None:
        playing = self._playing
        run.advance(playing.now)
        costs = run.costs
        from_store = False
        if costs is not None and costs.in_memory and lost_nodes:
            survives = playing.fleet.checkpoints.survival(len(run.allocation), lost_nodes)
            from_store = bool(self._rng.random() >= survives)
        run.lose(from_store=from_store)
        run.lost_events += 1
        reason = "reclaimed" if component == PROVIDER else "failed"
        playing.leave(run, reason, planned=False)
        load_s = 0.0
        if costs is not None:
            load_s = costs.store_load_s if from_store else costs.load_s
        run.load_s = model.restart_s(run.accelerators) + load_s

    def _take_out(self, state: PoolState, nodes: list[int], out_s: float) -> None:
        """Put nodes out of use for a time; a spare takes the place of each while there are any."""
        state.tick(self._playing.now)
        for node in nodes:
            state.nodes.remove(node)
            state.broken += state.pool.per_node
            if state.spares:
                state.nodes.restore(state.spares.pop())
        if nodes:
            self._playing.later(out_s, lambda: self._repair(state, nodes))

    def _repair(self, state: PoolState, nodes: list[int]) -> None:
        self._playing.events += 1
        state.tick(self._playing.now)
        for node in nodes:
            state.broken -= state.pool.per_node
            if len(state.spares) < state.spares_wanted:
                state.spares.append(node)
            else:
                state.nodes.restore(node)
        self._playing.wake()

    def slow_down(
        self,
        state: PoolState,
        slow: dict[int, list[float]],
        nodes: Iterable[int],
        share: float,
        seconds: float,
    ) -> None:
        """Let nodes lose a share of their speed (``state.slow``) or bandwidth (``state.thin``)."""
        nodes = list(nodes)
        for node in nodes:
            slow.setdefault(node, []).append(share)
            self._respeed(state, node)
        self._playing.later(seconds, lambda: self._recover(state, slow, nodes, share))

    def _recover(
        self, state: PoolState, slow: dict[int, list[float]], nodes: list[int], share: float
    ) -> None:
        for node in nodes:
            slow[node].remove(share)
            if not slow[node]:
                del slow[node]
            self._respeed(state, node)

    def _respeed(self, state: PoolState, node: int) -> None:
        """Let the jobs of a node go on at the speed that they now have."""
        playing = self._playing
        for run in state.tenants[node]:
            speed = state.node_speed(run)
            if speed != run.speed:
                run.advance(playing.now)
                run.set_speed(speed)
                state.forget_end(run)
                playing.plan_end(run, state)
                playing.services.respeeded(run)
