"""Words for what an answer holds, the same on the terminal, in a report and on the web."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.simulator.plan import Plan
    from ridgeline.simulator.serving.choice.records import Pooled

SETTINGS = ("tp", "pp", "vpp", "dp", "cp", "ep", "etp", "zero_stage")
"""Of a split, in the order in which they are shown."""
CAUSES = ("weights", "gradients", "optimizer", "activations", "buffers", "framework")
"""What memory goes to."""
EVIDENCE = {
    "measured": (
        "●",
        "green",
        "Measured before",
        "steps of this stack, accelerator and kind of plan",
    ),
    "related": ("◐", "cyan", "Partly measured", "this stack elsewhere or with other plans"),
    "kernels": ("○", "yellow", "Kernels only", "no training step of this stack was measured"),
    "datasheet": ("?", "bold red", "DATA SHEET ONLY", "nothing was measured: an estimate on paper"),
}
"""By grade: mark, style, word and what it means."""


def plan_words(plan: Plan, *, beside: Plan | None = None) -> str:
    """Return how a plan splits the work, in one line: what is 1 or off goes without saying.

    The cluster is named where it is another than that of the plan ``beside``.
    """
    p, t = plan.parallel, plan.training
    words = [f"tp {p.tp}", f"pp {p.pp}"]
    words += [f"vpp {p.vpp}"] if p.vpp > 1 else []
    words += [f"dp {p.dp}"]
    words += [f"{name} {getattr(p, name)}" for name in ("cp", "ep") if getattr(p, name) > 1]
    words += [f"etp {p.etp}"] if p.etp and p.etp != p.tp else []
    words += [f"micro-batch {t.micro_batch_seqs}", f"zero {p.zero_stage}"]
    words += [t.recompute if t.recompute != "none" else "no"]
    words[-1] += " recompute"
    words += [t.schedule] if t.schedule not in ("1f1b", "interleaved") else []
    words += [f"offload {'+'.join(t.offload)}"] if t.offload else []
    if beside is not None and plan.cluster != beside.cluster:
        alike = plan.cluster.accelerator.name == beside.cluster.accelerator.name
        words.append(f"on {plan.cluster.count:,}" if alike else f"on {on_words(plan)}")
    return ", ".join(words)


def on_words(plan: Plan) -> str:
    """Return how many accelerators a plan takes, and which."""
    return f"{plan.cluster.count:,} x {plan.cluster.accelerator.name}"


def pool_words(pools: Sequence[Pooled]) -> str:
    """Return the pools of a plan in words: 2 x tp 4 (2,048 tokens, 64 at once); fp8."""
    words = []
    for pool in pools:
        ways = [("tp", pool.tp), ("pp", pool.pp), ("dp", pool.dp), ("ep", pool.ep)]
        split = " ".join(f"{name} {n}" for name, n in ways if n > 1) or "tp 1"
        role = "" if pool.role == "whole" else f"{pool.role} "
        text = f"{role}{pool.replicas} x {split}"
        if pool.role == "whole":
            text += f" ({pool.max_tokens:,} tokens, {pool.max_sequences:,} at once)"
        words.append(text)
    last = pools[-1]
    formats = last.precision + (f", KV {last.kv_precision}" if last.kv_precision else "")
    return "; ".join(words) + f"; {formats}"
