"""Questions about runs that are more than one plan in step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ridgeline.simulator.growth import simulate_stages
from ridgeline.simulator.mixed.plan import read_mixed
from ridgeline.simulator.mixed.results import simulate_mixed
from ridgeline.simulator.peers.plan import Averaging, PeersPlan, make_peer
from ridgeline.simulator.peers.results import simulate_peers
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import read_plan
from ridgeline.validation.published.answers.training import flat
from ridgeline.workloads import model_from_config


def _staged(ask: Mapping[str, Any]) -> float:
    """Return a field of a run in ``stages``, each said over ``plan``, times ``scale`` (1).

    A stage may bring its model as the ``config`` of one, where no catalogue has it.
    """
    plans: list[Plan] = []
    for stage in ask["stages"]:
        tables = {key: value for key, value in stage.items() if key != "config"}
        plan = read_plan(None, {**flat(ask["plan"]), **flat(tables)})
        if "config" in stage:
            plan = replace(plan, model=model_from_config(stage["config"], "stage"))
        plans.append(plan)
    value = getattr(simulate_stages(plans), ask["field"])
    return float(value) * float(ask.get("scale", 1.0))


def _mixed(ask: Mapping[str, Any]) -> float:
    """Return a field of a job on several kinds of accelerators, over that of ``over`` (1)."""
    found = simulate_mixed(read_mixed(None, flat(ask["plan"])))
    below = float(getattr(found, ask["over"])) if "over" in ask else 1.0
    return float(getattr(found, ask["field"])) / below


def _peers(ask: Mapping[str, Any]) -> float:
    """Return a field of a job among peers, over that with ``over`` as its averaging (1)."""

    def asked(averaging: Mapping[str, Any]) -> float:
        base = flat(ask["plan"])
        kinds = tuple(
            make_peer(read_plan(None, base | flat(peer.get("sections", {})), legal=False), peer)
            for peer in ask["peers"]
        )
        batch = kinds[0].plan.training.global_batch_seqs
        job = PeersPlan(
            name="", kinds=kinds, averaging=Averaging(**averaging), global_batch_seqs=batch
        )
        return float(getattr(simulate_peers(job), ask["field"]))

    return asked(ask["averaging"]) / (asked(ask["over"]) if "over" in ask else 1.0)


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "staged-training": _staged,
    "mixed-training": _mixed,
    "peers-training": _peers,
}
"""Kind of question -> what answers it."""
