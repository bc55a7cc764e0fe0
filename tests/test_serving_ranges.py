"""Ranges of predicted services: grades by what was measured, factors around a prediction."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from ridgeline.simulator.serving.ranges import (
    GRADES,
    METRICS,
    measured_services,
    service_grade,
    service_range,
)
from ridgeline.validation.serving.calibration.ranges import ranges_of, ranges_toml

_SEEN = {("a", "x"): 3, ("b", "y"): 2, ("c", "z"): 0}


@pytest.mark.parametrize(
    ("engine", "accelerator", "grade"),
    [
        ("a", "x", "measured"),
        ("a", "y", "engine"),
        ("c", "x", "accelerator"),
        ("c", "z", "neither"),
        ("./own.toml", "w", "neither"),
    ],
)
def test_grades(engine: str, accelerator: str, grade: str) -> None:
    assert service_grade(engine, accelerator, _SEEN) == grade


def test_a_range_holds_its_prediction_and_less_evidence_is_never_narrower() -> None:
    (engine, accelerator), count = next(iter(measured_services().items()))
    asked = [(engine, accelerator), (engine, "none"), ("none", accelerator), ("none", "none")]
    found = [service_range(*pair) for pair in asked]
    assert [one.grade for one in found] == list(GRADES)
    assert found[0].count == count
    for metric in METRICS:
        widths = []
        for one in found:
            low, high = getattr(one, metric)
            assert 0.0 < low <= 1.0 <= high
            widths.append(high - low)
        assert widths == sorted(widths)


def test_ranges_hold_four_in_five_of_the_errors_that_made_them() -> None:
    random = np.random.default_rng(1)
    rows = np.expm1(random.normal(0.02, 0.1, 400)).tolist()
    errors = {grade: dict.fromkeys(METRICS, rows) for grade in GRADES}
    errors["neither"] = {**errors["neither"], "tpot": rows[:3]}
    found = ranges_of(errors)
    assert found["measured"]["tpot"]["covered"] == pytest.approx(0.8, abs=0.01)
    assert found["measured"]["tpot"]["held_out"] == pytest.approx(0.8, abs=0.05)
    # too few rows of their own: the range of the next better grade, and no share held out
    assert found["neither"]["tpot"]["range"] == found["accelerator"]["tpot"]["range"]
    assert found["neither"]["tpot"]["held_out"] is None
    text = ranges_toml(found, {("e-1.0", "x"): 4})
    read = tomllib.loads(text)
    assert read["services"] == {"e-1.0": {"x": 4}}
    assert read["measured"]["tpot"] == found["measured"]["tpot"]["range"]
