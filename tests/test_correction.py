from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_correction import correction as slowly
from ridgeline.hardware.kernels import Correction
from ridgeline.simulator.roofline.correction import (
    apply_correction,
    fit_correction,
    fit_grids,
    log_correction,
    spread_nodes,
)

few = settings(max_examples=25, deadline=None)


@st.composite
def corrections(draw):
    axes = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        nodes = draw(st.lists(st.integers(-5, 20), min_size=1, max_size=5, unique=True))
        axes.append((name, tuple(float(node) for node in sorted(nodes))))
    count = int(np.prod([len(nodes) for _, nodes in axes]))
    values = draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
    return Correction(axes=tuple(axes), values=tuple(values))


@few
@given(corrections(), st.integers(0, 1000))
def test_equals_its_twin(correction, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-8, 23, (20, len(correction.axes)))
    slow = [slowly(point, correction.axes, correction.values) for point in points.tolist()]
    np.testing.assert_allclose(log_correction(points, correction), slow, rtol=1e-12, atol=1e-13)


def test_vanishes_an_octave_beyond_the_data():
    correction = Correction(axes=(("a", (0.0, 4.0)),), values=(0.5, -0.5))
    found = log_correction(
        np.array([[-1.0], [-0.5], [0.0], [2.0], [4.0], [4.5], [5.0]]), correction
    )
    np.testing.assert_allclose(found, [0.0, 0.25, 0.5, 0.0, -0.5, -0.25, 0.0], atol=1e-15)
    assert apply_correction(np.ones(2), np.array([[9.0], [0.0]]), correction) == pytest.approx(
        [1.0, np.exp(0.5)]
    )
    assert apply_correction(np.ones(1), np.zeros((1, 1)), None) == 1.0


def test_recovers_a_smooth_surface_despite_outliers():
    rng = np.random.default_rng(1)
    coords = rng.uniform(0, 10, (3000, 2))
    truth = 0.2 * np.sin(coords[:, 0] / 3) - 0.02 * coords[:, 1]
    measured = truth + rng.normal(0, 0.02, 3000)
    measured[::50] += 3.0  # two in a hundred rows are 20 times too slow
    axes = tuple((n, spread_nodes(2.0 ** coords[:, i], 7)) for i, n in enumerate("ab"))
    found = fit_correction(coords, measured, None, axes)
    assert np.abs(log_correction(coords, found) - truth).mean() < 0.01
    assert found == fit_correction(coords, measured, None, axes)


def test_a_step_is_kept_where_two_nodes_lie_on_its_sides():
    x = np.linspace(0, 10, 2001)[:, None]
    truth = np.where(x[:, 0] > 5.0, 0.3, 0.0)
    axes = (("a", (0.0, 3.0, 5.0, 5.01, 7.0, 10.0)),)
    found = fit_correction(x, truth, None, axes, smooth=100.0)
    assert np.abs(log_correction(x, found) - truth).mean() < 0.005


def test_grids_fitted_at_once_share_what_they_explain():
    rng = np.random.default_rng(3)
    coords = rng.uniform(0, 8, (2000, 2))
    truth = 0.05 * coords[:, 0] + 0.2 * np.sin(3 * coords[:, 1])
    axes = ((("a", (0.0, 8.0)),), (("b", tuple(np.linspace(0, 8, 25).tolist())),))
    parts = (coords[:, :1], coords[:, 1:])
    found = fit_grids(parts, truth, None, axes, smooth=0.01, ridge=0.01)
    (finer,) = found.more
    total = log_correction(parts[0], replace(found, more=())) + log_correction(parts[1], finer)
    assert np.abs(total - truth).mean() < 0.01


def test_stays_small_where_nothing_was_measured():
    rng = np.random.default_rng(2)
    coords = np.stack([rng.uniform(0, 2, 500), rng.uniform(0, 10, 500)], axis=1)
    axes = (("a", (0.0, 1.0, 2.0, 9.0)), ("b", (0.0, 5.0, 10.0)))
    found = fit_correction(coords, np.full(500, 0.3), None, axes, smooth=0.0)
    assert log_correction(np.array([[1.0, 5.0]]), found)[0] == pytest.approx(0.3, abs=0.01)
    assert abs(log_correction(np.array([[9.0, 5.0]]), found)[0]) < 0.05


def test_weights_decide_between_rows_that_disagree():
    coords = np.zeros((20, 1))
    residual = np.array([0.1] * 10 + [0.3] * 10)
    axes = (("a", (0.0,)),)
    heavy_low = fit_correction(coords, residual, np.array([9.0] * 10 + [1.0] * 10), axes, ridge=0.0)
    assert heavy_low.values[0] < 0.12


def test_nodes_span_the_data():
    assert spread_nodes(np.array([1.0, 1024.0]), 6) == (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    assert spread_nodes(np.array([8.0, 8.0]), 6) == (3.0,)
