"""Figures of serving's accuracy: recompute, compare with the committed ones, or write them.

``python -m ridgeline.validation.serving.accuracy [--write]``. The table of measured services does
not ship: where it is not beside the tree, nothing is rechecked, and that is said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from ridgeline.validation.accuracy.fingerprint import ROOT, SERVING_LEFT_OUT, fingerprint
from ridgeline.validation.serving.report import (
    LATENCY,
    METRICS,
    ServingReport,
    ServingReportRow,
    errors_of,
    validate_serving,
)
from ridgeline.validation.serving.rows import CLOSED, OFFLINE, STATIC

MOST_GROWTH = 0.005
"""Growth of a mean error that fails: half a point."""
WITHIN = 0.05
"""A choice counts as the best when it is within this of the measured best."""
DIGITS = 4

Rule = Callable[[ServingReportRow], bool]

FIGURES: dict[str, tuple[str, Rule, str]] = {
    "TPOT": ("tpot", lambda _: True, "at most 9%"),
    "TPOT, dense": ("tpot", lambda row: row.experts == "dense", "at most 6%"),
    "TPOT, experts": ("tpot", lambda row: row.experts == "moe", "at most 11%"),
    "TPOT, closed loop": ("tpot", lambda row: row.kind == CLOSED, ""),
    "TTFT, InferenceX closed loop": (
        "ttft",
        lambda row: row.kind == CLOSED and row.source.startswith("InferenceX"),
        "at most 25%",
    ),
    "throughput": ("throughput", lambda _: True, "at most 9%"),
    "throughput, closed loop": ("throughput", lambda row: row.kind == CLOSED, ""),
    "splitwise prefill": (
        "ttft",
        lambda row: row.source.startswith("splitwise"),
        "at most 7%",
    ),
    "splitwise decode": (
        "tpot",
        lambda row: row.source.startswith("splitwise"),
        "at most 7%",
    ),
    "TensorRT-LLM offline, dense": (
        "throughput",
        lambda row: (
            row.kind == OFFLINE and row.stack.startswith("trtllm") and row.experts == "dense"
        ),
        "at most 8%",
    ),
    "TensorRT-LLM offline, experts": (
        "throughput",
        lambda row: row.kind == OFFLINE and row.stack.startswith("trtllm") and row.experts == "moe",
        "at most 15%",
    ),
    "model cards, latency at batch 1": (
        LATENCY,
        lambda row: row.kind == STATIC and row.stack == "vllm-0.7",
        "at most 8%",
    ),
}
"""Name -> metric, rows, target."""


def shared_tables() -> tuple[Path, Path, Path] | None:
    """Return measured services, model cards and suspects beside the repository, None without."""
    folder = (Path(__file__).resolve().parents[2] / "../shared/data/inference").resolve()
    paths = (folder / "measured.csv", folder / "quantized_vllm.csv", folder / "suspects.csv")
    return paths if all(path.is_file() for path in paths) else None


def figures_path() -> Path:
    """Return the file of the committed figures."""
    return Path(str(files("ridgeline.validation") / "data" / "serving_accuracy.json"))


def stated(row: ServingReportRow) -> bool:
    """Whether a row states its parallelism, so that it can be asked at all."""
    return not (row.status == "skipped" and "workers not stated" in row.reason)


def ordering(rows: Iterable[ServingReportRow]) -> dict[str, Any]:
    """Return in how many groups the configuration predicted best is the best, or within 5%.

    A group is one model, accelerator and traffic (lengths and concurrency) with at least two
    configurations; the best has the highest throughput per accelerator.
    """
    groups: dict[tuple[str, ...], list[ServingReportRow]] = {}
    for row in rows:
        if row.kind == CLOSED and row.error("throughput") is not None:
            traffic = row.configuration.split(" ", 1)[1].split(" ")[-3:]
            key = (row.model, row.accelerator, row.source, *traffic)
            groups.setdefault(key, []).append(row)
    told = right = 0
    for members in groups.values():
        if len({one.configuration + one.stack for one in members}) < 2:
            continue
        told += 1
        chosen = max(members, key=lambda one: one.predicted_throughput_tok_s_per_accel or 0.0)
        best = max(one.measured_throughput_tok_s_per_accel or 0.0 for one in members)
        right += (chosen.measured_throughput_tok_s_per_accel or 0.0) >= (1.0 - WITHIN) * best
    return {"groups": told, "right": right, "share": round(right / told, DIGITS) if told else None}


def recomputed(served: ServingReport, cards: ServingReport) -> dict[str, Any]:
    """Return the figures of two reports, of rows kept and of all."""
    out: dict[str, Any] = {}
    for name, rows in (
        ("kept", (*served.kept, *cards.rows)),
        ("all", (*served.rows, *cards.rows)),
    ):
        asked = [row for row in rows if stated(row)]
        answered = [row for row in asked if row.status == "ok"]
        out[name] = {
            "rows": len(asked),
            "simulated": round(len(answered) / len(asked), DIGITS),
            "ordering": ordering(answered),
            "figures": {
                figure: _figure(metric, [row for row in answered if rule(row)])
                for figure, (metric, rule, _) in FIGURES.items()
            },
            "groups": _groups(answered),
        }
    return out


def _groups(rows: list[ServingReportRow]) -> dict[str, Any]:
    groups: dict[str, list[ServingReportRow]] = {}
    for row in rows:
        name = f"{row.kind} | {row.stack} | {row.model}"
        groups.setdefault(name, []).append(row)
    return {
        name: {metric: _figure(metric, members) for metric in METRICS}
        for name, members in sorted(groups.items())
    }


def _figure(metric: str, rows: list[ServingReportRow]) -> dict[str, Any]:
    errors = errors_of(rows, metric)
    return {
        "count": errors.count,
        **{
            key: None if value is None else round(value, DIGITS)
            for key, value in (
                ("mape", errors.mape),
                ("median_ape", errors.median_ape),
                ("bias", errors.bias),
            )
        },
    }


def compare(now: Mapping[str, Any], committed: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare figures of rows kept; return a line for each, and those that must not pass."""
    lines: list[str] = []
    failures: list[str] = []
    for name, new in now["kept"]["figures"].items():
        old = committed["kept"]["figures"].get(name)
        if old is None:
            failures.append(f"{name}: no committed figures")
            continue
        if new["mape"] is None or old["mape"] is None:
            continue
        line = f"{name}: {100 * new['mape']:.1f}%, committed {100 * old['mape']:.1f}%"
        lines.append(line)
        if new["mape"] - old["mape"] > MOST_GROWTH:
            failures.append(f"{line}: grown by more than half a point")
        if new["count"] < old["count"]:
            failures.append(f"{name}: {new['count']} rows predicted, {old['count']} before")
    return lines, failures


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--write", is_flag=True, help="Write the figures instead of comparing them.")
@click.option("--workers", type=click.IntRange(1), default=2, help="Processes.")
def main(write: bool, workers: int) -> None:
    """Compare figures of serving with the committed ones; exit with 1 when one has grown."""
    models, tables = fingerprint(ROOT, SERVING_LEFT_OUT), shared_tables()
    committed = json.loads(figures_path().read_text("utf-8")) if figures_path().is_file() else {}
    if tables is None:
        same = committed.get("models") == models
        how = "same models and parameters" if same else "models or parameters CHANGED since"
        click.echo(f"serving: NOT RECHECKED (no table of measured services); {how}")
        return
    served, cards, suspects = tables
    now = recomputed(
        validate_serving(served, without=suspects, workers=workers),
        validate_serving(cards, workers=workers),
    )
    if write:
        record = {"models": models, **now}
        figures_path().write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        click.echo(f"wrote {figures_path()}")
        return
    lines, failures = compare(now, committed)
    for line in lines:
        click.echo(line)
    for failure in failures:
        click.echo(f"FAILED {failure}", err=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
