"""Calibration: fit few parameters of stacks and devices to measured steps, and test them."""

from __future__ import annotations

from ridgeline.validation.calibration.fit import Fit, MeasuredStep, fit
from ridgeline.validation.calibration.tunables import Tunable, load_tunables

__all__ = ["Fit", "MeasuredStep", "Tunable", "fit", "load_tunables"]
