"""A plan as the text of a plan file, so that what a search found can be run, kept and changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ridgeline.simulator.plan import SCHEDULE_SUFFIX, Plan

_SPLIT = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sp", "zero_stage")
_PATHS = (
    ("model", "config"),
    ("model", "expert_load"),
    ("cluster", "graph"),
    ("cluster", "host"),
    ("stack", "name"),
    ("training", "schedule"),
    ("money", "prices"),
)
"""Keys that may hold a path, relative to the file that says it."""
_FILES = {
    ("stack", "name"): ".toml",
    ("training", "schedule"): SCHEDULE_SUFFIX,
    ("cluster", "host"): ".toml",
}
"""Key that may also hold a name -> how a path ends."""


def plan_text(plan: Plan, tables: Mapping[str, Any], source: Path | None, spec: str = "") -> str:
    """Return the text of a plan file.

    Parameters
    ----------
    plan
        The plan: its split and what training varies.
    tables
        Of the file (and overrides) that the rest of the plan came from.
    source
        That file; paths in it are made absolute, because the text may go elsewhere.
    spec
        Short name of the cluster where it is another than that of ``tables``.
    """
    sections = {name: dict(table) for name, table in tables.items() if isinstance(table, dict)}
    folder = Path() if source is None else source.parent
    for section, key in _PATHS:
        value = sections.get(section, {}).get(key)
        if isinstance(value, str) and value.endswith(_FILES.get((section, key), "")):
            sections[section][key] = str((folder / Path(value).expanduser()).absolute())
    if spec:
        sections["cluster"] = {"spec": spec}
    parallel = sections.setdefault("parallel", {})
    for name in _SPLIT:
        parallel[name] = getattr(plan.parallel, name)
    training = sections.setdefault("training", {})
    training["micro_batch_seqs"] = plan.training.micro_batch_seqs
    training["recompute"] = plan.training.recompute
    training["schedule"] = plan.training.schedule
    training["offload"] = list(plan.training.offload)
    training["uneven_stages"] = plan.training.uneven_stages
    lines = []
    for name, table in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {toml_value(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """Return a value of a plan file, whose texts, numbers and lists are those of JSON."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=True)
