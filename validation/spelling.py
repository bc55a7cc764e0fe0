"""What the words of measured tables mean: data files of patterns and spellings."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ridgeline.simulator.stacks import stack_names


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a row is not simulated."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricText:
    """The network that an ``interconnect`` text describes."""

    fabric: str
    node_bytes_per_s: float
    """0 when not stated."""
    accelerator_bytes_per_s: float
    """0 when not stated."""
    assumed: bool
    source: str
    cluster: str = ""
    """Named cluster (``hardware/data/clusters``) that it is, where known."""

    def per_accelerator(self, per_node: int) -> float | None:
        """Return bytes/s of an accelerator, None for its usual network."""
        if self.accelerator_bytes_per_s:
            return self.accelerator_bytes_per_s
        return self.node_bytes_per_s / per_node if self.node_bytes_per_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackText:
    """The stack that a ``framework`` names, and that framework's defaults."""

    name: str
    note: str
    """Said in the report: the class default was taken, or the mapping is an assumption."""
    recompute: str
    """Default policy, empty when not known."""
    zero_stage: str
    seq_parallel: str
    """"1" where activations of width h are split over tensor ranks by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What fine-tuning runs of a framework are fed with."""

    name: str
    sample_len: int
    """Mean tokens of a sample; sequences are packed with them."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopConvention:
    """How a row counts the FLOPs behind its TFLOP/s or MFU."""

    attention: str
    """full or causal."""
    hardware: bool
    """Recomputation is counted too."""
    source: str


@lru_cache(maxsize=8)
def _data(name: str) -> dict[str, Any]:
    text = files("ridgeline.validation").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def find_fabric(text: str) -> FabricText | None:
    """Return what ``data/fabrics.toml`` knows of an interconnect text, None for nothing."""
    for entry in _data("fabrics.toml")["fabric"]:
        if _found(entry["pattern"], text):
            return FabricText(
                fabric=entry["fabric"],
                node_bytes_per_s=entry.get("node_bytes_per_s", 0.0),
                accelerator_bytes_per_s=entry.get("accelerator_bytes_per_s", 0.0),
                assumed=entry.get("assumed", False),
                source=entry["source"],
                cluster=entry.get("cluster", ""),
            )
    return None


_PUBLISHED = re.compile(
    r"\barXiv[: ](\d\d)\d\d\.\d"
    r"|\b(?:ASPLOS|HPCA|ISCA|MICRO|MLSys|NSDI|OSDI|PPoPP|SC|SOSP)[-' ]?(\d\d)\b"
)


def published_year(text: str) -> int:
    """Return the latest year of a publication (arXiv, venue) that a text names; 0 for none."""
    years = [2000 + int(number or venue) for number, venue in _PUBLISHED.findall(text)]
    return max(years, default=0)


def find_stack(framework: str, accelerator: str, text: str = "") -> StackText:
    """Return the stack of a framework (``data/stacks.toml``), whose last entry takes any name.

    ``text`` is what the row says of its source: releases that the framework's name does not tell
    apart are told apart by the year of publication.
    """
    year = published_year(text)
    for entry in _data("stacks.toml")["stack"]:
        if not _found(entry["pattern"], framework):
            continue
        if not _found(entry.get("accelerator", ""), accelerator) or year < entry.get("since", 0):
            continue
        preferred: list[str] = entry["prefer"]
        name = next(stack for stack in preferred if stack in stack_names())
        note = ""
        if name != preferred[0]:
            note = f"stack {preferred[0]} is not known: default of its class {name}"
        elif entry.get("assumed", False):
            note = f"framework {framework!r} taken as {name}"
        return StackText(
            name=name,
            note=note,
            recompute=entry.get("recompute", ""),
            zero_stage=entry.get("zero_stage", ""),
            seq_parallel=entry.get("seq_parallel", ""),
        )
    raise AssertionError("the last entry of stacks.toml takes any name")


def find_spelling(column: str, text: str) -> dict[str, Any] | Skip:
    """Return what a spelling of ``column`` means, or why a row with it cannot be simulated.

    From ``data/spellings.toml``. The result has some of the keys of ``Training`` or
    ``Parallelism``, and ``note``.
    """
    table: dict[str, dict[str, Any]] = _data("spellings.toml")[column]
    key = text.strip().lower()
    if column == "recompute" and key not in table:
        layers = re.fullmatch(r"(full|every)[ -]([1-9]\d*)", key)
        if layers:
            return {"recompute": f"{layers[1]}-{layers[2]}"}
    if key not in table:
        return Skip(f"{column} {text!r} is not known" if text else f"{column} is not stated")
    entry = table[key]
    return Skip(entry["skip"]) if "skip" in entry else entry


def find_dataset(task: str, framework: str) -> Dataset | None:
    """Return what ``data/spellings.toml`` knows of the samples of a task, None for nothing."""
    for entry in _data("spellings.toml")["dataset"]:
        if task.strip().lower() in entry["tasks"] and _found(entry["framework"], framework):
            return Dataset(
                name=entry["name"], sample_len=entry["sample_len"], source=entry["source"]
            )
    return None


def find_flops(notes: str) -> FlopConvention | None:
    """Return how a row counts FLOPs, None when its notes do not say."""
    for entry in _data("spellings.toml")["flops"]:
        if _found(entry["pattern"], notes):
            return FlopConvention(
                attention=entry["attention"],
                hardware=entry.get("hardware", False),
                source=entry["source"],
            )
    return None
