"""Several models on one fleet: turns against a request-by-request twin, covers by brute force."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import naive_placement
from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import weight_bytes
from ridgeline.simulator.serving.choice.goals import parse_goals
from ridgeline.simulator.serving.deployment import Deployment, make_pools
from ridgeline.simulator.serving.placement.cover import cheapest_cover
from ridgeline.simulator.serving.placement.options import (
    ALONE,
    RELEASED,
    TURNS,
    Option,
    options_of,
)
from ridgeline.simulator.serving.placement.place import place_models
from ridgeline.simulator.serving.placement.question import FleetQuestion, read_models
from ridgeline.simulator.serving.placement.turns import Guest, take_turns
from ridgeline.simulator.serving.play import Pool, play_pools
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import gamma_arrivals, make_traffic
from ridgeline.workloads.traffic.traffic import Traffic

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "fleet_ten_models.toml"

FILE = """
[fleet]
on = ["h100-sxm", "l40s"]
duration_s = 120
wake_s = 0.5
most_together = 3
release_after_s = 20
max_accelerators = 8
[[model]]
name = "a"
model = "llama3-8b"
request_rate = 0.03
input_len = 300
output_len = 50
tp = [1]
pp = [1]
slo = "latency=30s"
[[model]]
name = "b"
model = "llama3.2-1b"
request_rate = 0.05
input_len = 300
output_len = 50
tp = [1]
pp = [1]
slo = "latency=30s"
[[model]]
name = "c"
model = "llama3-8b"
request_rate = 1
input_len = 300
output_len = 50
tp = [1]
pp = [1]
slo = "ttft=500ms,tpot=40ms"
"""


def one_pool(name: str = "llama3-8b") -> Pool:
    service = Service(model=load_model(name), cluster=make_cluster("1xh100-sxm"), engine="vllm")
    return make_pools([Deployment(service=service)])[0]


POOL = one_pool()
SINGLE = replace(
    POOL,
    policy=replace(POOL.policy, max_sequences=1),
    tables=replace(POOL.tables, front_s=0.0, front_serial_s=0.0),
)
"""One request at a time, without the front end that overlaps with the next one."""


def spaced(times: list[float]) -> Traffic:
    return make_traffic(times, [200] * len(times), [20] * len(times))


def question(tmp_path: Path, text: str = FILE) -> FleetQuestion:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return read_models(path)


# --- turns ------------------------------------------------------------------------------------


def test_one_guest_without_a_load_is_the_engine_itself() -> None:
    times = gamma_arrivals(3.0, 200, seed=3)
    traffic = make_traffic(times, [400] * 200, [60] * 200)
    turns = take_turns([Guest(pool=POOL, traffic=traffic, load_s=0.0)])
    played = play_pools((POOL,), traffic)
    assert turns is not None
    stay = turns.stays[0]
    np.testing.assert_allclose(stay.ttft_s, played.ttft_s, rtol=1e-9)
    np.testing.assert_allclose(stay.latency_s, played.latency_s, rtol=1e-9)
    np.testing.assert_allclose(stay.tpot_s, played.tpot_s, rtol=1e-9)


def test_far_apart_each_waits_for_its_load_and_a_neighbour_does_not() -> None:
    alone = float(play_pools((POOL,), spaced([0.0])).latency_s[0])
    first = Guest(pool=POOL, traffic=spaced([10.0, 50.0, 60.0]), load_s=2.0)
    second = Guest(pool=POOL, traffic=spaced([30.0]), load_s=3.0)
    turns = take_turns([first, second])
    assert turns is not None
    mine, other = turns.stays
    # A loads, B loads, A loads again and is still there for its third
    np.testing.assert_allclose(mine.latency_s, [2.0 + alone, 2.0 + alone, alone])
    np.testing.assert_allclose(other.latency_s, [3.0 + alone])
    assert (mine.loads, mine.cold, other.loads) == (2, 2, 1)


def test_released_accelerators_are_paid_for_while_they_work_and_wait() -> None:
    alone = float(play_pools((POOL,), spaced([0.0])).latency_s[0])
    guest = Guest(pool=POOL, traffic=spaced([10.0, 15.0, 100.0]), load_s=2.0)
    turns = take_turns([guest], release_after_s=20.0, start_up_s=7.0)
    assert turns is not None
    stay = turns.stays[0]
    # the second comes while the first's machine is still on its way
    np.testing.assert_allclose(stay.latency_s[2], 9.0 + alone)
    assert stay.loads == 2
    both = float(play_pools((POOL,), spaced([0.0, 0.0])).end_time_s)
    held = (9.0 + both + 20.0) + (9.0 + alone + 20.0)
    assert turns.on_s == pytest.approx(held)


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_those_of_requests_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    guests = []
    for load_s in (1.5, 0.7, 2.5):
        times = np.sort(rng.uniform(0.0, 60.0, 12))
        traffic = make_traffic(times, rng.integers(50, 900, 12), rng.integers(2, 120, 12))
        guests.append(Guest(pool=SINGLE, traffic=traffic, load_s=load_s))
    turns = take_turns(guests)
    assert turns is not None
    slow = naive_placement.turns_one_by_one(guests)
    for guest, stay, ends in zip(guests, turns.stays, slow, strict=True):
        np.testing.assert_allclose(stay.latency_s, np.array(ends) - guest.traffic.arrival_s)


def test_a_broken_promise_ends_the_play() -> None:
    goals = parse_goals("ttft=1s@p100")
    guest = Guest(pool=POOL, traffic=spaced([1.0, 2.0]), load_s=5.0, goals=goals)
    assert take_turns([guest]) is None
    assert take_turns([replace(guest, load_s=0.1)]) is not None


# --- covers -----------------------------------------------------------------------------------


def option(members: set[int], kind: int, accelerators: int, price: float, way: str) -> Option:
    share = 0.3 if way == RELEASED else 1.0
    return Option(
        members=frozenset(members),
        way=way,
        kind=kind,
        accelerators=accelerators,
        on_share=share,
        usd_per_hour=price * accelerators * share,
        kept=(),
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_cover_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = int(rng.integers(1, 7))
    prices = [float(price) for price in rng.uniform(1.0, 4.0, 2)]
    options = []
    for _ in range(40):
        size = 1 if rng.random() < 0.5 else int(rng.integers(1, models + 1))
        members = {int(m) for m in rng.choice(models, size, replace=False)}
        way = TURNS if size > 1 else str(rng.choice([ALONE, RELEASED]))
        kind = int(rng.integers(0, 2))
        options.append(option(members, kind, int(2 ** rng.integers(0, 4)), prices[kind], way))
    limits, most = [int(rng.integers(4, 17)), 16], 20

    def rent(kind: int, held: int) -> int:
        whole = 1 << (held - 1).bit_length() if held < 8 else -(-held // 8) * 8
        return held if kind else whole

    arguments = (models, options, prices, limits, most, rent)
    found = cheapest_cover(*arguments)
    least = naive_placement.cheapest_usd(*arguments)
    if found is None:
        assert math.isinf(least)
        return
    assert found.usd_per_hour == pytest.approx(least, rel=1e-12)
    assert sorted(m for one in found.options for m in one.members) == list(range(models))


def test_a_small_fleet_is_placed_like_every_partition_tried(tmp_path: Path) -> None:
    asked = question(tmp_path)
    found = place_models(asked)
    options = options_of(asked)

    def rent(kind: int, held: int) -> int:
        return next(n for n in (1, 2, 4, 8) if n >= held)

    prices = [kind.usd_per_hour for kind in options.kinds]
    least = naive_placement.cheapest_usd(3, options.options, prices, [8, 8], 8, rent)
    assert found.usd_per_hour == pytest.approx(least)
    assert found.alone_usd_per_hour is not None
    assert found.usd_per_hour < found.alone_usd_per_hour
    for group in found.groups:
        for kept in group.models:
            assert kept.headroom >= 1.0
    # every group of the answer keeps its promises when it is played again by itself
    turns = [group for group in found.groups if group.way == TURNS]
    assert turns
    for group in turns:
        guests = []
        for kept in group.models:
            tenant = next(one for one in asked.tenants if one.name == kept.name)
            service = Service(
                model=tenant.space.model,
                cluster=make_cluster(f"1x{group.accelerator}"),
                engine="vllm",
                limits=replace(
                    tenant.space.limits,
                    max_sequences=kept.pool.max_sequences,
                    max_tokens=kept.pool.max_tokens,
                ),
            )
            link = service.cluster.accelerator.host_bytes_per_s
            load_s = 0.5 + weight_bytes(make_shape(service)) / link
            assert kept.load_s == pytest.approx(load_s)
            pool = make_pools([Deployment(service=service)])[0]
            guests.append(
                Guest(
                    pool=pool,
                    traffic=tenant.demand.traffic,
                    load_s=load_s,
                    goals=tenant.demand.goals,
                )
            )
        assert take_turns(guests) is not None


def test_quicker_loads_and_more_ways_are_never_dearer(tmp_path: Path) -> None:
    base = place_models(question(tmp_path)).usd_per_hour
    fewer = FILE.replace("most_together = 3", "most_together = 1")
    assert place_models(question(tmp_path, fewer)).usd_per_hour >= base
    slow = FILE.replace("wake_s = 0.5", "wake_s = 60.0")
    assert place_models(question(tmp_path, slow)).usd_per_hour >= base


def test_prices_of_kinds_decide(tmp_path: Path) -> None:
    text = '[fleet]\nusd_per_hour = { "h100" = 0.01, "l40s" = 5.0 }\n'
    found = place_models(question(tmp_path, FILE.replace("[fleet]\n", text)))
    assert {group.accelerator for group in found.groups} == {"h100-sxm"}
    assert found.usd_per_hour <= 0.03
    few = text + 'available = { "h100" = 0 }\n'
    found = place_models(question(tmp_path, FILE.replace("[fleet]\n", few)))
    assert {group.accelerator for group in found.groups} == {"l40s"}


# --- the file and the command -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('on = ["h100-sxm", "l40s"]', "", "fleet.on: missing"),
        ('"l40s"]', '"h100"]', "names an accelerator twice"),
        ("wake_s = 0.5", "wakes = 1", "fleet.wakes: unknown; did you mean 'wake_s'?"),
        ('name = "b"', 'name = "a"', "model 'a': stands there twice"),
        ("tp = [1]", "tp = [3]", "model 'a'.tp = [3]: must be powers of two"),
        ('model = "llama3.2-1b"', 'model = "llama3.2-2b"', "model 'b'.model"),
        ("request_rate = 1\n", "request_rte = 1\n", "model 'c'.request_rte: unknown"),
        ('slo = "latency=30s"', "", "model 'a'.slo: missing"),
        ("request_rate = 1\n", "request_rate = -1.0\n", "model 'c'.request_rate"),
        ('slo = "ttft=500ms,tpot=40ms"', 'slo = "tpot=40ms"', "says nothing of waiting"),
        ("max_accelerators = 8", "max_accelerators = 0", "fleet.max_accelerators = 0"),
        ("[fleet]", '[fleet]\nusd_per_hour = { "b200" = 3.0 }', "is not in fleet.on"),
        ("[fleet]", '[fleet]\navailable = { "h1000" = 3 }', "fleet.available"),
        ("[fleet]", "[flet]", "flet: unknown table; did you mean 'fleet'?"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        question(tmp_path, FILE.replace(old, new, 1))
    assert any(said in line for line in raised.value.problems), raised.value.problems


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    hard = FILE.replace("ttft=500ms,tpot=40ms", "ttft=1ms,tpot=40ms")
    with pytest.raises(InfeasibleError, match="c: h100-sxm"):
        place_models(question(tmp_path, hard))
    # two by turns and one more need two
    with pytest.raises(InfeasibleError, match=r"fleet\.max_accelerators"):
        place_models(
            question(
                tmp_path,
                FILE.replace("max_accelerators = 8", "max_accelerators = 1").replace(
                    "most_together = 3", "most_together = 2"
                ),
            )
        )


def test_the_command_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "models.toml"
    path.write_text(FILE)
    assert run(["plan", "--serve", "--models", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "ridgeline.plan.serve.models"
    names = [kept["name"] for group in record["groups"] for kept in group["models"]]
    assert sorted(names) == ["a", "b", "c"]
    assert run(["plan", "--serve", "--models", str(path)]) == 0
    out = capsys.readouterr().out
    assert "an hour serve 3 models" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run(["plan", "--serve", "--models", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert run(["plan", "--serve", "--models", str(path), "--model", "llama3-8b"]) == 2
    assert "--model: counts for nothing with --models" in capsys.readouterr().err
    assert run(["plan", "--models", str(path)]) == 2
    assert "add --serve" in capsys.readouterr().err


def test_the_example_is_read() -> None:
    assert len(read_models(EXAMPLE).tenants) == 10


@pytest.mark.slow
def test_the_example_is_placed() -> None:
    found = place_models(read_models(EXAMPLE))
    assert found.alone_usd_per_hour is not None
    assert found.usd_per_hour < found.alone_usd_per_hour
    assert all(kept.headroom >= 1.0 for group in found.groups for kept in group.models)
