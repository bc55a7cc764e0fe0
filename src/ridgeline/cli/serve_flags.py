"""Flags that ask which service to deploy, shared by ``plan --serve`` and ``compare --serve``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.flags import flag_overrides, with_flags
from ridgeline.cli.infer import FLAGS

if TYPE_CHECKING:
    from ridgeline.simulator.plan import Money
    from ridgeline.simulator.serving.choice.goals import Demand
    from ridgeline.simulator.serving.choice.space import ServiceSpace
    from ridgeline.simulator.serving.servicefile import ServiceQuestion

_TAKEN = (
    *("engine", "request-rate", "trace", "input-len", "output-len", "lengths", "burstiness"),
    *("requests", "speed", "turns", "system-tokens", "seed", "chunked-prefill", "prefix-caching"),
    *("memory-fraction", "preemption", "draft-tokens", "acceptance"),
)
SERVE_FLAGS = tuple(flag for flag in FLAGS if flag.name in _TAKEN)
"""Flags of ``ridgeline infer`` that a choice leaves as they are."""
_PRICED = (
    *("price", "price-kind", "prices", "provider", "as-of", "region", "pue"),
    "model",
)
SERVE_PARAMETERS = (
    *(flag.name.replace("-", "_") for flag in SERVE_FLAGS),
    *("serve", "slo", "percentile", "kv_precision", "max_sequences", "max_tokens", "mode"),
)
"""Parameters that only a question about a service takes."""
SHARED_PARAMETERS = (
    *("plan", "on", "precision", "max_accelerators", "html", "as_json", "as_csv"),
    *(name.replace("-", "_") for name in _PRICED),
)
"""Parameters that it takes beside others."""
LEAST_REQUESTS = 1000
LEAST_S = 60.0
"""Length of an open loop that gives none: so many requests and so many seconds."""
_WHOLE = {
    **{f"parallel.{name}": 1 for name in ("tp", "pp", "dp", "ep")},
    "serving.replicas": 1,
    "serving.prefill_replicas": 0,
    "serving.pool": [],
}


def serve_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of a question about a service, ``--serve`` first."""
    numbers: Any = {"metavar": "NUMBERS"}
    own = (
        click.option(
            "--serve", is_flag=True, help="Choose a service instead (docs/serving-plans.md):"
        ),
        click.option(
            "--slo",
            metavar="LIMITS",
            help="What is promised: ttft=500ms@p99,tpot=50ms (also latency=).",
        ),
        click.option(
            "--percentile", metavar="PN", help="Of limits that name none: p50, p90 (default), p99."
        ),
        click.option("--kv-precision", metavar="NAMES", help="Of the KV cache, to choose from."),
        click.option("--max-sequences", help="Running at once on a rank; 0,64.", **numbers),
        click.option("--max-tokens", help="Of an iteration; 0,2048,512 (0: default).", **numbers),
        click.option(
            "--mode",
            type=click.Choice(["aggregated", "disaggregated", "both"]),
            help="Prompts and decodes together or apart; both.",
        ),
    )
    command = with_flags(command, SERVE_FLAGS)
    for option in reversed(own):
        command = option(command)
    return command


def refuse_unheeded(heeded: tuple[str, ...], complaint: str) -> None:
    """Refuse flags of the command line that would count for nothing.

    Raises
    ------
    InputError
        A flag outside ``heeded`` was given; ``complaint`` says why that is wrong.
    """
    from click.core import ParameterSource

    from ridgeline.errors import InputError

    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in heeded:
            raise InputError(f"{parameter.opts[0]}: {complaint}")


def refuse_serving_flags() -> None:
    """Refuse flags of a service where none is asked for."""
    ctx = click.get_current_context()
    others = tuple(p.name for p in ctx.command.params if p.name not in SERVE_PARAMETERS if p.name)
    refuse_unheeded((*others, "serve"), "is for a service; add --serve or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeAsked:
    """A question about a service, and what it was made of."""

    space: ServiceSpace
    demand: Demand
    question: ServiceQuestion
    source: Path | None


def read_serve(
    plan: Path | None,
    values: dict[str, Any],
    extra: dict[str, object] | None = None,
    *,
    names: tuple[str, ...] | None = None,
    money: Money | None = None,
    needs_slo: bool = True,
) -> ServeAsked:
    """Return the space and the demand that a plan file and flags describe.

    Parameters
    ----------
    plan
        A plan file; its cluster, split and replicas count for nothing.
    values
        Flags by parameter name.
    extra
        Overrides where neither file nor flags say what traffic there is.
    names
        Accelerators, in place of those of ``--on``.
    money
        Prices, in place of those of file and flags.
    needs_slo
        Whether promises must be there.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    from ridgeline.cli.plan_space import parse_numbers
    from ridgeline.cli.train import FLAGS as TRAIN_FLAGS
    from ridgeline.errors import InputError
    from ridgeline.simulator.planfile import read_tables
    from ridgeline.simulator.serving.choice.goals import (
        DEFAULT_SHARE,
        Demand,
        parse_goals,
        parse_percentile,
    )
    from ridgeline.simulator.serving.choice.space import MODES, ServiceSpace
    from ridgeline.simulator.serving.servicefile import make_question_traffic, read_service
    from ridgeline.simulator.serving.variants import variants_on

    accelerators = names or _accelerators(values.get("on"))
    priced = [flag for flag in TRAIN_FLAGS if flag.name in _PRICED]
    overrides, labels = flag_overrides([*SERVE_FLAGS, *priced], values)
    given = read_tables(plan, overrides).get("serving", {})
    precisions = _words(values.get("precision")) or (str(given.get("precision", "bf16")),)
    stored = _words(values.get("kv_precision")) or (str(given.get("kv_precision", "")),)
    traffic_given = any(given.get(kind) for kind in ("request_rate", "rates", "trace"))
    standing = {
        **_WHOLE,
        "cluster.spec": f"1x{accelerators[0]}",
        "serving.precision": precisions[0],
        "serving.kv_precision": stored[0],
        **({} if traffic_given else extra or {}),
    }
    if given.get("batch") or given.get("concurrency"):
        standing |= {"serving.batch": 0, "serving.concurrency": 0, **(extra or {})}
    labels |= {"cluster.spec": "--on", "serving.precision": "--precision"}
    labels["serving.kv_precision"] = "--kv-precision"
    question = read_service(plan, {**standing, **overrides}, labels)
    _check_precisions(precisions, stored)
    section = question.section
    if section.rates:
        section = section.model_copy(update={"request_rate": max(section.rates), "rates": []})
    if section.request_rate and not section.requests and not section.duration_s:
        count = max(LEAST_REQUESTS, -(-section.request_rate * LEAST_S // 1))
        section = section.model_copy(update={"requests": int(count)})
    question = replace(question, section=section)
    share = (
        parse_percentile(values["percentile"], "--percentile")
        if values.get("percentile")
        else DEFAULT_SHARE
    )
    text = values.get("slo") or section.slo
    if not text and needs_slo:
        raise InputError("--slo: say what is promised, for example --slo ttft=500ms,tpot=50ms")
    service = question.deployed[0].service
    departs = variants_on(service)
    if departs:
        raise InputError(
            f"serving: {', '.join(departs)} is no part of the choice of a service; leave it out, "
            "or predict one service with ridgeline infer"
        )
    mode = values.get("mode") or "both"
    chosen: dict[str, Any] = {}
    for name in ("tp", "pp", "dp", "ep", "max_sequences", "max_tokens"):
        if values.get(name):
            label = f"--{name.replace('_', '-')}"
            least = 0 if name.startswith("max") else 1
            found = tuple(parse_numbers(values[name], label))
            if min(found) < least:
                raise InputError(f"{label} {values[name]}: must be at least {least}")
            chosen[name] = found
    if values.get("max_accelerators"):
        chosen["most"] = values["max_accelerators"]
    space = ServiceSpace(
        model=service.model,
        accelerators=accelerators,
        engine=section.engine if "engine" in given else "",
        precisions=precisions,
        kv_precisions=stored,
        modes=MODES if mode == "both" else (mode,),
        limits=replace(service.limits, max_sequences=0, max_tokens=0),
        speculation=service.speculation,
        money=money or service.money,
        **chosen,
    )
    demand = Demand(
        traffic=make_question_traffic(question),
        goals=parse_goals(text, share) if text else (),
        asked=question.asked,
    )
    return ServeAsked(space=space, demand=demand, question=question, source=plan)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _accelerators(on: str | None) -> tuple[str, ...]:
    """Return the accelerators of ``--on``; how many there are is for the answer to say."""
    import re

    from ridgeline.errors import InputError
    from ridgeline.hardware import load_accelerator

    names = []
    for word in _words(on):
        if re.match(r"[0-9]+x|.*:", word):
            raise InputError(f"--on {word}: says how many; leave that to --max-accelerators")
        try:
            names.append(load_accelerator(word).name)
        except InputError as error:
            raise InputError([f"--on: {line}" for line in error.problems]) from None
    if not names:
        raise InputError("--on: name the accelerators to choose from, for example h100-sxm,h200")
    if len(set(names)) < len(names):
        raise InputError(f"--on {on}: names one twice")
    return tuple(names)


def _check_precisions(precisions: tuple[str, ...], stored: tuple[str, ...]) -> None:
    from ridgeline.errors import InputError, nearest
    from ridgeline.simulator.serving.service import KV_PRECISIONS, PRECISIONS

    for words, known, label in (
        (precisions, PRECISIONS, "--precision"),
        (stored, ("", *KV_PRECISIONS), "--kv-precision"),
    ):
        for word in words:
            if word not in known:
                raise InputError(f"{label} {word}: unknown; {nearest(word, known)}")
