"""``ridgeline train``: predict a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.calendar import asked_calendar, calendar_flags, make_calendar
from ridgeline.cli.flags import MONEY_FLAGS, Flag, flag_overrides, with_flags
from ridgeline.cli.html import html_flag, refuse_html, write_training
from ridgeline.cli.jobs import JobFlags, answer_job

if TYPE_CHECKING:
    from ridgeline.simulator.plan import Plan
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.roofline.rungs import Kernels


FLAGS = (
    Flag("model", "model.name", str, "Catalogue name or a config.json.", "NAME"),
    Flag("cluster", "cluster.spec", str, "For example 128x8xh100-sxm or tpu-v5p:8x8x16.", "SPEC"),
    Flag("tp", "parallel.tp", int, "Tensor parallel ways."),
    Flag("pp", "parallel.pp", int, "Pipeline stages."),
    Flag("vpp", "parallel.vpp", int, "Model chunks per stage (interleaved)."),
    Flag("dp", "parallel.dp", int, "Data parallel ways; derived when left out."),
    Flag("cp", "parallel.cp", int, "Context parallel ways."),
    Flag("ep", "parallel.ep", int, "Expert parallel ways."),
    Flag("etp", "parallel.etp", int, "Tensor parallel ways of the experts."),
    Flag("sp", "parallel.sp", None, "Sequence parallelism beside tensor parallelism."),
    Flag("zero-stage", "parallel.zero_stage", int, "0 to 3; 3 is FSDP."),
    Flag("shard-size", "parallel.shard_size", int, "Ranks that share one copy (hybrid)."),
    Flag("seq-len", "training.seq_len", int, "Tokens in a sequence."),
    Flag("global-batch", "training.global_batch_seqs", int, "Sequences in a step."),
    Flag("micro-batch", "training.micro_batch_seqs", int, "Sequences in a micro-batch."),
    Flag("tokens", "training.tokens", str, "Of the whole run: 15T, 2.4B, 1e12.", "COUNT"),
    Flag("precision", "training.precision", str, "fp32, tf32, fp16, bf16, fp8 or fp4.", "NAME"),
    Flag(
        "task",
        "training.task",
        str,
        "pretrain, sft, lora, qlora, adapters or ladder (docs/tasks.md).",
        "NAME",
    ),
    Flag("objective", "training.objective", str, "next-token, dpo, distill or grpo.", "NAME"),
    Flag("optimizer", "training.optimizer", str, "adamw, lion, muon, adam-8bit, ...", "NAME"),
    Flag("optimizer-rank", "training.optimizer_rank", int, "Of galore and apollo."),
    Flag("host", "cluster.host", str, "Host of a node, for offload (hardware list).", "NAME"),
    Flag(
        "recompute",
        "training.recompute",
        str,
        "none, selective, full, every-N, full-K, optimal or a MaxText policy.",
        "NAME",
    ),
    Flag(
        "schedule",
        "training.schedule",
        str,
        "gpipe, 1f1b, interleaved, zb-h1, zb-v, dualpipe, skip-N or a file NAME.schedule.",
        "NAME",
    ),
    Flag("uneven-stages", "training.uneven_stages", None, "Split layers that do not divide."),
    Flag("flop-convention", "training.flop_convention", str, "causal or full.", "NAME"),
    Flag("stack", "stack.name", str, "Software stack (ridgeline stacks list).", "NAME"),
    *MONEY_FLAGS,
)


def plan_flags(command: Callable[..., Any], flags: Sequence[Flag] = FLAGS) -> Callable[..., Any]:
    """Add a flag for each field that a command line may override."""
    return with_flags(command, flags)


def overrides_of(
    values: dict[str, Any], flags: Sequence[Flag] = FLAGS
) -> tuple[dict[str, object], dict[str, str]]:
    """Return what the flags override, by dotted key, and what to call each in a complaint."""
    return flag_overrides(flags, values)


@click.command(epilog="Flags override fields of PLAN; without PLAN they must say enough.")
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@plan_flags
@click.option(
    "--granularity",
    type=click.Choice(["operator", "layer", "stage"]),
    help="What the event engine plays; stage by default, layer for a trace.",
)
@click.option(
    "--kernel-tables",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="GEMM measured on this accelerator, to price from (docs/kernels.md); may be repeated.",
)
@click.option(
    "--rung",
    type=click.Choice(["corrected", "fitted", "universal"]),
    help="Kernel sets, the profile's own parameters (default) or those of its class.",
)
@click.option(
    "--pool-splits",
    is_flag=True,
    help="With objective grpo on two pools: the same nodes split every way.",
)
@calendar_flags
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/json.md).")
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as one row of CSV.")
@click.option("--explain", is_flag=True, help="Print the table of operators of a layer.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a timeline that Perfetto opens.",
)
@html_flag
@click.pass_context
def train(
    ctx: click.Context,
    /,
    plan: Path | None,
    granularity: str | None,
    kernel_tables: tuple[Path, ...],
    rung: str | None,
    pool_splits: bool,
    as_json: bool,
    as_csv: bool,
    explain: bool,
    trace: Path | None,
    **flags: Any,
) -> None:
    """Predict a training run: step time, memory, run length, money, energy.

    \b
    Needs a model, a cluster and a batch; --tokens adds the whole run:
      ridgeline train --model llama3-8b --cluster 8xh100-sxm --zero-stage 3 \\
          --seq-len 8192 --global-batch 8 --tokens 20B
    Names: ridgeline models list, ridgeline hardware list.

    PLAN is a TOML file that says the same and more (docs/plan-file.md).
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    overrides, labels = overrides_of(flags)
    asked = asked_calendar(flags)
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if explain and as_csv:
        raise InputError("--explain and --csv: choose one; --json carries the operators too")
    if plan is None and not overrides:
        raise InputError(
            "no plan: give a plan file, or at least --model, --cluster, --seq-len and "
            "--global-batch (ridgeline train --help)"
        )
    alone = {
        "--trace": bool(trace),
        "--calendar": asked is not None,
        "--kernel-tables": bool(kernel_tables),
        "--granularity": bool(granularity),
    }
    how = JobFlags(
        rung=rung,
        refused=[flag for flag, given in alone.items() if given],
        as_json=as_json,
        as_csv=as_csv,
        explain=explain,
    )
    fits = answer_job(plan, overrides, labels, how)
    if fits is not None:
        ctx.exit(0 if fits else 1)
    from ridgeline.simulator.planfile import read_plan

    question = read_plan(plan, overrides, labels)
    objective = question.training.tuning.objective
    if objective != "next-token":
        refuse_html(f"no page is drawn with training.objective = {objective!r}; --json has it all")
    if asked is not None and question.rollout is not None:
        raise InputError(
            "--calendar: failures of a run with [rollout] are not played; leave out its flags"
        )
    kernels = _kernels(question, kernel_tables, rung)
    if trace is not None:
        _write_trace(question, kernels, granularity or "layer", trace, (plan, *kernel_tables))
    result, remedies = _predict(question, kernels, granularity or "stage")
    operators = _operators(question, kernels) if explain else None
    splits = _splits(question, kernels) if pool_splits else None
    calendar = None if asked is None else make_calendar(question, result, asked)
    write_training(
        question,
        result,
        kernels,
        remedies,
        source=plan,
        overrides=overrides,
        inputs=kernel_tables,
    )
    _show(result, remedies, operators, calendar, splits, as_json=as_json, as_csv=as_csv)
    if trace is not None:
        from ridgeline.cli.output import note

        note(f"wrote {trace}; open it at https://ui.perfetto.dev")
    if not result.fits:
        ctx.exit(1)


def _kernels(plan: Plan, tables: tuple[Path, ...], rung: str | None) -> Kernels | None:
    """Return where kernels are priced from, None for the profile's parameters alone."""
    if not tables and rung is None:
        return None
    from ridgeline.cli.numba_start import start_numba

    start_numba()
    from ridgeline.simulator.roofline.device import DEFAULT_RUNG
    from ridgeline.simulator.roofline.rungs import Kernels

    measured = None
    if tables:
        from ridgeline.validation.kernels import read_measured_gemm

        measured = read_measured_gemm(tables, plan.cluster.accelerator)
    return Kernels(rung=rung or DEFAULT_RUNG, measured=measured)


def _predict(
    plan: Plan, kernels: Kernels | None, granularity: str
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    from ridgeline.cli.numba_start import said_while_compiling, start_numba

    start_numba()
    from functools import partial

    from ridgeline.simulator import simulate_training

    simulate = partial(simulate_training, kernels=kernels)
    with said_while_compiling():
        result = simulate(plan, granularity=granularity)
    if result.fits:
        return result, []
    from ridgeline.simulator.remedies import find_remedies

    remedies = find_remedies(plan, simulate, limit=result.memory_limit)
    return result, [remedy.to_dict() for remedy in remedies]


def _operators(plan: Plan, kernels: Kernels | None) -> list[dict[str, Any]]:
    from ridgeline.simulator import explain

    return explain(plan, kernels)


def _splits(plan: Plan, kernels: Kernels | None) -> list[dict[str, Any]]:
    from ridgeline.simulator.rollout.split import pool_splits

    return [split.to_dict() for split in pool_splits(plan, kernels)]


def _write_trace(
    plan: Plan,
    kernels: Kernels | None,
    granularity: str,
    path: Path,
    sources: tuple[Path | None, ...],
) -> None:
    import json

    from ridgeline.cli.output import write_file
    from ridgeline.simulator import trace

    timeline = trace(plan, granularity, kernels)
    write_file(path, json.dumps(timeline, separators=(",", ":")), inputs=sources)


def _show(
    result: TrainingResult,
    remedies: list[dict[str, Any]],
    operators: list[dict[str, Any]] | None,
    calendar: dict[str, Any] | None,
    splits: list[dict[str, Any]] | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from ridgeline.cli import output

    record = result.to_dict()
    if remedies:
        record["remedies"] = remedies
    if operators is not None:
        record["operators"] = operators
    if calendar is not None:
        record["calendar"] = calendar
    if splits is not None:
        record["pool_splits"] = splits
    if as_json:
        output.emit(output.to_json(record))
    elif as_csv:
        output.emit(output.to_csv([record]))
    else:
        from ridgeline.cli.training_report import print_operators, print_training

        screen = output.console()
        print_training(screen, result, remedies)
        if splits is not None:
            from ridgeline.cli.rollout_report import print_splits

            print_splits(screen, splits)
        if calendar is not None:
            from ridgeline.cli.calendar_report import print_calendar

            print_calendar(screen, calendar)
        if operators is not None:
            print_operators(screen, operators)
