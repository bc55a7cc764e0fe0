"""Clusters: their short names, their tiers, their graphs, and the placement of groups."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster, Tier, ranks_per_tier
from ridgeline.hardware.graph import cluster_from_graph, read_graph
from ridgeline.hardware.links import load_fabric
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.hardware.topology import cluster_names, make_cluster


@pytest.fixture(scope="module")
def h100() -> Accelerator:
    return load_accelerator("h100-sxm")


def sizes(cluster: Cluster) -> list[int]:
    return [tier.size for tier in cluster.tiers]


def test_counts_and_tiers_of_the_three_plain_forms() -> None:
    llama = make_cluster("2048x8xh100-sxm")
    assert (llama.count, llama.per_node, llama.nodes) == (16384, 8, 2048)
    assert sizes(llama) == [8, 16384]
    assert [tier.bytes_per_s for tier in llama.tiers] == [450e9, 50e9]
    assert sizes(make_cluster("1024xa100-sxm-80gb")) == [8, 1024]
    assert sizes(make_cluster("8xrtx-4090")) == [8]
    assert sizes(make_cluster("1xh100")) == [1]


def test_an_accelerator_with_a_digit_in_front_of_its_x_is_read_right() -> None:
    assert make_cluster("8xmi300x").count == 8
    assert make_cluster("2x8xmi300x").count == 16


def test_pairs_joined_by_nvlink_reach_the_rest_of_the_node_over_pcie() -> None:
    cluster = make_cluster("4x8xh100-nvl")
    assert [(tier.name, tier.size) for tier in cluster.tiers] == [
        ("scale-up", 2),
        ("node", 8),
        ("network", 32),
    ]


def test_a_rack_of_72_is_one_domain_and_smaller_jobs_spread_evenly() -> None:
    assert sizes(make_cluster("gb200-nvl72:4")) == [72, 288]
    assert sizes(make_cluster("18x4xgb200")) == [72]
    assert sizes(make_cluster("64x4xgb200")) == [64, 256]


def test_switches_add_up_from_hopper_on() -> None:
    assert make_cluster("8xh100-sxm").tiers[0].in_network_reduction
    assert not make_cluster("8xa100-sxm-80gb").tiers[0].in_network_reduction
    assert not make_cluster("8xh100-pcie").tiers[0].in_network_reduction
    assert not make_cluster("8xrtx-5090").tiers[0].in_network_reduction


def test_nic_efficiency_follows_the_measured_fabrics() -> None:
    # 192 of 200 GB/s on DGX A100 and 370 of 400 on DGX H100 in isolation (NVIDIA GTC25 s72583);
    # p4d: 31.8 of 50 (NVIDIA/nccl issue 527)
    assert load_fabric("infiniband").efficiency == pytest.approx(0.75, abs=0.01)
    assert load_fabric("efa-v1").efficiency < load_fabric("efa").efficiency
    with pytest.raises(InputError, match="did you mean 'infiniband'"):
        load_fabric("infinband")


def test_overrides_change_the_network_only() -> None:
    plain = make_cluster("dgx-a100:4")
    one_rail = make_cluster("dgx-a100:4", rails=1, nic_efficiency=0.5, oversubscription=3)
    assert one_rail.tiers[0] == plain.tiers[0]
    assert one_rail.tiers[1].bytes_per_s == plain.tiers[1].bytes_per_s / 8
    assert one_rail.tiers[1].effective_bytes_per_s == pytest.approx(25e9 / 8 * 0.5 / 3)
    assert make_cluster("dgx-a100:4", scaleout_bytes_per_s=1e9).tiers[1].bytes_per_s == 1e9
    assert make_cluster("4x8xh100", fabric="tcp").tiers[1].latency_s > 1e-5


def test_named_clusters_have_the_bandwidth_of_their_sources() -> None:
    assert {"dgx-h100", "frontier", "jean-zay-a100", "meta-llama3"} <= set(cluster_names())
    # BLOOM model card: 4 Omni-Path links of 100 Gb/s for 8 GPUs
    assert make_cluster("jean-zay-a100:48").tiers[-1].bytes_per_s == 6.25e9
    # EC2 P5: 3,200 Gb/s a node
    assert make_cluster("aws-p5:2").tiers[-1].bytes_per_s * 8 == pytest.approx(3200e9 / 8)
    # Frontier: four 200 Gb/s NICs for 8 GCDs
    assert make_cluster("frontier:2").tiers[-1].bytes_per_s == 12.5e9


def test_every_named_cluster_builds_and_cites_its_network() -> None:
    for name in cluster_names():
        cluster = make_cluster(f"{name}:2")
        assert cluster.tiers[-1].size == cluster.count
        assert any("nic_bytes_per_s" in source for source in cluster.sources)


def test_pods_of_llama_3_are_oversubscribed_seven_times() -> None:
    # The Llama 3 Herd of Models, section 3.3.1
    cluster = make_cluster("meta-llama3:2048")
    assert sizes(cluster) == [8, 3072, 16384]
    assert [tier.oversubscription for tier in cluster.tiers] == [1, 1, 7]


@pytest.mark.parametrize(
    ("spec", "wraparound"),
    [
        ("tpu-v5p:8x8x16", (True, True, True)),
        ("tpu-v4:4x4x4", (True, True, True)),
        ("tpu-v4:2x2x4", (False, False, False)),
        ("tpu-v5e:16x16", (True, True)),
        ("tpu-v5e:8x16", (False, True)),
        ("tpu-v6e:4x4", (False, False)),
    ],
)
def test_slices_wrap_around_as_google_documents(spec: str, wraparound: tuple[bool, ...]) -> None:
    cluster = make_cluster(spec)
    assert cluster.torus is not None
    assert cluster.torus.wraparound == wraparound
    assert cluster.tiers == ()
    assert cluster.count == cluster.torus.size


def test_links_of_a_chip_add_up_to_its_bandwidth() -> None:
    # Cloud documentation: 1,200 GB/s both directions, six links on v5p
    torus = make_cluster("tpu-v5p:4x4x4").torus
    assert torus is not None
    assert torus.link_bytes_per_s == 100e9


def test_several_slices_are_joined_by_the_data_centre_network() -> None:
    cluster = make_cluster("tpu-v5p:8x8x16*4")
    assert (cluster.count, cluster.slices) == (4096, 4)
    assert [(tier.name, tier.size) for tier in cluster.tiers] == [("dcn", 4096)]
    assert ranks_per_tier(cluster, 4096, 1) == (1024, 4)
    assert ranks_per_tier(cluster, 4, 1024) == (1, 4)


def test_a_count_of_tpus_is_the_most_compact_slice() -> None:
    for spec, dims in (("256xtpu-v5e", (16, 16)), ("512xtpu-v5p", (8, 8, 8)), ("8xtpu-v4", None)):
        torus = make_cluster(spec).torus
        assert torus is not None
        assert torus.dims == (dims or (2, 2, 2))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("0xh100", "at least 1"),
        ("-8xh100", "at least 1"),
        ("4x0xh100", "at least 1"),
        ("1000000000xh100", "10,000,000"),
        ("100000x1000xh100", "10,000,000"),
        ("13xh100", "nearest: 8 or 16"),
        ("8xh10", "did you mean"),
        ("8xb2000", "did you mean"),
        ("dgx-h10:4", "did you mean 'dgx-h100'"),
        ("h100-sxm", "say how many"),
        ("h100-sxm:8", "without a torus"),
        ("8xdgx-h100", "write dgx-h100:8"),
        ("dgx-h100:0", "at least 1"),
        ("dgx-h100:many", "whole number"),
        ("selene:561", "560"),
        ("4x512xh100", "no host has more than"),
        ("", "not understood"),
        ("8 h100", "not understood"),
        ("tpu-v5p:8x8", "3 sides"),
        ("tpu-v5p:8x8x6", "nearest: 8x8x8"),
        ("tpu-v5p:32x32x32", "largest slice"),
        ("tpu-v5e:17x3", "nearest: 16x2"),
        ("tpu-v5e:32x16", "largest slice"),
        ("tpu-v5e:16x16*0", "at least 1"),
        ("tpu-v5e:16xx", "no slice"),
        ("7xtpu-v5p", "not one slice"),
        ("99999999999999999999xtpu-v5p", "10,000,000"),
    ],
)
def test_nonsense_is_refused_with_the_rule(spec: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        make_cluster(spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=20),
        st.from_regex(r"-?[0-9]{1,9}x([0-9]{1,4}x)?(h100|tpu-v5e|gb200|l4)", fullmatch=True),
        st.from_regex(r"(tpu-v5p|tpu-v6e|dgx-h100)(:[0-9x*]{0,12})?", fullmatch=True),
    )
)
def test_any_text_is_a_cluster_or_an_input_error(spec: str) -> None:
    try:
        cluster = make_cluster(spec)
    except InputError:
        return
    assert cluster.count >= 1
    assert sizes(cluster) == sorted(set(sizes(cluster)))
    assert not cluster.tiers or cluster.tiers[-1].size == cluster.count


def test_thousands_of_digits_are_refused() -> None:
    with pytest.raises(InputError, match="10,000,000"):
        make_cluster("9" * 10_000 + "xh100")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rails": 0},
        {"rails": 9},
        {"nic_efficiency": 1.5},
        {"nic_efficiency": float("nan")},
        {"oversubscription": 0.5},
        {"scaleout_bytes_per_s": float("inf")},
        {"per_node": 4},
        {"fabric": "pigeon"},
    ],
)
def test_wrong_overrides_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        make_cluster("2x8xh100", **wrong)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    ("size", "stride", "factors"),
    [
        (16, 1, (8, 2)),
        (16, 8, (1, 16)),
        (8, 1, (8, 1)),
        (4, 2, (4, 1)),
        (1, 1, (1, 1)),
        (64, 4, (2, 32)),
        (12, 1, (4, 3)),
        (6, 1, (2, 3)),
        (4, 3, (1, 4)),
    ],
)
def test_groups_lie_on_tiers(size: int, stride: int, factors: tuple[int, ...]) -> None:
    assert ranks_per_tier(make_cluster("32x8xh100"), size, stride) == factors


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([8, 32, 24, 12]))
def test_no_group_has_fewer_ranks_inside_a_block_than_promised(
    size: int, stride: int, block: int
) -> None:
    count = block * size * stride
    tier = {"bytes_per_s": 1.0, "latency_s": 0.0, "efficiency": 1.0}
    cluster = Cluster(
        name="drawn",
        accelerator=load_accelerator("h100-sxm"),
        count=count,
        per_node=block,
        tiers=(
            Tier(name="node", size=block, **tier),  # type: ignore[arg-type] # floats and a name
            Tier(name="network", size=count, **tier),  # type: ignore[arg-type] # floats, a name
        ),
    )
    inside, outside = ranks_per_tier(cluster, size, stride)
    assert inside * outside == size
    # every aligned run of `inside` ranks of every group sits in one block
    for base in range(0, min(count, 4 * block * stride), size * stride):
        for offset in range(stride):
            ranks = [base + offset + i * stride for i in range(size)]
            for run in range(0, size, inside):
                assert len({rank // block for rank in ranks[run : run + inside]}) == 1


@pytest.mark.parametrize(
    "spec",
    ["dgx-h100:4", "gb200-nvl72:2", "4x8xh100-nvl", "8xrtx-4090", "tpu-v5e:4x16*2", "tpu-v4:4x4x4"],
)
def test_the_graph_gives_the_cluster_back(spec: str) -> None:
    made = make_cluster(spec)
    back = cluster_from_graph(made.graph(), made.accelerator, name=made.name)
    assert back.tiers == made.tiers
    assert back.torus == made.torus
    assert (back.count, back.per_node) == (made.count, made.per_node)


def test_an_oversubscribed_fabric_survives_the_graph() -> None:
    for made in (
        make_cluster("4x8xh100", oversubscription=3),
        make_cluster("meta-llama3:1024"),
    ):
        back = cluster_from_graph(made.graph(), made.accelerator)
        assert sizes(back) == sizes(made)
        for one, other in zip(back.tiers, made.tiers, strict=True):
            assert one.bytes_per_s == pytest.approx(other.bytes_per_s)
            assert one.oversubscription == pytest.approx(other.oversubscription)
            assert one.latency_s == pytest.approx(other.latency_s)


def test_a_torus_has_its_links() -> None:
    graph = make_cluster("tpu-v4:4x4x4").graph()
    assert {degree for _, degree in graph.degree()} == {6}
    mesh = make_cluster("tpu-v5e:2x4").graph()
    assert mesh.number_of_edges() == 2 * 3 + 4


def test_rails_of_a_users_graph_add_up(h100: Accelerator, tmp_path: Path) -> None:
    graph: nx.Graph[object] = nx.Graph()
    for rank in range(8):
        graph.add_node(rank, kind="accelerator")
    for name in ("nv0", "nv1", "rail0", "rail1", "rail2", "rail3", "spine"):
        graph.add_node(name, kind="switch")
    for rank in range(8):
        graph.add_edge(rank, f"nv{rank // 4}", bytes_per_s=450e9, latency_s=5e-7)
        graph.add_edge(rank, f"rail{rank % 4}", bytes_per_s=50e9, latency_s=3e-6)
    for rail in range(4):
        graph.add_edge(f"rail{rail}", "spine", bytes_per_s=100e9, latency_s=1e-6)
    path = tmp_path / "cluster.json"
    nodes = [{"id": vertex, **data} for vertex, data in graph.nodes(data=True)]
    edges = [{"source": u, "target": v, **data} for u, v, data in graph.edges(data=True)]
    file = {"graph": {"per_node": 4}, "nodes": nodes, "edges": edges}
    path.write_text(json.dumps(file), encoding="utf-8")
    cluster = cluster_from_graph(read_graph(path), h100)
    assert [(t.size, t.bytes_per_s, t.latency_s) for t in cluster.tiers] == [
        (4, 450e9, 1e-6),
        (8, 50e9, 6e-6),
    ]
    assert cluster.per_node == 4


def test_a_full_mesh_has_the_sum_of_its_links() -> None:
    graph: nx.Graph[int] = nx.complete_graph(8)
    nx.set_node_attributes(graph, "accelerator", "kind")
    nx.set_edge_attributes(graph, 64e9, "bytes_per_s")
    nx.set_edge_attributes(graph, 1e-6, "latency_s")
    (tier,) = cluster_from_graph(graph, load_accelerator("mi300x")).tiers
    assert (tier.size, tier.bytes_per_s) == (8, 448e9)


def test_bad_graphs_name_the_culprit(h100: Accelerator, tmp_path: Path) -> None:
    graph: nx.Graph[int] = nx.path_graph(3)
    with pytest.raises(InputError, match="kind is None"):
        cluster_from_graph(graph, h100)
    nx.set_node_attributes(graph, "accelerator", "kind")
    with pytest.raises(InputError, match="bytes_per_s is None"):
        cluster_from_graph(graph, h100)
    nx.set_edge_attributes(graph, {(0, 1): 2e9, (1, 2): 1e9}, "bytes_per_s")
    nx.set_edge_attributes(graph, 1e-6, "latency_s")
    graph.add_node(3, kind="accelerator")
    with pytest.raises(InputError, match="not connected"):
        cluster_from_graph(graph, h100)
    with pytest.raises(InputError, match="no such file"):
        read_graph(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(InputError, match="node-link"):
        read_graph(tmp_path / "list.json")


def test_a_graph_of_a_huge_cluster_is_refused() -> None:
    with pytest.raises(InputError, match="100,000"):
        make_cluster("100000x8xh100").graph()


def test_the_factors_multiply_to_the_size() -> None:
    cluster = make_cluster("meta-llama3:3072")
    for size, stride in ((3072, 8), (24576, 1), (128, 128), (8, 3072)):
        assert prod(ranks_per_tier(cluster, size, stride)) == size
    assert ranks_per_tier(cluster, 24576, 1) == (8, 384, 8)


def test_the_slower_way_of_an_uneven_link_counts() -> None:
    made = make_cluster("4x8xh100")
    graph = made.graph()
    for _, _, link in graph.edges(data=True):
        if link["tier"] != "scale-up":
            link["back_bytes_per_s"] = link["bytes_per_s"] / 10
    slow = cluster_from_graph(graph, made.accelerator)
    assert slow.tiers[0].bytes_per_s == made.tiers[0].bytes_per_s
    assert slow.tiers[-1].bytes_per_s == pytest.approx(made.tiers[-1].bytes_per_s / 10)
    graph.edges[0, next(iter(graph[0]))]["back_bytes_per_s"] = 0
    with pytest.raises(InputError, match="back_bytes_per_s is 0"):
        cluster_from_graph(graph, made.accelerator)
