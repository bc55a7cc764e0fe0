"""Fine-tuning beside requests: iterations filled to a limit, the twin on SimPy, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import naive_serving
from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.capacity import weight_bytes
from ridgeline.simulator.serving.coserve import finetune_bytes
from ridgeline.simulator.serving.iteration import iteration_tables
from ridgeline.simulator.serving.play import play
from ridgeline.simulator.serving.policy import policy_of
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service, Speculation
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.variants import FineTune
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import gamma_arrivals, make_traffic
from ridgeline.workloads.traffic.traffic import Traffic
from test_serving import random_case

BASE = Service(
    model=load_model("llama3.1-8b"), cluster=make_cluster("1xa100-sxm-80gb"), engine="vllm"
)
TUNED = replace(BASE, finetune=FineTune(rank=16, iteration_s=0.05))


def chat(rate: float) -> Traffic:
    times = gamma_arrivals(rate, 150, seed=1)
    return make_traffic(times, [400] * 150, [100] * 150)


@pytest.mark.parametrize("block", range(4))
def test_filled_iterations_agree_with_simpy(block: int) -> None:
    for seed in range(6 * block, 6 * block + 6):
        made, policy, traffic = random_case(seed)
        least_s = float(np.random.default_rng(seed).choice([0.012, 0.05]))
        made = replace(made, least_s=least_s)
        requests, log = naive_serving.play(made, policy, traffic)
        played = play(made, policy, traffic, log_lines=100_000)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(played.log.start_s, [line[0] for line in log], **close)
        np.testing.assert_allclose(played.log.seconds, [line[1] for line in log], **close)
        assert (played.log.seconds >= least_s).all()
        assert played.preemptions.tolist() == [one["preemptions"] for one in requests]


def test_without_requests_iterations_are_full() -> None:
    """Tokens twice through the products, their attention three and a half times."""
    tables = iteration_tables(TUNED)
    assert tables.least_s == pytest.approx(0.05)
    one = make_traffic([0.0], [1], [1])
    found = serve(TUNED, one).result.finetuning
    assert found is not None
    each = found.alone_tokens_per_s * tables.least_s
    first = tables.prefill_attention_s[:, 0]
    attention = 3.5 * np.interp(1024.0, tables.new_tokens, first) * each / 1024
    linear = np.interp(2.0 * each, tables.tokens, tables.mixed_linear_s)
    host = tables.host_s + tables.host_per_prefill_s
    assert linear + attention + host == pytest.approx(0.05, rel=1e-6)


def test_a_token_budget_binds_before_a_long_limit() -> None:
    long = replace(TUNED, finetune=FineTune(rank=16, iteration_s=60.0))
    tables = iteration_tables(long)
    assert tables.least_s < 60.0
    found = serve(long, make_traffic([0.0], [1], [1])).result.finetuning
    assert found is not None
    budget = policy_of(long).max_tokens
    assert found.alone_tokens_per_s * tables.least_s == pytest.approx(budget / 2, rel=1e-6)


def test_more_requests_leave_less_and_none_leaves_all() -> None:
    shares = []
    for rate in (0.1, 2.0, 8.0):
        result = serve(TUNED, chat(rate)).result
        assert result.finetuning is not None
        shares.append(result.finetuning.share)
        assert result.tpot_s.p99 >= 0.05 * (1 - 1e-9)
    assert 1.0 > shares[0] > shares[1] > shares[2] > 0.5
    assert shares[0] > 0.98


def test_what_it_keeps_is_memory_that_the_cache_lacks() -> None:
    s = make_shape(TUNED)
    # LoRA of rank 16 on q, k, v and o of Llama 3.1 8B: 6.8M parameters
    states = 32 * 16 * ((4096 + 6144) + (4096 + 4096))
    kept = 2 * 1024 * 32 * (2 * 4096 + (2 * 4096 + 2 * 1024) + 2 * 14336)
    assert finetune_bytes(s) == 16 * states + kept
    assert weight_bytes(s) - weight_bytes(make_shape(BASE)) == pytest.approx(finetune_bytes(s))
    assert iteration_tables(TUNED).kv_tokens < iteration_tables(BASE).kv_tokens


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(InputError, match="speculation"):
        iteration_tables(replace(TUNED, speculation=Speculation(tokens=2)))
    with pytest.raises(InputError, match="latent attention"):
        iteration_tables(replace(TUNED, model=load_model("deepseek-v2-lite")))


def test_infer_answers(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.toml"
    keys = '[model]\nname = "llama3.1-8b"\n[cluster]\nspec = "2xh100-sxm"\n[serving]\n'
    path.write_text(keys + "request_rate = 4\nrequests = 60\nfinetune_rank = 8\n")
    assert run(["infer", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0.0 < record["finetuning"]["share"] < 1.0
    assert record["plan"]["pools"][0]["finetune"]["rank"] == 8
    assert run(["infer", str(path)]) == 0
    assert "Fine-tuning" in capsys.readouterr().out
    path.write_text(keys + "request_rate = 4\nrequests = 60\n")
    assert run(["infer", str(path), "--json"]) == 0
    assert "finetuning" not in json.loads(capsys.readouterr().out)
    split = "prefill_replicas = 1\nreplicas = 1\nfinetune_rank = 8\n"
    path.write_text(keys + "request_rate = 4\nrequests = 60\n" + split)
    assert run(["infer", str(path)]) == 2
    assert "one pool is filled" in capsys.readouterr().err
