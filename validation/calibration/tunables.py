"""Parameters that measured steps may move: few, bounded, with a meaning, pulled to a prior."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.stacks import Stack

KINDS = ("stack", "device", "cluster")


@dataclass(frozen=True, slots=True)
class Tunable:
    """One parameter of a stack or a device."""

    kind: str
    """stack, device or cluster."""
    targets: tuple[str, ...]
    """Names of the stacks, accelerators or named clusters that share it."""
    field: str
    """Of ``Stack`` or ``Efficiency``, ``field.key`` for one entry of a table; of a cluster the
    name of a tier, whose efficiency it is."""
    lower: float
    upper: float
    prior: float
    """Value without measured steps: from kernels, data sheets, other stacks."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{'/'.join(self.targets)} {self.field}"

    def touches(self, plan: Plan) -> bool:
        """Whether the step time of ``plan`` depends on it."""
        if self.kind == "stack":
            return plan.stack in self.targets
        if self.kind == "cluster":
            return plan.cluster.name.partition(":")[0] in self.targets
        return plan.cluster.accelerator.name in self.targets


def load_tunables(text: str | None = None) -> tuple[Tunable, ...]:
    """Return the shipped tunables, or those of a TOML text.

    Raises
    ------
    InputError
        A prior outside its bounds or an unknown kind.
    """
    return _shipped() if text is None else _parse(text)


@lru_cache(maxsize=1)
def _shipped() -> tuple[Tunable, ...]:
    resource = files("ridgeline.validation") / "data" / "tunables.toml"
    return _parse(resource.read_text(encoding="utf-8"))


def _parse(text: str) -> tuple[Tunable, ...]:
    found: list[Tunable] = []
    for entry in tomllib.loads(text)["tunable"]:
        (kind,) = (kind for kind in KINDS if kind in entry)
        names = entry[kind]
        one = Tunable(
            kind=kind,
            targets=(names,) if isinstance(names, str) else tuple(names),
            field=entry["field"],
            lower=float(entry["lower"]),
            upper=float(entry["upper"]),
            prior=float(entry["prior"]),
        )
        if not one.lower <= one.prior <= one.upper or one.lower >= one.upper:
            raise InputError(f"tunable {one.name}: prior {one.prior} must lie in its bounds")
        found.append(one)
    return tuple(found)


def with_field(record: Any, field: str, value: float) -> Any:
    """Return a copy of a frozen record with a field, or one entry of a table field, replaced."""
    name, _, key = field.partition(".")
    if key:
        return replace(record, **{name: {**getattr(record, name), key: value}})
    return replace(record, **{name: value})


def applied(
    plan: Plan, stack: Stack, tunables: Sequence[Tunable], values: Sequence[float]
) -> tuple[Plan, Stack]:
    """Return the plan and its stack with the tunables set to ``values``."""
    cluster = plan.cluster
    accelerator: Accelerator = cluster.accelerator
    efficiency = accelerator.efficiency
    for tunable, value in zip(tunables, values, strict=True):
        if not tunable.touches(plan):
            continue
        if tunable.kind == "stack":
            stack = with_field(stack, tunable.field, float(value))
        elif tunable.kind == "cluster":
            tiers = tuple(
                replace(tier, efficiency=float(value)) if tier.name == tunable.field else tier
                for tier in cluster.tiers
            )
            cluster = replace(cluster, tiers=tiers)
        else:
            efficiency = with_field(efficiency, tunable.field, float(value))
    if efficiency is not accelerator.efficiency:
        cluster = replace(cluster, accelerator=replace(accelerator, efficiency=efficiency))
    if cluster is not plan.cluster:
        plan = replace(plan, cluster=cluster)
    return plan, stack
