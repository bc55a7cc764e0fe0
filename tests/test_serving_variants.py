"""Services that depart from plain decoding: budgets of the cache, exits, adapters, predicted KV."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import naive_serving
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.launchers.vllm import write_vllm
from ridgeline.simulator.serving.adapted import (
    adapter_bytes,
    adapter_loads,
    adapters_seconds,
    distinct_adapters,
)
from ridgeline.simulator.serving.capacity import capacity, weight_bytes
from ridgeline.simulator.serving.iteration import iteration_tables, pricer
from ridgeline.simulator.serving.play import play
from ridgeline.simulator.serving.policy import Policy, policy_of
from ridgeline.simulator.serving.predicted import first_token_flops
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service, Speculation
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.static import decode_step_seconds, prefill_seconds
from ridgeline.simulator.serving.variants import Adapters, Exits, KvBudget
from ridgeline.workloads import load_model
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.traffic.build import gamma_arrivals, make_traffic
from test_serving import random_case

BASE = Service(
    model=load_model("llama2-7b"), cluster=make_cluster("1xa100-sxm-80gb"), engine="vllm"
)


def step(service: Service, batch: int, context: int) -> float:
    return decode_step_seconds(service, batch, context)


# --- part of the cache ------------------------------------------------------------------------


def test_a_budget_keeps_its_share_of_the_memory() -> None:
    budget = KvBudget(tokens=512, context=4096)
    kept = capacity(replace(BASE, kv_budget=budget))
    whole = capacity(BASE)
    assert kept.kv_bytes_per_token == pytest.approx(whole.kv_bytes_per_token * 512 / 4096)
    # shares of layers change who keeps what, not how much
    uneven = replace(budget, layers=(4.0, 2.0, 1.0, 1.0))
    assert capacity(replace(BASE, kv_budget=uneven)).kv_tokens == pytest.approx(
        kept.kv_tokens, rel=1e-3
    )
    # but a part whose budget is beyond the sequence leaves the rest of it unused
    greedy = KvBudget(tokens=2048, layers=(3.0, 1.0), context=2048)
    found = capacity(replace(BASE, kv_budget=greedy)).kv_bytes_per_token
    assert found == pytest.approx(whole.kv_bytes_per_token * (1.0 + 0.5) / 2)
    recycled = KvBudget(tokens=512, full_every=8)
    assert capacity(replace(BASE, kv_budget=recycled)).kv_tokens == whole.kv_tokens


def test_decodes_read_what_the_budget_leaves() -> None:
    kept = replace(BASE, kv_budget=KvBudget(tokens=512))
    assert step(kept, 16, 4096) == pytest.approx(step(BASE, 16, 512))
    assert step(kept, 16, 300) == step(BASE, 16, 300)
    assert prefill_seconds(kept, 1, 2048) == prefill_seconds(BASE, 1, 2048)
    uneven = replace(BASE, kv_budget=KvBudget(tokens=512, layers=(3.0, 1.0)))
    mean = (step(BASE, 16, 768) + step(BASE, 16, 256)) / 2
    assert step(uneven, 16, 4096) == pytest.approx(mean)


@pytest.mark.parametrize("every", [1, 2, 10, 50])
def test_a_full_step_comes_so_often(every: int) -> None:
    recycled = replace(BASE, kv_budget=KvBudget(tokens=512, full_every=every))
    full, part = step(BASE, 16, 4096), step(BASE, 16, 512)
    assert step(recycled, 16, 4096) == pytest.approx((full + (every - 1) * part) / every)


# --- exits ------------------------------------------------------------------------------------


def test_a_token_alone_runs_the_layers_before_its_exit() -> None:
    model = BASE.model
    half = model.num_layers // 2
    gone = replace(BASE, exits=Exits(layers=(half,), shares=(1.0,), kv="copied"))
    stay = replace(BASE, exits=Exits(layers=(half,), shares=(0.0,)))
    assert step(stay, 1, 1024) == pytest.approx(step(BASE, 1, 1024))
    # what does not go by layers: the head, sampling, the host
    s = pricer(BASE).shape
    rest = 2 * step(gone, 1, 1024) - step(BASE, 1, 1024)
    head = 2.0 * model.hidden * model.vocab / s.accelerator.memory_bytes_per_s
    assert head < rest < 0.1 * step(BASE, 1, 1024)
    some = replace(BASE, exits=Exits(layers=(half,), shares=(0.4,), kv="copied"))
    mean = 0.4 * step(gone, 1, 1024) + 0.6 * step(BASE, 1, 1024)
    assert step(some, 1, 1024) == pytest.approx(mean)


def test_a_batch_gains_less_and_computed_kv_costs_more() -> None:
    exits = Exits(layers=(8, 16), shares=(0.3, 0.3), kv="copied")
    early = replace(BASE, exits=exits)
    computed = replace(BASE, exits=replace(exits, kv="computed"))
    gains = [1.0 - step(early, batch, 512) / step(BASE, batch, 512) for batch in (1, 2, 8)]
    assert gains[0] > gains[1] > gains[2] > 0.0
    for batch in (1, 8, 64):
        assert step(early, batch, 512) < step(computed, batch, 512) < step(BASE, batch, 512)


def test_drafts_of_the_first_layers_cost_their_share() -> None:
    one = replace(BASE, speculation=Speculation(tokens=4, draft_layers=1.0))
    eight = replace(BASE, speculation=Speculation(tokens=4, draft_layers=8.0))
    plain = iteration_tables(replace(BASE, speculation=Speculation(tokens=4, draft_layers=1e-9)))
    more = [iteration_tables(service).decode_linear_s - plain.decode_linear_s
            for service in (one, eight)]  # fmt: skip
    np.testing.assert_allclose(more[1], 8.0 * more[0], rtol=1e-6)


# --- adapters ---------------------------------------------------------------------------------


def test_bytes_of_an_adapter_are_those_of_its_matrices() -> None:
    # Llama 2 7B: q, k, v fused (4096 -> 12288), o (4096 -> 4096), gate and up, down
    s = make_shape(replace(BASE, adapters=Adapters(count=4, rank=16, targets="all")))
    layer = 16 * ((4096 + 3 * 4096) + (4096 + 4096) + (4096 + 2 * 11008) + (11008 + 4096))
    assert adapter_bytes(s) == 2 * 32 * layer
    held = replace(BASE, adapters=Adapters(count=100, rank=16, targets="all", slots=10))
    more = weight_bytes(make_shape(held)) - weight_bytes(make_shape(BASE))
    assert more == pytest.approx(10 * adapter_bytes(s))


def test_distinct_adapters_of_a_batch() -> None:
    even = make_shape(replace(BASE, adapters=Adapters(count=50)))
    for sequences in (1, 2, 30):
        expected = 50 * (1 - (1 - 1 / 50) ** sequences)
        found = float(distinct_adapters(even, np.array([float(sequences)]))[0])
        assert found == pytest.approx(expected)
    skewed = make_shape(replace(BASE, adapters=Adapters(count=50, skew=1.5)))
    rng = np.random.default_rng(0)
    shares = np.array(skewed.service.adapters.popularity())
    drawn = [len(set(rng.choice(50, 30, p=shares).tolist())) for _ in range(4000)]
    found = float(distinct_adapters(skewed, np.array([30.0]))[0])
    assert found == pytest.approx(np.mean(drawn), rel=0.01)


def test_adapters_read_what_is_distinct() -> None:
    s = make_shape(replace(BASE, adapters=Adapters(count=1000, rank=64, targets="all")))
    one, many = adapters_seconds(s, np.array([1.0, 64.0]), np.array([1.0, 64.0]))
    rate = s.accelerator.efficiency.gemm["bf16"].memory * s.accelerator.memory_bytes_per_s
    distinct = distinct_adapters(s, np.array([1.0, 64.0]))
    assert many - one == pytest.approx((distinct[1] - distinct[0]) * adapter_bytes(s) / rate)


def slow_loads(asked: list[int], held: int) -> list[bool]:
    """Return who misses, from a list with the last asked for at its end."""
    there = list(range(held))[::-1]
    missed = []
    for one in asked:
        missed.append(one not in there)
        if one in there:
            there.remove(one)
        else:
            there.pop(0)
        there.append(one)
    return missed


@pytest.mark.parametrize("replicas", [1, 3])
def test_loads_are_those_of_least_recently_used(replicas: int) -> None:
    adapters = Adapters(count=40, slots=8, skew=0.8)
    s = make_shape(replace(BASE, adapters=adapters))
    asked, waits = adapter_loads(s, 500, replicas, 7)
    for replica in range(replicas):
        mine = asked[replica::replicas].tolist()
        assert (waits[replica::replicas] > 0).tolist() == slow_loads(mine, 8)
    assert waits.max() == pytest.approx(adapter_bytes(s) / s.accelerator.host_bytes_per_s)
    whole = make_shape(replace(BASE, adapters=replace(adapters, slots=0)))
    assert not adapter_loads(whole, 500, replicas, 7)[1].any()


@pytest.mark.parametrize("block", range(5))
def test_loads_agree_with_simpy_to_the_iteration(block: int) -> None:
    for seed in range(8 * block, 8 * block + 8):
        made, policy, traffic = random_case(seed)
        rng = np.random.default_rng(1000 + seed)
        loads = rng.choice([0.0, 0.03, 0.4], len(traffic))
        requests, log = naive_serving.play(made, policy, traffic, loads)
        played = play(made, policy, traffic, loads_s=loads, log_lines=100_000)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(played.log.start_s, [line[0] for line in log], **close)
        for column, key in ((played.first_token_s, "first"), (played.end_s, "end")):
            expected = [math.nan if r[key] is None else r[key] for r in requests]
            np.testing.assert_allclose(column, expected, **close)


def test_who_waits_for_an_adapter_holds_up_nobody() -> None:
    tables, policy = iteration_tables(BASE), Policy()
    traffic = make_traffic([0.0, 0.001], [100, 100], [5, 5])
    alone = play(tables, policy, make_traffic([0.0], [100], [5])).ttft_s[0]
    played = play(tables, policy, traffic, loads_s=np.array([2.0, 0.0]))
    assert played.ttft_s[1] == pytest.approx(alone, abs=1.001 * tables.front_serial_s)
    assert played.ttft_s[0] == pytest.approx(2.0 + alone)


# --- predicted KV -----------------------------------------------------------------------------


def test_prompts_are_read_by_the_predictor() -> None:
    small = load_model("llama3.2-1b")
    predicted = replace(BASE, kv_predictor=small.name)
    assert step(predicted, 8, 1024) == step(BASE, 8, 1024)
    aux = replace(BASE, model=small)
    reading = prefill_seconds(aux, 1, 2048)
    found = prefill_seconds(predicted, 1, 2048)
    assert reading + step(BASE, 1, 1) * 0.9 < found < prefill_seconds(BASE, 1, 2048) / 2
    more = weight_bytes(make_shape(predicted)) - weight_bytes(make_shape(BASE))
    kv = small.attention.kv_heads * small.attention.head_dim
    predictors = 32 * 2 * kv * 4096
    assert more == pytest.approx(2 * (parameters(small).total + predictors), rel=1e-3)
    # two models share no pass
    assert policy_of(predicted).kind == "prefill-first"


def test_flops_to_the_first_token_add_up() -> None:
    small, prompt = load_model("llama3.2-1b"), 1000
    found = first_token_flops(BASE.model, small, prompt)
    kv = small.attention.kv_heads * small.attention.head_dim
    expected = forward_flops(small, prompt).total * prompt + 2 * 32 * 2 * kv * 4096 * prompt
    assert found == pytest.approx(expected + forward_flops(BASE.model, 2 * prompt).total)
    assert found < 0.3 * forward_flops(BASE.model, prompt).total * prompt


# --- refused, and end to end ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_budget": KvBudget(full_every=4)}, "needs kv_budget_tokens"),
        ({"kv_budget": KvBudget(tokens=8, layers=(1.0,) * 99)}, "at most 32 numbers"),
        ({"exits": Exits(layers=(4,), shares=())}, "a share for each layer"),
        ({"exits": Exits(layers=(40,), shares=(0.1,))}, "less than the 32 layers"),
        ({"exits": Exits(layers=(4, 8), shares=(0.7, 0.7))}, "at most 1 together"),
        (
            {"exits": Exits(layers=(4,), shares=(0.1,)), "speculation": Speculation(tokens=2)},
            "leave draft_tokens or exit_layers out",
        ),
        ({"adapters": Adapters(slots=4)}, "needs adapters"),
        ({"adapters": Adapters(count=4), "kv_predictor": "llama3.2-1b"}, "leave one out"),
        ({"adapters": Adapters(count=4), "model": load_model("deepseek-v2-lite")}, "latent"),
        ({"kv_predictor": "deepseek-v2-lite"}, "no keys and values by head"),
        ({"kv_predictor": "llama3.2-1c"}, "llama3.2-1b"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        iteration_tables(replace(BASE, **changes))  # type: ignore[arg-type]


def test_capacity_serves_more_at_once() -> None:
    times = gamma_arrivals(50.0, 300, seed=2)
    traffic = make_traffic(times, [3000] * 300, [300] * 300)
    whole = serve(BASE, traffic).result
    budget = KvBudget(tokens=512, context=3300)
    kept = serve(replace(BASE, kv_budget=budget), traffic).result
    assert kept.output_tokens_per_s > 1.3 * whole.output_tokens_per_s
    assert kept.preemptions < whole.preemptions
    assert any("kv_budget" in line for line in kept.warnings)
    assert not any("no measured service had" in line for line in whole.warnings)


PLAN = """
[model]
name = "llama2-7b"
[cluster]
spec = "1xa100-sxm-80gb"
[serving]
request_rate = 2
requests = 60
input_len = 512
output_len = 64
"""


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("kv_budget_tokens = 256\nkv_layer_budgets = [2.0, 1.0]", "kv_budget"),
        ("kv_budget_tokens = 256\nkv_full_every = 10", "kv_budget"),
        ("exit_layers = [16]\nexit_shares = [0.5]", "exits"),
        ("adapters = 100\nadapter_slots = 20\nadapter_skew = 1.0", "adapters"),
        ('kv_predictor = "llama3.2-1b"', "kv_predictor"),
    ],
)
def test_infer_answers(tmp_path, capsys, keys: str, shown: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.toml"
    path.write_text(PLAN + keys)
    assert run(["infer", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["finished"] == 60
    assert shown in record["plan"]["pools"][0]
    assert run(["infer", str(path)]) == 0
    out = capsys.readouterr().out
    assert shown in out
    assert max(map(len, out.splitlines())) <= 80
    slo = ["--slo", "ttft=9s"]
    assert run(["plan", str(path), "--serve", "--on", "a100", *slo]) == 2
    assert f"{shown} is no part of the choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("exit_layers = [16]", "exit_layers has 1 and exit_shares 0 entries"),
        ("kv_budget_tokens = -1", "serving.kv_budget_tokens = -1: must be at least 0"),
        ('adapter_targets = "mlp"', "adapter_targets = 'mlp': is not known"),
        ('kv_predictor = "llama9"', "llama9"),
        ("kv_budget_tokens = 64\nprefix_caching = true", "cannot be shared"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, keys: str, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.toml"
    path.write_text(PLAN + keys)
    assert run(["infer", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_command_line_of_vllm_says_what_it_can() -> None:
    adapters = Adapters(count=50, slots=8, rank=32)
    written = write_vllm(replace(BASE, adapters=adapters, kv_budget=KvBudget(tokens=64)))
    assert "--enable-lora --max-loras 8 --max-cpu-loras 50 --max-lora-rank 32" in written.text
    assert written.unmapped == ("serving: kv_budget",)
