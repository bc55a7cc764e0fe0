"""The range of a prediction and what stands behind it."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.results import Provenance


@lru_cache(maxsize=1)
def _grades() -> dict[str, Any]:
    resource = files("ridgeline.simulator").joinpath("data", "uncertainty.toml")
    return tomllib.loads(resource.read_text(encoding="utf-8"))


def evidence_grade(accelerator: Accelerator, stack: str) -> str:
    """Return known, kernels or datasheet: what was measured of this device and stack."""
    if accelerator.efficiency.rung != "fitted":
        return "datasheet"
    families = _grades()["stacks"].get(stack, ())
    return "known" if accelerator.family in families else "kernels"


def step_range(grade: str) -> tuple[float, float]:
    """Return the factors on a step time that bound its range."""
    below, above = _grades()[grade]["range"]
    return 1.0 - below, 1.0 + above


def evidence(accelerator: Accelerator, grade: str) -> tuple[Provenance, ...]:
    """Say what stands behind the prediction."""
    entry = _grades()[grade]
    efficiency = accelerator.efficiency
    return (
        Provenance(kind="evidence", text=f"{grade}: {entry['text']}"),
        Provenance(kind="range", text=entry["source"]),
        Provenance(
            kind="kernels",
            text=f"{efficiency.rung} parameters; their sources: "
            f"ridgeline hardware show {accelerator.name}",
        ),
    )
