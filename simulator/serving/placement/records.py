"""What a joint placement says: flat frozen records. Rendering reads them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ridgeline.simulator.serving.placement.cover import Cover
from ridgeline.simulator.serving.placement.options import Kept, Options
from ridgeline.simulator.serving.placement.question import FleetQuestion

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Accelerators and the models on them."""

    way: str
    """alone, released (given back when idle) or turns (one model there at a time)."""
    accelerator: str
    accelerators: int
    on_share: float
    """Of the time that they are paid for."""
    usd_per_hour: float
    """Of these by themselves; what whole nodes add is in the total alone."""
    models: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """Accelerators of one kind that are rented all the time."""

    accelerator: str
    held: int
    """In groups."""
    rented: int
    usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The joint cheapest placement of several models."""

    groups: tuple[Group, ...]
    rented: tuple[Rented, ...]
    usd_per_hour: float
    accelerators: int
    """At most at once: rented all the time and released ones."""
    alone_usd_per_hour: float | None
    """Of the cheapest placement with every model on accelerators of its own, always on; None where
    there are too few for that."""
    asked: tuple[str, ...]
    """A line a model: what is asked and promised."""
    options: int
    groups_tried: int
    visited: int
    """Partial placements that branch and bound looked at."""
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract (``docs/json.md``)."""
        record = asdict(self)
        elapsed = record.pop("elapsed_s")
        return {
            "schema": "ridgeline.plan.serve.models",
            "schema_version": SCHEMA_VERSION,
            **record,
            "elapsed_s": elapsed,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat line a model."""
        return [
            {
                "model": kept.name,
                "way": group.way,
                "accelerator": group.accelerator,
                "accelerators": group.accelerators,
                "sharing": len(group.models),
                "group_usd_per_hour": group.usd_per_hour,
                "replicas": kept.pool.replicas,
                "tp": kept.pool.tp,
                "pp": kept.pool.pp,
                "load_s": kept.load_s,
                "loads": kept.loads,
                "cold_share": kept.cold_share,
                "busy_share": kept.busy_share,
                "headroom": kept.headroom,
                **{f"reached_{name}_s": kept.reached_s.get(name)
                   for name in ("ttft", "tpot", "latency")},
            }
            for group in self.groups
            for kept in group.models
        ]  # fmt: skip


def make_placement(
    question: FleetQuestion,
    found: Options,
    cover: Cover,
    *,
    alone_usd_per_hour: float | None,
    elapsed_s: float,
) -> Placement:
    """Return the record of a cover."""
    names = question.accelerators
    groups = tuple(
        Group(
            way=option.way,
            accelerator=names[option.kind],
            accelerators=option.accelerators,
            on_share=option.on_share,
            usd_per_hour=option.usd_per_hour,
            models=option.kept,
        )
        for option in sorted(cover.options, key=lambda one: sorted(one.members))
    )
    held = [sum(one.held for one in cover.options if one.kind == k) for k in range(len(names))]
    return Placement(
        groups=groups,
        rented=tuple(
            Rented(
                accelerator=names[k],
                held=held[k],
                rented=cover.rented[k],
                usd_per_hour=found.kinds[k].usd_per_hour * cover.rented[k],
            )
            for k in range(len(names))
            if held[k]
        ),
        usd_per_hour=cover.usd_per_hour,
        accelerators=sum(cover.rented) + sum(one.accelerators - one.held for one in cover.options),
        alone_usd_per_hour=alone_usd_per_hour,
        asked=tuple(
            f"{one.name}: {one.demand.asked}; {','.join(goal.text for goal in one.demand.goals)}"
            for one in question.tenants
        ),
        options=len(found.options),
        groups_tried=found.groups_tried,
        visited=cover.visited,
        elapsed_s=elapsed_s,
    )
