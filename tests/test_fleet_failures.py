"""Struck jobs and slow nodes to the second, and every accelerator-second under every policy."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_fleet import Scripted
from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy, Tiers
from ridgeline.simulator.fleet.failures import Cause, FailureModel, slow_links, spot_reclaims
from ridgeline.simulator.fleet.fleetfile import read_fleet
from ridgeline.simulator.fleet.play import Playing
from ridgeline.simulator.fleet.results import play_fleet
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool, Rates, Service

POLICIES = ("fifo", "priority", "srpt", "easy", "fair", "spot", "elastic")
BROKEN = Cause(name="broken", component="accelerator", per_node_day=0.0, out_s=1.0)
EVERY_100_S = CheckpointPolicy(
    interval=100.0, tiers=Tiers(gpu_to_host_bytes_per_s=1e9, store_bytes_per_s=1e9)
)
"""Of 10 GB: a pause of 10 s."""


def struck(policy: str, *, nodes: int = 2, spares: float = 0.0) -> Playing:
    """Play a job of 8 or 16 accelerators whose second node breaks at 275 s."""
    model = Scripted(causes=(BROKEN,), script=((275.0, 1, 1e6),), spare_fraction=spares)
    rates = Rates(counts=(8, 16), per_s=(1.0, 2.0), checkpoint_bytes=10e9)
    job = Job(name="a", work=1000.0, rates={"p": rates}, accelerators=16)
    pool = Pool(name="p", accelerator="h100-sxm", nodes=nodes, failures=model)
    fleet = Fleet(
        name="f", pools=(pool,), jobs=(job,), policy=policy, checkpoints=EVERY_100_S, horizon_s=5e3
    )
    playing = Playing(fleet)
    playing.play()
    return playing


NETWORK_S = 16 * 5.0 / 2048.0


def test_an_elastic_job_loses_its_last_work_and_goes_on_smaller() -> None:
    # two cycles of 100 s of work and 10 of pause, then 55 s of work until it is struck
    playing = struck("elastic")
    run = playing.runs[0]
    assert [segment.accelerators for segment in playing.segments] == [16, 8]
    busy, slow, lost, pauses, restart = run.uses
    assert lost == pytest.approx(55.0 * 16)
    assert (slow, run.lost_events) == (0.0, 1)
    # 400 done, 600 at half the speed with a pause after every 100 s but the last
    assert run.done_at == pytest.approx(275.0 + NETWORK_S + 10.0 + 600.0 + 5 * 10.0)
    assert busy == pytest.approx(200.0 * 16 + 600.0 * 8)
    assert pauses == pytest.approx(2 * 10.0 * 16 + 5 * 10.0 * 8)
    assert restart == pytest.approx((NETWORK_S + 10.0) * 8)


def test_a_gang_waits_for_the_repair_and_a_spare_takes_its_place_at_once() -> None:
    waiting = struck("fifo")
    assert waiting.runs[0].state == "waiting"
    assert waiting.pools["p"].waiting_s == pytest.approx(8 * (5000.0 - 275.0))
    assert waiting.pools["p"].repair_s == pytest.approx(8 * (5000.0 - 275.0))
    spared = struck("fifo", nodes=3, spares=0.5)
    assert [segment.accelerators for segment in spared.segments] == [16, 16]
    assert spared.runs[0].done_at == pytest.approx(275.0 + NETWORK_S + 10.0 + 300.0 + 20.0)
    assert spared.pools["p"].spare_s == pytest.approx(8 * 275.0)


def test_a_slow_link_costs_a_job_as_much_as_it_communicates() -> None:
    # half the bandwidth, a quarter of the step exposed: 1 / (1 + 0.25) of the speed
    cause = slow_links(1.0, 0.5, 1.0, 60.0)
    model = Scripted(causes=(cause,), script=((50.0, 0, 1e6),))
    pool = Pool(name="p", accelerator="h100-sxm", nodes=2, failures=model)
    for exposed, seconds in ((0.25, 50.0 + 50.0 * 1.25), (0.0, 100.0)):
        rates = Rates(counts=(16,), per_s=(1.0,), exposed_fraction=exposed)
        job = Job(name="a", work=100.0, rates={"p": rates}, accelerators=16)
        checkpoints = CheckpointPolicy(interval=1e9)
        fleet = Fleet(name="f", pools=(pool,), jobs=(job,), checkpoints=checkpoints, horizon_s=1e3)
        played = play_fleet(fleet)
        assert played.jobs[0].done_s == pytest.approx(seconds)
        assert played.result.uses["slow"] * 16e3 == pytest.approx(16 * (seconds - 100.0), abs=1e-6)


def test_a_switch_takes_its_rack_and_memory_survives_what_the_code_tolerates() -> None:
    whole = replace(BROKEN, component="network", whole_rack=True, per_node_day=5.0)
    model = FailureModel(causes=(whole,), nodes_per_rack=4)
    rates = Rates(counts=(64,), per_s=(1.0,), checkpoint_bytes=1e12)
    job = Job(name="a", work=inf, rates={"p": rates}, accelerators=64)
    pool = Pool(name="p", accelerator="h100-sxm", nodes=8, nodes_per_rack=4, failures=model)
    coded = CheckpointPolicy(kind="in-memory", interval=60.0, data=4, parity=4)
    assert coded.survival(8, 4) == 1.0
    assert CheckpointPolicy(kind="in-memory", copies=2).survival(8, 4) == pytest.approx(16 / 70)
    lost = {}
    for name, saved in (("coded", coded), ("copies", replace(coded, data=0, parity=0))):
        one = replace(job, work=1e9)
        fleet = Fleet(
            name="f", pools=(pool,), jobs=(one,), checkpoints=saved, horizon_s=30 * 86400.0
        )
        playing = Playing(fleet)
        playing.play()
        # every failure takes four nodes of the eight
        ended = [segment for segment in playing.segments if segment.ended == "failed"]
        assert len(ended) > 50
        lost[name] = playing.runs[0].uses[2]
    # whole copies on two nodes often go together, and then the store's copy is hours old
    assert lost["copies"] > 5 * lost["coded"]


def test_a_file_reaches_all_that_can_go_wrong(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        '[checkpoint]\nkind = "in-memory"\ndata = 8\nparity = 2\npeer_gb_per_s = 25.0\n'
        "gpu_to_host_gb_per_s = 20.0\nhost_to_nvme_gb_per_s = 10.0\nstore_gb_per_s = 100.0\n"
        '[[pool]]\nname = "p"\naccelerator = "h100-sxm"\nnodes = 64\nswitch_share = 0.5\n'
        "weibull_shape = 0.7\nnew = true\nstragglers = 0.02\nslow_links_per_1000_node_days = 1.0\n"
        "reclaims_per_1000_node_days = 5.4\nreclaimed_h = 2.0\nrepair_h = 4.0\nspares = 0.05\n"
        'detect_s = 60.0\nrequeue_s = 120.0\n[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\n'
        "exposed_fraction = 0.2\n",
        encoding="utf-8",
    )
    fleet = read_fleet(path)
    (pool,) = fleet.pools
    model = pool.failures
    assert model is not None
    named = {cause.name: cause for cause in model.causes}
    assert named["slow node"].per_node_day == pytest.approx(0.02)
    assert named["slow link"].slowdown == 0.5
    assert named["spot reclaim"].out_s == 7200.0
    assert any(cause.whole_rack for cause in model.causes)
    hardware = [cause for cause in model.causes if cause.shape != 1.0]
    assert {cause.shape for cause in hardware} == {0.7}
    assert {cause.out_s for cause in hardware} == {4 * 3600.0}
    assert (model.new, model.detect_s, model.requeue_s) == (True, 60.0, 120.0)
    assert model.spare_nodes(60) == 3
    tiers = fleet.checkpoints.tiers
    assert (fleet.checkpoints.group, fleet.checkpoints.tolerated) == (10, 2)
    assert (tiers.gpu_to_host_bytes_per_s, tiers.host_to_nvme_bytes_per_s) == (20e9, 10e9)
    assert (tiers.peer_bytes_per_s, tiers.store_bytes_per_s) == (25e9, 100e9)
    assert fleet.jobs[0].rates["p"].exposed_fraction == 0.2


DRAWN = st.tuples(
    st.floats(0, 40_000), st.sampled_from((1, 3, 8, 12, 16)), st.floats(10, 30_000),
    st.integers(0, 2), st.floats(0.5, 6), st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@given(
    drawn=st.lists(DRAWN, min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(("synchronous", "asynchronous", "in-memory")),
    rate=st.sampled_from((0.0, 0.5, 5.0)),
    served=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_every_accelerator_second_is_one_of_nine(
    policy: str,
    drawn: list[tuple[float, int, float, int, float, bool]],
    seed: int,
    kind: str,
    rate: float,
    served: bool,
) -> None:
    drawn.sort(key=lambda one: one[0])
    jobs = []
    for number, (at, size, seconds, priority, slack, elastic) in enumerate(drawn):
        counts = (size, 2 * size) if elastic and size < 16 else (size,)
        rates = Rates(
            counts=counts,
            per_s=tuple(count / size for count in counts),
            checkpoint_bytes=1e11,
            exposed_fraction=0.1,
        )
        job = Job(
            name=str(number), work=seconds, rates={"p": rates}, submitted_s=at, priority=priority,
            deadline_s=at + slack * seconds, user=f"u{number % 3}", accelerators=size, start_s=30.0,
        )  # fmt: skip
        jobs.append(job)
    model = FailureModel.published(per_node_day=rate, switch_share=0.5, shape=0.8)
    causes = (*model.causes, spot_reclaims(rate / 5, 3600.0), slow_links(rate, 0.5, 1.0, 3600.0))
    model = replace(model, causes=causes, spare_fraction=0.2, requeue_s=60.0)
    pool = Pool(name="p", accelerator="h100-sxm", nodes=6, failures=model, nodes_per_rack=2)
    replica = Job(
        name="s", work=inf, rates={"p": Rates(counts=(4,), per_s=(10.0,))}, kind="service",
        priority=9, accelerators=4, start_s=60.0,
    )  # fmt: skip
    service = Service(name="s", replica=replica, traffic=(5.0, 15.0), slot_s=5_000.0)
    fleet = Fleet(
        name="f", pools=(pool,), jobs=tuple(jobs), services=(service,) if served else (),
        policy=policy, checkpoints=CheckpointPolicy(kind=kind), seed=seed, horizon_s=200_000.0,
    )  # fmt: skip
    playing = Playing(fleet, keep_nodes=True)
    playing.play()
    (state,) = playing.pools.values()
    # from the segments alone, which know nothing of how time is counted
    held = {run.index: 0.0 for run in playing.runs}
    for segment in playing.segments:
        held[segment.job] += (segment.end_s - segment.start_s) * segment.accelerators
    for run in playing.runs:
        assert sum(run.uses) == pytest.approx(held[run.index], rel=1e-9, abs=1e-6)
        assert min(run.uses) >= -1e-6
        if run.state == "done" and len(run.job.rates["p"].counts) == 1:
            # work that lasts is the job's, however often it was struck
            assert run.uses[0] == pytest.approx(run.job.work * run.accelerators, rel=1e-9)
    assert state.held_s == pytest.approx(sum(held.values()), rel=1e-9, abs=1e-6)
    free = state.repair_s + state.spare_s + state.waiting_s + state.idle_s
    assert state.held_s + free == pytest.approx(48 * playing.now, rel=1e-9)
    waited = sum(run.waited_s for run in playing.runs)
    assert playing.queue_integral_s == pytest.approx(waited, rel=1e-9, abs=1e-6)
    for desk in playing.services.desks.values():
        assert desk.asked == pytest.approx(10.0 * playing.now)
        assert 0.0 <= desk.served <= desk.asked
        assert desk.up_s * 4 <= sum(held.values()) + 1e-6
    changes: dict[int, list[tuple[float, int]]] = {}
    for segment in playing.segments:
        # an elastic job may be resized twice in one moment: it holds the first share for no time
        for node, count in segment.nodes if segment.end_s > segment.start_s else ():
            changes.setdefault(node, []).extend([(segment.start_s, count), (segment.end_s, -count)])
    for events in changes.values():
        on_node = 0
        for _, change in sorted(events):
            on_node += change
            assert 0 <= on_node <= 8
