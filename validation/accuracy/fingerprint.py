"""A hash of the models and parameters that predictions come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("simulator", "hardware", "workloads", "validation")
ENDINGS = (".py", ".toml", ".json", ".csv")
_NO_PREDICTION = (
    # made from predictions, or only looking at them
    "simulator/data/uncertainty.toml",
    "simulator/uncertainty.py",
    "validation/accuracy/",
    "validation/calibration/",
    "validation/data/accuracy.json",
    "validation/data/peers.csv",
    "validation/data/residuals.json",
    "validation/data/row_notes.toml",
    "validation/data/serving_ablation.json",
    "validation/data/serving_accuracy.json",
    "validation/data/serving_left_out.json",
    "validation/data/serving_ranges.json",
    "validation/serving/calibration/",
    # behind a time: money, energy, failures, searches, fleets
    "hardware/amortized.py",
    "hardware/costmethod.py",
    "hardware/data/carbon.csv",
    "hardware/data/cost_method.csv",
    "hardware/data/failure_causes.csv",
    "hardware/data/ownership.csv",
    "hardware/data/prices.csv",
    "hardware/data/pue.csv",
    "hardware/data/reliability.csv",
    "hardware/energy.py",
    "hardware/ownership.py",
    "hardware/prices.py",
    "hardware/quotes.py",
    "hardware/reliability.py",
    "hardware/reliability_causes.py",
    "simulator/budget/",
    "simulator/compare/",
    "simulator/cost.py",
    "simulator/fleet/",
    "simulator/launchers/",
    "simulator/remedies.py",
    "simulator/search/",
    "simulator/serving/choice/",
    "simulator/serving/data/ranges.toml",
    "simulator/serving/placement/",
    "simulator/serving/ranges.py",
    "workloads/jobs/",
    "workloads/scaling/",
    "workloads/sweeps.py",
    # other questions: kernels, traces, plan files
    "simulator/plan_lookup.py",
    "simulator/plan_mistakes.py",
    "simulator/plan_parse.py",
    "simulator/plan_schema.py",
    "simulator/plan_text.py",
    "simulator/plan_values.py",
    "simulator/planfile.py",
    "validation/fitting/",
    "validation/kernels/",
    "validation/data/published/",
    "validation/profiling/",
    "validation/published/",
    "validation/traces/",
    "validation/vtrain.py",
)
LEFT_OUT = (
    *_NO_PREDICTION,
    "simulator/serving/",
    "validation/data/serving_",
    "validation/serving/",
    "workloads/traffic/",
)
"""No part of what decides the time of a measured training step."""
SERVING_LEFT_OUT = _NO_PREDICTION
"""No part of what decides the latencies of a measured service."""


def fingerprint(root: Path = ROOT, left_out: tuple[str, ...] = LEFT_OUT) -> str:
    """Return the first 12 hex digits of SHA-256 over the files that decide a prediction.

    Names and contents of all code and data of ``FOLDERS`` but ``left_out``, in order of name.
    """
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if not name.endswith(ENDINGS) or name.startswith(left_out):
                continue
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:12]
