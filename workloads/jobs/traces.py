"""Readers of published job traces: Philly, Helios, Alibaba PAI, and a plain table.

Columns after the README of each: msr-fiddle/philly-traces (Jeon et al., ATC 2019),
S-Lab-System-Group/HeliosData (Hu et al., SC 2021), alibaba/clusterdata cluster-trace-gpu-v2020
(Weng et al., NSDI 2022).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from math import ceil, isfinite, nan
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.jobs.record import TraceJob

MOST_COMPLAINTS = 10
_HELIOS = ("job_id", "user", "vc", "gpu_num", "state", "submit_time", "duration")
_PAI = ("job_name", "task_name", "inst_num", "status", "start_time", "end_time", "plan_gpu")
_PLAIN = ("submitted_s", "accelerators", "duration_s")
_PAI_COLUMNS = (*_PAI[:6], "plan_cpu", "plan_mem", "plan_gpu", "gpu_type")
"""Of ``pai_task_table.csv``, which comes without a header."""


def read_jobs(path: str | Path, kind: str = "auto") -> tuple[TraceJob, ...]:
    """Return the jobs of a trace in order of submission, the first at 0 s.

    Parameters
    ----------
    path
        ``cluster_job_log`` of Philly (JSON), ``cluster_log.csv`` of Helios, ``pai_task_table.csv``
        of Alibaba PAI with or without its header, or a CSV file with the columns ``submitted_s``,
        ``accelerators``, ``duration_s`` and perhaps ``name``, ``user``, ``group``, ``status``.
    kind
        One of ``FORMATS``; ``auto`` tells by the content.

    Notes
    -----
    Jobs that used no accelerator or did not run are left out. Philly: attempts are joined, their
    times added up, the accelerators those of the last; an attempt without both of its times does
    not count. PAI: a job is the tasks of one ``job_name`` that ask for accelerators; it lasts from
    the first to the last of them and takes ceil(inst_num * plan_gpu / 100) for each (its log does
    not tell submission, so the first task's start stands for it).

    Raises
    ------
    InputError
        The file cannot be read, its format is not known, or rows are wrong (with their lines).
    """
    path = Path(path)
    if kind != "auto" and kind not in FORMATS:
        raise InputError(f"job trace format {kind!r}: unknown; {nearest(kind, (*FORMATS, 'auto'))}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    reader = FORMATS[_tell(path, text) if kind == "auto" else kind]
    jobs = sorted(reader(path, text), key=lambda job: job.submitted_s)
    if not jobs:
        raise InputError(f"{path}: no job in it ran on an accelerator")
    first = jobs[0].submitted_s
    return tuple(replace(job, submitted_s=job.submitted_s - first) for job in jobs)


def _tell(path: Path, text: str) -> str:
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        return "philly"
    columns = text.partition("\n")[0].strip().split(",")
    for kind, needed in (("helios", _HELIOS), ("pai", _PAI), ("plain", _PLAIN)):
        if set(needed) <= set(columns):
            return kind
    if len(columns) == len(_PAI_COLUMNS):
        return "pai"
    raise InputError(
        f"{path}: no job trace that is known: the first line has the columns "
        f"{', '.join(columns[:8])}; needed: {', '.join(_PLAIN)}, or a file of Philly, Helios, PAI"
    )


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _philly(path: Path, text: str) -> Iterator[TraceJob]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    wrong: list[str] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            job = _philly_job(entry)
        except (KeyError, TypeError, ValueError) as error:
            wrong.append(f"{path}: job {number}: {type(error).__name__}: {error}")
            continue
        if job is not None:
            yield job
    _refuse(wrong)


def _philly_job(entry: dict[str, Any]) -> TraceJob | None:
    seconds, accelerators = 0.0, 0
    for attempt in entry["attempts"]:
        used = sum(len(machine["gpus"]) for machine in attempt["detail"])
        times = [attempt.get("start_time"), attempt.get("end_time")]
        if not used or any(time in (None, "", "None") for time in times):
            continue
        seconds += _time(times[1]) - _time(times[0])
        accelerators = used
    if not accelerators or seconds <= 0:
        return None
    return TraceJob(
        name=entry["jobid"],
        user=entry["user"],
        group=entry["vc"],
        submitted_s=_time(entry["submitted_time"]),
        accelerators=accelerators,
        duration_s=seconds,
        status=entry["status"],
    )


def _rows(
    path: Path, text: str, columns: tuple[str, ...] | None = None
) -> Iterator[dict[str, str]]:
    """Return the rows of a table with their line as ``#``."""
    lines = csv.DictReader(text.splitlines(), fieldnames=columns)
    for row in lines:
        row["#"] = f"{path}: line {lines.line_num}"
        yield row


def _table(path: Path, text: str, make: Callable[[dict[str, str]], TraceJob]) -> Iterator[TraceJob]:
    wrong: list[str] = []
    for row in _rows(path, text):
        try:
            job = make(row)
            if not (isfinite(job.submitted_s) and isfinite(job.duration_s)):
                raise ValueError("a time that is not finite")
            if job.accelerators < 0 or job.duration_s < 0:
                raise ValueError("accelerators and duration must not be negative")
        except (KeyError, TypeError, ValueError) as error:
            wrong.append(f"{row['#']}: {error}")
            continue
        if job.accelerators and job.duration_s:
            yield job
    _refuse(wrong)


def _number(row: dict[str, str], key: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = nan
    if not isfinite(value):
        raise ValueError(f"{key} = {row[key]!r}: must be a finite number")
    return value


def _count(row: dict[str, str], key: str) -> int:
    value = _number(row, key)
    if value != int(value):
        raise ValueError(f"{key} = {row[key]!r}: must be a whole number")
    return int(value)


def _refuse(wrong: list[str]) -> None:
    if wrong:
        more = (
            [f"and {len(wrong) - MOST_COMPLAINTS:,} more"] if len(wrong) > MOST_COMPLAINTS else []
        )
        raise InputError([*wrong[:MOST_COMPLAINTS], *more])


def _helios(path: Path, text: str) -> Iterator[TraceJob]:
    return _table(
        path,
        text,
        lambda row: TraceJob(
            name=row["job_id"],
            user=row["user"],
            group=row["vc"],
            submitted_s=_time(row["submit_time"]),
            accelerators=_count(row, "gpu_num"),
            duration_s=_number(row, "duration"),
            status=row["state"],
        ),
    )


def _plain(path: Path, text: str) -> Iterator[TraceJob]:
    return _table(
        path,
        text,
        lambda row: TraceJob(
            name=row.get("name") or f"line {row['#'].rpartition(' ')[2]}",
            user=row.get("user") or "",
            group=row.get("group") or "",
            submitted_s=_number(row, "submitted_s"),
            accelerators=_count(row, "accelerators"),
            duration_s=_number(row, "duration_s"),
            status=row.get("status") or "",
        ),
    )


def _pai(path: Path, text: str) -> Iterator[TraceJob]:
    headed = text.startswith("job_name")
    found: dict[str, TraceJob] = {}
    wrong: list[str] = []
    for row in _rows(path, text, None if headed else _PAI_COLUMNS):
        if not (row["plan_gpu"] and row["start_time"] and row["end_time"] and row["inst_num"]):
            continue
        try:
            start, end = _number(row, "start_time"), _number(row, "end_time")
            accelerators = ceil(_number(row, "inst_num") * _number(row, "plan_gpu") / 100.0)
        except ValueError as error:
            wrong.append(f"{row['#']}: {error}")
            continue
        if end <= start or accelerators <= 0:
            continue
        before = found.get(row["job_name"])
        if before is not None:
            end = max(end, before.submitted_s + before.duration_s)
            start = min(start, before.submitted_s)
            accelerators += before.accelerators
        found[row["job_name"]] = TraceJob(
            name=row["job_name"],
            user="",
            group=row.get("gpu_type") or "",
            submitted_s=start,
            accelerators=accelerators,
            duration_s=end - start,
            status=row["status"],
        )
    _refuse(wrong)
    yield from found.values()


FORMATS: dict[str, Callable[[Path, str], Iterator[TraceJob]]] = {
    "philly": _philly,
    "helios": _helios,
    "pai": _pai,
    "plain": _plain,
}
"""Name of a format -> its reader."""
