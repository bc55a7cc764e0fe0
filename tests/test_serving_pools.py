"""Pools of several kinds behind one router, as a plan file lists them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.serving.deployment import Deployment, make_pools
from ridgeline.simulator.serving.serve import serve
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.servicefile import read_service
from ridgeline.workloads import load_model
from ridgeline.workloads.traffic.build import gamma_arrivals, open_loop
from ridgeline.workloads.traffic.lengths import Lengths

MODEL = load_model("llama3-8b")
HEAD = """
[model]
name = "llama3-8b"
[cluster]
spec = "4xh100-sxm"
[serving]
request_rate = 20
requests = 200
input_len = 500
output_len = 40
"""


def service(spec, **how):
    return Service(model=MODEL, cluster=make_cluster(spec), engine="vllm", **how)


def traffic(count=300, rate=30.0):
    arrivals = gamma_arrivals(rate, count, seed=5)
    return open_loop(arrivals, Lengths(mean=400), Lengths(mean=30, kind="log-normal"))


def written(tmp_path, text):
    path = tmp_path / "pools.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def test_two_pools_of_one_kind_are_one_pool_of_both():
    apart = serve(
        [Deployment(service=service("2xh100-sxm", replicas=1)) for _ in range(2)], traffic()
    )
    whole = serve(service("2xh100-sxm", replicas=2), traffic())
    np.testing.assert_array_equal(apart.played.end_s, whole.played.end_s)
    assert apart.result.bill.usd == pytest.approx(whole.result.bill.usd)


def test_the_bill_is_the_sum_of_the_pools():
    deployed = [
        Deployment(service=service("2xh100-sxm", replicas=2)),
        Deployment(service=service("1xl40s", precision="fp8")),
    ]
    result = serve(deployed, traffic()).result
    fast, slow = result.pools
    assert fast.usd_per_accelerator_hour != slow.usd_per_accelerator_hour
    for name in ("accelerator_hours", "usd", "idle_usd", "energy_kwh", "co2_kg"):
        total = sum(getattr(pool, name) for pool in result.pools)
        assert getattr(result.bill, name) == pytest.approx(total), name
    assert fast.finished + slow.finished == result.finished == 300
    assert result.accelerators == 3
    assert result.cluster == "2xh100-sxm + 1xl40s"
    # the router sends less to the replica that answers more slowly
    assert slow.finished < fast.finished / 2
    # replicas are paid for from the start to the end, whichever they are
    hours = result.duration_s / 3600.0
    assert slow.usd == pytest.approx(hours * slow.usd_per_accelerator_hour)


def test_kv_between_clusters_goes_over_the_network():
    def moved(*specs):
        roles = ("prefill", "decode")
        pools = make_pools(
            [Deployment(service=service(s), role=r) for s, r in zip(specs, roles, strict=True)]
        )
        return pools[0].transfer_s_per_token / max(p.tables.kv_bytes_per_token for p in pools)

    tiers = make_cluster("2x8xh100-sxm").tiers
    assert moved("8xh100-sxm", "8xh100-sxm") == pytest.approx(1 / tiers[0].effective_bytes_per_s)
    assert moved("8xh100-sxm", "4xh100-sxm") == pytest.approx(1 / tiers[-1].effective_bytes_per_s)
    slower = make_cluster("2x8xa100-80gb").tiers[-1]
    assert moved("8xh100-sxm", "1xa100-80gb") == pytest.approx(1 / slower.effective_bytes_per_s)


def test_a_pool_takes_what_it_leaves_out_from_the_service(tmp_path):
    path = written(
        tmp_path,
        """
precision = "fp8"
max_tokens = 2048
[[serving.pool]]
role = "prefill"
replicas = 1
max_tokens = 8192
[[serving.pool]]
role = "prefill"
tp = 2
[[serving.pool]]
role = "decode"
cluster = "2x8xa100-80gb"
precision = "bf16"
tp = 4
replicas = 3
usd_per_accelerator_hour = 1.5
""",
    )
    first, second, decode = read_service(path).deployed
    assert [one.role for one in (first, second, decode)] == ["prefill", "prefill", "decode"]
    assert (first.service.tp, first.service.precision, first.policy.max_tokens) == (1, "fp8", 8192)
    assert (second.service.replicas, second.service.tp) == (1, 2)
    assert second.policy.max_tokens == decode.policy.max_tokens == 2048
    assert decode.service.cluster.name == "2x8xa100-80gb"
    assert (decode.service.replicas, decode.service.money.usd_per_accelerator_hour) == (3, 1.5)


POOL = "[[serving.pool]]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POOL + "replicas = 5\n", "serving.pool[0].replicas = 5: of 1 accelerators each"),
        (POOL + "tp = 8\n", "serving.pool[0].tp = 8: a replica takes tp x pp x dp = 8"),
        (POOL + POOL, "serving.pool[0].replicas: several pools share 4xh100-sxm"),
        (POOL + 'role = "prefill"\n', "serving.pool: pools are all whole, or some prefill"),
        (POOL + "tpp = 2\n", "serving.pool[0].tpp: unknown key; did you mean 'tp'?"),
        (POOL + "tp = 0\n", "serving.pool[0].tp = 0: must be at least 1"),
        (POOL + 'cluster = "8xh10"\n', "serving.pool[0].cluster = '8xh10'"),
        ("replicas = 2\n" + POOL, "serving.replicas = 2: say it in each [[serving.pool]]"),
        ("pool = 3\n", "serving.pool = 3: must be a list"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        read_service(written(tmp_path, text))
    assert said in caught.value.problems[0]


def test_the_page_shows_each_pool(tmp_path, capsys):
    text = POOL + "replicas = 2\n" + POOL + 'cluster = "1xl40s"\nprecision = "fp8"\n'
    path = str(written(tmp_path, text))
    assert run(["infer", path]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "whole pool, 1xl40s, vllm, fp8" in out
    assert run(["infer", path, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [pool["cluster"] for pool in record["pools"]] == ["4xh100-sxm", "1xl40s"]
