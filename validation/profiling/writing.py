"""A fitted machine as the files that every other command reads: a profile and its stack."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ridgeline.validation.profiling.fitting import ADAMW_BYTES, Block, Fitted
from ridgeline.validation.profiling.machine import Machine

ASSUMED_CPU_W = (100.0, 0.2, 0.8)
ASSUMED_LINK_SHARE = 0.5
"""Of the memory bandwidth, where one rank leaves links unmeasured: a copy reads and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How a profile came about."""

    name: str
    date: str
    torch: str
    threads: int
    processes: int
    rounds: int
    dtype: str
    watts: tuple[float, float, float]
    """Limit, idle, under load; 0 where they could not be read."""

    def text(self) -> str:
        """Return the citation of every measured number."""
        return (
            f"ridgeline profile, {self.date}: PyTorch {self.torch}, {self.processes} process(es) "
            f"of {self.threads} thread(s), medians of {self.rounds} rounds"
        )


def clean_name(text: str) -> str:
    """Return a profile's name out of a part's: lower case with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def profile_text(machine: Machine, fitted: Fitted, origin: Origin) -> str:
    """Return the profile's TOML."""
    read = "read off the machine"
    cites = {"measured": origin.text(), "read": read, "assumed": "assumption: not readable here"}
    lines = [
        f"# {machine.model}, as one of {origin.processes} process(es) sees it (docs/profile.md).",
        f'name = "{origin.name}"',
        "aliases = []",
        f'vendor = "{machine.vendor}"',
        f'family = "{machine.family}"',
        "",
        "[sources]",
        *(f'{key} = "{text}"' for key, text in cites.items()),
    ]
    lines += [f'{_key(name)} = "{_citation(origin, b)}"' for name, b in fitted.blocks.items()]
    lines += ["", "[peak_tflops]"]
    lines += [_entry(d, peak / 1e12, "measured") for d, peak in fitted.peak_flops.items()]
    lines += ["", "[device]", _entry("release_year", int(origin.date[:4]), "assumed")]
    lines += [_entry("cores", machine.cores, "read")]
    if machine.vector:
        lines += [_entry("systolic_side", machine.vector, "read")]
    cache = "read" if machine.cache_read else "assumed"
    lines += [
        _entry("l2_mib", machine.cache_bytes / 2**20, cache),
        _entry("memory_mib", machine.memory_bytes / 2**20, "read"),
        _entry("memory_gb_per_s", fitted.memory_bytes_per_s / 1e9, "measured"),
        "",
        "[links]",
    ]
    link = fitted.scaleup_bytes_per_s
    how = "measured" if link else "assumed"
    link = (link or ASSUMED_LINK_SHARE * fitted.memory_bytes_per_s) / 1e9
    lines += [
        _entry("scaleup_gb_per_s", link, how),
        _entry("scaleup_domain", max(2, origin.processes), "read"),
        _entry("scaleout_gb_per_s", link, "assumed"),
        _entry("host_gb_per_s", ASSUMED_LINK_SHARE * fitted.memory_bytes_per_s / 1e9, "assumed"),
        _entry("per_node", max(2, origin.processes), "read"),
        "",
        "[power]",
    ]
    limit, idle, load = origin.watts
    how = "measured" if limit and load else "assumed"
    default, idle_share, load_share = ASSUMED_CPU_W
    lines += [
        _entry("tdp_w", limit or default, how),
        _entry("idle_w", idle or idle_share * (limit or default), how),
        _entry("load_fraction", min(1.2, load / limit) if how == "measured" else load_share, how),
    ]
    for name, block in fitted.blocks.items():
        lines += ["", f"[efficiency.{name}]", f'source = "{_key(name)}"']
        lines += [f"{key} = {value:.6g}" for key, value in block.values.items()]
    for dtype in fitted.peak_flops:
        if dtype != "fp16":
            lines += [
                "",
                f"[efficiency.sustained.{dtype}]",
                'source = "measured"',
                "fraction = 1.0",
            ]
    return "\n".join(lines) + "\n"


def stack_text(machine: Machine, fitted: Fitted, origin: Origin) -> str:
    """Return the stack's TOML: eager PyTorch on this machine."""
    said = origin.text()
    host = machine.device == "cpu"
    facts: list[tuple[str, str, str]] = [
        ("attention_backward", f"{fitted.stack['attention_backward']:.6g}", said),
        ("elementwise_factor", f"{fitted.stack['elementwise_factor']:.6g}", said),
        (
            "optimizer_bytes",
            f"{fitted.stack['optimizer_bytes']:.6g}",
            f"{said}: fused AdamW, whose traffic is {ADAMW_BYTES:g}",
        ),
        ("accumulation_bytes", "0.0", "autograd keeps a first gradient without adding to it"),
        (
            "gradient_bytes",
            "4.0" if origin.dtype == "fp32" else "2.0",
            "DistributedDataParallel reduces gradients in the format of the weights",
        ),
        ("sharding", '"fsdp"', "fully_shard gathers and reduces layer by layer"),
        ("tp_overlap", "0.0", "blocking all-reduces"),
    ]
    if host:
        facts += [
            ("gradient_overlap", "false", "gloo runs on the cores that compute"),
            ("framework_bytes", "4e8", "assumption: resident size of Python with PyTorch"),
        ]
    else:
        facts.append(("launch_s", f"{fitted.stack['launch_s']:.6g}", said))
    lines = [f'description = "Eager PyTorch on {machine.model}, as measured beside its profile."']
    for key, value, source in facts:
        lines += ["", f"[{key}]", f"value = {value}", f'source = "{source}"']
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name.replace(".", "-").replace("_", "-")


def _citation(origin: Origin, block: Block) -> str:
    return f"{origin.text()}; fit to {block.shapes} shapes, mean error {block.error:.1%}"


def _entry(key: str, value: float, source: str) -> str:
    confirmed = ", confirmed = false" if source == "assumed" else ""
    shown = str(value) if isinstance(value, int) else f"{value:.6g}"
    return f'{key} = {{ value = {shown}, source = "{source}"{confirmed} }}'
