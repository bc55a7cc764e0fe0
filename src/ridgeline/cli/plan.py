"""``ridgeline plan``: the best way to train a model on given accelerators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.completion import complete_cluster
from ridgeline.cli.html import html_flag, write_search
from ridgeline.cli.plan_model import model_flags
from ridgeline.cli.plan_serve import plan_serve_flags, plan_service, refuse_service_flags
from ridgeline.cli.train import FLAGS, overrides_of, plan_flags

if TYPE_CHECKING:
    from ridgeline.cli.plan_space import Asked
    from ridgeline.simulator.search.objective import Objective
    from ridgeline.simulator.search.results import SearchResult
    from ridgeline.simulator.search.search import Progress

_FIXED = ("seq_len", "global_batch_seqs", "tokens", "precision", "optimizer", "flop_convention")
PLAN_FLAGS = tuple(
    flag
    for flag in FLAGS
    if flag.key.startswith(("model.", "stack.", "money."))
    or flag.key.partition(".")[2] in (*_FIXED, "uneven_stages")
)
"""Flags of ``ridgeline train`` that say what a search leaves as it is."""
MODEL_FLAGS = (
    "law",
    "family",
    "data_tokens",
    "serve_tokens",
    "serve_output_share",
    "serve_on",
    "serve_price",
)
"""Parameters that only a question without a model takes."""
PROPOSAL_FLAGS = (
    *MODEL_FLAGS,
    *("on", "accelerators", "budget", "deadline", "seq_len", "global_batch", "precision"),
    *("optimizer", "stack", "price", "price_kind", "prices", "provider", "as_of", "region", "pue"),
    *("as_json", "as_csv"),
)
"""Parameters that a question without a model heeds."""


def _search_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for everything that a search varies, and what it is asked for."""
    numbers: Any = {"metavar": "NUMBERS"}
    options = (
        click.option(
            "--on",
            "--cluster",
            "on",
            metavar="SPECS",
            shell_complete=complete_cluster,
            help="Clusters to choose from: 512xh100-sxm,256xa100; or kinds, with --accelerators.",
        ),
        click.option(
            "--accelerators",
            metavar="NUMBERS",
            help="How many: 2016,2240 or ..3360 (all whole nodes up to that).",
        ),
        click.option("--tp", help="Only these: 1,2,4 or 1..8 or ..16; all the same.", **numbers),
        click.option("--pp", **numbers),
        click.option("--vpp", **numbers),
        click.option("--dp", **numbers),
        click.option("--cp", **numbers),
        click.option("--ep", **numbers),
        click.option("--etp", help="0 is as many as tp.", **numbers),
        click.option("--micro-batch", **numbers),
        click.option("--zero-stage", help="0,1 by default.", **numbers),
        click.option(
            "--sp",
            type=click.Choice(["on", "off", "both"]),
            help="Sequence parallelism beside tensor parallelism; on.",
        ),
        click.option("--recompute", metavar="NAMES", help="none,selective,full by default."),
        click.option("--schedule", metavar="NAMES", help="1f1b,interleaved by default."),
        click.option("--offload", metavar="NAMES", help="none by default; none,optimizer,..."),
        click.option(
            "--objective",
            metavar="WHAT",
            help="time (default), cost, energy, carbon, or weights per hour, dollar, kWh, kg: "
            "cost=1,time=50.",
        ),
        click.option("--budget", metavar="USD", help="Most dollars of the run: 2e6 or 2M."),
        click.option("--deadline", metavar="TIME", help="Longest run: 30d, 12h."),
        click.option("--max-accelerators", type=click.IntRange(1), metavar="N"),
        click.option(
            "--memory-headroom", metavar="SHARE", help="Of the memory to leave free: 10% or 0.1."
        ),
        click.option("--power", metavar="POWER", help="Most power of the site: 800kW, 2.5MW."),
        click.option(
            "--runners-up", type=click.IntRange(0, 1000), default=10, metavar="N",
            help="Plans to name behind the best; 10.",
        ),
        click.option(
            "--jobs", type=click.IntRange(-1), default=-1, metavar="N",
            help="Processes; one on every core by default.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["local", "dask", "ray"]),
            default="local",
            help="Where: this machine, or the workers of a cluster.",
        ),
        click.option("--address", default="", help="Of its scheduler: tcp://host:8786."),
        click.option(
            "--store",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Keep results in this SQLite file as they come.",
        ),
        click.option("--resume", is_flag=True, help="Go on from what the store knows."),
        click.option(
            "--out-plan",
            type=click.Path(path_type=Path),
            metavar="TOML",
            help="Write the best plan for ridgeline train.",
        ),
        click.option(
            "--sweep",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="What a tuning sweep costs instead (docs/sweeps.md).",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md)."),
        click.option("--csv", "as_csv", is_flag=True, help="Print best, runners-up, front as CSV."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog="What it searches and why the answer is exact: docs/search.md.")
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@lambda command: plan_flags(command, PLAN_FLAGS)
@_search_flags
@model_flags
@plan_serve_flags
@html_flag
@click.pass_context
def plan(
    ctx: click.Context,
    /,
    plan: Path | None,
    as_json: bool,
    as_csv: bool,
    **flags: Any,
) -> None:
    """Find the best plan: the split, the batch, recompute, schedule and cluster; or a service.

    \b
    Needs a model, clusters and a batch; --tokens adds the whole run:
      ridgeline plan --model llama3-70b --on 512xh100-sxm,768xa100 \\
          --seq-len 8192 --global-batch 1024 --tokens 1T --deadline 60d

    \b
    With --serve the cheapest service that keeps what is promised:
      ridgeline plan --serve --model llama3-70b --on h100-sxm,h200 \\
          --precision fp8 --request-rate 20 --input-len 1024 --output-len 256 \\
          --slo ttft=1s,tpot=50ms

    PLAN is a TOML file (docs/plan-file.md); how it splits the work counts for nothing here.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    overrides, labels = overrides_of(flags, PLAN_FLAGS)
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if flags["resume"] and flags["store"] is None:
        raise InputError("--resume: needs the --store to go on from")
    from ridgeline.cli.numba_start import start_numba

    start_numba()
    if flags["sweep"]:
        from ridgeline.cli.sweep_report import answer_sweep

        answer_sweep(flags["sweep"], as_json=as_json, as_csv=as_csv)
        return
    if flags["serve"]:
        plan_service(plan, flags, as_json=as_json, as_csv=as_csv)
        return
    refuse_service_flags()
    from ridgeline.cli.plan_space import names_model, read_space

    if not names_model(plan, overrides):
        _propose(plan, overrides, labels, flags, as_json=as_json, as_csv=as_csv)
        return
    lonely = [flag for flag in MODEL_FLAGS if flags.get(flag) is not None]
    if lonely:
        option = lonely[0].replace("_", "-")
        raise InputError(f"--{option}: is for a question without a model; leave one of them out")
    asked = read_space(plan, overrides, labels, flags)
    found = _search(asked, flags)
    _write_best(found, asked, plan, flags["out_plan"])
    write_search(found, asked, source=plan)
    _show(found, asked, as_json=as_json, as_csv=as_csv)
    if not found.complete:
        from ridgeline.cli import INTERRUPTED
        from ridgeline.cli.output import note

        note("interrupted: the best so far")
        ctx.exit(INTERRUPTED)


def _propose(
    source: Path | None,
    overrides: dict[str, object],
    labels: dict[str, str],
    flags: dict[str, Any],
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Answer which model to train, when none is named."""
    from ridgeline.cli import output
    from ridgeline.cli.plan_model import answer_without_model, print_proposal
    from ridgeline.cli.plan_space import parse_constraints, read_site
    from ridgeline.errors import InputError

    if flags["budget"] is None and flags["deadline"] is None:
        raise InputError(
            "no model: give one (--model or a plan file), or a --budget or --deadline to have one "
            "proposed"
        )
    _refuse_unheeded()
    template, clusters = read_site(source, overrides, labels, flags)
    limits = parse_constraints(flags)
    proposal = answer_without_model(
        clusters=clusters,
        budget_usd=limits.budget_usd,
        deadline_s=limits.deadline_s,
        stack=template.stack,
        seq_len=flags["seq_len"],
        global_batch_seqs=flags["global_batch"],
        precision=template.training.precision,
        optimizer=template.training.optimizer,
        money=template.money,
        run=template.run,
        **{name: flags[name] for name in MODEL_FLAGS},
    )
    if as_json:
        output.emit(output.to_json(proposal.to_dict()))
    elif as_csv:
        output.emit(output.to_csv([proposal.to_dict()]))
    else:
        print_proposal(output.console(), proposal)


def _refuse_unheeded() -> None:
    """Refuse what would count for nothing when the model, its tokens and its split are answers."""
    from click.core import ParameterSource

    from ridgeline.errors import InputError

    ctx = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in (*PROPOSAL_FLAGS, "plan")
        and ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(
            f"{given[0]}: is for a question that names its --model; leave one of them out"
        )


def _search(asked: Asked, flags: dict[str, Any]) -> SearchResult:
    from ridgeline.cli.plan_space import parse_constraints, parse_objective
    from ridgeline.simulator.search.search import search

    objective, constraints = parse_objective(flags["objective"]), parse_constraints(flags)
    with _watched(objective) as progress:
        return search(
            asked.space,
            objective=objective,
            constraints=constraints,
            jobs=flags["jobs"],
            backend=flags["backend"],
            address=flags["address"],
            store=flags["store"],
            resume=flags["resume"],
            progress=progress,
            runners_up=flags["runners_up"],
        )


@contextmanager
def _watched(objective: Objective) -> Iterator[Callable[[Progress], None] | None]:
    """Show progress to whoever watches, on standard error."""
    from ridgeline.cli.output import watched

    if not watched():
        yield None
        return
    from ridgeline.cli.plan_report import progress_bar

    with progress_bar(objective) as show:
        yield show


def _write_best(found: SearchResult, asked: Asked, source: Path | None, path: Path | None) -> None:
    if path is None:
        return
    from ridgeline.cli.output import write_file
    from ridgeline.simulator.plan_text import plan_text

    index = asked.space.clusters.index(found.best.plan.cluster)
    text = plan_text(found.best.plan, asked.tables, source, asked.specs[index])
    write_file(path, text, inputs=(source,))


def _show(found: SearchResult, asked: Asked, *, as_json: bool, as_csv: bool) -> None:
    from ridgeline.cli import output

    if as_json:
        output.emit(output.to_json(found.to_dict()))
    elif as_csv:
        output.emit(output.to_csv(found.rows()))
    else:
        from ridgeline.cli.plan_report import print_search

        print_search(output.console(), found, asked.space)
