"""A hash of the models and parameters that predictions come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("simulator", "hardware", "workloads", "validation")
ENDINGS = (".py", ".toml", ".json", ".csv")
LEFT_OUT = (
    "simulator/data/uncertainty.toml",
    "simulator/uncertainty.py",
    "validation/data/accuracy.json",
    "validation/data/residuals.json",
    "validation/data/row_notes.toml",
    "validation/data/peers.csv",
    "validation/accuracy/",
    "validation/calibration/",
    "simulator/search/",
    "simulator/budget/",
    "simulator/compare/",
    "simulator/serving/",
    "simulator/fleet/",
    "workloads/scaling/",
    "workloads/traffic/",
    "validation/serving/",
    "validation/data/serving_",
    "validation/traces/",
)
"""What is made from predictions, or only looks at them, or prices no training step."""


SERVING_LEFT_OUT = (
    *(name for name in LEFT_OUT if not name.endswith(("/serving/", "/traffic/", "/serving_"))),
    "validation/serving/calibration/",
    "validation/data/serving_accuracy.json",
    "validation/data/serving_left_out.json",
    "validation/data/serving_ablation.json",
)
"""The same of services."""


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
