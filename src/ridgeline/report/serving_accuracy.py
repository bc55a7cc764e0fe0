"""How accurate predictions of services are: the committed figures of the validation suite."""

from __future__ import annotations

import json
from typing import Any

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.report.charts import Bar, bars
from ridgeline.report.evidence import grade_title
from ridgeline.report.records import Chart, Evidence
from ridgeline.units import percent
from ridgeline.validation.serving.accuracy import figures_path

_SHOWN = (
    "TPOT, dense",
    "TPOT, experts",
    "TPOT, closed loop",
    "TTFT, InferenceX closed loop",
    "throughput",
    "throughput, closed loop",
)


def _committed() -> dict[str, Any]:
    found = json.loads(figures_path().read_text("utf-8"))["kept"]
    assert isinstance(found, dict)
    return found


def engine_rows(engine: str) -> int:
    """Return how many measured services of an engine, of any era, the committed figures count."""
    found = 0
    for name, metrics in _committed()["groups"].items():
        _, measured, _ = name.split(" | ")
        if measured == engine or measured.startswith(f"{engine}-"):
            found += max(metric["count"] for metric in metrics.values())
    return found


def serving_evidence(accelerator: Accelerator, engine: str) -> Evidence:
    """Return what stands behind a predicted service, in words."""
    if accelerator.efficiency.rung != "fitted":
        text = f"No kernel of {accelerator.name} was timed. Measure before you sign."
        return Evidence(grade="datasheet", title=grade_title("datasheet"), text=text)
    rows = engine_rows(engine)
    if not rows:
        return Evidence(
            grade="kernels",
            title="Kernels only: no service of this engine was measured",
            text=f"Kernels of {accelerator.name} were timed; {engine} is taken from its documents.",
        )
    return Evidence(
        grade="related",
        title=f"Partly measured: {rows:,} measured services of {engine}",
        text="On various accelerators and models, this one perhaps among them. The median error "
        "of time per output token over all measured services is "
        f"{percent(_committed()['figures']['TPOT']['median_ape'])}.",
    )


def serving_accuracy_chart() -> Chart:
    """Return the median errors of predicted services."""
    figures = _committed()["figures"]
    rows = [
        Bar(
            label=name,
            value=figures[name]["median_ape"],
            text=f"{percent(figures[name]['median_ape'])}",
            note=f"mean {percent(figures[name]['mape'])}, bias "
            f"{100 * figures[name]['bias']:+.1f}%, {figures[name]['count']:,} measured services",
        )
        for name in _SHOWN
        if name in figures
    ]
    return bars(
        "serving-accuracy",
        "Median error of predicted services",
        "Predicted against measured, over the published and collected services of the validation "
        "suite, without rows known to be wrong.",
        rows,
        unit="median error",
    )
