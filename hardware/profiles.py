"""Accelerator profiles: from a TOML file with a source beside every number to an Accelerator."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware._reader import (
    Reader,
    Sourced,
    citations,
    normalise,
    open_text,
    parse,
    scale,
)
from ridgeline.hardware.accelerator import DTYPES, Accelerator
from ridgeline.hardware.efficiency import Efficiency
from ridgeline.hardware.efficiency_tables import Block, build_efficiency, read_blocks

DATA = Path(__file__).parent / "data"
_PROFILES = DATA / "accelerators"
_LONGEST_FILE_NAME = 255
_TOP = ("name", "aliases", "vendor", "family", "sources")
_TABLES = ("peak_tflops", "device", "links", "power", "efficiency")

# Table -> key -> (field of Accelerator, unit shown, largest).
_FIELDS: dict[str, dict[str, tuple[str, str, float]]] = {
    "device": {
        "release_year": ("release_year", "", 2100),
        "cores": ("cores", "", 1e6),
        "systolic_side": ("systolic", "", 4096),
        "l2_mib": ("l2_bytes", "MiB", 1e6),
        "memory_mib": ("memory_bytes", "MiB", 1e8),
        "memory_gib": ("memory_bytes", "GiB", 1e5),
        "memory_gb_per_s": ("memory_bytes_per_s", "GB/s", 1e6),
    },
    "links": {
        "scaleup_gb_per_s": ("scaleup_bytes_per_s", "GB/s", 1e5),
        "scaleup_domain": ("scaleup_domain", "", 1e6),
        "scaleout_gb_per_s": ("scaleout_bytes_per_s", "GB/s", 1e5),
        "host_gb_per_s": ("host_bytes_per_s", "GB/s", 1e5),
        "host_time": ("host_time", "", 100),
        "per_node": ("per_node", "", 1e4),
        "torus_dims": ("torus_dims", "", 3),
    },
    "power": {
        "tdp_w": ("tdp_w", "W", 1e5),
        "idle_w": ("idle_w", "W", 1e5),
        "load_fraction": ("load_fraction", "of TDP", 1.2),
    },
}
_WHOLE = ("release_year", "cores", "systolic", "scaleup_domain", "per_node", "torus_dims")
_OPTIONAL = ("systolic", "torus_dims", "host_time")
_SHOWN = {
    target: (unit, scale(key))
    for spec in _FIELDS.values()
    for key, (target, unit, *_) in spec.items()
}


@lru_cache(maxsize=1)
def _index() -> dict[str, str]:
    """Return every name and alias (normalised) -> canonical name.

    Only the head of a file, above its first table, is parsed: names must be cheap to look up.
    """
    names: dict[str, str] = {}
    for path in sorted(_PROFILES.glob("*.toml")):
        head = parse(path.read_text(encoding="utf-8").split("\n[", 1)[0], path.name)
        for name in (path.stem, *head.get("aliases", ())):
            names[normalise(name)] = path.stem
    return names


@lru_cache(maxsize=1)
def accelerator_names() -> tuple[str, ...]:
    """Return the canonical names of the profiles that ship, sorted."""
    return tuple(
        sorted(entry.name[:-5] for entry in os.scandir(_PROFILES) if entry.name.endswith(".toml"))
    )


@lru_cache(maxsize=1)
def _unpublished() -> dict[str, str]:
    """Return name -> why an accelerator that people ask for has no profile."""
    path = _PROFILES.with_name("unpublished.toml")
    return {str(name): str(why) for name, why in parse(open_text(path), path.name).items()}


@lru_cache(maxsize=256)
def load_accelerator(name: str) -> Accelerator:
    """Return the profile called ``name``.

    Parameters
    ----------
    name
        A canonical name, an alias (case, ``_`` and spaces do not matter), or the path of a
        profile of one's own ending in ``.toml``.

    Raises
    ------
    InputError
        No such profile (the nearest name is given), or a mistake in the file: an unknown or
        missing key, a number without a source, a number out of range.
    """
    if name.lower().endswith(".toml"):
        path = Path(name)
        if len(path.name) > _LONGEST_FILE_NAME or not path.is_file():
            raise InputError(f"accelerator: no such file {name[:200]!r}")
        return _read(path)
    wanted = normalise(name)
    if wanted in accelerator_names():
        return _read(_PROFILES / f"{wanted}.toml")
    index = _index()
    if wanted in (unpublished := _unpublished()):
        raise InputError(f"accelerator {name[:200]!r}: cannot be predicted: {unpublished[wanted]}")
    if wanted not in index:
        raise InputError(
            f"accelerator: unknown name {name[:200]!r}; {nearest(wanted[:200], index)}"
        )
    return load_accelerator(index[wanted])


def _head(document: dict[str, Any], reader: Reader, stem: str) -> tuple[str, tuple[str, ...]]:
    """Check the keys above the tables and return (name, aliases)."""
    for key in ("name", "vendor", "family"):
        if not isinstance(document.get(key), str) or not document[key].strip():
            reader.problem(key, f"must be text, found {document.get(key)!r}")
    name = str(document.get("name", stem))
    if name != normalise(name):
        reader.problem("name", f"must be lower case with hyphens: {normalise(name)!r}")
    aliases = document.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        reader.problem("aliases", f"must be a list of names, found {aliases!r}")
        aliases = []
    return name, tuple(aliases)


@lru_cache(maxsize=1)
def _universal() -> dict[str, dict[str, Block]]:
    """Return the blocks of every family in ``universal.toml``, common ones filled in."""
    path = DATA / "universal.toml"
    document = parse(open_text(path), path.name)
    reader = Reader(path.name, citations(document, path.name))
    common = read_blocks(reader, document.pop("common"), "common")
    document.pop("sources")
    families: dict[str, dict[str, Block]] = {}
    for name, table in document.items():
        like = table.pop("like", None)
        base = common if like is None else families[like]
        families[name] = {**base, **read_blocks(reader, table, name)}
    reader.finish()
    return families


def _efficiency(document: dict[str, Any], reader: Reader) -> tuple[dict[str, Block], bool]:
    """Return the profile's blocks over its twin's over its class's, and whether GEMM is fitted."""
    table = dict(reader.table(document, "efficiency"))
    like, why = table.pop("like", None), table.pop("like_source", None)
    own = read_blocks(reader, table, "efficiency")
    families = _universal()
    family = document.get("family")
    if family not in families:
        reader.problem("family", f"unknown {family!r}; {nearest(str(family), families)}")
        return {}, False
    if like is not None:
        reason = reader.cite(why, "efficiency.like_source")
        if like not in accelerator_names():
            hint = nearest(str(like), accelerator_names())
            reader.problem("efficiency.like", f"unknown profile {like!r}; {hint}")
        else:
            twin = parse(open_text(_PROFILES / f"{like}.toml"), f"{like}.toml")
            theirs = Reader(f"{like}.toml", citations(twin, f"{like}.toml"))
            for name, block in read_blocks(theirs, twin.get("efficiency", {}), "").items():
                source = f"{block.source}; {reason}"
                own.setdefault(name, Block(block.values, source, block.confirmed))
            theirs.finish()
    return {**families[family], **own}, "gemm.bf16" in own


def universal_efficiency(accelerator: Accelerator) -> Efficiency:
    """Return what the accelerator's class reaches: ``universal.toml`` without its own fits."""
    blocks = _universal()[accelerator.family]
    if "fp8" not in accelerator.peak_flops:
        blocks = {name: block for name, block in blocks.items() if not name.endswith(".fp8")}
    core_flops = _core_flops(accelerator.peak_flops, accelerator.cores)
    return build_efficiency(blocks, fitted=False, core_flops=core_flops)


def _core_flops(peak_flops: dict[str, float], cores: float) -> dict[str, float]:
    """Return the peak of one SM by dtype of an efficiency block, FLOP/s; fp16 is bf16's."""
    peaks = {"bf16": peak_flops.get("bf16", peak_flops.get("fp16", 1.0))} | peak_flops
    # tf32 and fp32 run the tiles of bf16: the same time before and after them
    return {name: peaks[name] / cores for name in ("bf16", "fp8") if name in peaks}


def _numbers(
    document: dict[str, Any], reader: Reader
) -> tuple[dict[str, float], dict[str, Sourced]]:
    """Return the datasheet: field -> SI value, and field -> number as written with its source."""
    values: dict[str, float] = {"systolic": 0, "torus_dims": 0, "host_time": 1}
    written: dict[str, Sourced] = {}
    for table_name, spec in _FIELDS.items():
        table = reader.table(document, table_name)
        reader.known(table, spec, table_name)
        for key, (target, _, most) in spec.items():
            if key not in table:
                continue
            where = f"{table_name}.{key}"
            number = reader.sourced(table[key], where, most=most)
            if target in written:
                reader.problem(where, "the same quantity is given twice; keep one")
            if target in _WHOLE and number.value != int(number.value):
                reader.problem(where, f"must be a whole number, found {number.value!r}")
            values[target] = number.value * scale(key)
            written[target] = number
        for key, (target, *_) in spec.items():
            if target not in values and target not in _OPTIONAL:
                reader.problem(f"{table_name}.{key}", "is missing")
                values[target] = 1.0
    return values, written


def _peaks(document: dict[str, Any], reader: Reader) -> dict[str, Sourced]:
    table = reader.table(document, "peak_tflops")
    reader.known(table, DTYPES, "peak_tflops")
    peaks = {
        dtype: reader.sourced(table[dtype], f"peak_tflops.{dtype}", most=1e6)
        for dtype in DTYPES
        if dtype in table
    }
    if not {"bf16", "fp16"} & peaks.keys():
        reader.problem("peak_tflops", "needs bf16 or fp16")
    return peaks


def _read(path: Path) -> Accelerator:
    """Read one profile file."""
    document = parse(open_text(path), path.name)
    reader = Reader(path.name, citations(document, path.name))
    reader.known(document, _TOP + _TABLES, "")
    name, aliases = _head(document, reader, path.stem)
    values, written = _numbers(document, reader)
    peaks = _peaks(document, reader)
    blocks, fitted = _efficiency(document, reader)
    reader.finish()
    if "fp8" not in peaks:
        blocks = {name: block for name, block in blocks.items() if not name.endswith(".fp8")}
    peak_flops = {dtype: number.value * 1e12 for dtype, number in peaks.items()}
    written |= {f"peak_flops.{dtype}": number for dtype, number in peaks.items()}
    sources = {field: number.source for field, number in written.items()}
    sources |= {f"efficiency.{name}": block.source for name, block in blocks.items()}
    return Accelerator(
        name=name,
        aliases=aliases,
        vendor=document["vendor"],
        family=document["family"],
        release_year=int(values["release_year"]),
        peak_flops=peak_flops,
        cores=int(values["cores"]),
        systolic=int(values["systolic"]),
        l2_bytes=values["l2_bytes"],
        memory_bytes=values["memory_bytes"],
        memory_bytes_per_s=values["memory_bytes_per_s"],
        scaleup_bytes_per_s=values["scaleup_bytes_per_s"],
        scaleup_domain=int(values["scaleup_domain"]),
        scaleout_bytes_per_s=values["scaleout_bytes_per_s"],
        host_bytes_per_s=values["host_bytes_per_s"],
        per_node=int(values["per_node"]),
        torus_dims=int(values["torus_dims"]),
        tdp_w=values["tdp_w"],
        idle_w=values["idle_w"],
        load_fraction=values["load_fraction"],
        host_time=values["host_time"],
        efficiency=build_efficiency(
            blocks, fitted=fitted, core_flops=_core_flops(peak_flops, values["cores"])
        ),
        sources=sources,
        unconfirmed=tuple(
            [field for field, number in written.items() if not number.confirmed]
            + [f"efficiency.{name}" for name, block in blocks.items() if not block.confirmed]
        ),
    )


def describe(accelerator: Accelerator) -> list[tuple[str, float | int | str, str, str, bool]]:
    """Return every number of a profile with where it comes from, for people to read.

    Returns
    -------
    list of (field, value, unit, source, confirmed)
        Values in the datasheet's units (TFLOP/s, GB/s, GiB or MiB, W); efficiency parameters in
        SI units, one line each, with the source of their block.
    """
    lines: list[tuple[str, float | int | str, str, str, bool]] = [
        (name, getattr(accelerator, name), "", f"profile {accelerator.name}", True)
        for name in ("name", "vendor", "family")
    ]

    def add(field: str, value: float, unit: str, key: str) -> None:
        source = accelerator.sources.get(key, "")
        lines.append((field, value, unit, source, key not in accelerator.unconfirmed))

    for dtype, peak in accelerator.peak_flops.items():
        add(f"peak {dtype}", peak / 1e12, "TFLOP/s dense", f"peak_flops.{dtype}")
    for field, (unit, si) in _SHOWN.items():
        if field in accelerator.sources:
            value = getattr(accelerator, field)
            add(field, value if field in _WHOLE else value / si, unit, field)
    efficiency = accelerator.efficiency
    for kind in ("gemm", "attention", "collectives"):
        for name, parameters in getattr(efficiency, kind).items():
            key = f"efficiency.{kind}.{name}"
            if key in accelerator.sources:
                for parameter in fields(parameters):
                    label = f"{kind} {name} {parameter.name}"
                    add(label, getattr(parameters, parameter.name), "", key)
    add("elementwise memory", efficiency.elementwise_memory, "", "efficiency.elementwise")
    add("elementwise launch_s", efficiency.elementwise_launch_s, "s", "efficiency.elementwise")
    for name, fraction in efficiency.sustained.items():
        if f"efficiency.sustained.{name}" in accelerator.sources:
            add(f"sustained {name}", fraction, "of burst", f"efficiency.sustained.{name}")
    add("sustained_after_s", efficiency.sustained_after_s, "s", "efficiency.throttling")
    return lines
