"""Figures of serving kernels and of routing that no kernel set holds, each with its source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """The values of ``data/constants.toml``."""

    eager_sharpness: float
    """Exponent that joins device time and launches of eager decodes."""
    popularity_spread: float
    """Standard deviation of the logarithm of how often experts are picked (log-normal)."""
    expanded_per_s: float
    """Weights that one SM expands to 16 bits per second in a weight-only product."""
    expand_streamed: float
    """Share of HBM bandwidth that such a product reaches where that is slower."""
    expand_launch_s: float
    """Launch of such a product under graph replay, s."""
    expand_rows: float
    """Rows of its smallest tile."""
    expand_compute: dict[str, float]
    """Accelerator family (default for others) -> rate of such a product where it is bound by
    multiplying, over that of one whose weights are kept in 16 bits."""
    latent_streamed: float
    """Share of HBM bandwidth that attention over latent rows reaches."""
    latent_compute: float
    """Share of the peak that it reaches."""
    direct_links: float
    """Bandwidth of a library's all-reduce over links between peers, where a data sheet adds them
    up, over what it reaches of as much through switches."""
    verify_attention: float
    """Attention of one further query of a sequence over that of the first: keys are read once."""
    draft_overhead: float
    """Time of a draft layer over that of a layer of the model: its own head and sampling."""


@cache
def constants() -> Constants:
    """Return the shipped values."""
    resource = files("ridgeline.simulator.serving").joinpath("data/constants.toml")
    raw = tomllib.loads(resource.read_text(encoding="utf-8"))
    return Constants(**{f.name: _numbers(raw[f.name]["value"]) for f in fields(Constants)})


def _numbers(value: Any) -> Any:
    """Return one number, or those of a table, as floats."""
    if isinstance(value, dict):
        return {key: float(one) for key, one in value.items()}
    return float(value)
