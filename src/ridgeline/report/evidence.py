"""How good a prediction is: what was measured of its class, and how wide its range is."""

from __future__ import annotations

from ridgeline.report.charts import Axis, Range, ranges
from ridgeline.report.palette import GRADE_LOOK
from ridgeline.report.records import Chart, Evidence, Section, Text
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.uncertainty import GRADES, step_range
from ridgeline.units import duration
from ridgeline.words import EVIDENCE


def grade_title(grade: str) -> str:
    """Return the words for a grade, those of the terminal."""
    _, _, word, meaning = EVIDENCE[grade]
    return f"{word}: {meaning}"


def training_evidence(result: TrainingResult) -> Evidence:
    """Return what stands behind a step time, in words."""
    low, high = result.step_time_low_s, result.step_time_high_s
    text = (
        f"Step time between {duration(low)} and {duration(high)}: about four in five of the "
        "steps that were left out of the fit lay inside such a range."
    )
    if result.evidence == "datasheet":
        text += " Do not sign a contract on this alone: measure a step or a few kernels first."
    return Evidence(grade=result.evidence, title=grade_title(result.evidence), text=text)


def accuracy_section(result: TrainingResult) -> Section:
    """Return how accurate predictions of this class are, beside the other classes."""
    value = result.step_time_s
    own = (result.step_time_low_s / value, result.step_time_high_s / value)
    rows = []
    for grade in GRADES:
        mine = grade == result.evidence
        low, high = own if mine else step_range(grade)
        colour, pattern = GRADE_LOOK[grade]
        words = EVIDENCE[grade][2].lower()
        rows.append(
            Range(
                label=f"{words}{' (this one)' if mine else ''}",
                low=low,
                value=1.0,
                high=high,
                text=f"measured steps {100 * (low - 1):+.0f}% to {100 * (high - 1):+.0f}% "
                f"from predictions, four in five",
                colour=colour,
                pattern=pattern,
                strong=mine,
            )
        )
    texts = tuple(
        f"{note.kind}: {note.text}"
        for note in result.provenance
        if note.kind in ("evidence", "range", "kernels")
    )
    return Section(
        key="accuracy",
        title="How accurate this class of prediction is",
        lead=f"{grade_title(result.evidence)}.",
        blocks=(accuracy_chart(rows), Text(lines=texts, listed=True)),
    )


def accuracy_chart(rows: list[Range]) -> Chart:
    """Return the ranges of the grades of evidence."""
    return ranges(
        "accuracy-ranges",
        "Where measured steps lie, relative to the prediction",
        "By what stands behind a prediction. The mark is the prediction; four in five measured "
        "steps that were left out of the fit lie inside the bar.",
        rows,
        Axis(title="measured over predicted", percent=True),
    )
