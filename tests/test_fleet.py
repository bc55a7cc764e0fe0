"""Fleets against queueing theory, a slow twin, and what must hold of every run."""

from __future__ import annotations

from dataclasses import replace
from math import factorial, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_fleet import fifo_ends, restored
from ridgeline.errors import InputError
from ridgeline.simulator.fleet.checkpoints import CheckpointCosts, CheckpointPolicy
from ridgeline.simulator.fleet.checks import mistakes
from ridgeline.simulator.fleet.failures import FailureModel, spot_reclaims
from ridgeline.simulator.fleet.many import interval, play_many
from ridgeline.simulator.fleet.placement import Nodes
from ridgeline.simulator.fleet.play import Playing
from ridgeline.simulator.fleet.results import Played, play_fleet
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool, Rates
from ridgeline.simulator.fleet.state import USES, Run
from ridgeline.simulator.fleet.strikes import Strikes
from ridgeline.simulator.fleet.timeline import perfetto, rows

POLICIES = ("fifo", "priority", "srpt", "easy", "fair", "spot", "elastic")


def gang(*counts: int, pool: str = "p") -> dict[str, Rates]:
    """Work goes as fast as there are accelerators, 1 on the fewest."""
    return {pool: Rates(counts=counts, per_s=tuple(n / counts[0] for n in counts))}


def fleet_of(jobs: list[Job], *, nodes: int = 1, per_node: int = 8, **more: object) -> Fleet:
    pool = Pool(name="p", accelerator="h100-sxm", nodes=nodes, per_node=per_node)
    return replace(Fleet(name="test", pools=(pool,), jobs=tuple(jobs)), **more)  # type: ignore[arg-type]


def poisson(n: int, rate: float, seconds: np.ndarray, seed: int = 1) -> list[Job]:
    at = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, n)).tolist()
    one = gang(1)
    return [
        Job(name=str(k), work=float(seconds[k]), rates=one, submitted_s=at[k]) for k in range(n)
    ]


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (4, 0.7), (8, 0.6)])
def test_mmc_waits_are_erlangs(servers: int, load: float) -> None:
    # Erlang C: W = C(c, a) / (c mu - lambda), a = lambda / mu
    a = servers * load
    tail = a**servers / factorial(servers) / (1 - load)
    delayed = tail / (sum(a**k / factorial(k) for k in range(servers)) + tail)
    n = 60_000
    jobs = poisson(n, a, np.random.default_rng(5).exponential(1.0, n))
    result = play_fleet(fleet_of(jobs, per_node=servers)).result
    assert result.mean_wait_s == pytest.approx(delayed / (servers - a), rel=0.06)
    assert result.utilisation == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize("law", ["fixed", "uniform", "lognormal"])
def test_mg1_waits_are_pollaczeks_and_khinchines(law: str) -> None:
    # W = lambda E[S^2] / (2 (1 - rho))
    n, rate, rng = 60_000, 0.6, np.random.default_rng(9)
    draws = {
        "fixed": (np.full(n, 1.0), 1.0),
        "uniform": (rng.uniform(0, 2, n), 4 / 3),
        "lognormal": (rng.lognormal(-0.125, 0.5, n), np.exp(0.25)),
    }
    seconds, second_moment = draws[law]
    result = play_fleet(fleet_of(poisson(n, rate, seconds), per_node=1)).result
    assert result.mean_wait_s == pytest.approx(rate * second_moment / (2 * (1 - rate)), rel=0.06)


def test_srpt_waits_are_schrages_and_less_than_fifos() -> None:
    n, rng = 20_000, np.random.default_rng(2)
    jobs = poisson(n, 0.8, rng.exponential(1.0, n))
    fifo = play_fleet(fleet_of(jobs, per_node=1)).result
    srpt = play_fleet(fleet_of(jobs, per_node=1, policy="srpt")).result
    # M/M/1 at load 0.8: FIFO 1 / (1 - 0.8) = 5; SRPT after Schrage and Miller 1966
    assert fifo.mean_jct_s == pytest.approx(5.0, rel=0.1)
    assert srpt.mean_jct_s == pytest.approx(_schrage(0.8), rel=0.05)
    assert srpt.makespan_s == pytest.approx(fifo.makespan_s)


def _schrage(load: float) -> float:
    """Mean response of M/M/1 under SRPT, E[S] = 1: integral of E[T(x)] f(x) dx."""
    x = np.linspace(1e-6, 40.0, 400_001)
    f, over = np.exp(-x), np.exp(-x)
    step = x[1] - x[0]
    below = load * np.cumsum(x * f) * step
    second = np.cumsum(x**2 * f) * step
    wait = load * (second + x**2 * over) / (2 * (1 - below) ** 2)
    stay = np.cumsum(1 / (1 - below)) * step
    return float(np.sum((wait + stay) * f) * step)


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 8), st.floats(0.1, 50)), min_size=1, max_size=25
    )
)
@settings(deadline=None, max_examples=50)
def test_fifo_is_its_slow_twin(drawn: list[tuple[float, int, float]]) -> None:
    drawn.sort(key=lambda one: one[0])
    jobs = [
        Job(name=str(k), work=s, rates=gang(n), submitted_s=at, accelerators=n)
        for k, (at, n, s) in enumerate(drawn)
    ]
    played = play_fleet(fleet_of(jobs))
    assert [job.done_s for job in played.jobs] == pytest.approx(fifo_ends(drawn, 8))


COSTS = CheckpointCosts(
    interval_s=10.0, pause_s=1.0, lag_s=4.0, load_s=0.0, store_every=1, store_lag_s=4.0,
    store_load_s=0.0, in_memory=False, host_bytes=0.0,
)  # fmt: skip


@given(
    wall=st.floats(0.01, 500.0),
    cut=st.floats(0.0, 1.0),
    speed=st.sampled_from([1.0, 0.5, 0.97]),
)
@settings(deadline=None, max_examples=100)
def test_lost_work_is_what_a_walk_through_the_cycles_loses(
    wall: float, cut: float, speed: float
) -> None:
    run = Run(0, Job(name="a", work=1e6, rates=gang(2)))
    run.costs, run.accelerators, run.rate, run.speed = COSTS, 2, 1.0, speed
    run.advance(cut * wall)
    run.advance(wall)
    done, pauses, kept = restored(COSTS, speed, wall)
    assert run.nominal_s() == pytest.approx(done, abs=1e-6)
    assert run.uses[3] == pytest.approx(2 * pauses, abs=1e-6)
    lost = run.lose(from_store=False)
    # at the very moment that a checkpoint is there, rounding decides
    length = COSTS.interval_s / speed + COSTS.pause_s
    if min((wall - COSTS.lag_s) % length, length - (wall - COSTS.lag_s) % length) > 1e-6:
        assert lost == pytest.approx(done - kept, abs=1e-6)
        assert run.base == pytest.approx(kept, abs=1e-6)
    assert sum(run.uses) == pytest.approx(2 * wall)


def busy_fleet(policy: str, seed: int, *, spot: bool = False, placement: str = "packed") -> Fleet:
    rng = np.random.default_rng(seed)
    model = FailureModel.published(per_node_day=0.2, switch_share=0.5)
    model = replace(model, requeue_s=60.0, spare_fraction=0.1)
    if spot:
        model = replace(model, causes=(*model.causes, spot_reclaims(0.5, 3600.0)))
    jobs = []
    for k in range(60):
        n = int(rng.choice([1, 2, 4, 8, 12, 16, 32]))
        rates = gang(n, 2 * n)["p"]
        jobs.append(
            Job(
                name=str(k),
                work=float(rng.exponential(20_000)),
                rates={"p": replace(rates, checkpoint_bytes=1e11, exposed_fraction=0.1)},
                submitted_s=float(k * 1000),
                user=f"u{k % 3}",
                priority=k % 2,
                deadline_s=float(k * 1000 + rng.exponential(80_000)),
                start_s=30.0,
                accelerators=n,
            )
        )
    pool = Pool(
        name="p", accelerator="h100-sxm", nodes=10, pod_oversubscription=2.0, racks_per_pod=1,
        failures=model, usd_per_accelerator_hour=2.0, spot=spot,
    )  # fmt: skip
    return Fleet(
        name="busy", pools=(pool,), jobs=tuple(jobs), policy=policy, seed=seed, placement=placement,
        checkpoints=CheckpointPolicy(kind="in-memory" if seed % 2 else "synchronous"),
    )  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("placement", ["packed", "spread"])
def test_every_second_of_every_accelerator_is_accounted_once(policy: str, placement: str) -> None:
    for seed in (1, 2):
        playing = Playing(
            busy_fleet(policy, seed, spot=policy == "spot", placement=placement), keep_nodes=True
        )
        playing.play()
        (state,) = playing.pools.values()
        held = sum(sum(run.uses) for run in playing.runs)
        assert held == pytest.approx(state.held_s, rel=1e-9)
        parts = held + state.repair_s + state.spare_s + state.waiting_s + state.idle_s
        assert parts == pytest.approx(80 * playing.now, rel=1e-9)
        assert all(value >= -1e-6 for run in playing.runs for value in run.uses)
        _nobody_shares(playing)
        # Little's law: L = lambda W, as an identity over the whole run
        waited = sum(run.waited_s for run in playing.runs)
        assert playing.queue_integral_s == pytest.approx(waited, rel=1e-9, abs=1e-6)
        assert policy == "elastic" or sum(run.lost_events for run in playing.runs) > 0


def _nobody_shares(playing: Playing) -> None:
    """No accelerator has two jobs: each node never holds more than it has."""
    changes: dict[int, list[tuple[float, int]]] = {}
    for segment in playing.segments:
        assert sum(count for _, count in segment.nodes) == segment.accelerators
        for node, count in segment.nodes:
            changes.setdefault(node, []).extend([(segment.start_s, count), (segment.end_s, -count)])
    for events in changes.values():
        held = 0
        for _, change in sorted(events):
            held += change
            assert held <= 8
        assert held == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_work_is_conserved_and_results_add_up(policy: str) -> None:
    played = play_fleet(busy_fleet(policy, 3))
    result = played.result
    assert sum(result.uses.values()) == pytest.approx(1.0)
    assert set(result.uses) == set(USES)
    assert sum(result.states.values()) == 60
    done = [job for job in played.jobs if job.state == "done"]
    assert done
    assert result.ettr <= 1.0
    assert result.goodput <= result.utilisation <= 1.0
    assert result.cost_usd == pytest.approx(80 * result.span_s / 3600 * 2.0)
    if policy != "elastic":
        # busy time is the work done at full speed; links between pods make it at most twice that
        least = sum(
            played.fleet.jobs[k].work * played.fleet.jobs[k].accelerators for k in range(60)
        )
        busy = result.uses["busy"] * 80 * result.span_s
        assert least * (1 - 1e-9) <= busy <= 2 * least


def test_the_same_seed_gives_the_same_answer_on_any_workers() -> None:
    fleet = busy_fleet("easy", 4)
    assert play_fleet(fleet) == play_fleet(fleet)
    assert play_fleet(fleet).result != play_fleet(fleet, seed=5).result
    one, two = play_many(fleet, 3, workers=1), play_many(fleet, 3, workers=2)
    assert one == two
    assert one.complete
    for value in one.figures.values():
        assert value.low <= value.mean <= value.high


def test_an_interval_is_students() -> None:
    # 1, 2, 3: mean 2, s = 1, t(2 degrees) = 4.303
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.high) == (2.0, pytest.approx(2.0 + 4.303 / 3**0.5))


def test_backfill_fills_without_delaying_the_first() -> None:
    def job(name: str, count: int, hours: float, at: float) -> Job:
        return Job(name=name, work=hours, rates=gang(count), submitted_s=at, accelerators=count)

    jobs = [job("a", 6, 10, 0), job("big", 8, 5, 1), job("fits", 2, 9, 2), job("long", 2, 9.5, 3)]
    fifo = {one.name: one.started_s for one in play_fleet(fleet_of(jobs)).jobs}
    easy = {one.name: one.started_s for one in play_fleet(fleet_of(jobs, policy="easy")).jobs}
    assert fifo == {"a": 0.0, "big": 10.0, "fits": 15.0, "long": 15.0}
    # "fits" would end at 11, after the reservation at 10, and there is nothing to spare beside it
    assert easy == fifo
    jobs[2] = job("fits", 2, 8, 2)
    easy = {one.name: one.started_s for one in play_fleet(fleet_of(jobs, policy="easy")).jobs}
    assert easy == {"a": 0.0, "big": 10.0, "fits": 2.0, "long": 15.0}


def test_priority_preempts_and_the_victim_loses_nothing() -> None:
    low = Job(name="low", work=10.0, rates=gang(8), accelerators=8)
    high = Job(name="high", work=3.0, rates=gang(8), submitted_s=4.0, priority=1, accelerators=8)
    played = play_fleet(fleet_of([low, high], policy="priority"))
    assert [job.done_s for job in played.jobs] == [13.0, 7.0]
    assert played.result.preemptions == 1


def test_fair_share_gives_turns() -> None:
    one = gang(8)
    jobs = [Job(name=f"a{k}", work=10.0, rates=one, user="a", accelerators=8) for k in range(4)]
    jobs += [Job(name="b", work=10.0, rates=one, user="b", accelerators=8)]
    played = play_fleet(fleet_of(jobs, policy="fair"))
    assert {job.name: job.done_s for job in played.jobs}["b"] == 20.0


def test_elastic_grows_into_free_room_and_meets_deadlines_that_a_gang_misses() -> None:
    jobs = [
        Job(name="a", work=80.0, rates=gang(1, 2, 4, 8), deadline_s=1000.0),
        Job(name="tight", work=16.0, rates=gang(1, 2, 4, 8), submitted_s=1.0, deadline_s=6.0),
        Job(name="hopeless", work=1e4, rates=gang(1, 2, 4, 8), submitted_s=1.0, deadline_s=6.0),
    ]
    played = play_fleet(fleet_of(jobs, policy="elastic"))
    assert [job.state for job in played.jobs] == ["done", "done", "dropped"]
    assert [job.deadline_met for job in played.jobs] == [True, True, False]
    # 96 accelerator-seconds of work on 8 take 12 s when nothing is idle
    assert played.result.makespan_s == pytest.approx(12.0)
    fifo = play_fleet(fleet_of(jobs))
    assert fifo.result.deadlines_met < played.result.deadlines_met


def test_dependencies_budgets_and_horizons() -> None:
    one = gang(4)
    jobs = [
        Job(name="first", work=5.0, rates=one, accelerators=4),
        Job(name="then", work=5.0, rates=one, after=(0,), accelerators=4),
        Job(name="dear", work=7200.0, rates=one, budget_usd=4.0, accelerators=4),
    ]
    fleet = fleet_of(jobs)
    fleet = replace(fleet, pools=(replace(fleet.pools[0], usd_per_accelerator_hour=1.0),))
    played = play_fleet(fleet)
    assert played.jobs[1].started_s == 5.0
    assert played.jobs[2].state == "out of budget"
    assert played.jobs[2].usd == pytest.approx(4.0)
    cut = play_fleet(replace(fleet, horizon_s=100.0))
    assert cut.result.span_s == 100.0
    assert cut.jobs[2].state == "running"


def test_spot_is_taken_first_and_left_when_the_deadline_nears() -> None:
    pools = (
        Pool(name="own", accelerator="h100-sxm", nodes=1, usd_per_accelerator_hour=3.0),
        Pool(name="spot", accelerator="h100-sxm", nodes=1, usd_per_accelerator_hour=1.0, spot=True),
    )
    rates = {**gang(8, pool="own"), **gang(8, pool="spot")}
    jobs = (
        Job(name="calm", work=100.0, rates=rates, accelerators=8),
        Job(name="urgent", work=100.0, rates=rates, accelerators=8, deadline_s=110.0),
    )
    fleet = Fleet(name="spot", pools=pools, jobs=jobs, policy="spot")
    played = play_fleet(fleet)
    assert [segment.pool for segment in sorted(played.segments, key=lambda s: s.job)] == [1, 0]
    assert all(job.done_s == 100.0 for job in played.jobs)


def test_gangs_are_packed_or_spread_and_fragments_keep_whole_nodes_out() -> None:
    packed = Nodes(8, 8, 2, 4, packed=True)
    spread = Nodes(8, 8, 2, 4, packed=False)
    assert packed.span(packed.take(32)) == (2, 1)
    assert spread.span(spread.take(32)) == (2, 2)
    nodes = Nodes(2, 8, 2, 2, packed=False)
    first, second = nodes.take(1), nodes.take(1)
    assert {first[0][0], second[0][0]} == {0, 1}
    assert nodes.total_free == 14
    assert not nodes.fits(8)
    nodes.give(second)
    assert nodes.fits(8)


def test_a_straggler_slows_its_job_and_a_thin_link_its_gang() -> None:
    fleet = fleet_of([Job(name="a", work=100.0, rates=gang(8), accelerators=8)])
    playing = Playing(fleet)
    state = playing.pools["p"]
    Strikes(playing).slow_down(state, state.slow, [0], 0.5, 100.0)
    playing.play()
    # 100 s at half speed, then 50 at full
    assert playing.runs[0].done_at == pytest.approx(150.0)
    assert playing.runs[0].uses[1] == pytest.approx(8 * 50.0)
    rates = {"p": replace(gang(16)["p"], exposed_fraction=0.25)}
    pool = Pool(
        name="p", accelerator="h100-sxm", nodes=2, nodes_per_rack=1, rack_oversubscription=3.0
    )
    one = Fleet(
        name="l", pools=(pool,), jobs=(Job(name="a", work=100.0, rates=rates, accelerators=16),)
    )
    assert play_fleet(one).jobs[0].done_s == pytest.approx(150.0)


def test_what_cannot_be_played_is_refused_with_reasons() -> None:
    jobs = [
        Job(name="huge", work=1.0, rates=gang(64), accelerators=64),
        Job(name="a", work=1.0, rates=gang(1), after=(2,)),
        Job(name="b", work=1.0, rates=gang(1), after=(1,)),
    ]
    lines = mistakes(fleet_of(jobs))
    assert lines == [
        (
            "job 'huge': needs 64 accelerators, and pool 'p' has 8 beside spares; shrink it or "
            "name another pool"
        ),
        "job 'a': waits for itself: a -> b -> a",
    ]
    for policy in ("fiffo", "nowhere:Class", "math:inf"):
        with pytest.raises(InputError, match="policy"):
            Playing(fleet_of([], policy=policy))
    with pytest.raises(InputError, match="unknown option"):
        Playing(fleet_of([], policy="easy", options={"dept": 1.0}))
    with pytest.raises(InputError, match="at least 2"):
        play_many(fleet_of([]), 1)


def test_a_users_own_policy_and_an_interrupt() -> None:
    one = gang(8)
    jobs = [
        Job(name=str(k), work=3600.0, rates=one, submitted_s=float(k), accelerators=8)
        for k in range(4)
    ]
    played = play_fleet(fleet_of(jobs, policy="naive_fleet:LastFirst"))
    assert [job.done_s for job in played.jobs] == [3600.0, 4 * 3600.0, 3 * 3600.0, 2 * 3600.0]
    half = play_fleet(fleet_of(jobs, policy="naive_fleet:Impatient", options={"after_h": 1.5}))
    assert not half.result.complete
    assert half.result.states == {"done": 2, "waiting": 2}
    assert sum(half.result.uses.values()) == pytest.approx(1.0)


def test_timelines_show_every_segment_once() -> None:
    played: Played = play_fleet(busy_fleet("easy", 6), keep_nodes=True)
    trace = perfetto(played)
    bars = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(bars) == sum(len(segment.nodes) for segment in played.segments)
    # slices of a thread must not overlap, and every thread says which node it is
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for bar in bars:
        lane = (bar["pid"], bar["tid"])
        threads.setdefault(lane, []).append((bar["ts"], bar["ts"] + bar["dur"]))
    for slices in threads.values():
        slices.sort()
        ends, starts = slices[:-1], slices[1:]
        assert all(
            end[1] <= start[0] * (1 + 1e-12) for end, start in zip(ends, starts, strict=True)
        )
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert named == set(threads)
    area = sum((end - start) * count for start, end, _, count, _ in rows(played))
    held = sum((s.end_s - s.start_s) * s.accelerators for s in played.segments)
    assert area == pytest.approx(held)


def test_no_failures_lose_nothing_and_infinite_work_needs_a_horizon() -> None:
    fleet = fleet_of([Job(name="a", work=inf, rates=gang(8), accelerators=8)], horizon_s=10.0)
    result = play_fleet(fleet).result
    assert result.uses["busy"] == pytest.approx(1.0)
    assert result.ettr == 1.0
