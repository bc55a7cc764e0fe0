"""Our figure for a published one: one function per kind of question, none per paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.serving.sampling import Curve, Solver, Tariff, solve
from ridgeline.simulator.training import simulate_training
from ridgeline.validation.published.records import PublishedResult
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import kv_bytes_per_token
from ridgeline.workloads.huggingface import model_from_config
from ridgeline.workloads.parameters import parameters


def answer(result: PublishedResult) -> float:
    """Return our figure, in the unit of the published one.

    Raises
    ------
    InputError
        The kind of question is unknown, or its setup cannot run.
    """
    if result.kind not in KINDS:
        raise InputError(f"{result.id}: kind {result.kind!r}: {nearest(result.kind, KINDS)}")
    try:
        return KINDS[result.kind](result.ask)
    except InputError as error:
        raise InputError([f"{result.id}: {line}" for line in error.problems]) from None


def _flat(tables: Mapping[str, Any]) -> dict[str, object]:
    """Return tables of a plan file as dotted keys."""
    return {
        f"{section}.{key}": value
        for section, table in tables.items()
        for key, value in table.items()
    }


def _training(ask: Mapping[str, Any]) -> float:
    """Return a field of the prediction of ``plan``, times ``scale`` (1)."""
    prediction = simulate_training(read_plan(None, _flat(ask["plan"])))
    value: Any = reduce(getattr, ask["field"].split("."), prediction)
    return float(value) * float(ask.get("scale", 1.0))


def _training_ratio(ask: Mapping[str, Any]) -> float:
    """Return the ``field`` of ``plan`` over that of the plan with ``over`` in its place."""
    first = {key: dict(table) for key, table in ask["plan"].items()}
    second = {
        key: {**first.get(key, {}), **ask["over"].get(key, {})} for key in (*first, *ask["over"])
    }
    field = {"field": ask["field"]}
    return _training({**field, "plan": first}) / _training({**field, "plan": second})


def _active_ratio(ask: Mapping[str, Any]) -> float:
    """Return parameters a token meets in ``over`` over those in ``model``, without embeddings."""

    def met(config: Mapping[str, Any]) -> int:
        count = parameters(model_from_config(dict(config)))
        return count.active - count.embedding - count.head

    return met(ask["over"]) / met(ask["model"])


def _kv_bytes(ask: Mapping[str, Any]) -> float:
    """Return bytes of the key-value cache per token."""
    return kv_bytes_per_token(load_model(ask["model"]), ask["bytes_per_element"])


def _samples_usd(ask: Mapping[str, Any]) -> float:
    """Return dollars of ``samples`` attempts at each of ``problems`` problems."""
    solver = Solver(
        name="published",
        tariff=Tariff(usd_per_prompt=0.0, usd_per_sample=ask["usd_per_sample"]),
        curve=Curve(points=((ask["samples"], ask["share"]),)),
    )
    return solve(solver, ask["samples"], ask["problems"]).usd


KINDS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "training": _training,
    "training-ratio": _training_ratio,
    "active-ratio": _active_ratio,
    "kv-bytes": _kv_bytes,
    "samples-usd": _samples_usd,
}
"""Kind of question -> what answers it."""
