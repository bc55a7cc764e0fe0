"""Write the tables of ``docs/serving-accuracy.md`` and README: ``python docs/generate_serving.py``.

Figures come from ``validation/data/serving_*.json``; a test fails when a table is stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ridgeline.validation.serving.accuracy import FIGURES
from ridgeline.validation.serving.calibration.ranges import TEXTS

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "validation" / "data"
PAGE = ROOT / "docs" / "serving-accuracy.md"
README = ROOT / "README.md"
LEAST_ROWS = 10
"""Groups with fewer rows are not shown."""


def cell(figure: Mapping[str, Any] | None) -> str:
    """Return mean / median / bias in percent, empty without rows."""
    if not figure or figure["mape"] is None:
        return ""
    mean, middle, bias = (100 * figure[key] for key in ("mape", "median_ape", "bias"))
    return f"{mean:.1f} / {middle:.1f} / {bias:+.0f}"


def figures_table(found: Mapping[str, Any]) -> str:
    """Return targets beside what was reached."""
    lines = [
        "| figure | target | rows | without suspects | all rows |",
        "|---|---|--:|--:|--:|",
    ]
    for name, (metric, _, target) in FIGURES.items():
        kept, every = (found[key]["figures"][name] for key in ("kept", "all"))
        del metric
        lines.append(f"| {name} | {target} | {kept['count']} | {cell(kept)} | {cell(every)} |")
    order = found["kept"]["ordering"]
    lines.append(
        f"| best configuration is the best, or within 5% | 80% | {order['groups']} | "
        f"{100 * order['share']:.0f}% | {100 * found['all']['ordering']['share']:.0f}% |"
    )
    lines.append(
        f"| rows with stated parallelism simulated | 95% | {found['kept']['rows']} | "
        f"{100 * found['kept']['simulated']:.1f}% | {100 * found['all']['simulated']:.1f}% |"
    )
    return "\n".join(lines)


def groups_table(found: Mapping[str, Any]) -> str:
    """Return errors by kind of test, engine and model."""
    lines = ["| test, engine, model | rows | TPOT | TTFT | throughput |", "|---|--:|--:|--:|--:|"]
    for name, group in found["kept"]["groups"].items():
        count = max(one["count"] for one in group.values())
        if count >= LEAST_ROWS:
            cells = " | ".join(cell(group[metric]) for metric in ("tpot", "ttft", "throughput"))
            lines.append(f"| {name.replace(' | ', ', ')} | {count} | {cells} |")
    return "\n".join(lines)


def left_out_table(found: Mapping[str, Any]) -> str:
    """Return errors of groups that the parameters never saw."""
    metrics = ("tpot", "ttft", "throughput")
    lines = ["| left out | rows | TPOT | TTFT | throughput |", "|---|--:|--:|--:|--:|"]
    for way, entries in found.items():
        for entry in entries:
            told = [entry.get(metric) for metric in metrics]
            count = max(one["count"] for one in told if one)
            cells = " | ".join(map(cell, told))
            lines.append(f"| {way}: {entry['held_out']} | {count} | {cells} |")
        told = [entry["tpot"] for entry in entries if "tpot" in entry]
        total = sum(one["count"] for one in told)
        mean = sum(one["count"] * one["mape"] for one in told) / total
        lines.append(f"| **{way}, all together** | {total} | **{100 * mean:.1f}** | | |")
    return "\n".join(lines)


def ranges_table(found: Mapping[str, Any]) -> str:
    """Return the ranges of predictions by what was measured, and what they hold."""
    lines = [
        "| measured | figure | left-out services | range | inside | inside, other half |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for grade, metrics in found.items():
        for metric, entry in metrics.items():
            below, above = (100 * one for one in entry["range"])
            shares = " | ".join(
                "" if entry[key] is None else f"{100 * entry[key]:.0f}%"
                for key in ("covered", "held_out")
            )
            lines.append(
                f"| {TEXTS[grade]} | {metric} | {entry['count']} | "
                f"-{below:.0f}% to +{above:.0f}% | {shares} |"
            )
    return "\n".join(lines)


def ablation_table(found: Mapping[str, Any]) -> str:
    """Return errors with one mechanism taken away."""
    lines = ["| taken away | TPOT | TTFT | throughput offline |", "|---|--:|--:|--:|"]
    for way, entry in found.items():
        cells = " | ".join(cell(entry.get(one)) for one in ("tpot", "ttft", "throughput"))
        lines.append(f"| {way} | {cells} |")
    return "\n".join(lines)


def readme_table(found: Mapping[str, Any]) -> str:
    """Return the figures of the README."""
    lines = ["| serving | rows | mean error | median |", "|---|--:|--:|--:|"]
    for name in FIGURES:
        one = found["kept"]["figures"][name]
        lines.append(
            f"| {name} | {one['count']} | {100 * one['mape']:.1f}% | "
            f"{100 * one['median_ape']:.1f}% |"
        )
    return "\n".join(lines)


def put(text: str, name: str, table: str) -> str:
    """Return a page with the part between the marks of ``name`` replaced."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    head, rest = text.split(begin, 1)
    _, tail = rest.split(end, 1)
    return f"{head}{begin}\n{table}\n{end}{tail}"


def pages() -> dict[Path, str]:
    """Return the pages as they should be."""

    def data(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
        return found

    figures = data("serving_accuracy.json")
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (
        ("figures", figures_table(figures)),
        ("groups", groups_table(figures)),
        ("left-out", left_out_table(data("serving_left_out.json"))),
        ("ranges", ranges_table(data("serving_ranges.json"))),
        ("ablation", ablation_table(data("serving_ablation.json"))),
    ):
        page = put(page, name, table)
    readme = put(README.read_text(encoding="utf-8"), "serving accuracy", readme_table(figures))
    return {PAGE: page, README: readme}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
