"""Reading Hugging Face configurations: each family's rules, defaults and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.workloads import load_model, model_from_config, model_names
from ridgeline.workloads.catalogue import model_entry
from ridgeline.workloads.huggingface import FAMILIES
from ridgeline.workloads.parameters import parameters

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def config_of(name: str) -> dict[str, Any]:
    config = model_entry(name)["config"]
    assert isinstance(config, dict)
    return config


def changed(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**config, **fields}


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def problems_of(config: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        model_from_config(config, "mine")
    for problem in caught.value.problems:
        assert "\n" not in problem
        assert problem.startswith("mine: ")
    return caught.value.problems


def test_every_asked_family_is_read() -> None:
    asked = {
        *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe"),
        *("gpt2", "gpt_neox", "opt", "bloom", "falcon", "mpt", "phi3"),
        *("gemma", "gemma2", "gemma3"),
        *("deepseek_v2", "deepseek_v3", "gpt_oss", "kimi_k2", "glm4_moe"),
    }
    assert asked <= set(FAMILIES)
    named = {load_model(name).family for name in model_names()}
    # Image-and-text files name the family of their text part.
    assert set(FAMILIES) - named == {"gemma3", "llama4", "qwen3_5_moe"}


def test_defaults_of_the_llama_class() -> None:
    # modeling_llama.py: head size h / a, as many key-value heads as heads, no ties, no biases.
    model = model_from_config(without(LLAMA, "num_key_value_heads"))
    assert (model.attention.kv_heads, model.attention.head_dim) == (4, 64)
    assert not model.tied_embeddings
    biased = model_from_config(changed(LLAMA, attention_bias=True, mlp_bias=True))
    plain = model_from_config(LLAMA)
    per_layer = (256 + 2 * 128 + 256) + (512 + 512 + 256)
    assert parameters(biased).total - parameters(plain).total == 2 * per_layer


def test_null_is_absent() -> None:
    model = model_from_config(changed(LLAMA, head_dim=None, num_key_value_heads=None))
    assert model.attention.kv_heads == 4


def test_qwen_windows_only_when_switched_on() -> None:
    config = changed(config_of("qwen2.5-7b"), sliding_window=1024, max_window_layers=20)
    assert model_from_config(config).windows == ()
    windows = model_from_config(changed(config, use_sliding_window=True)).windows
    assert windows == (0,) * 20 + (1024,) * 8


def test_layer_types_win_over_the_pattern() -> None:
    kinds = ["full_attention"] * 13 + ["sliding_attention"] * 13
    model = model_from_config(changed(config_of("gemma3-1b"), layer_types=kinds))
    assert model.windows == (0,) * 13 + (512,) * 13


def test_gemma3_leaves_out_what_its_class_knows() -> None:
    # The released 4B file has no heads, head size or vocabulary in its text part.
    text = config_of("gemma3-4b")["text_config"]
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    short = {"model_type": "gemma3", "text_config": without(text, *names)}
    assert parameters(model_from_config(short)).total == 3_880_263_168


def test_falcon_in_its_older_spelling() -> None:
    old = {
        "model_type": "RefinedWebModel",
        "hidden_size": 4544,
        "n_layer": 32,
        "n_head": 71,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
        "vocab_size": 65024,
    }
    assert parameters(model_from_config(old)).total == 6_921_720_704
    many_heads = model_from_config(changed(old, multi_query=False))
    assert many_heads.attention.kv_heads == 71
    sequential = model_from_config(changed(old, parallel_attn=False))
    assert (sequential.norms_per_layer, sequential.parallel_block) == (2, False)


def test_falcon_2_has_one_norm() -> None:
    config = changed(config_of("falcon-40b"), num_ln_in_parallel_attn=1)
    assert model_from_config(config).norms_per_layer == 1


def test_mpt_kinds() -> None:
    config = config_of("mpt-7b")
    grouped = changed(config, attn_config={"attn_type": "grouped_query_attention", "kv_n_heads": 8})
    model = model_from_config(grouped)
    assert model.attention.kv_heads == 8
    assert (model.position, model.learned_positions) == ("learned", 2048)
    single = model_from_config(changed(config, attn_config={"attn_type": "multiquery_attention"}))
    assert single.attention.kv_heads == 1
    assert load_model("mpt-7b").position == "alibi"


def test_opt_350m_is_the_odd_one() -> None:
    model = load_model("opt-350m")
    assert (model.embedding_dim, model.final_norm, model.learned_positions) == (512, False, 2050)


def test_mla_without_query_compression() -> None:
    model = load_model("deepseek-v2-lite")
    assert (model.attention.q_lora_rank, model.attention.head_dim) == (0, 192)


def test_sparse_step_and_leading_dense_layers() -> None:
    config = config_of("qwen3-30b-a3b")
    every_other = model_from_config(changed(config, decoder_sparse_step=2))
    assert [every_other.is_moe_layer(index) for index in range(4)] == [False, True, False, True]
    assert every_other.ffn_hidden == 6144
    leading = model_from_config(changed(config, mlp_only_layers=[0, 1]))
    assert [leading.is_moe_layer(index) for index in range(3)] == [False, False, True]
    assert "mlp_only_layers" in problems_of(changed(config, mlp_only_layers=[3]))[0]


def test_name_and_source(tmp_path: Path) -> None:
    named = model_from_config(changed(LLAMA, _name_or_path="org/tiny-llama/"))
    assert named.name == "tiny-llama"
    assert model_from_config(LLAMA, "other").name == "other"
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(LLAMA))
    assert model_from_config(path).name == "tiny"
    assert model_from_config(path).source == str(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": float("nan")}, "'hidden_size' is nan: must be a whole number"),
        ({"hidden_size": float("inf")}, "'hidden_size' is inf: must be a whole number"),
        ({"hidden_size": "256"}, "'hidden_size' is '256': must be a whole number"),
        ({"hidden_size": True}, "'hidden_size' is True: must be a whole number"),
        ({"hidden_size": -256}, "'hidden_size' is -256: must be from 1"),
        ({"num_attention_heads": 0}, "'num_attention_heads' is 0: must be from 1"),
        ({"num_hidden_layers": 10**7}, "'num_hidden_layers' is 10000000: must be from 1 to 100000"),
        ({"vocab_size": 10**30}, "'vocab_size' is 1000000"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads' is 3: must divide the 4"),
        ({"num_attention_heads": 6}, "6 attention heads do not divide the hidden size 256"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes': must be true or false"),
        ({"intermediate_size": [1]}, "'intermediate_size' is [1]: must be a whole number"),
        ({"model_type": "lama"}, "unknown family 'lama': did you mean 'llama'?"),
        ({"model_type": 7}, "'model_type' is 7: must be a string"),
        ({"model_type": None}, "missing field 'model_type'"),
    ],
)
def test_bad_values(change: dict[str, Any], expected: str) -> None:
    problems = problems_of(changed(LLAMA, **change))
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(
    "name",
    ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"],
)
def test_missing_fields(name: str) -> None:
    assert f"mine: missing field {name!r}" in problems_of(without(LLAMA, name))


def test_all_problems_together() -> None:
    config = changed(without(LLAMA, "vocab_size"), hidden_size=-1, num_hidden_layers=0)
    problems = problems_of(config)
    assert len(problems) == 3


def test_problems_of_other_families() -> None:
    mixtral = changed(config_of("mixtral-8x7b"), num_experts_per_tok=9)
    assert "9 experts per token: there are only 8" in problems_of(mixtral)[0]
    oss = changed(config_of("gpt-oss-20b"), layer_types=["full_attention"])
    assert "'layer_types' has 1 entries: must have 24" in problems_of(oss)[0]
    kinds = changed(config_of("gpt-oss-20b"), layer_types=["linear"] * 24)
    assert "'layer_types' has 'linear'" in problems_of(kinds)[0]
    deepseek = changed(config_of("deepseek-v3"), moe_layer_freq=2)
    assert "'moe_layer_freq' must be 1" in problems_of(deepseek)[0]
    mpt = changed(config_of("mpt-7b"), attn_config={"attn_type": "multihead_atention"})
    assert "did you mean 'multihead_attention'?" in problems_of(mpt)[0]
    section = changed(config_of("mpt-7b"), attn_config=5)
    assert "'attn_config' is 5: must be an object" in problems_of(section)[0]
    ratio = changed(config_of("mpt-7b"), expansion_ratio=float("nan"))
    assert "'expansion_ratio' is nan" in problems_of(ratio)[0]
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    assert any("text_config: missing field 'hidden_size'" in p for p in problems_of(nested))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model_type": "llama", "hidden_', "not valid JSON at line 1"),
        ("", "not valid JSON"),
        ("[1, 2]", "holds a list, must hold a JSON object"),
        ("null", "holds null"),
        ("3", "holds a number"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON (a number too long"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_model(path)
    (problem,) = caught.value.problems
    assert problem.startswith(str(path))
    assert expected in problem
    assert "\n" not in problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        model_from_config(tmp_path / "none.json")
    binary = tmp_path / "config.json"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        model_from_config(binary)
    with pytest.raises(InputError, match="no such file"):
        model_from_config(tmp_path / "folder-that-is-not")


def test_not_an_object() -> None:
    with pytest.raises(InputError, match="is a list, must be a JSON object"):
        model_from_config([])  # type: ignore[arg-type]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_file_crashes_the_reader(data: st.DataObject) -> None:
    """Whatever the values, the answer is a model or an InputError of one-line problems."""
    name = data.draw(st.sampled_from(("mpt-7b", "deepseek-v3", "gpt-oss-20b", "falcon-40b")))
    base = config_of(name)
    fields = data.draw(st.sets(st.sampled_from([key for key in base if key != "model_type"])))
    values = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS)
    config = {**base, **{field: data.draw(values) for field in fields}}
    problems: tuple[str, ...] = ()
    counted = 0
    try:
        counted = parameters(model_from_config(config, "mine")).total
    except InputError as error:
        problems = error.problems
    assert bool(problems) != (counted > 0)
    assert all("\n" not in problem for problem in problems)
