"""Fused mixture-of-experts layers as one kernel library runs them on one rank."""

from ridgeline.simulator.roofline.moe.layer import (
    FITTED,
    SHAPE,
    exponent_of,
    moe_coordinates,
    moe_parameters,
    predict_moe,
)

__all__ = [
    "FITTED",
    "SHAPE",
    "exponent_of",
    "moe_coordinates",
    "moe_parameters",
    "predict_moe",
]
