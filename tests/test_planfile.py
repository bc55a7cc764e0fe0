"""The plan file: what it says arrives, and what is wrong with it is said, all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ridgeline.errors import InputError
from ridgeline.simulator import legality, plan_schema, planfile
from ridgeline.simulator.plan import Money, RunOptions
from ridgeline.simulator.plan_values import parse_count
from ridgeline.simulator.planfile import read_plan

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.toml")
    if not path.stem.startswith(("fleet_", "serve_"))
)

GOOD = """
[model]
name = "llama3-8b"
[cluster]
spec = "8x8xh100-sxm"
[parallel]
tp = 8
pp = 2
[training]
tokens = "15T"
seq_len = 8192
global_batch_seqs = 128
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | None, *args: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_plan(path, *args)
    return list(caught.value.problems)


def test_a_file_becomes_a_plan(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD))
    assert plan.name == "plan"
    assert plan.model.name == "llama3-8b"
    assert plan.cluster.count == 64
    assert (plan.parallel.tp, plan.parallel.pp, plan.parallel.dp) == (8, 2, 4)
    assert plan.training.tokens == 15e12
    assert plan.training.schedule == "1f1b"
    assert plan.stack == "megatron-core"
    assert plan.run == RunOptions()
    assert plan.money == Money()


@pytest.mark.parametrize(
    ("spec", "stack"),
    [
        ("8xtpu-v6e", "maxtext"),
        ("1x16xtrainium2", "neuronx-distributed"),
        ("1x8xgaudi2", "megatron-deepspeed-gaudi"),
        ("1x8xmi300x", "megatron-core"),
    ],
)
def test_a_plan_that_names_no_stack_takes_the_usual_one(spec: str, stack: str) -> None:
    asked = {
        "model.name": "llama3-8b",
        "cluster.spec": spec,
        "training.seq_len": 4096,
        "training.global_batch_seqs": 64,
    }
    plan = read_plan(None, asked)
    assert plan.stack == stack
    assert not [line for line in legality.warnings(plan) if "stack" in line]
    other = "neuronx-distributed" if "megatron" in stack else "megatron-core"
    foreign = read_plan(None, {**asked, "stack.name": other})
    assert [line for line in legality.warnings(foreign) if f"usual stack is {stack}" in line]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_legal(path: Path) -> None:
    plan = read_plan(path)
    assert plan.training.tokens > 0
    assert plan.parallel.world == plan.cluster.count


def test_there_are_the_seven_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize(
    ("value", "count"),
    [("15T", 15e12), ("2.4B", 2.4e9), ("300 M", 3e8), ("1e12", 1e12), (15e12, 15e12), (7, 7.0)],
)
def test_counts(value: object, count: float) -> None:
    assert parse_count(value) == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize("value", ["", "T", "15Q", "-3B", "nan", True, None, [], "1e999"])
def test_counts_that_are_none(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_count(value)


def test_overrides_replace_fields_and_are_named_by_their_flags(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    plan = read_plan(path, {"parallel.tp": 4, "training.tokens": "1B", "model.name": "llama2-70b"})
    assert (plan.parallel.tp, plan.parallel.dp) == (4, 8)
    assert plan.training.tokens == 1e9
    assert plan.model.name == "llama2-70b"
    lines = mistakes(path, {"parallel.tp": 0}, {"parallel.tp": "--tp"})
    assert lines == ["--tp 0: must be at least 1"]
    lines = mistakes(path, {"parallel.dp": 3}, {"parallel.dp": "--dp"})
    assert lines[0].startswith("--dp 3: tp*pp*cp*dp = 48")


def test_an_override_of_the_cluster_ousts_its_parts(tmp_path: Path) -> None:
    parts = 'accelerator = "a100-sxm-80gb"\ncount = 16'
    path = write(tmp_path, GOOD.replace('spec = "8x8xh100-sxm"', parts))
    assert read_plan(path).cluster.accelerator.name == "a100-sxm-80gb"
    assert read_plan(path, {"cluster.spec": "8x8xh100-sxm"}).cluster.count == 64


def test_flags_alone_are_enough() -> None:
    plan = read_plan(
        None,
        {
            "model.name": "llama3-8b",
            "cluster.spec": "1x8xh100-sxm",
            "training.seq_len": 8192,
            "training.global_batch_seqs": 16,
        },
    )
    assert plan.parallel.dp == 8


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
[model]
name = "lama3-8b"
[cluster]
spec = "8x8xh10-sxm"
[parallel]
tpp = 8
pp = -2
zero_stage = "3"
tensor_parallel = 2
[training]
tokens = "15Q"
seq_len = 1_000_000_000_000
precision = "bf61"
recompute = "ful"
[stack]
name = "megatron-cor"
[paralel]
[averaging]
local_steps = 2
[[peeer]]
[run]
restart_s = nan
checkpoint_interval_s = inf
[serving]
engine = "vlm"
slo = "ttft=5"
""",
    )
    lines = mistakes(path)
    assert all(line.startswith(f"{path}: ") for line in lines)
    short = sorted(line.removeprefix(f"{path}: ") for line in lines)
    for expected in (
        "[paralel]: unknown section; did you mean 'parallel'?",
        "[averaging]: says how peers agree; give the peers too, each [[peer]]",
        "peeer: unknown section; did you mean 'peer'?",
        "serving.engine = 'vlm': unknown; did you mean 'vllm'?",
        "serving.slo = 'ttft=5': must be such as 'ttft=500ms,tpot=50ms' (ttft, tpot, latency)",
        "parallel.tpp: unknown key; did you mean 'tp'?",
        "parallel.tensor_parallel: unknown key; did you mean 'tp'?",
        "parallel.pp = -2: must be at least 1",
        "parallel.zero_stage = '3': must be a whole number",
        "run.restart_s = nan: must be finite",
        "training.precision = 'bf61': is not known; did you mean 'bf16'?",
        "training.recompute = 'ful': is not known; did you mean 'full'?",
        "training.seq_len = 1000000000000: must be at most 100,000,000",
        "training.tokens = '15Q': must be a count such as 15e12, '15T' or '2.4B'",
    ):
        assert expected in short
    joined = "\n".join(short)
    assert "model.name = 'lama3-8b': " in joined
    assert "'llama3-8b'" in joined
    assert "cluster.spec = '8x8xh10-sxm': " in joined
    assert "'h100-sxm'" in joined
    assert "training.global_batch_seqs: missing" in joined
    assert "'megatron-core'" in joined
    assert "run.checkpoint_interval_s = inf" in joined
    assert len(short) == 19


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("training.tokens", float("nan"), "must be finite"),
        ("training.tokens", -1.0, "at least 0"),
        ("training.tokens", 1e18, "at most 1e+17"),
        ("training.seq_len", True, "whole number"),
        ("training.seq_len", 8192.0, "whole number"),
        ("training.schedule", "1fb1", "'1f1b'"),
        ("training.uneven_stages", "yes", "true, false, 'balanced' or a list"),
        ("training.uneven_stages", [16, -16], "true, false, 'balanced' or a list"),
        ("training.offload", ["optimiser"], "'optimizer'"),
        ("training.task", "rlhf", "pretrain"),
        ("parallel.placement", ["tp", "zz"], "known"),
        ("parallel.tp", 10**9, "at most 10,000,000"),
        ("parallel.sp", 1, "true or false"),
        ("money.kind", "spott", "'spot'"),
        ("money.pue", 0.5, "at least 1"),
        ("money.usd_per_accelerator_hour", float("inf"), "finite"),
        ("money.region", "gcp:us-centrall1", "us-central1"),
        ("run.failures_per_1000_node_days", -2.0, "'auto' or a number"),
        ("cluster.spec", "125000000x8xh100-sxm", "10,000,000"),
        ("cluster.spec", "", "not understood"),
        ("cluster.spec", "99999999999999999999999999999x8xh100-sxm", "10,000,000"),
        ("model.name", "", "catalogue"),
        ("stack.name", "no-such.toml", "no such file"),
    ],
)
def test_values_out_of_their_range(tmp_path: Path, key: str, value: object, rule: str) -> None:
    lines = mistakes(write(tmp_path, GOOD), {key: value})
    assert any(rule in line and key in line for line in lines), lines


def test_a_large_run_is_no_mistake(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"training.tokens": 1e15})
    assert plan.training.tokens == 1e15


def test_uneven_stages_may_be_listed(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"training.uneven_stages": [17, 15]})
    assert plan.training.stage_layers == (17, 15)


def test_interleaving_follows_from_vpp(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, GOOD), {"parallel.vpp": 2})
    assert plan.training.schedule == "interleaved"


def test_missing_sections_are_named(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, ""))
    text = "\n".join(lines)
    assert "model: give one of name" in text
    assert "cluster: give spec" in text
    assert "training.seq_len: missing" in text


def test_a_section_that_is_no_table(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, 'model = "llama3-8b"\n' + GOOD.replace("[model]", "[x]")))
    assert any("model = 'llama3-8b': must be a section of keys" in line for line in lines)


def test_configuration_beside_the_plan(tmp_path: Path) -> None:
    lines = mistakes(write(tmp_path, GOOD.replace("name = ", "config = ")))
    assert len(lines) == 1
    assert "model.config = 'llama3-8b'" in lines[0]
    assert "no such file" in lines[0]


MIXTURE = """
[model]
name = "mixtral-8x7b"
{routing}
[cluster]
spec = "2x8xh100-sxm"
[parallel]
ep = 8
[training]
seq_len = 4096
global_batch_seqs = 64
"""


def mixture(folder: Path, routing: str) -> Path:
    return write(folder, MIXTURE.format(routing=routing))


def test_routing_of_experts(tmp_path: Path) -> None:
    moe = read_plan(mixture(tmp_path, "capacity_factor = 1.25")).model.moe
    assert moe is not None
    assert (moe.capacity_factor, moe.load) == (1.25, ())
    moe = read_plan(mixture(tmp_path, "expert_load = [4, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]")).model.moe
    assert moe is not None
    # Relative to the mean, 1.
    assert moe.load == (4.0, 0.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("load.json", "[8, 1, 1, 1, 1, 1, 1, 2]"),
        ("load.csv", "8\n1\n1\n1\n1\n1\n1\n2\n"),
        ("load.csv", "expert,tokens\n0,800\n1,100\n2,100\n3,100\n4,100\n5,100\n6,100\n7,200\n"),
    ],
)
def test_load_of_experts_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    moe = read_plan(mixture(tmp_path, f'expert_load = "{name}"')).model.moe
    assert moe is not None
    assert moe.load == (4.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    ("routing", "rule"),
    [
        ("expert_load = [1, 2]", "lists 2 loads, mixtral-8x7b has 8 experts"),
        ("expert_load = [1, 1, 1, 1, 1, 1, 1, nan]", "entry 8 is nan"),
        ("expert_load = [1, 1, 1, 1, 1, 1, 1, -1]", "entry 8 is -1"),
        ("expert_load = [1, 1, 1, 1, 1, 1, 1, 1e300]", "entry 8 is 1e+300"),
        ("expert_load = [1, 1, 1, 1, 1, 1, 1, '1']", "entry 8 is '1'; must be a number"),
        ("expert_load = [0, 0, 0, 0, 0, 0, 0, 0]", "at least one must be above 0"),
        ("expert_load = []", "list of numbers"),
        ("expert_load = 3", "list of numbers"),
        ("expert_load = ''", "list of numbers"),
        ("expert_load = 'none.csv'", "cannot be read: no such file"),
        ("expert_load = '.'", "cannot be read: is a directory"),
        ("expert_load = '/dev/null'", "no expert has any load"),
        ("expert_load = 'plan.toml'", "is no number"),
        ("expert_load = 'object.json'", "must hold a list"),
        ("expert_load = 'deep.json'", "not valid JSON"),
        ("capacity_factor = -1", "at least 0"),
        ("capacity_factor = inf", "finite"),
        ("capacity_factor = 1e9", "at most 1000"),
        ("capacity_factor = '1'", "must be a number"),
    ],
)
def test_routing_that_makes_no_sense(tmp_path: Path, routing: str, rule: str) -> None:
    (tmp_path / "object.json").write_text("{}", encoding="utf-8")
    (tmp_path / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    (line,) = mistakes(mixture(tmp_path, routing))
    assert rule in line
    assert "model." + routing.split(" = ")[0] in line


def test_a_dense_model_routes_nothing(tmp_path: Path) -> None:
    text = GOOD.replace("[cluster]", "capacity_factor = 1.0\nexpert_load = [1, 2]\n[cluster]")
    lines = mistakes(write(tmp_path, text))
    assert len(lines) == 2
    assert all("llama3-8b has no experts; leave it out" in line for line in lines)


def test_another_model_leaves_the_routing_of_the_first(tmp_path: Path) -> None:
    plan = read_plan(mixture(tmp_path, "capacity_factor = 2.0"), {"model.name": "mixtral-8x22b"})
    assert plan.model.moe is not None
    assert plan.model.moe.capacity_factor == 0.0


def linked(folder: Path, file: str, **cluster: object) -> Path:
    keys = {"graph": file, "accelerator": "h100-sxm", **cluster}
    lines = "\n".join(f"{key} = {value!r}" for key, value in keys.items() if value is not None)
    return write(folder, GOOD.replace('spec = "8x8xh100-sxm"', lines))


def test_a_cluster_given_link_by_link(tmp_path: Path) -> None:
    graph = ROOT / "examples" / "two_nodes.links.json"
    plan = read_plan(linked(tmp_path, str(graph)))
    assert (plan.cluster.count, plan.cluster.per_node) == (16, 8)
    assert [tier.size for tier in plan.cluster.tiers] == [8, 16]
    assert plan.cluster.tiers[1].bytes_per_s == 50e9
    # As the short name says it, but for where the collectives' efficiency comes from.
    assert read_plan(ROOT / "examples" / "llama3_8b_custom_network.toml").parallel.dp == 16


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not a node-link JSON file"),
        ("[]", "not a node-link JSON file"),
        ("[" * 100_000, "not a node-link JSON file"),
        ("{}", "no 'nodes'"),
        ('{"nodes": [], "edges": []}', "no vertex has kind accelerator"),
        ('{"nodes": 3, "edges": []}', "not a node-link JSON file"),
        ('{"nodes": [{"id": [1]}], "edges": []}', "not a node-link JSON file"),
        ('{"nodes": [{"id": 0}], "edges": []}', "kind is None"),
        ('{"directed": true, "nodes": [], "edges": []}', "directed"),
        ('{"nodes": [NODE, OTHER], "edges": []}', "not connected"),
        ('{"nodes": [NODE], "edges": [{"source": 0, "target": 1}]}', "not among the nodes"),
        ('{"nodes": [NODE], "edges": [{"source": 0}]}', "no 'target'"),
        ('{"graph": {"per_node": 3}, "nodes": [NODE, OTHER], "edges": [LINK]}', "per_node is 3"),
        ('{"graph": {"torus": 3}, "nodes": [NODE, OTHER], "edges": [LINK]}', "torus is 3"),
        ('{"nodes": [NODE, OTHER], "edges": [SLOW]}', "bytes_per_s is nan"),
        ('{"nodes": [NODE, OTHER], "edges": [EARLY]}', "latency_s is -1"),
        ('{"nodes": [NODE, OTHER], "edges": [MAGIC]}', "efficiency is 7"),
    ],
)
def test_graphs_that_are_none(tmp_path: Path, text: str, rule: str) -> None:
    link = {"source": 0, "target": 1, "bytes_per_s": 1e9, "latency_s": 0}
    for name, value in (
        ("NODE", {"id": 0, "kind": "accelerator"}),
        ("OTHER", {"id": 1, "kind": "accelerator"}),
        ("LINK", link),
        ("SLOW", link | {"bytes_per_s": float("nan")}),
        ("EARLY", link | {"latency_s": -1}),
        ("MAGIC", link | {"efficiency": 7}),
    ):
        text = text.replace(name, json.dumps(value))
    (tmp_path / "links.json").write_text(text, encoding="utf-8")
    (line,) = mistakes(linked(tmp_path, "links.json"))
    assert line.startswith(f"{tmp_path / 'plan.toml'}: cluster.graph = 'links.json': ")
    assert rule in line


def test_a_graph_says_all_but_the_accelerator(tmp_path: Path) -> None:
    graph = str(ROOT / "examples" / "two_nodes.links.json")
    assert "leave it out" in mistakes(linked(tmp_path, graph, count=16))[0]
    assert "leave it out" in mistakes(linked(tmp_path, graph, fabric="efa"))[0]
    assert "a graph needs it" in mistakes(linked(tmp_path, graph, accelerator=None))[0]
    assert "did you mean" in mistakes(linked(tmp_path, graph, accelerator="h100-sxn"))[0]
    assert "no such file" in mistakes(linked(tmp_path, "none.json"))[0]
    assert "is a directory" in mistakes(linked(tmp_path, "."))[0]


def test_links_of_many_rates_are_refused_at_once(tmp_path: Path) -> None:
    nodes = [{"id": rank, "kind": "accelerator"} for rank in range(300)]
    edges = [
        {"source": rank, "target": rank + 1, "bytes_per_s": 1e9 + 1e6 * rank, "latency_s": 0}
        for rank in range(299)
    ]
    graph = json.dumps({"nodes": nodes, "edges": edges})
    (tmp_path / "links.json").write_text(graph, encoding="utf-8")
    assert len(mistakes(linked(tmp_path, "links.json"))) == 1


def test_a_path_may_be_text() -> None:
    assert read_plan(str(EXAMPLES[0])) == read_plan(EXAMPLES[0])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "did you mean" in mistakes(tmp_path / "plan.tml")[0]
    assert "is a folder" in mistakes(tmp_path)[0]
    assert "no such file" in mistakes(tmp_path / "no" / "such.toml")[0]
    path.write_text("[model\nname = 1")
    assert re.search(r"not TOML: .*line 1", mistakes(path)[0])
    path.write_bytes(b"[model]\nname = '\xff'\n")
    assert "line 2: not UTF-8" in mistakes(path)[0]
    path.write_text("#" * (planfile.MAX_FILE_BYTES + 1))
    assert "larger than 1024 KiB" in mistakes(path)[0]
    path.write_text("a = " + "[" * 100_000)
    assert "not TOML" in mistakes(path)[0]


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "plan-file.md").read_text(encoding="utf-8")
    for section, model in plan_schema.SECTIONS.items():
        assert f"[{section}]" in text
        for key in model.model_fields:
            assert f"`{key}`" in text, f"{section}.{key}"
