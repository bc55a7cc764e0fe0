"""Choosing a service: bounds under what is played, brute force, infeasible questions."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import naive_choice
from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.simulator.compare.question import Contender
from ridgeline.simulator.compare.services import compare_services
from ridgeline.simulator.serving.choice.bounds import (
    least_replicas,
    never_kept,
    prompt_seconds,
    step_seconds,
    work_of,
)
from ridgeline.simulator.serving.choice.candidates import make_site
from ridgeline.simulator.serving.choice.front import Loop, serving_front
from ridgeline.simulator.serving.choice.goals import Demand, Goal, parse_goals, parse_percentile
from ridgeline.simulator.serving.choice.rate import TOLERANCE, highest_rate
from ridgeline.simulator.serving.choice.search import choose
from ridgeline.simulator.serving.choice.space import (
    ServiceSpace,
    counts_of_replicas,
    kinds_of,
    rented,
    replicas_of,
)
from ridgeline.simulator.serving.choice.trial import Candidate, scaled, site_of, try_candidate
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import gamma_arrivals, open_loop
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.sessions import Sessions, session_traffic

MODEL = load_model("llama3-8b")


def demand(
    rate: float = 20.0,
    count: int = 150,
    slo: str = "ttft=300ms,tpot=20ms",
    prompt: int = 512,
    answer: int = 64,
    seed: int = 0,
    kind: str = "log-normal",
) -> Demand:
    times = gamma_arrivals(rate, count, seed=seed)
    lengths = Lengths(mean=prompt, kind=kind), Lengths(mean=answer, kind=kind)
    return Demand(traffic=open_loop(times, *lengths, seed=seed), goals=parse_goals(slo), asked="")


def space(**changes: object) -> ServiceSpace:
    small = ServiceSpace(
        model=MODEL,
        accelerators=("h100-sxm", "a100-sxm-80gb"),
        tp=(1, 2),
        pp=(1,),
        max_sequences=(0,),
        max_tokens=(0, 512),
        most=4,
    )
    return replace(small, **changes)  # type: ignore[arg-type]


# --- goals ------------------------------------------------------------------------------------


def test_goals_are_read_with_their_percentiles() -> None:
    first, second = parse_goals("tpot=50ms, ttft=1s@p99", 0.95)
    assert first == Goal(figure="ttft", limit_s=1.0, share=0.99)
    assert second == Goal(figure="tpot", limit_s=0.05, share=0.95)
    assert parse_percentile("p99.9", "x") == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "give what is promised"),
        ("tpot=50ms", "add ttft= or latency="),
        ("ttft=1s,ttft=2s", "twice"),
        ("ttft=1s@p0", "no percentile"),
        ("ttft=1s@p101", "no percentile"),
        ("itl=1s", "ttft, tpot, latency"),
    ],
)
def test_goals_that_cannot_be_are_refused(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        parse_goals(text)


def test_a_goal_is_reached_where_its_share_of_the_requests_is() -> None:
    goal = Goal(figure="ttft", limit_s=1.0, share=0.9)
    values = np.arange(1.0, 11.0)
    assert goal.reached_s(values) == 9.0  # nine of ten keep nine seconds
    assert goal.reached_s(np.append(values, np.inf)) == 10.0  # and ten of eleven ten
    assert replace(goal, share=1.0).reached_s(np.append(values, np.inf)) == math.inf


# --- the space --------------------------------------------------------------------------------


def test_whole_nodes_are_rented_and_parts_that_divide_one() -> None:
    h100, tpu = load_accelerator("h100-sxm"), load_accelerator("tpu-v5p")
    assert [rented(h100, n, 64) for n in (1, 2, 3, 5, 8, 9, 17)] == [1, 2, 4, 8, 8, 16, 24]
    assert rented(h100, 9, 8) == 0
    assert rented(tpu, 3, 64) == 4


def test_replicas_are_tried_one_by_one_and_then_in_sixteenths() -> None:
    counts = counts_of_replicas(200)
    assert counts[:16] == list(range(1, 17))
    steps = np.diff(counts) / np.array(counts[:-1])
    assert counts[-1] <= 200
    assert steps[16:].max() <= 1.0 / 16.0
    assert counts == sorted(set(counts))


# --- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_no_play_beats_the_bounds(seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    rate = float(rng.uniform(1.0, 60.0))
    asked = demand(rate, 120, prompt=int(rng.integers(1, 9000)), answer=int(rng.integers(1, 200)),
                   seed=seed, slo="ttft=1s@p50,tpot=30ms@p50,latency=6s@p50")  # fmt: skip
    some = space(
        accelerators=("h100-sxm",), modes=(mode,), max_tokens=(0, 512), max_sequences=(0, 8)
    )
    (kind,) = kinds_of(some)
    found = replicas_of(some, kind, 4096).whole
    for replica in found[:: 1 + seed % 2]:
        work = work_of(asked.traffic, replica.tables, caching=False)
        candidate = Candidate(kind=kind, replica=replica, replicas=2)
        if mode == "disaggregated":
            candidate = replace(candidate, prefill=replica, prefill_replicas=2)
        trial = try_candidate(candidate, site_of(candidate, 8), asked, whole=True)
        assert trial is not None
        played = trial.played
        done = played.finished
        first, steps = prompt_seconds(replica, work.computed), step_seconds(replica, work)
        assert (played.ttft_s >= first * (1 - 1e-9))[done & (work.outputs > 0)].all()
        later = done & (work.outputs > 1)
        assert (played.tpot_s * (work.outputs - 1) >= steps * (1 - 1e-9))[later].all()
        # what is reached is promised: then no bound may say that it cannot be
        promised = replace(
            asked,
            goals=tuple(replace(g, limit_s=trial.reached_s[g.figure]) for g in asked.goals),
        )
        if any(math.isinf(g.limit_s) for g in promised.goals):
            continue
        for role in ("whole",) if mode == "aggregated" else ("prefill", "decode"):
            assert never_kept(replica, promised, work, role=role) == ""
            assert 1 <= least_replicas(replica, promised, work, role=role) <= 2


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize("caching", [False, True])
def test_bounds_hold_for_conversations_caches_and_drafts(drafts: int, caching: bool) -> None:
    sessions = Sessions(
        turns=Lengths(mean=4),
        system_tokens=800,
        said=Lengths(mean=300, kind="log-normal"),
        answers=Lengths(mean=80, kind="log-normal"),
        pause_s=1.0,
    )
    traffic = session_traffic(gamma_arrivals(4.0, 60, seed=1), sessions, seed=1)
    asked = Demand(
        traffic=traffic, goals=parse_goals("ttft=1s@p50,tpot=30ms@p50,latency=6s@p50"), asked=""
    )
    some = space(
        accelerators=("h100-sxm",),
        modes=("aggregated",),
        limits=Limits(prefix_caching=caching),
        speculation=Speculation(tokens=drafts),
    )
    (kind,) = kinds_of(some)
    for replica in replicas_of(some, kind, 4096).whole:
        work = work_of(traffic, replica.tables, caching=caching)
        candidate = Candidate(kind=kind, replica=replica, replicas=1)
        trial = try_candidate(candidate, site_of(candidate, 8), asked, whole=True)
        assert trial is not None
        played = trial.played
        assert (played.ttft_s >= prompt_seconds(replica, work.computed) * (1 - 1e-9)).all()
        later = work.outputs > 1
        spent = (played.tpot_s * (work.outputs - 1))[later]
        assert (spent >= step_seconds(replica, work)[later] * (1 - 1e-9)).all()
        goals = tuple(replace(g, limit_s=trial.reached_s[g.figure]) for g in asked.goals)
        promised = replace(asked, goals=goals)
        assert never_kept(replica, promised, work) == ""
        assert least_replicas(replica, promised, work) == 1


def test_the_bound_on_replicas_is_near_what_it_takes() -> None:
    asked = demand(200.0, 2000, slo="ttft=1s,tpot=30ms", prompt=1024, answer=128, kind="fixed")
    some = space(accelerators=("h100-sxm",), tp=(1,), max_tokens=(0,), most=64)
    (kind,) = kinds_of(some)
    (replica,) = replicas_of(some, kind, 4096).whole
    bound = least_replicas(replica, asked, work_of(asked.traffic, replica.tables, caching=False))
    for count in range(1, 64):
        candidate = Candidate(kind=kind, replica=replica, replicas=count)
        trial = try_candidate(candidate, site_of(candidate, 64), asked)
        if trial is not None and trial.kept:
            break
    assert bound <= count <= 2 * bound


# --- the answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "slo", "modes"),
    [
        (20.0, "ttft=300ms,tpot=20ms", ("aggregated", "disaggregated")),
        (60.0, "ttft=500ms@p99,tpot=12ms", ("aggregated", "disaggregated")),
        (60.0, "ttft=200ms,tpot=9ms@p50", ("aggregated", "disaggregated")),
        (150.0, "latency=2s", ("aggregated",)),
        (30.0, "ttft=150ms@p50", ("disaggregated",)),
    ],
)
def test_the_answer_is_that_of_brute_force(rate: float, slo: str, modes: tuple[str, ...]) -> None:
    asked = demand(rate, 500, slo)
    some = space(modes=modes)
    expected = naive_choice.cheapest(some, asked)
    if expected is None:
        with pytest.raises(InfeasibleError):
            choose(some, asked, runners_up=False)
        return
    found = choose(some, asked, runners_up=False)
    best = found.best
    assert (best.usd_per_hour, best.accelerators) == pytest.approx(expected.price)
    assert best.headroom == pytest.approx(expected.headroom, rel=1e-12)
    assert best.pools[-1].tp == expected.tp
    assert best.pools[-1].replicas == expected.replicas
    assert best.ratio == expected.ratio


def test_the_answer_is_the_same_twice() -> None:
    asked = demand(40.0, 200)
    assert choose(space(), asked).answer() == choose(space(), asked).answer()


def test_every_deployment_meets_one_end() -> None:
    found = choose(space(most=8), demand(60.0, 500, "ttft=300ms@p99,tpot=12ms"))
    c = found.counts
    assert c.seen == c.throughput_bound + c.cost_bound + c.cut + c.played
    assert found.best.headroom >= 1.0
    assert found.best.used <= found.best.accelerators <= 8


def test_a_higher_rate_never_costs_less() -> None:
    bills = [choose(space(most=8), demand(rate, 300)).best.usd_per_hour for rate in (5.0, 60.0)]
    assert bills[0] <= bills[1]


# --- nothing does -----------------------------------------------------------------------------


def test_the_smallest_limit_that_would_do_does() -> None:
    some = space(modes=("aggregated",), accelerators=("h100-sxm",))
    asked = demand(20.0, 200, "ttft=300ms,tpot=2ms")
    with pytest.raises(InfeasibleError, match=r"keeps ttft=300ms@p90, tpot=2ms@p90") as caught:
        choose(some, asked)
    text = str(caught.value)
    needed = text.partition("tpot=")[2].partition("would do: ")[2]
    limit = float(needed.partition("tpot=")[2].partition("ms@")[0]) / 1e3
    wider = demand(20.0, 200, f"ttft=300ms,tpot={1e3 * limit:.6f}ms")
    best = choose(some, wider).best
    assert best.reached_s["tpot"] <= limit <= best.reached_s["tpot"] * 1.01


def test_more_accelerators_are_named_where_they_would_do() -> None:
    some = space(modes=("aggregated",), accelerators=("h100-sxm",), most=1)
    with pytest.raises(InfeasibleError, match=r"4 x h100-sxm \(not 1 accelerators\)"):
        choose(some, demand(90.0, 500, "ttft=150ms,tpot=12ms"))


def test_weights_that_fit_nowhere_are_the_reason() -> None:
    some = space(model=load_model("llama3-405b"), most=2)
    with pytest.raises(InfeasibleError, match="memory: no replica fits"):
        choose(some, demand(1.0, 10))


def test_several_accelerators_need_a_price_each() -> None:
    with pytest.raises(InputError, match="no price is known of"):
        choose(space(accelerators=("h100-sxm", "mi355x")), demand(1.0, 10))


def test_limits_of_the_engine_are_kept() -> None:
    some = space(limits=Limits(memory_fraction=0.5), modes=("aggregated",))
    asked = demand(5.0, 50)
    site = make_site(some, kinds_of(some)[0], asked)
    half = site.whole[0].replica.tables.kv_tokens
    full = make_site(space(modes=("aggregated",)), kinds_of(some)[0], asked)
    assert half < full.whole[0].replica.tables.kv_tokens


# --- the highest rate ---------------------------------------------------------------------------


def test_the_highest_rate_is_kept_and_a_little_more_is_not() -> None:
    some = space(accelerators=("h100-sxm",), most=2, modes=("aggregated",))
    asked = demand(1.0, 300, "ttft=300ms,tpot=15ms")
    found = highest_rate(some, asked)
    assert highest_rate(some, asked).to_dict() == found.to_dict()
    assert found.plan.headroom >= 1.0
    kept = []
    # close to the edge goals come and go with how 300 requests fall into iterations
    for factor in (1.0, 1.0 + 4.0 * TOLERANCE):
        rate = found.requests_per_s * factor
        unit = scaled(asked.traffic, float(asked.traffic.arrival_s[-1]) / len(asked.traffic) * rate)
        faster = replace(asked, traffic=unit)
        expected = naive_choice.cheapest(some, faster)
        kept.append(expected is not None and expected.price[1] <= 2)
    assert kept == [True, False]


def test_promises_that_a_trickle_breaks_have_no_rate() -> None:
    with pytest.raises(InfeasibleError, match="smallest change"):
        highest_rate(space(accelerators=("h100-sxm",)), demand(1.0, 50, "ttft=1us"))


# --- the front ----------------------------------------------------------------------------------


def loop(**changes: object) -> Loop:
    return Loop(inputs=Lengths(mean=512), outputs=Lengths(mean=64), concurrencies=(1, 8, 64),
                **changes)  # type: ignore[arg-type]  # fmt: skip


def test_no_point_that_was_left_out_beats_the_front() -> None:
    some = space(accelerators=("h100-sxm",), modes=("aggregated",))
    found = serving_front(some, loop())
    assert found.seen == found.bounded + found.played
    users = [point.output_tokens_per_s_per_user for point in found.points]
    each = [point.output_tokens_per_s_per_accelerator for point in found.points]
    assert users == sorted(users, reverse=True)
    assert each == sorted(each)
    assert len(set(each)) == len(each)
    for tp in some.tp:
        for tokens in some.max_tokens:
            service = Service(
                model=MODEL,
                cluster=make_cluster(f"{tp}xh100-sxm"),
                engine="vllm",
                tp=tp,
                limits=Limits(max_tokens=tokens),
            )
            for concurrency in (1, 8, 64):
                result = serve(service, loop().traffic(concurrency)).result
                beaten = [
                    u >= result.output_tokens_per_s_per_user * (1 - 1e-9)
                    and e >= result.output_tokens_per_s_per_accelerator * (1 - 1e-9)
                    for u, e in zip(users, each, strict=True)
                ]
                assert any(beaten)


def test_parted_pools_are_on_the_front_once_for_each_ratio() -> None:
    found = serving_front(space(accelerators=("h100-sxm",), modes=("disaggregated",)), loop())
    keys = [(p.pools, p.concurrency) for p in found.points]
    assert len(set(keys)) == len(keys)
    assert all(len(point.pools) == 2 for point in found.points)


# --- comparing, and the command -----------------------------------------------------------------

ASKED = [
    *("--serve", "--model", "llama3-8b", "--request-rate", "20", "--requests", "200"),
    *("--input-len", "512", "--output-len", "64", "--slo", "ttft=300ms@p99,tpot=20ms"),
    *("--tp", "1,2", "--pp", "1", "--max-tokens", "0", "--max-sequences", "0"),
    *("--max-accelerators", "4"),
]


def test_each_accelerator_is_compared_with_its_own_cheapest() -> None:
    names = ("h100-sxm", "a100-sxm-80gb", "l4")
    contenders = tuple(Contender(accelerator=name) for name in names)
    asked = demand(20.0, 200)
    found = compare_services(space(), contenders, asked)
    bills = [row.plan.usd_per_hour for row in found.feasible if row.plan is not None]
    assert bills == sorted(bills)
    for row in found.feasible:
        own = choose(space(accelerators=(row.accelerator,)), asked, runners_up=False)
        assert row.plan is not None
        assert row.plan.to_dict() == own.best.to_dict()
    assert len(found.rows) == 3
    assert all(row.reason for row in found.rows if row.plan is None)


def test_the_command_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *ASKED, "--on", "h100-sxm,a100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    best = answer["best"]
    assert answer["schema"] == "ridgeline.plan.serve"
    assert answer["goals"][0] == {"figure": "ttft", "limit_s": 0.3, "share": 0.99}
    assert best["headroom"] >= 1.0
    assert best["ttft_p99_s"] <= 0.3
    assert best["service"]["finished"] == 200
    for style in ([], ["--csv"]):
        assert run(["plan", *ASKED, "--on", "h100-sxm", *style]) == 0
        assert "h100-sxm" in capsys.readouterr().out


def test_the_command_finds_rate_front_and_dollars(capsys: pytest.CaptureFixture[str]) -> None:
    common = [*ASKED, "--on", "h100-sxm", "--mode", "aggregated"]
    for extra in (["--max-rate"], ["--max-rate", "--csv"]):
        assert run(["plan", *common, *extra]) == 0
        assert "h100" in capsys.readouterr().out
    place = common.index("--request-rate")
    idle = common[:place] + common[place + 4 :]
    place = idle.index("--slo")
    idle = idle[:place] + idle[place + 2 :]
    for style in ([], ["--json"], ["--csv"]):
        assert run(["plan", *idle, "--front", "--concurrency", "1,8", *style]) == 0
        assert "h100" in capsys.readouterr().out
    place = common.index("--model")
    several = common[:place] + common[place + 2 :]
    solve = ["--solve", "llama3-8b=1:16%,250:56%", "--solve", "llama2-13b=1:40%,10:60%"]
    assert run(["plan", *several, *solve, "--share", "50%", "--problems", "300", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in answer["solved"]} == {"llama3-8b", "llama2-13b"}
    for row in answer["solved"]:
        assert row["share"] >= 0.5
        assert row["usd"] == pytest.approx(300 * row["usd_per_problem"])
    for style in ([], ["--csv"]):
        assert run(["plan", *several, *solve, "--amount", "1,4", *style]) == 0
        assert "llama2-13b" in capsys.readouterr().out


def test_the_command_compares_services(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *ASKED, "--on", "h100-sxm,a100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in answer["rows"]] == ["ok", "ok"]
    for style in ([], ["--csv"]):
        assert run(["compare", *ASKED, "--on", "h100-sxm,a100", *style]) == 0
        assert "a100-sxm-80gb" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([*ASKED, "--on", "8xh100-sxm"], "leave that to --max-accelerators"),
        ([*ASKED, "--on", "h100-sxm", "--seq-len", "8192"], "counts for nothing with --serve"),
        ([*ASKED, "--on", "h100-sxm", "--front", "--max-rate"], "choose one"),
        ([*ASKED, "--on", "h100-sxm", "--share", "50%"], "is for --solve"),
        ([*ASKED, "--on", "h100-sxm", "--precision", "fp9"], "is not known; did you mean 'fp8'"),
        ([*ASKED], "name the accelerators"),
        ([*ASKED[:-12], "--on", "h100-sxm"], "say what is promised"),
        (["--model", "llama3-8b", "--on", "8xh100", "--slo", "ttft=1s"], "add --serve"),
        (["--model", "llama3-8b", "--on", "8xh100", "--front"], "add --serve"),
    ],
)
def test_questions_that_cannot_be_are_refused_in_one_line(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *command]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_the_command_says_that_nothing_does(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [word if "ttft" not in word else "ttft=300ms,tpot=1ms" for word in ASKED]
    assert run(["plan", *asked, "--on", "h100-sxm"]) == 1
    assert "smallest change that would do: tpot=" in capsys.readouterr().err
