"""``docs/accuracy.md`` and the README's table, as Markdown. Reads records and computes sums."""

from __future__ import annotations

import csv
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from statistics import fmean, median
from typing import Any

from ridgeline.simulator.uncertainty import GRADES, step_range
from ridgeline.validation.accuracy.figures import FINE_TUNING, PRE_TRAINING, Figures
from ridgeline.validation.accuracy.ordering import Ordering, ordering
from ridgeline.validation.accuracy.ranges import coverage, left_out_errors
from ridgeline.validation.calibration.leave_out import wrong_rows
from ridgeline.validation.training import GroupSummary, Report, ReportRow

WORST = 10
TIMED_TIERS = ("A", "A-")
LARGE = 10
LARGEST_MEAN = 0.08
"""Mean error that no source of ``LARGE`` timed rows or more should exceed, but for those below."""
LARGEST_MEANS = {"torchtitan": 0.12}
SOURCE_TARGETS = {
    "korthikanti22": 0.03,
    "simumax-b200": 0.035,
    "vtrain-multi": 0.06,
    "maxtext": 0.055,
    "megatron-sc21": 0.04,
    "nemo": 0.06,
    "mt-nlg": 0.10,
}
MEMORY_TARGETS = {"bigscience-bloom": 0.06, "simumax-b200": 0.02}
"""Mean errors that were wanted, of step time and of peak memory."""
LeftOut = Mapping[str, Mapping[str, float]]
"""Way of leaving out -> row id -> error."""


def percent(value: float | None, *, signed: bool = False) -> str:
    """Return a ratio as a table writes it."""
    if value is None:
        return ""
    return f"{100 * value:+.1f}%" if signed else f"{100 * value:.1f}%"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a Markdown table whose first ``texts`` columns are texts and the others numbers."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * texts + "--:|" * (len(head) - texts))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def left_out_by_row(residuals: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the error of each row by the way it was left out."""
    return {
        way: {row: float(error) for entry in entries for row, (error, _) in entry["rows"].items()}
        for way, entries in residuals["left_out"].items()
    }


def mean_error(errors: Mapping[str, float], rows: Iterable[ReportRow]) -> float | None:
    """Return the mean of abs(error) of those of ``rows`` that have one, None without any."""
    found = [abs(errors[row.id]) for row in rows if row.id in errors]
    return fmean(found) if found else None


def peers() -> dict[str, str]:
    """Return what other simulators report on a source's rows."""
    text = (files("ridgeline.validation") / "data" / "peers.csv").read_text(encoding="utf-8")
    return {
        entry["table"]: f"{entry['peer']} {100 * float(entry['mean_ape']):.2f}%"
        for entry in csv.DictReader(text.splitlines())
    }


def row_notes() -> dict[str, str]:
    """Return row id -> the mechanism that explains its error."""
    text = (files("ridgeline.validation") / "data" / "row_notes.toml").read_text(encoding="utf-8")
    return {row: note["text"] for note in tomllib.loads(text)["note"] for row in note["rows"]}


def readme_table(figures: Mapping[str, Figures], residuals: Mapping[str, Any]) -> str:
    """Return errors by source for the README; figures older than the shipped ones are marked."""
    latest = {one.models for one in figures.values() if one.shipped}
    errors = left_out_by_row(residuals)
    members = {
        entry["held_out"]: list(entry["rows"]) for entry in residuals["left_out"].get("source", [])
    }
    rows = []
    for name, one in sorted(figures.items()):
        if one.mape is None:
            continue
        ids = members.get(name, [])
        left = [
            percent(fmean(abs(errors[way][row]) for row in ids))
            if ids and all(row in errors.get(way, {}) for row in ids)
            else ""
            for way in ("model", "source")
        ]
        cells = [percent(one.mape), percent(one.median_ape), percent(one.bias, signed=True)]
        place = "" if one.shipped else "no" if one.models in latest else "no, NOT RECHECKED"
        skipped = str(one.skipped) if one.skipped else ""
        rows.append([name, str(one.count), skipped, *cells, *left, place])
    head = [
        *("source", "steps", "skipped", "mean error", "median", "bias"),
        *("model left out", "source left out", "in the tree"),
    ]
    return table(head, rows)


def timed_rows(report: Report) -> list[ReportRow]:
    """Return rows of tier A and A- with a timed step of pre-training, outliers included."""
    return [
        row
        for row in report.rows
        if row.tier in TIMED_TIERS
        and row.measured_step_time_s is not None
        and not row.derived
        and row.task in PRE_TRAINING
    ]


def headline(report: Report, left_out: LeftOut) -> str:
    """Return the figures that the accuracy is judged by, and whether they are what was wanted."""
    timed = timed_rows(report)
    simulated = [row for row in timed if row.error is not None]
    errors, sizes = _errors(simulated), [abs(row.error or 0.0) for row in simulated]
    share = len(simulated) / len(timed)
    lines = [
        ["rows simulated", f"{len(simulated)} of {len(timed)}", *_wanted(share, 0.97, least=True)],
        _judged("mean error over rows", fmean(sizes), 0.055),
        _judged("mean over sources", _source_mean(simulated, errors), 0.06),
        _judged("median error", median(sizes), 0.035),
    ]
    members = {row.source: [r for r in simulated if r.source == row.source] for row in simulated}
    for source, own in members.items():
        mean = mean_error(errors, own)
        if len(own) >= LARGE and mean is not None and mean > LARGEST_MEAN:
            most = LARGEST_MEANS.get(source, LARGEST_MEAN)
            lines.append(_judged(f"`{source}`, of {LARGE} rows or more", mean, most))
    if "model" in left_out:
        mean = mean_error(left_out["model"], timed)
        lines.append(_judged("models left out, over rows", mean, 0.055))
    if "source" in left_out:
        mean = _source_mean(timed, left_out["source"])
        lines.append(_judged("sources left out, over sources", mean, 0.12))
    every = ordering(report.rows)
    if every is not None:
        lines.append(
            ["best plan found", percent(every.best), *_wanted(every.best, 0.85, least=True)]
        )
    for source, most in SOURCE_TARGETS.items():
        own = [row for row in report.rows if row.source == source]
        lines.append(_judged(f"`{source}`", mean_error(_errors(own), own), most))
    tuned = [row for row in report.rows if row.source.endswith(FINE_TUNING)]
    lines.append(_judged("fine-tuning, adapters too", mean_error(_errors(tuned), tuned), 0.1))
    memory = memory_errors(report)
    for source, most in MEMORY_TARGETS.items():
        if source in memory:
            mean = fmean(abs(error) for error in memory[source])
            lines.append(_judged(f"`{source}`, peak memory", mean, most))
    return table(["figure", "value", "wanted", ""], lines)


def _judged(name: str, value: float | None, most: float) -> list[str]:
    return [name, percent(value), *(_wanted(value, most) if value is not None else ["", ""])]


def _points(share: float) -> str:
    """Return a difference of shares in points, to two digits where it is small."""
    return f"{100 * share:.1f} points" if share >= 0.0005 else f"{100 * share:.2g} points"


def _wanted(value: float, bound: float, *, least: bool = False) -> list[str]:
    """Return the bound of a share, and by how much it is missed."""
    short = bound - value if least else value - bound
    words = "or more" if least else "or less"
    verdict = "met" if short <= 0.0 else f"missed by {_points(short)}"
    return [f"{100 * bound:g}% {words}", verdict]


def _errors(rows: Iterable[ReportRow]) -> dict[str, float]:
    return {row.id: row.error for row in rows if row.error is not None}


def _source_mean(rows: Iterable[ReportRow], errors: Mapping[str, float]) -> float | None:
    members: dict[str, list[ReportRow]] = {}
    for row in rows:
        members.setdefault(row.source, []).append(row)
    means = [mean_error(errors, group) for group in members.values()]
    found = [mean for mean in means if mean is not None]
    return fmean(found) if found else None


def source_table(report: Report, left_out: LeftOut, shipped: Iterable[str]) -> str:
    """Return errors by source, in sample beside left out, and those of other simulators."""
    others, ours = peers(), set(shipped)
    rows = []
    for group in report.by_source:
        if not group.count:
            continue
        members = [row for row in report.rows if row.source == group.name]
        rows.append(
            [
                group.name + ("" if group.name in ours else " *"),
                *_statistics(group),
                *(
                    percent(mean_error(left_out.get(way, {}), members))
                    for way in ("model", "source")
                ),
                others.get(group.name, ""),
            ]
        )
    rows.append(["all", *_statistics(report.overall), *_left_out_all(report, left_out), ""])
    head = [
        *("source", "steps", "skipped", "mean error", "median", "bias", "in range"),
        *("model left out", "source left out", "others"),
    ]
    return table(head, rows)


def _left_out_all(report: Report, left_out: LeftOut) -> list[str]:
    return [percent(mean_error(left_out.get(w, {}), report.rows)) for w in ("model", "source")]


def _statistics(group: GroupSummary) -> list[str]:
    return [
        str(group.count),
        str(group.skipped) if group.skipped else "",
        percent(group.mape),
        percent(group.median_ape),
        percent(group.bias, signed=True),
        percent(group.inside_range),
    ]


def group_table(title: str, groups: Iterable[GroupSummary]) -> str:
    """Return errors by group; groups without a predicted row are left out."""
    head = [title, "steps", "skipped", "mean error", "median", "bias", "in range"]
    return table(head, ([group.name, *_statistics(group)] for group in groups if group.count))


def held_out_table(residuals: Mapping[str, Any], way: str) -> str:
    """Return errors of everything that left in one way, with what had to fall back to priors."""
    rows = []
    for entry in residuals["left_out"].get(way, []):
        errors = [error for error, _ in entry["rows"].values()]
        sizes = [abs(error) for error in errors]
        grades = Counter(grade for _, grade in entry["rows"].values())
        rows.append(
            [
                str(entry["held_out"]),
                ", ".join(f"{count} {grade}" for grade, count in sorted(grades.items())),
                str(len(errors)),
                percent(fmean(sizes)),
                percent(median(sizes)),
                percent(fmean(errors), signed=True),
                f"{len(entry['priors'])} of {len(entry['values'])}",
            ]
        )
    head = [way, "evidence left", "steps", "mean error", "median", "bias", "tunables at priors"]
    return table(head, rows, texts=2)


def range_table(residuals: Mapping[str, Any]) -> str:
    """Return the range of each grade and how many left-out steps it holds."""
    rows = []
    for grade in GRADES:
        errors = left_out_errors(residuals)[grade]
        low, high = step_range(grade)
        bounds = (1.0 - low, high - 1.0)
        held = percent(coverage(errors, bounds)) if errors else ""
        rows.append(
            [grade, f"-{100 * bounds[0]:.1f}% to +{100 * bounds[1]:.1f}%", str(len(errors)), held]
        )
    return table(["evidence", "range", "left-out predictions", "held"], rows, texts=2)


def memory_errors(report: Report) -> dict[str, list[float]]:
    """Return errors of peak memory by source, for rows whose notes state it."""
    members: dict[str, list[float]] = {}
    for row in report.rows:
        if row.measured_peak_memory_gib and row.predicted_peak_memory_gib:
            error = row.predicted_peak_memory_gib / row.measured_peak_memory_gib - 1.0
            members.setdefault(row.source, []).append(error)
    return members


def memory_table(report: Report) -> str:
    """Return errors of peak memory by source, for rows whose notes state it."""
    rows = []
    for source, errors in sorted(memory_errors(report).items()):
        sizes = [abs(error) for error in errors]
        cells = [percent(fmean(sizes)), percent(median(sizes)), percent(fmean(errors), signed=True)]
        rows.append([source, str(len(errors)), *cells, percent(max(sizes))])
    return table(["source", "rows", "mean error", "median", "bias", "worst"], rows)


def ordering_table(report: Report) -> str:
    """Return how well plans are ranked, by source and in all."""
    rows = []
    sources = [group.name for group in report.by_source if group.count]
    for name in [*sources, "all"]:
        members = [row for row in report.rows if name in ("all", row.source)]
        found, strict = ordering(members), ordering(members, same_job=True)
        if found is not None:
            rows.append([name, *_ranked(found), *(_ranked(strict) if strict else ["", "", ""])])
    head = [
        *("source", "groups", "best or within 3%", "Kendall's tau"),
        *("groups of one job", "best or within 3%", "Kendall's tau"),
    ]
    return table(head, rows)


def _ranked(found: Ordering) -> list[str]:
    return [str(found.groups), percent(found.best), f"{found.tau:.2f}"]


def missed_choices(report: Report) -> str:
    """Return the groups whose simulated best plan is no good choice."""
    found = ordering(report.rows)
    missed = found.missed if found else ()
    return ", ".join(missed) if missed else "none"


def worst_tables(report: Report, breakdowns: Mapping[str, str], figures: Iterable[str]) -> str:
    """Return the worst rows of every source with what explains them, below its plot."""
    notes, wrong, plots = row_notes(), wrong_rows(), set(figures)
    parts = []
    for group in report.by_source:
        worst = report.worst(WORST, group.name)
        if not worst:
            continue
        parts.append(f"### {group.name}\n")
        if group.name in plots:
            parts.append(f"![errors of {group.name}](figures/accuracy/{group.name}.svg)\n")
        rows = [
            [
                row.id,
                percent(row.error, signed=True),
                f"{row.model}, {row.accelerators} {row.accelerator}, {row.precision}",
                breakdowns.get(row.id, ""),
                wrong.get(row.id) or notes.get(row.id) or _unexplained(row),
            ]
            for row in worst
        ]
        head = ["row", "error", "what", "where its time goes", "explained by"]
        parts.append(table(head, rows, texts=5) + "\n")
    return "\n".join(parts).rstrip("\n")


def _unexplained(row: ReportRow) -> str:
    low, high = row.predicted_step_time_low_s or 0.0, row.predicted_step_time_high_s or 0.0
    inside = low <= (row.measured_step_time_s or 0.0) <= high
    return "not explained, inside its range" if inside else "not explained"


def skipped_table(report: Report) -> str:
    """Return why rows were skipped, by source."""
    found: dict[str, Counter[str]] = {}
    for row in report.rows:
        if row.status == "skipped":
            found.setdefault(row.source, Counter())[row.reason] += 1
    rows = [
        [source, reason.replace("|", "/"), str(count)]
        for source in sorted(found)
        for reason, count in sorted(found[source].items(), key=lambda item: (-item[1], item[0]))
    ]
    return table(["source", "reason", "rows"], rows, texts=2)
