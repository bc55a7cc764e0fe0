"""Published results: the file is sound, the table current, what must agree exactly agrees."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from ridgeline.cli import run
from ridgeline.validation.published.answers import KINDS
from ridgeline.validation.published.records import published_results
from ridgeline.validation.published.report import Recomputed, recompute

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def found() -> tuple[Recomputed, ...]:
    return recompute()


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("g", ROOT / "docs" / "generate_published.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_question_is_asked() -> None:
    assert {result.kind for result in published_results()} == set(KINDS)


def test_counts_agree_with_what_is_published(found: tuple[Recomputed, ...]) -> None:
    counts = [one for one in found if one.result.topic == "Counts"]
    assert counts
    assert [one.result.id for one in counts if not one.agrees] == []


def test_most_fully_specified_figures_agree(found: tuple[Recomputed, ...]) -> None:
    stated = [one for one in found if one.result.specified == "yes"]
    assert sum(one.agrees for one in stated) >= 0.8 * len(stated)


def test_the_page_is_current() -> None:
    module = generator()
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_the_command_prints_both_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--published", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == len(published_results())
    assert all(row["difference"] == row["ours"] / row["published"] - 1.0 for row in rows)


def test_published_takes_no_other_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--published", "--source", "x"]) == 2
    assert "--source" in capsys.readouterr().err
