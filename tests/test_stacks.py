"""Stacks: the shipped files, their documentation, and the refusal of bad ones."""

from __future__ import annotations

import runpy
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from plans import make_plan
from ridgeline.errors import InputError
from ridgeline.simulator.stacks import Stack, load_stack, stack_names
from ridgeline.simulator.training import simulate_training

ROOT = Path(__file__).resolve().parent.parent
DOCS = (ROOT / "docs" / "stacks.md").read_text(encoding="utf-8")
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate_profiles.py"))
FOLDER = ROOT / "simulator" / "data" / "stacks"


@pytest.mark.parametrize("name", stack_names())
def test_every_shipped_stack_loads_and_every_value_has_a_source(name):
    stack = load_stack(name)
    assert stack.name == name
    assert stack.description
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    assert set(stack.sources) == set(raw) - {"description"}
    assert all(len(source) > 8 for source in stack.sources.values())
    for key in stack.sources:
        assert getattr(stack, key) == raw[key]["value"]


@pytest.mark.parametrize("name", stack_names())
def test_shares_are_shares(name):
    stack = load_stack(name)
    for key in ("tp_overlap", "ep_overlap", "cp_overlap", "overlap_slowdown", "fragmentation"):
        assert 0 <= getattr(stack, key) <= 1, key
    assert 0 < stack.attention_backward <= 1
    assert 0 < stack.nccl_bandwidth <= 1


def test_names_are_read_in_any_case_and_loaded_once():
    assert load_stack("Megatron-Core").name == "megatron-core"
    assert load_stack("megatron-core") is load_stack("megatron-core")


@pytest.mark.parametrize(
    ("given", "hint"),
    [("megatron-cor", "'megatron-core'"), ("fsdp", "known: "), ("nowhere.toml", "no such file")],
)
def test_an_unknown_name_is_refused_with_the_nearest(given, hint):
    with pytest.raises(InputError) as caught:
        load_stack(given)
    (line,) = caught.value.problems
    assert given in line
    assert hint in line


def refused(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_stack(str(path))
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def entry(key: str, value: str, source: str = "measured here") -> str:
    return f'description = "mine"\n[{key}]\nvalue = {value}\nsource = "{source}"\n'


def test_an_own_stack_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(entry("tp_overlap", "0.5"), encoding="utf-8")
    stack = load_stack(str(path))
    assert (stack.name, stack.tp_overlap) == ("mine", 0.5)
    assert simulate_training(make_plan(tp=8, stack=str(path))).stack == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (entry("tp_overlp", "0.5"), ["tp_overlp", "'tp_overlap'"]),
        (entry("tp_overlap", "nan"), ["tp_overlap", "finite"]),
        (entry("tp_overlap", "inf"), ["tp_overlap", "finite"]),
        (entry("tp_overlap", "-0.1"), ["tp_overlap", "at least 0"]),
        (entry("tp_overlap", '"half"'), ["tp_overlap", "number"]),
        (entry("tp_overlap", "true"), ["tp_overlap", "number"]),
        (entry("dropout", "1"), ["dropout", "true or false"]),
        (entry("attention", '"flash"'), ["attention", "fused, unfused"]),
        (entry("expert_dispatch", '"by_node"'), ["expert_dispatch", "by-node"]),
        (entry("attention_rate", '{ hopper = "fast" }'), ["attention_rate", "number"]),
        (entry("attention_rate", "0.5"), ["attention_rate", "name = number"]),
        (entry("attention_rate", "{ hopper = 0 }"), ["attention_rate", "above 0"]),
        (entry("tp_overlap", "{ hopper = 0.5 }"), ["tp_overlap", "must be a number"]),
        (entry("tp_overlap", "1.5"), ["tp_overlap", "from 0 to 1"]),
        (entry("nccl_bandwidth", "0"), ["nccl_bandwidth", "above 0"]),
        (entry("tp_overlap", "0.5", ""), ["tp_overlap", "source"]),
        ("description = 3\n", ["description", "text"]),
        (entry("name", '"other"'), ["name", "unknown key"]),
        ('description = "mine"\ntp_overlap = 0.5\n', ["tp_overlap", "source"]),
        ('description = "mine"\n[tp_overlap]\nvalue = 0.5\n', ["tp_overlap", "source"]),
        ('[tp_overlap]\nvalue = 0.5\nsource = "measured here"\n', ["description", "missing"]),
        ("description = mine\n", ["not TOML"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, words):
    (line,) = refused(tmp_path, text)
    for word in words:
        assert word in line


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_stack(str(path))


def test_all_mistakes_of_a_file_come_together(tmp_path):
    lines = refused(tmp_path, '[tp_overlap]\nvalue = -1\nsource = "x"\n[dropuot]\nvalue = 1\n')
    assert len(lines) == 3


# Documentation ---------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, list[str]]:
    """Return the table below a heading: first cell to the others."""
    section = DOCS.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_field_is_documented_with_its_default():
    documented = rows("Fields")
    wanted = {
        f.name: f
        for f in fields(Stack)
        if f.name not in ("name", "sources", "description", "calibration")
    }
    assert set(documented) == set(wanted)
    for name, field in wanted.items():
        default = {} if field.default is MISSING else field.default
        assert documented[name][0] == GENERATE["shown"](default), name


def test_the_table_of_shipped_stacks_is_current():
    assert GENERATE["page"]("stacks.md") == DOCS, "run: python docs/generate_profiles.py"
