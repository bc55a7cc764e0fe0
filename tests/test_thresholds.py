"""Rules by training compute."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from ridgeline.simulator import read_plan, simulate_training
from ridgeline.workloads.thresholds import crossed, thresholds

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "llama3_405b_16k_h100.toml"


def test_rules_are_dated_and_sourced() -> None:
    for rule in thresholds():
        assert rule.source
        assert date.fromisoformat(rule.since)
        assert not rule.until or date.fromisoformat(rule.until) > date.fromisoformat(rule.since)


def test_a_run_falls_under_the_rules_below_it() -> None:
    assert crossed(1e23) == ()
    assert [rule.flops for rule in crossed(3.8e25)] == [1e23, 1e25]
    assert [rule.flops for rule in crossed(2e26)] == [1e23, 1e25, 1e26, 1e26]


def test_a_prediction_names_the_rules_of_the_whole_run() -> None:
    """Llama 3.1 405B on 15.6T tokens took 3.8e25 FLOP (arXiv:2407.21783, section 3.2)."""

    def policies(tokens: str) -> list[str]:
        plan = read_plan(EXAMPLE, {"training.tokens": tokens})
        return [one.text for one in simulate_training(plan).provenance if one.kind == "policy"]

    assert len(policies("15.6T")) == 2
    assert "systemic risk" in policies("15.6T")[1]
    assert policies("1B") == []
