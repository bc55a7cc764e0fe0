"""Serving engines: the shipped files, their documentation, and the refusal of bad ones."""

from __future__ import annotations

import runpy
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from ridgeline.errors import InputError
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.engines import (
    POLICIES,
    Engine,
    engine_aliases,
    engine_names,
    load_engine,
)

ROOT = Path(__file__).resolve().parent.parent
DOCS = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate_profiles.py"))
FOLDER = ROOT / "simulator" / "serving" / "data"


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", engine_names())
def test_every_shipped_engine_loads_and_every_value_has_a_source(name):
    engine = load_engine(name)
    assert engine.name == name
    assert engine.description
    assert engine.policy in POLICIES
    raw = tomllib.loads((FOLDER / "engines" / f"{name}.toml").read_text(encoding="utf-8"))
    assert set(engine.sources) == set(raw) - {"description", "aliases"}
    assert all(len(source) > 5 for source in engine.sources.values())
    for key in engine.sources:
        found = getattr(engine, key)
        assert (list(found) if isinstance(found, tuple) else found) == raw[key]["value"]


def test_a_plain_name_is_the_newest_era():
    for alias, name in engine_aliases().items():
        assert load_engine(alias) is not None
        assert load_engine(alias) == load_engine(name)
    assert {"vllm", "sglang", "trtllm"} <= set(engine_aliases())


def test_every_constant_has_a_source():
    raw = tomllib.loads((FOLDER / "constants.toml").read_text(encoding="utf-8"))
    assert set(raw) == {f.name for f in fields(constants())}
    assert all(set(entry) == {"value", "source"} for entry in raw.values())
    assert all(len(entry["source"]) > 20 for entry in raw.values())


def test_an_own_engine_is_read_from_a_file(tmp_path):
    text = 'description = "ours"\nhost_s = { value = 1e-3, source = "a trace of ours" }\n'
    engine = load_engine(written(tmp_path / "ours.toml", text))
    assert (engine.name, engine.host_s) == ("ours", 1e-3)
    assert engine.token_budget == Engine(name="", description="").token_budget


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('host = { value = 1, source = "x" }', "unknown key"),
        ("host_s = 1", "write { value"),
        ('host_s = { value = -1, source = "x" }', "at least 0"),
        ('host_s = { value = "1", source = "x" }', "must be a number"),
        ('host_s = { value = true, source = "x" }', "must be a number"),
        ('host_s = { value = inf, source = "x" }', "finite"),
        ('host_s = { value = 1, source = "" }', "source must be a text"),
        ('memory_fraction = { value = 1.2, source = "x" }', "share from 0 to 1"),
        ('token_budget = { value = 0, source = "x" }', "whole number"),
        ('token_budget = { value = 2.5, source = "x" }', "whole number"),
        ('policy = { value = "fifo", source = "x" }', "must be one of mixed"),
        ('kv_precision = { value = "fp8", source = "x" }', "must be a table"),
        ('eager_layer_s = { value = 1.0, source = "x" }', "must be a table"),
        ('expert_kernels = { value = "cutlass", source = "x" }', "list of texts"),
    ],
)
def test_a_bad_value_is_refused_with_the_rule(tmp_path, line, said):
    path = written(tmp_path / "bad.toml", f'description = "bad"\n{line}\n')
    with pytest.raises(InputError, match=said) as caught:
        load_engine(path)
    assert len(caught.value.problems) == 1


def test_what_is_no_engine_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'vllm-0\.15'"):
        load_engine("vllm-0.155")
    with pytest.raises(InputError, match="no such file"):
        load_engine(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match="not TOML"):
        load_engine(written(tmp_path / "broken.toml", "= 1"))
    with pytest.raises(InputError, match="description"):
        load_engine(written(tmp_path / "nameless.toml", ""))


def test_the_table_of_engines_is_fresh():
    assert GENERATE["page"]("engines.md") == DOCS, "run: python docs/generate_profiles.py"


def test_every_field_is_explained_on_the_page():
    for field in fields(Engine):
        if field.name not in ("name", "description", "sources"):
            assert f"`{field.name}`" in DOCS, field.name
