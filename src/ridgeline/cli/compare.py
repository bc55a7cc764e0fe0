"""``ridgeline compare``: the same job on several accelerators, each with its own best plan."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.compare_serve import compare_serve_flags, compare_service, show_services
from ridgeline.cli.completion import complete_accelerator
from ridgeline.cli.html import html_flag, write_comparison, write_services
from ridgeline.cli.serve_flags import refuse_serving_flags
from ridgeline.cli.train import FLAGS, overrides_of, plan_flags

if TYPE_CHECKING:
    from ridgeline.simulator.compare.question import CompareQuestion
    from ridgeline.simulator.compare.records import Comparison

_JOB = (
    *("model", "seq-len", "global-batch", "tokens", "precision", "optimizer", "flop-convention"),
    *("stack", "price-kind", "prices", "as-of", "region", "pue"),
)
JOB_FLAGS = tuple(flag for flag in FLAGS if flag.name in _JOB)
"""Flags of ``train`` that say what the job is; how it is split is chosen for each."""
WHOLE = {
    **dict.fromkeys(("tp", "pp", "vpp", "dp", "cp", "ep"), 1),
    "etp": 0,
    "sp": False,
    "zero_stage": 0,
    **dict.fromkeys(
        ("shard_size", "weight_shard_size", "gradient_shard_size", "secondary_shard_size"), 0
    ),
    "quantized_weights": False,
    "quantized_gradients": False,
}
"""The split under which the job is read: none."""


@click.command(
    epilog="PLAN is a plan file whose cluster, split, stack and price play no part here."
)
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option(
    "--on",
    required=True,
    metavar="NAMES",
    shell_complete=complete_accelerator,
    help="Accelerators, by commas: h100-sxm,mi300x; with a provider: h100-sxm@Lambda.",
)
@click.option("--count", type=click.IntRange(1, 10_000_000), metavar="N", help="How many of each.")
@click.option("--budget", metavar="USD", help="Choose how many under a budget: 2e6, 2M.")
@click.option("--deadline", metavar="TIME", help="Choose how many under a deadline: 30d, 12h.")
@click.option(
    "--max-count",
    type=click.IntRange(1, 1_000_000),
    default=1024,
    show_default=True,
    metavar="N",
    help="Most to choose.",
)
@click.option(
    "--by", type=click.Choice(["cost", "time"]), help="What to rank by and each plan to minimise."
)
@click.option("--memory-headroom", metavar="SHARE", help="Memory to leave free: 10%.")
@partial(plan_flags, flags=JOB_FLAGS)
@click.option(
    "--own",
    multiple=True,
    metavar="NAME=X",
    help="Replace a default of owning: utilisation=0.6, discount_rate=0.12 (docs/cost.md).",
)
@click.option(
    "--cash-flow",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the monthly cash flow of owning as CSV.",
)
@click.option("--jobs", type=click.IntRange(1, 1024), default=1, metavar="N", help="Workers.")
@compare_serve_flags
@html_flag
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/json.md).")
@click.option("--csv", "as_csv", is_flag=True, help="Print one row of CSV for each accelerator.")
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    plan: Path | None,
    cash_flow: Path | None,
    jobs: int,
    as_json: bool,
    as_csv: bool,
    **flags: Any,
) -> None:
    """Compare accelerators and clouds on one job, each with its own best plan.

    \b
    With how many of each, or a budget or a deadline to choose by:
      ridgeline compare --model llama3-70b --on h100-sxm,b200,mi300x,tpu-v5p \\
          --count 512 --seq-len 8192 --global-batch 512 --tokens 1T

    \b
    Or, with --serve, one traffic, each with its cheapest service:
      ridgeline compare --serve --model llama3-70b --on h100-sxm,b200,mi300x \\
          --precision fp8 --request-rate 20 --input-len 1024 --output-len 256 \\
          --slo ttft=500ms,tpot=50ms

    Says time, cost, energy and memory of each, how likely each is the cheaper, what choosing
    wrong costs, from where on owning beats renting, and at which price the ranking flips.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if flags["serve"]:
        services = compare_service(plan, flags)
        write_services(services, source=plan)
        show_services(services, as_json=as_json, as_csv=as_csv)
        if not services.feasible:
            ctx.exit(1)
        return
    refuse_serving_flags()
    question = read_question(plan, flags)
    found = _compare(question, jobs)
    if cash_flow is not None:
        _write_cash_flow(found, cash_flow, plan)
    write_comparison(found, source=plan)
    _show(found, as_json=as_json, as_csv=as_csv)
    if not found.feasible:
        ctx.exit(1)


def read_question(plan: Path | None, flags: dict[str, Any]) -> CompareQuestion:
    """Return the question that a plan file and the flags ask.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    from dataclasses import replace
    from datetime import date

    from ridgeline.cli.plan_space import parse_constraints
    from ridgeline.simulator.compare.question import CompareQuestion, parse_contenders
    from ridgeline.simulator.planfile import read_plan

    contenders = parse_contenders(flags["on"])
    overrides, labels = overrides_of(flags)
    # One accelerator stands in for all: what a job says does not depend on where it runs.
    standing_in = {
        "cluster.spec": f"1x{contenders[0].accelerator}",
        **{f"parallel.{name}": value for name, value in WHOLE.items()},
    }
    job = read_plan(plan, {**standing_in, **overrides}, {**labels, "cluster.spec": "--on"},
                    legal=False)  # fmt: skip
    limits = parse_constraints(
        {name: flags[name] for name in ("budget", "deadline", "memory_headroom")}
    )
    return CompareQuestion(
        model=job.model,
        training=replace(job.training, stage_layers=(), uneven_stages=False),
        contenders=contenders,
        count=flags["count"] or 0,
        max_count=flags["max_count"],
        budget_usd=limits.budget_usd,
        deadline_s=limits.deadline_s,
        memory_headroom=limits.memory_headroom,
        goal=flags["by"] or "",
        stack=job.stack if flags["stack"] else "",
        run=job.run,
        money=replace(job.money, as_of=job.money.as_of or date.today().isoformat()),
        owning=tuple(_owning(flags["own"]).items()),
    )


def _owning(words: tuple[str, ...]) -> dict[str, float]:
    from ridgeline.errors import InputError

    given: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"--own {word}: must be NAME=NUMBER, such as utilisation=0.6")
        given[name.strip().replace("-", "_")] = value
    return given


def _compare(question: CompareQuestion, jobs: int) -> Comparison:
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from ridgeline.simulator.compare.compare import compare as compare_all

    with said_while_compiling():
        return compare_all(question, jobs=jobs, say=_say)


def _say(name: str) -> None:
    """Tell whoever watches which accelerator is searched."""
    from ridgeline.cli.output import note, watched

    if watched():
        note(f"searching the best plan on {name}")


def _write_cash_flow(found: Comparison, path: Path, plan: Path | None) -> None:
    from ridgeline.cli.output import note, to_csv, write_file
    from ridgeline.errors import InputError
    from ridgeline.simulator.compare.flow import flow_records

    records = flow_records(found)
    if not records:
        raise InputError("--cash-flow: none of these can be bought, no purchase price is known")
    write_file(path, to_csv(records), inputs=(plan,))
    note(f"wrote {path}")


def _show(found: Comparison, *, as_json: bool, as_csv: bool) -> None:
    from ridgeline.cli import output

    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv([row.to_record() for row in found.rows]))
    else:
        from ridgeline.cli.compare_report import print_comparison

        print_comparison(output.console(), found)
