"""Test-time compute in dollars against published totals, and the idealized runtime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.idealized import idealized_runtime
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.sampling import (
    Curve,
    Solver,
    Tariff,
    at_budget,
    cheapest_to_solve,
    equal_flop_samples,
    parse_curve,
    sampling_flops,
    solve,
    solve_share,
)
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.static import generation_seconds, prefill_seconds
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import closed_loop
from ridgeline.workloads.traffic.lengths import Lengths


def attempt(name: str, usd: float, curve: str) -> Solver:
    """A model paid by the attempt."""
    tariff = Tariff(usd_per_prompt=0.0, usd_per_sample=usd)
    return Solver(name=name, tariff=tariff, curve=parse_curve(curve))


def test_repeated_samples_of_swe_bench_lite_cost_what_was_published() -> None:
    # Brown et al. 2024 (arXiv 2407.21787), table 1: 300 issues, cost of all attempts and share
    cheap = attempt("DeepSeek-Coder-V2", 0.0072, "1:0.159,5:0.2962,250:0.56")
    gpt = attempt("GPT-4o", 0.13, "1:0.24")
    claude = attempt("Claude 3.5 Sonnet", 0.17, "1:0.267")
    five = solve(cheap, 5, 300)
    assert five.usd == pytest.approx(10.8, rel=0.01)
    assert five.share == pytest.approx(0.2962, abs=1e-12)
    assert solve(gpt, 1, 300).usd == pytest.approx(39.0, rel=0.01)
    assert solve(claude, 1, 300).usd == pytest.approx(51.0, rel=0.01)
    # the share of the larger ones is reached by the small one sampled often, for less
    for share in (0.24, 0.267):
        ranked = cheapest_to_solve([claude, gpt, cheap], share, 300)
        assert ranked[0].name == "DeepSeek-Coder-V2"
        assert ranked[0].share >= share
    assert cheapest_to_solve([gpt, cheap], 0.24, 300)[0].amount == 3.0


def test_a_model_of_a_third_draws_three_samples() -> None:
    # Bansal et al. 2024 (arXiv 2408.16737): Gemma-2 9B and 27B at equal FLOPs
    assert equal_flop_samples(9e9, 27e9) == 3.0
    one = sampling_flops(27e9, 0.0, 500.0, 1.0)
    assert sampling_flops(9e9, 0.0, 500.0, 3.0) == one


def test_prompts_are_paid_for_once_where_samples_share_them() -> None:
    shared = Tariff.of_tokens(2.0, 8.0, 1000, 500)
    apart = Tariff.of_tokens(2.0, 8.0, 1000, 500, shared=False)
    assert shared.samples_usd(1) == pytest.approx(apart.samples_usd(1)) == pytest.approx(0.006)
    assert shared.samples_usd(10) == pytest.approx(0.042)
    assert apart.samples_usd(10) == pytest.approx(0.060)
    assert shared.reasoning_usd(4000) == pytest.approx(0.002 + 0.032)


def test_a_length_of_reasoning_is_an_effort_too() -> None:
    tariff = Tariff.of_tokens(2.0, 8.0, 1000, 500)
    thinks = Solver(name="t", tariff=tariff, curve=parse_curve("1k:30%,8k:60%"), effort="tokens")
    found = solve_share(thinks, 0.6)
    assert found.amount == pytest.approx(8000)
    assert found.usd_per_solved == pytest.approx((0.002 + 0.064) / 0.6)


@given(
    one=st.floats(0.01, 0.5),
    more=st.floats(1.01, 1.9),
    samples=st.floats(2, 1e4),
    x=st.floats(1, 1e5),
)
def test_effort_and_share_are_inverses_and_rise(
    one: float, more: float, samples: float, x: float
) -> None:
    curve = Curve(points=((1.0, one), (samples, min(0.99, one * more))))
    share = curve.share(x)
    assert 0.0 < share <= 1.0
    if share < 1.0 - 1e-9:
        assert curve.effort_for(share) == pytest.approx(x, rel=1e-4)
    assert curve.share(2 * x) >= share


def test_pieces_of_a_curve_meet_at_their_points() -> None:
    curve = parse_curve("1:0.1,10:0.3,100:0.7")
    for effort, share in curve.points:
        assert curve.share(effort) == pytest.approx(share, rel=1e-12)
        assert curve.effort_for(share) == pytest.approx(effort, rel=1e-12)
    assert curve.share(10 * (1 - 1e-9)) == pytest.approx(0.3, rel=1e-6)


def test_a_budget_buys_whole_samples() -> None:
    solver = attempt("s", 0.03, "1:0.2,100:0.6")
    assert at_budget(solver, 0.10).amount == 3.0
    with pytest.raises(InfeasibleError, match="pays for no answer"):
        at_budget(solver, 0.02)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "at least one point"),
        ("1", "EFFORT:SHARE"),
        ("1:1.5", "above 0 and below 1"),
        ("0:0.5", "above 0"),
        ("10:0.5,1:0.6", "ascend"),
        ("1:0.5,10:0.4", "ascend"),
    ],
)
def test_curves_that_cannot_be_are_refused(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        parse_curve(text)


def test_one_point_says_nothing_of_others() -> None:
    only = attempt("o", 0.1, "1:0.24")
    with pytest.raises(InputError, match="give a second one"):
        solve(only, 2)
    with pytest.raises(InfeasibleError, match="nobody solves"):
        cheapest_to_solve([only], 0.5)


# --- idealized runtime --------------------------------------------------------------------------


def test_idealized_runtime_is_a_prompt_and_a_line_in_tokens() -> None:
    # Narayanan et al. 2023 (arXiv 2305.02440): prompt term + a term for each token, alone
    service = Service(
        model=load_model("llama3-8b"), cluster=make_cluster("1xa100-sxm-80gb"), engine="vllm"
    )
    ideal = idealized_runtime(service, 512, 64)
    assert ideal.seconds(64) == pytest.approx(generation_seconds(service, 1, 512, 64), rel=1e-12)
    assert ideal.prompt_s == prefill_seconds(service, 1, 512)
    # linear in the tokens of the answer to 5%, as the paper's fit of ten models
    for tokens in (16, 128, 256):
        whole = generation_seconds(service, 1, 512, tokens)
        assert ideal.seconds(tokens) == pytest.approx(whole, rel=0.05)
    assert idealized_runtime(service, 512, 1).per_token_s == 0.0


def test_a_lone_request_takes_its_idealized_runtime_and_a_busy_one_more() -> None:
    service = Service(
        model=load_model("llama3-8b"), cluster=make_cluster("1xh100-sxm"), engine="vllm"
    )
    lengths = Lengths(mean=512), Lengths(mean=64)
    alone = serve(service, closed_loop(1, 4, *lengths)).result
    busy = serve(service, closed_loop(32, 64, *lengths)).result
    front = iteration_tables(service).front_s + iteration_tables(service).front_serial_s
    assert alone.latency_s.p50 - front == pytest.approx(alone.idealized_runtime_s, rel=0.02)
    assert busy.idealized_runtime_s == alone.idealized_runtime_s
    assert busy.latency_s.p50 > busy.idealized_runtime_s
