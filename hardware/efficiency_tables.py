"""Efficiency parameters out of TOML tables: a profile's own, those of its twin, its class's.

A block (for example ``gemm.bf16``) is taken whole from the nearest place that has it, so that
fitted parameters of two devices never mix: the profile, the profile it names with ``like``, its
family in ``universal.toml``, and the table ``common`` there.

A class has SMs of different rates. Where a block says ``tile_core_tflops``, its ``tile_us`` holds
for an SM of that peak and is as much work on any other: a device's tile time is
tile_us tile_core_tflops / (peak / cores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ridgeline.hardware._reader import Reader, scale
from ridgeline.hardware.efficiency import (
    AttentionEfficiency,
    CollectiveEfficiency,
    Efficiency,
    GemmEfficiency,
)

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

# Block kind -> key in the file -> (field, zero allowed, largest in the file's unit).
_Spec = dict[str, tuple[str, bool, float]]
_GEMM: _Spec = {
    "launch_us": ("launch_s", True, 1e4),
    "compute": ("compute", False, 1.0),
    "memory": ("memory", False, 1.0),
    "l2_bytes_per_flop": ("l2_bytes_per_flop", False, 10.0),
    "tile_us": ("tile_s", True, 1e4),
    "split_us": ("split_s", True, 1e4),
    "sharpness": ("sharpness", False, 16.0),
    "step_ns": ("step_s", True, 1e6),
}
_QUANTISE: _Spec = {
    "quantise_us": ("quantise_s", True, 1e4),
    "quantise_memory": ("quantise_memory", False, 1.0),
}
_BLEND: _Spec = {"wave_blend": ("wave_blend", True, 1.0)}
# What a class's tile time is relative to; never a field of GemmEfficiency.
_CORE = "tile_core_flops"
_RELATIVE: _Spec = {"tile_core_tflops": (_CORE, False, 1e5)}
_ATTENTION: _Spec = {
    "launch_us": ("launch_s", True, 1e4),
    "compute": ("compute", False, 1.0),
    "softmax_ps_per_score": ("softmax_s_per_score", True, 1e4),
    "block_us": ("block_s", True, 1e4),
    "tail": ("tail", True, 1.0),
    "memory": ("memory", False, 1.0),
    "sharpness": ("sharpness", False, 16.0),
}
_COLLECTIVE: _Spec = {
    "base_us": ("base_s", True, 1e6),
    "per_rank_us": ("per_rank_s", True, 1e6),
    "bandwidth": ("bandwidth", False, 1.0),
    "ramp_us": ("ramp_s", True, 1e6),
    "gamma": ("gamma", False, 2.0),
    "delta": ("delta", True, 64.0),
}
_ELEMENTWISE: _Spec = {
    "memory": ("elementwise_memory", False, 1.0),
    "launch_us": ("elementwise_launch_s", True, 1e4),
}
_SUSTAINED: _Spec = {"fraction": ("fraction", False, 1.0)}
_THROTTLING: _Spec = {"half_after_us": ("sustained_after_s", False, 1e9)}

_KINDS: dict[str, tuple[tuple[str, ...], _Spec, _Spec]] = {
    "gemm": (
        ("bf16", "fp8", "tf32", "fp32"),
        _GEMM,
        _QUANTISE | _BLEND | _RELATIVE,
    ),
    "attention": (("bf16", "fp8", "fp32"), _ATTENTION, {}),
    "collectives": (OPERATIONS, _COLLECTIVE, {}),
    "sustained": (("bf16", "fp8", "tf32", "fp32"), _SUSTAINED, {}),
    "elementwise": ((), _ELEMENTWISE, {}),
    "throttling": ((), _THROTTLING, {}),
}
"""Kind -> names of its blocks (none: the kind is one block), needed and optional keys."""

# Formats without parameters of their own use those of bf16, relative to their own peak.
_FILLED_BY = {"tf32": "bf16", "fp32": "bf16"}


@dataclass(frozen=True, slots=True)
class Block:
    """The parameters of one kernel class, in SI units, with their source."""

    values: dict[str, float]
    source: str
    confirmed: bool


def _block(reader: Reader, table: dict[str, Any], kind: str, where: str) -> Block:
    _, needed, optional = _KINDS[kind]
    spec = {**needed, **optional}
    reader.known(table, (*spec, "source", "confirmed"), where)
    values: dict[str, float] = {}
    for key, (field, zero, most) in spec.items():
        if key in table:
            path = f"{where}.{key}"
            values[field] = reader.number(table[key], path, zero=zero, most=most) * scale(key)
        elif key in needed:
            reader.problem(f"{where}.{key}", "is missing")
            values[field] = 1.0
    return Block(values, reader.cite(table.get("source"), where), reader.flag(table, where))


def read_blocks(reader: Reader, tables: dict[str, Any], where: str) -> dict[str, Block]:
    """Return every block below ``tables`` by its dotted name, e.g. ``gemm.bf16``."""
    blocks: dict[str, Block] = {}
    reader.known(tables, _KINDS, where)
    for kind, (names, *_) in _KINDS.items():
        if kind not in tables:
            continue
        table = reader.table(tables, kind, f"{where}.{kind}")
        if not names:
            blocks[kind] = _block(reader, table, kind, f"{where}.{kind}")
            continue
        reader.known(table, names, f"{where}.{kind}")
        for name in (name for name in names if name in table):
            path = f"{where}.{kind}.{name}"
            entry = reader.table(table, name, path)
            blocks[f"{kind}.{name}"] = _block(reader, entry, kind, path)
    return blocks


def build_efficiency(
    blocks: dict[str, Block], *, fitted: bool, core_flops: dict[str, float]
) -> Efficiency:
    """Join blocks into an :class:`Efficiency`, filling formats that have none of their own.

    tf32 and fp32 take the tile parameters of bf16, relative to their own peak.

    Parameters
    ----------
    blocks
        Of the profile, its twin and its class, by dotted name.
    fitted
        Whether the GEMM blocks were fitted on the device.
    core_flops
        Peak of one SM of the device by dtype of a block, FLOP/s.
    """
    blocks = dict(blocks)
    for kind in ("gemm", "sustained"):
        for dtype, other in _FILLED_BY.items():
            if f"{kind}.{dtype}" not in blocks:
                blocks[f"{kind}.{dtype}"] = blocks[f"{kind}.{other}"]

    def of(kind: str) -> dict[str, Block]:
        return {
            name: blocks[f"{kind}.{name}"] for name in _KINDS[kind][0] if f"{kind}.{name}" in blocks
        }

    element = blocks["elementwise"].values
    return Efficiency(
        rung="fitted" if fitted else "universal",
        gemm={
            name: _gemm(block.values, core_flops.get(name, core_flops["bf16"]))
            for name, block in of("gemm").items()
        },
        attention={
            name: AttentionEfficiency(**block.values) for name, block in of("attention").items()
        },
        collectives={
            name: CollectiveEfficiency(**block.values) for name, block in of("collectives").items()
        },
        elementwise_memory=element["elementwise_memory"],
        elementwise_launch_s=element["elementwise_launch_s"],
        sustained={name: block.values["fraction"] for name, block in of("sustained").items()},
        sustained_after_s=blocks["throttling"].values["sustained_after_s"],
        source="; ".join(dict.fromkeys(block.source for block in blocks.values())),
    )


def _gemm(values: dict[str, float], core_flops: float) -> GemmEfficiency:
    """Return the tile parameters of a device whose SMs reach ``core_flops``."""
    own = dict(values)
    relative_to = own.pop(_CORE, core_flops)
    own["tile_s"] *= relative_to / core_flops
    return GemmEfficiency(**own)
