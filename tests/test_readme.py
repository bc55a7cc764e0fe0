"""The README says what the program says today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize(("page", "part"), sorted(GENERATE["PARTS"]))
def test_generated_part_is_current(page: str, part: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    body = GENERATE["PARTS"][page, part]()
    assert GENERATE["replaced"](text, part, body) == text, "run: python docs/generate.py"


def test_both_commands_are_the_ones_that_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python -m pytest" in text
    assert f"ridgeline train {GENERATE['EXAMPLE']}" in text
