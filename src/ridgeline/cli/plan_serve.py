"""``ridgeline plan --serve``: the service to deploy, the front, or the highest rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.serve_flags import (
    SERVE_PARAMETERS,
    SHARED_PARAMETERS,
    read_serve,
    refuse_serving_flags,
    refuse_unheeded,
    serve_flags,
)

if TYPE_CHECKING:
    from ridgeline.cli.serve_flags import ServeAsked

PLAN_SERVE_PARAMETERS = (
    *("max_rate", "front", "concurrency", "models"),
    *("solve", "share", "effort", "amount", "problems"),
)
_HEEDED = (
    *SERVE_PARAMETERS,
    *SHARED_PARAMETERS,
    *PLAN_SERVE_PARAMETERS,
    *("tp", "pp", "dp", "ep"),
)


def plan_serve_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of ``plan --serve``."""
    own = (
        click.option("--max-rate", is_flag=True, help="Find the highest rate that is kept."),
        click.option(
            "--front", is_flag=True, help="Tokens/s an accelerator against tokens/s a user."
        ),
        click.option(
            "--concurrency", metavar="NUMBERS", help="Of the front, in flight: 1,8,64 (to 512)."
        ),
        click.option(
            "--models",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Place the models of a TOML file on one fleet, jointly the cheapest.",
        ),
        click.option(
            "--solve",
            multiple=True,
            metavar="MODEL=CURVE",
            help="What problems cost to solve: llama3-8b=1:16%,250:56% (again for others).",
        ),
        click.option("--share", metavar="SHARE", help="Of the problems to solve: 50%."),
        click.option(
            "--effort",
            type=click.Choice(["samples", "tokens"]),
            help="What curves are in: samples (default), or tokens of reasoning.",
        ),
        click.option("--amount", metavar="NUMBERS", help="Efforts to price: 1,5,25."),
        click.option(
            "--problems", type=click.IntRange(1, 10**12), metavar="N", help="How many; 1."
        ),
    )
    for option in reversed(own):
        command = option(command)
    return serve_flags(command)


def refuse_service_flags() -> None:
    """Refuse flags of a service where a training run is asked for."""
    refuse_serving_flags()
    ctx = click.get_current_context()
    others = tuple(p.name for p in ctx.command.params if p.name not in PLAN_SERVE_PARAMETERS)
    refuse_unheeded(
        tuple(name for name in others if name), "is for a service; add --serve or leave it out"
    )


def plan_service(plan: Path | None, flags: dict[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Answer a question about a service.

    Raises
    ------
    InputError
        What is wrong with it.
    InfeasibleError
        Nothing keeps what is promised.
    """
    from ridgeline.errors import InputError

    if flags["models"]:
        _models(flags["models"], as_json=as_json, as_csv=as_csv)
        return
    refuse_unheeded(_HEEDED, "counts for nothing with --serve; leave one of them out")
    asked = [name for name in ("front", "max_rate", "solve") if flags[name]]
    if len(asked) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise InputError(f"{both}: choose one")
    if flags["concurrency"] and not flags["front"]:
        raise InputError("--concurrency: is varied by --front; a rate is planned for otherwise")
    lonely = [name for name in ("share", "effort", "amount", "problems") if flags[name]]
    if lonely and not flags["solve"]:
        raise InputError(f"--{lonely[0]}: is for --solve; leave it out or say who solves")
    if flags["solve"]:
        found = _solving(plan, flags)
    elif flags["front"]:
        found = _front(plan, flags)
    elif flags["max_rate"]:
        found = _highest(plan, flags)
    else:
        found = _choice(plan, flags)
    from ridgeline.cli import output
    from ridgeline.cli.html import write_service_choice

    write_service_choice(found, source=plan)
    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(found.rows()))
    else:
        from ridgeline.cli.plan_serve_report import print_found

        print_found(output.console(), found)


def _models(path: Path, *, as_json: bool, as_csv: bool) -> None:
    """Answer where several models go."""
    from ridgeline.cli import output
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.simulator.serving.placement.place import place_models
    from ridgeline.simulator.serving.placement.question import read_models

    heeded = ("serve", "models", "as_json", "as_csv")
    refuse_unheeded(heeded, "counts for nothing with --models, whose file says it; leave it out")
    question = read_models(path)
    with said_while_compiling(SERVING_S):
        found = place_models(question, say=_say)
    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(found.rows()))
    else:
        from ridgeline.cli.placement_report import print_placement

        print_placement(output.console(), found)


def _choice(plan: Path | None, flags: dict[str, Any]) -> Any:
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.simulator.serving.choice.search import choose

    asked = read_serve(plan, flags)
    with said_while_compiling(SERVING_S):
        return choose(asked.space, asked.demand, say=_say)


def _highest(plan: Path | None, flags: dict[str, Any]) -> Any:
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.simulator.serving.choice.rate import highest_rate

    asked = read_serve(plan, flags, {"serving.request_rate": 1.0})
    with said_while_compiling(SERVING_S):
        return highest_rate(asked.space, asked.demand)


def _solving(plan: Path | None, flags: dict[str, Any]) -> Any:
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.cli.plan_space import parse_numbers
    from ridgeline.errors import InfeasibleError, InputError
    from ridgeline.simulator.serving.choice.search import choose
    from ridgeline.simulator.serving.choice.solving import SolvingPlan, solver_on, solving
    from ridgeline.simulator.serving.sampling import parse_curve

    if flags.get("model"):
        raise InputError("--model: --solve names the models; leave one of them out")
    share = _share(flags["share"]) if flags["share"] else 0.0
    efforts = parse_numbers(flags["amount"], "--amount") if flags["amount"] else []
    if not share and not efforts:
        raise InputError("--solve: say how much with --share, for example 50%, or --amount")
    plans, lost, words = [], [], ""
    for text in flags["solve"]:
        name, equals, points = text.partition("=")
        if not equals:
            raise InputError(
                f"--solve {text}: must be MODEL=CURVE, such as llama3-8b=1:16%,250:56%"
            )
        curve = parse_curve(points)
        asked = read_serve(plan, {**flags, "model": name})
        words = asked.demand.asked
        traffic = asked.demand.traffic
        try:
            with said_while_compiling(SERVING_S):
                best = choose(asked.space, asked.demand, runners_up=False, say=_say).best
        except InfeasibleError as error:
            lost.append(f"{name}: {error}")
            continue
        solver = solver_on(
            name,
            best,
            curve,
            float(traffic.input_tokens.mean()),
            float(traffic.output_tokens.mean()),
            flags["effort"] or "samples",
        )
        plans.append(SolvingPlan(model=name, plan=best, curve=curve, solver=solver))
    if not plans:
        raise InfeasibleError("; ".join(lost))
    return solving(
        plans,
        share=share,
        efforts=[float(amount) for amount in efforts],
        problems=flags["problems"] or 1,
        asked=words,
        lost=lost,
    )


def _share(text: str) -> float:
    from ridgeline.errors import InputError

    try:
        share = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise InputError(f"--share {text}: must be a share such as 50% or 0.5")
    return share


def _front(plan: Path | None, flags: dict[str, Any]) -> Any:
    from dataclasses import replace

    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.cli.plan_space import parse_numbers
    from ridgeline.errors import InputError
    from ridgeline.simulator.serving.choice.front import CONCURRENCIES, Loop, serving_front

    given = ("request_rate", "trace", "slo", "percentile", "requests", "speed", "turns")
    unheeded = [name for name in given if flags.get(name) is not None]
    if unheeded:
        option = unheeded[0].replace("_", "-")
        raise InputError(f"--{option}: counts for nothing with --front; leave one of them out")
    asked = read_serve(plan, flags, {"serving.request_rate": 1.0}, needs_slo=False)
    concurrencies = CONCURRENCIES
    if flags["concurrency"]:
        concurrencies = tuple(parse_numbers(flags["concurrency"], "--concurrency"))
        if concurrencies[0] < 1:
            raise InputError(f"--concurrency {flags['concurrency']}: must be at least 1")
    most = flags.get("max_accelerators") or _replica_size(asked)
    loop = Loop(
        inputs=_lengths(asked, "input_len"),
        outputs=_lengths(asked, "output_len"),
        concurrencies=concurrencies,
        seed=asked.question.section.seed,
    )
    words = f"closed loops of {min(concurrencies)} to {max(concurrencies)} in flight, "
    words += f"{asked.question.section.input_len:,} + {asked.question.section.output_len:,} tokens"
    with said_while_compiling(SERVING_S):
        return serving_front(replace(asked.space, most=most), loop, words)


def _replica_size(asked: ServeAsked) -> int:
    """Return accelerators of two nodes, the largest replica that is tried by default."""
    from ridgeline.hardware import load_accelerator

    return 2 * max(load_accelerator(name).per_node for name in asked.space.accelerators)


def _lengths(asked: ServeAsked, name: str) -> Any:
    from ridgeline.workloads.traffic.lengths import Lengths

    s = asked.question.section
    return Lengths(mean=getattr(s, name), kind=s.lengths, low=s.length_low, cv=s.length_cv)


def _say(words: str) -> None:
    """Tell whoever watches what is tried."""
    from ridgeline.cli.output import note, watched

    if watched():
        note(f"trying {words}")
