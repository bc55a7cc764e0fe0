"""Parameter counts against published counts, the catalogue, and models from plain numbers."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.workloads import (
    custom_model,
    distinct_layers,
    layer_parameters,
    load_model,
    model_from_config,
    model_names,
)
from ridgeline.workloads.catalogue import model_aliases, model_entry
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import Parameters, parameters

UNITS = {"million": 1e6, "billion": 1e9, "trillion": 1e12}

# Checkpoint sizes as their model hubs print them; a second, independent copy of the counts that
# matter most (the citation of each is in its catalogue file).
EXACT = {
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama2-7b": 6_738_415_616,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "gpt2": 124_439_808,
    "qwen2.5-7b": 7_615_616_512,
    "gemma2-9b": 9_241_705_984,
    "gpt-neox-20b": 20_554_567_680,
    "bloom-176b": 176_247_271_424,
    "falcon-7b": 6_921_720_704,
    "phi3-mini": 3_821_079_552,
    "opt-350m": 331_196_416,
    "deepseek-v2": 235_741_434_880,
}


def quantity(counts: Parameters, name: str) -> int:
    values = {
        "total": counts.total,
        "active": counts.active,
        "active_without_embedding": counts.active - counts.embedding,
        "active_without_embedding_and_head": counts.active - counts.embedding - counts.head,
        "non_embedding": counts.non_embedding,
        "non_embedding_with_mtp": counts.non_embedding + counts.mtp,
    }
    return values[name]


@pytest.mark.parametrize("name", EXACT)
def test_exact_counts(name: str) -> None:
    assert parameters(load_model(name)).total == EXACT[name]


@pytest.mark.parametrize("name", model_names())
def test_published_counts(name: str) -> None:
    """The exact count, or the printed figure to its printed digits, or within a stated part."""
    entry = model_entry(name)
    published = entry["published"]
    assert entry["source"]
    assert published["source"]
    counts = parameters(load_model(name))
    if "total" in published:
        assert counts.total == published["total"]
    for figure in published.get("figures", ()):
        value = quantity(counts, figure["quantity"]) / UNITS[figure["unit"]]
        printed = figure["printed"]
        if "within" in figure:
            assert figure["note"]
            assert value == pytest.approx(float(printed), rel=figure["within"])
        else:
            decimals = len(printed.partition(".")[2])
            assert f"{value:.{decimals}f}" == printed, figure
    assert "total" in published or published.get("figures")


def test_kimi_k2_with_its_prediction_layer() -> None:
    # 1.04T (Kimi Team 2025, arXiv:2507.20534; 1043B in GLM-4.5's Table 1) counts the layer for
    # multi-token prediction, which the released checkpoint lacks.
    trained = replace(load_model("kimi-k2"), num_mtp_layers=1)
    assert f"{parameters(trained).total_with_mtp / 1e12:.2f}" == "1.04"


def test_deepseek_v3_prediction_module() -> None:
    # The checkpoint of 685B holds 671B of model and 14B of module, in which embedding and head
    # are stored again (huggingface.co/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md: 11.5B unique).
    counts = parameters(load_model("deepseek-v3"))
    assert f"{counts.total / 1e9:.2f}" == "671.03"
    assert counts.mtp / 1e9 == pytest.approx(11.5, rel=0.01)
    stored = counts.total_with_mtp + counts.embedding + counts.head
    assert f"{stored / 1e9:.1f}" == "684.5"


def test_closed_form_of_a_gpt() -> None:
    # 12 L h^2 (1 + 13/12h + (V+s)/12Lh): Narayanan et al. 2021, equation 2, whose count has no
    # final norm (2 h).
    for name in ("gpt3-175b", "mt-nlg-530b", "gpt-1t"):
        model = load_model(name)
        layers, hidden = model.num_layers, model.hidden
        tokens = model.vocab + model.learned_positions
        expected = 12 * layers * hidden**2 + 13 * layers * hidden + tokens * hidden + 2 * hidden
        assert parameters(model).total == expected


@pytest.mark.parametrize("name", model_names())
def test_parts_add_up(name: str) -> None:
    model = load_model(name)
    counts = parameters(model)
    parts = (
        counts.embedding
        + counts.head
        + counts.positions
        + counts.norms
        + counts.attention
        + counts.mlp
        + counts.experts
        + counts.table
        + counts.towers
    )
    assert parts == counts.total
    assert counts.active <= counts.total
    kinds = distinct_layers(model)
    assert sum(kind.count for kind in kinds) == model.num_layers
    by_layer = sum(layer_parameters(model, index).total for index in range(model.num_layers))
    outside = counts.embedding + counts.head + counts.positions + counts.towers
    assert 0 <= counts.total - outside - by_layer <= 4 * model.hidden
    for kind in kinds:
        layer = layer_parameters(model, kind.index_of_first)
        assert layer.total == layer.dense + layer.routed_experts
        assert (layer.routed_experts > 0) == kind.is_moe


def test_layers_of_a_mixture() -> None:
    kinds = distinct_layers(load_model("deepseek-v3"))
    assert [(kind.index_of_first, kind.count, kind.is_moe) for kind in kinds] == [
        (0, 3, False),
        (3, 58, True),
    ]
    kinds = distinct_layers(load_model("llama4-maverick"))
    assert {(kind.is_moe, bool(kind.window)): kind.count for kind in kinds} == {
        (False, True): 24,
        (True, True): 12,
        (True, False): 12,
    }


def test_windows_alternate() -> None:
    gemma2 = load_model("gemma2-9b")
    assert gemma2.windows[:4] == (4096, 0, 4096, 0)
    gemma3 = load_model("gemma3-1b")
    assert gemma3.windows[:6] == (512,) * 5 + (0,)
    assert distinct_layers(gemma3)[1].count == 4
    assert load_model("gpt-oss-20b").windows[:2] == (128, 0)
    assert load_model("llama3-8b").windows == ()
    assert set(load_model("mistral-7b").windows) == {4096}


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("llama3-405b", "llama3.1-405b"),
        ("Llama-3.1-405B", "llama3.1-405b"),
        ("meta-llama/Llama-3.1-8B", "llama3.1-8b"),
        ("GPT3-175B", "gpt3-175b"),
        ("GPT-3", "gpt3-175b"),
        ("MT-NLG-530B", "mt-nlg-530b"),
        ("gpt_oss_20b", "gpt-oss-20b"),
        ("Gemma 2 9B", "gemma2-9b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
    ],
)
def test_names_in_any_spelling(given_name: str, name: str) -> None:
    assert load_model(given_name).name == name


def test_aliases_lead_to_models_and_hide_none() -> None:
    names = set(model_names())
    assert len(names) >= 60
    for alias, name in model_aliases().items():
        assert name in names
        assert alias not in names


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'llama3-80b'.*did you mean 'llama3-8b'") as caught:
        load_model("llama3-80b")
    assert len(caught.value.problems) == 1
    with pytest.raises(InputError, match="not in the catalogue"):
        load_model("")


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ridgeline.workloads import load_model; load_model('llama3-405b');"
        "print([name for name in ('numba', 'numpy', 'pandas', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_custom_tells_the_design_by_its_size() -> None:
    llama = custom_model(
        layers=32, hidden=4096, ffn_hidden=11008, heads=32, vocab=32000, params_b=6.74
    )
    assert llama.gated_mlp
    assert parameters(llama).total == EXACT["llama2-7b"]
    shape = {"layers": 96, "hidden": 12288, "ffn_hidden": 49152, "heads": 96, "vocab": 51200}
    gpt = custom_model(**shape, params_b=174.6)
    assert not gpt.gated_mlp
    assert gpt.tied_embeddings
    assert gpt.learned_positions == 2048
    assert custom_model(**shape, gated=True, params_b=174.6).gated_mlp


def test_custom_tells_the_tie_by_the_size() -> None:
    # Nemotron-4 15B: a plain MLP, untied embeddings (Parmar et al. 2024, section 2).
    nemotron = custom_model(
        layers=32, hidden=6144, ffn_hidden=24576, heads=48, kv_heads=8, vocab=256_000, params_b=15.6
    )
    assert not nemotron.gated_mlp
    assert not nemotron.tied_embeddings


def test_custom_mixture() -> None:
    model = custom_model(
        layers=32,
        hidden=4096,
        ffn_hidden=14336,
        heads=32,
        kv_heads=8,
        vocab=32000,
        num_experts=8,
        top_k=2,
    )
    assert parameters(model).total == EXACT["mixtral-8x7b"]
    assert parameters(model).active == parameters(load_model("mixtral-8x7b")).active


def test_custom_defaults() -> None:
    plain = custom_model(layers=2, hidden=1024, heads=16)
    assert (plain.ffn_hidden, plain.gated_mlp, plain.vocab) == (4096, False, 51_200)
    gated = custom_model(layers=2, hidden=4096, heads=32, gated=True)
    assert gated.ffn_hidden == 11_008  # of Llama 7B


def test_custom_reports_all_mistakes() -> None:
    with pytest.raises(InputError) as caught:
        custom_model(layers=-1, hidden=float("nan"), heads=0, vocab=-5)  # type: ignore[arg-type]
    problems = caught.value.problems
    assert len(problems) == 4
    assert all("'custom'" in problem and "\n" not in problem for problem in problems)
    with pytest.raises(InputError, match="7 heads do not divide hidden 64"):
        custom_model(layers=1, hidden=64, heads=7)
    with pytest.raises(InputError, match="kv_heads 3: must divide the 8 heads"):
        custom_model(layers=1, hidden=64, heads=8, kv_heads=3)
    with pytest.raises(InputError, match="top_k 4: there are 2 experts"):
        custom_model(layers=1, hidden=64, heads=8, num_experts=2, top_k=4)
    with pytest.raises(InputError, match="positions 'rope'"):
        custom_model(layers=1, hidden=64, heads=8, positions="rope")


@settings(max_examples=30, deadline=None)
@given(
    layers=st.integers(1, 40),
    heads=st.integers(1, 16),
    head_dim=st.integers(1, 128),
    gated=st.booleans(),
    tied=st.booleans(),
)
def test_count_is_linear_in_layers(
    layers: int, heads: int, head_dim: int, gated: bool, tied: bool
) -> None:
    def build(count: int) -> Model:
        return custom_model(
            layers=count, hidden=heads * head_dim, heads=heads, gated=gated, tied=tied
        )

    one, two, many = (parameters(build(count)).total for count in (1, 2, layers))
    assert many == one + (layers - 1) * (two - one)


def test_measured_shapes_have_their_stated_size() -> None:
    """Every measured row that states its shape and size gives a model of that size."""
    path = Path(__file__).parents[2] / "shared" / "data" / "training" / "measured.csv"
    if not path.exists():
        pytest.skip("the measured training rows are not shipped")
    needed = ("params_b", "layers", "hidden", "ffn_hidden", "heads", "kv_heads", "head_dim")
    seen = far = 0
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not all(row[key] for key in (*needed, "vocab", "seq_len")) or row["num_experts"]:
                continue
            model = custom_model(
                name=row["model"],
                seq_len=int(row["seq_len"]),
                vocab=int(row["vocab"]),
                params_b=float(row["params_b"]),
                **{key: int(row[key]) for key in needed[1:]},
            )
            seen += 1
            # A tenth of the rows print a size that rounds or that leaves the embedding out.
            far += abs(parameters(model).total / 1e9 / float(row["params_b"]) - 1) > 0.03
    assert seen > 300
    assert far < 0.1 * seen


def test_path_of_a_config(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 128,'
        ' "vocab_size": 1000}'
    )
    for given_path in (folder, str(folder), folder / "config.json", str(folder / "config.json")):
        model = load_model(given_path)
        assert model.name == "my-model"
        assert model == model_from_config(given_path)
