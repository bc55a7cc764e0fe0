"""From the names in a plan file to the model and the cluster they stand for."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.hosts import load_host
from ridgeline.hardware.quotes import OwnQuote, read_quotes
from ridgeline.simulator.cost import price_of
from ridgeline.simulator.plan import Money
from ridgeline.simulator.plan_mistakes import Mistakes, without_subject
from ridgeline.simulator.plan_schema import ClusterSection, ModelSection, MoneySection
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.expert_load import read_expert_load, with_routing
from ridgeline.workloads.inputs import with_inputs
from ridgeline.workloads.model import Model


def find_model(section: ModelSection, path: Path | None, mistakes: Mistakes) -> Model | None:
    """Return the model that a section names, None with the reasons in ``mistakes``.

    Paths in the section are relative to the folder of ``path``, the plan file.
    """
    if (section.name is None) == (section.config is None):
        rule = "give one of name (see: ridgeline models list) and config (a config.json)"
        mistakes.add("model", None, rule)
        return None
    try:
        if section.name is not None:
            model = load_model(section.name)
        else:
            assert section.config is not None
            model = model_from_config(_beside(path, section.config))
    except InputError as error:
        key = "model.name" if section.config is None else "model.config"
        file = "" if section.config is None else f"{_beside(path, section.config)}: "
        for line in error.problems:
            rule = without_subject(line.removeprefix(file))
            mistakes.add(key, section.name or section.config, rule)
        return None
    return _routed(_with_inputs(model, section, mistakes), section, path, mistakes)


def _with_inputs(model: Model, section: ModelSection, mistakes: Mistakes) -> Model:
    """Return the model with the inputs that the section gives."""
    keys = ("encoder_len", "images", "image_tokens", "train_vision")
    for key in keys:
        value = getattr(section, key)
        if value is not None:
            try:
                model = with_inputs(model, **{key: value})
            except InputError as error:
                for line in error.problems:
                    mistakes.add(f"model.{key}", value, without_subject(line))
    return model


def _routed(model: Model, section: ModelSection, path: Path | None, mistakes: Mistakes) -> Model:
    """Return the model with the capacity and the load of experts that the section gives."""
    if section.capacity_factor is not None:
        try:
            model = with_routing(model, capacity_factor=section.capacity_factor)
        except InputError as error:
            for line in error.problems:
                mistakes.add("model.capacity_factor", section.capacity_factor, line)
    load = section.expert_load
    if load is not None:
        try:
            values = read_expert_load(_beside(path, load)) if isinstance(load, str) else load
            model = with_routing(model, load=values)
        except InputError as error:
            for line in error.problems:
                mistakes.add("model.expert_load", load, line)
    return model


_PARTS = (
    "accel_per_node",
    "fabric",
    "scaleout_gb_per_s",
    "oversubscription",
    "rails",
    "nic_efficiency",
)
"""Facts of a cluster made from a short name, which a graph states link by link."""


def find_cluster(section: ClusterSection, path: Path | None, mistakes: Mistakes) -> Cluster | None:
    """Return the cluster that a section describes, None with the reasons in ``mistakes``.

    Paths in the section are relative to the folder of ``path``, the plan file.
    """
    cluster = _linked_cluster(section, path, mistakes)
    if cluster is None or section.host is None:
        return cluster
    own = section.host.lower().endswith(".toml")
    try:
        host = load_host(str(_beside(path, section.host)) if own else section.host)
    except InputError as error:
        for line in error.problems:
            mistakes.add("cluster.host", section.host, without_subject(line))
        return None
    return replace(cluster, host=host)


def _linked_cluster(
    section: ClusterSection, path: Path | None, mistakes: Mistakes
) -> Cluster | None:
    if section.graph is not None:
        return _graph_cluster(section, path, mistakes)
    if section.spec is None and not (section.accelerator and section.count):
        rule = "give spec, for example '128x8xh100-sxm', or accelerator and count (--cluster)"
        mistakes.add("cluster", None, rule)
        return None
    if section.spec is None:
        key, spec = "cluster.accelerator", f"{section.count}x{section.accelerator}"
    else:
        key, spec = "cluster.spec", section.spec
        for part in ("accelerator", "count"):
            if getattr(section, part) is not None:
                rule = "spec says it too; keep one of them"
                mistakes.add(f"cluster.{part}", getattr(section, part), rule)
    gb_per_s = section.scaleout_gb_per_s
    try:
        return make_cluster(
            spec,
            per_node=section.accel_per_node,
            fabric=section.fabric,
            scaleout_bytes_per_s=None if gb_per_s is None else gb_per_s * 1e9,
            oversubscription=section.oversubscription,
            rails=section.rails,
            nic_efficiency=section.nic_efficiency,
        )
    except InputError as error:
        shown = section.accelerator if section.spec is None else spec
        for line in error.problems:
            rule = re.sub(r"^per_node\b", "accel_per_node", without_subject(line))
            mistakes.add(key, shown, rule)
    return None


def _graph_cluster(
    section: ClusterSection, path: Path | None, mistakes: Mistakes
) -> Cluster | None:
    for part in ("spec", "count", *_PARTS):
        if getattr(section, part) is not None:
            mistakes.add(
                f"cluster.{part}", getattr(section, part), "the graph says it; leave it out"
            )
    if section.accelerator is None:
        rule = "a graph needs it, for example 'h100-sxm' (ridgeline hardware list)"
        mistakes.add("cluster.accelerator", None, rule)
        return None
    assert section.graph is not None
    try:
        accelerator = load_accelerator(section.accelerator)
    except InputError as error:
        for line in error.problems:
            mistakes.add("cluster.accelerator", section.accelerator, without_subject(line))
        return None
    from ridgeline.hardware.graph import cluster_from_graph, read_graph

    where = _beside(path, section.graph)
    try:
        return cluster_from_graph(read_graph(where), accelerator, name=where.stem)
    except InputError as error:
        for line in error.problems:
            mistakes.add("cluster.graph", section.graph, re.sub(r"^cluster graph .*?: ", "", line))
    return None


def find_money(section: MoneySection, path: Path | None, mistakes: Mistakes) -> Money | None:
    """Return prices as a section states them, None with the reasons in ``mistakes``.

    Where quotes are given without a day, the day is today. Paths in the section are relative to the
    folder of ``path``, the plan file.
    """
    as_of = section.as_of or ""
    quotes: tuple[OwnQuote, ...] = ()
    if section.prices is not None:
        as_of = as_of or date.today().isoformat()
        where = _beside(path, section.prices)
        try:
            quotes = read_quotes(where, as_of)
        except InputError as error:
            for line in error.problems:
                mistakes.add("money.prices", section.prices, line.removeprefix(f"{where}: "))
            return None
    return Money(
        **section.model_dump(exclude={"pue", "prices", "as_of", "provider"}),
        pue=section.pue or 0.0,
        provider=section.provider or "",
        quotes=quotes,
        as_of=as_of,
    )


def check_provider(money: Money, accelerator: Accelerator, mistakes: Mistakes) -> None:
    """Refuse a provider that was asked for and quotes no such price."""
    if not money.provider:
        return
    try:
        price_of(money, accelerator)
    except InputError as error:
        for line in error.problems:
            mistakes.add("money.provider", money.provider, without_subject(line))


def _beside(path: Path | None, name: str) -> Path:
    """Return a path that a plan file gives relative to itself."""
    given = Path(name).expanduser()
    return given if path is None else path.parent / given
