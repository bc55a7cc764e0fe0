"""Calibration: fit few parameters of stacks and devices to measured steps, and test them."""

from __future__ import annotations

from ridgeline.validation.calibration.fit import Fit, MeasuredStep, fit
from ridgeline.validation.calibration.tunables import Tunable, load_tunables
from ridgeline.validation.calibration.user import (
    UserFit,
    UserStep,
    calibrate,
    most_telling,
    read_user_steps,
)

__all__ = [
    "Fit",
    "MeasuredStep",
    "Tunable",
    "UserFit",
    "UserStep",
    "calibrate",
    "fit",
    "load_tunables",
    "most_telling",
    "read_user_steps",
]
