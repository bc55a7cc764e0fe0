"""What would fit instead: remedies that are simulated, on the links that the plan has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plans import make_plan
from ridgeline.hardware import Cluster, load_accelerator, make_cluster
from ridgeline.hardware.graph import cluster_from_graph, read_graph
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.remedies import Remedy, find_remedies
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.training import simulate_training

LINKS = Path(__file__).resolve().parent.parent / "examples" / "two_nodes.links.json"


def tried_and_found(cluster: str | Cluster) -> tuple[list[Plan], list[Remedy]]:
    """Return the plans that were simulated for a model far too large, and what was found."""
    tried: list[Plan] = []

    def predict(plan: Plan) -> TrainingResult:
        tried.append(plan)
        return simulate_training(plan)

    plan = make_plan("llama3.1-405b", cluster, tp=8, zero_stage=1)
    assert not simulate_training(plan).fits
    return tried, find_remedies(plan, predict)


def larger(plans: list[Plan], than: Cluster) -> list[Cluster]:
    return [plan.cluster for plan in plans if plan.cluster.count > than.count]


def test_a_cluster_given_as_a_graph_grows_with_its_own_links() -> None:
    given = cluster_from_graph(read_graph(LINKS), load_accelerator("h100-sxm"))
    tried, found = tried_and_found(given)
    assert found
    grown = larger(tried, given)
    assert grown
    for cluster in grown:
        assert cluster.tiers[:-1] == given.tiers[:-1]
        assert cluster.tiers[-1] == replace(given.tiers[-1], size=cluster.count)


def test_a_slower_network_is_not_exchanged_for_the_usual_one() -> None:
    given = make_cluster("2x8xh100-sxm", fabric="tcp", scaleout_bytes_per_s=1e9)
    tried, found = tried_and_found(given)
    assert {c.tiers[-1].effective_bytes_per_s for c in larger(tried, given)} == {
        given.tiers[-1].effective_bytes_per_s
    }
    usual = {r.changes: r.step_time_s for r in tried_and_found("2x8xh100-sxm")[1]}
    assert any(r.changes in usual for r in found)
    assert all(r.step_time_s > usual[r.changes] for r in found if r.changes in usual)


def test_a_node_of_the_usual_kind_grows_into_the_usual_cluster() -> None:
    given = make_cluster("1x8xh100-sxm")
    tried, _ = tried_and_found(given)
    assert larger(tried, given)
    for cluster in larger(tried, given):
        assert cluster.tiers == make_cluster(f"{cluster.nodes}x8xh100-sxm").tiers


def test_nothing_is_made_up_about_the_network_of_a_node_with_links_of_its_own() -> None:
    usual = make_cluster("1x8xh100-sxm")
    given = replace(usual, tiers=(replace(usual.tiers[0], bytes_per_s=1e10),))
    tried, found = tried_and_found(given)
    assert not larger(tried, given)
    assert not found
