"""``ridgeline plan`` without a model: which one to train for the money and the time.

``model_flags`` adds what only this question needs; ``answer_without_model`` answers it and
``print_proposal`` shows the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import click

from ridgeline.units import counted, dollars, duration, figures, large, percent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ridgeline.hardware.cluster import Cluster
    from ridgeline.simulator.budget.question import Serving
    from ridgeline.simulator.budget.results import Opinion, Proposal
    from ridgeline.simulator.plan import Money, RunOptions

LONGEST_NOTE = 76


def model_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that a question without a model takes."""
    for option in reversed(
        (
            click.option("--law", metavar="NAME", help="Scaling law; docs/scaling-laws.md."),
            click.option("--family", metavar="NAME", help="Shapes to propose: llama or gpt."),
            click.option(
                "--data-tokens", metavar="COUNT", help="Unique training tokens there are."
            ),
            click.option("--serve-tokens", metavar="COUNT", help="Tokens served over its life."),
            click.option(
                "--serve-output-share",
                type=float,
                metavar="X",
                help="Share of the served tokens that are answers, 0 to 1.",
            ),
            click.option("--serve-on", metavar="NAME", help="Accelerator that serves."),
            click.option(
                "--serve-price", type=float, metavar="X", help="USD per hour of that accelerator."
            ),
        )
    ):
        command = option(command)
    return command


def answer_without_model(
    *,
    clusters: Sequence[Cluster],
    budget_usd: float = inf,
    deadline_s: float = inf,
    stack: str,
    seq_len: int | None = None,
    global_batch_seqs: int | None = None,
    precision: str = "bf16",
    optimizer: str = "adamw",
    money: Money,
    run: RunOptions,
    law: str | None = None,
    family: str | None = None,
    data_tokens: str | None = None,
    serve_tokens: str | None = None,
    serve_output_share: float | None = None,
    serve_on: str | None = None,
    serve_price: float | None = None,
) -> Proposal:
    """Propose a model for a budget.

    Parameters
    ----------
    clusters
        Candidates; the best one is chosen with the model.
    budget_usd, deadline_s
        At least one of them.
    stack, seq_len, global_batch_seqs, precision, optimizer, money, run
        As in a plan; sequences have 4,096 tokens and the batch is the laws' unless given.
    law, family, data_tokens, serve_tokens, serve_output_share, serve_on, serve_price
        The flags of ``model_flags``.

    Raises
    ------
    InputError
        With one line for each flag that cannot be.
    InfeasibleError
        When nothing can be trained within the money and the time.
    """
    from ridgeline.errors import InputError
    from ridgeline.simulator.budget.propose import propose
    from ridgeline.simulator.budget.question import DATA_LAW, BudgetQuestion
    from ridgeline.simulator.budget.shapes import shape_ladder
    from ridgeline.workloads.scaling.laws import DEFAULT_LAW

    if not clusters:
        raise InputError("no cluster: give --on, for example 512xh100-sxm")
    length = 4096 if seq_len is None else seq_len
    unique = inf if data_tokens is None else _count("--data-tokens", data_tokens)
    return propose(
        BudgetQuestion(
            clusters=tuple(clusters),
            shapes=shape_ladder(family or "llama", length),
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            stack=stack,
            seq_len=length,
            global_batch_seqs=global_batch_seqs or 0,
            precision=precision,
            optimizer=optimizer,
            law=law or (DEFAULT_LAW if unique == inf else DATA_LAW),
            unique_tokens=unique,
            serving=_serving(
                clusters, money, serve_tokens, serve_output_share, serve_on, serve_price
            ),
            run=run,
            money=money,
        )
    )


def _count(flag: str, text: str) -> float:
    from ridgeline.errors import InputError
    from ridgeline.simulator.plan_values import parse_count

    try:
        value = parse_count(text)
    except ValueError as error:
        raise InputError(f"{flag} {text!r}: {error}") from None
    if not value > 0:
        raise InputError(f"{flag} {text!r}: must be more than 0")
    return value


def _serving(
    clusters: Sequence[Cluster],
    money: Money,
    tokens: str | None,
    output_share: float | None,
    accelerator: str | None,
    price: float | None,
) -> Serving | None:
    """Return what is served where; by default on the accelerators of the first cluster."""
    from ridgeline.errors import InputError
    from ridgeline.hardware import load_accelerator
    from ridgeline.simulator.budget.serving import serving_of

    if tokens is None:
        given = {
            "--serve-output-share": output_share,
            "--serve-on": accelerator,
            "--serve-price": price,
        }
        lonely = [flag for flag, value in given.items() if value is not None]
        if lonely:
            raise InputError(f"{lonely[0]}: needs --serve-tokens")
        return None
    if output_share is not None and not 0.0 <= output_share <= 1.0:
        raise InputError(f"--serve-output-share {output_share:g}: must be a share from 0 to 1")
    if price is not None and not 0.0 < price < inf:
        raise InputError(f"--serve-price {price:g}: must be more than 0")
    return serving_of(
        tokens=_count("--serve-tokens", tokens),
        output_share=output_share,
        accelerator=(
            clusters[0].accelerator if accelerator is None else load_accelerator(accelerator)
        ),
        usd_per_accelerator_hour=price,
        money=money,
    )


def print_proposal(screen: Console, proposal: Proposal) -> None:
    """Print the proposal, its bill, what other laws say and what stands behind it."""
    _header(screen, proposal)
    _figures(screen, proposal)
    _spread(screen, proposal)
    _assumed(screen, proposal)
    _notes(screen, proposal)


def _indented(screen: Console, item: RenderableType) -> None:
    from rich.padding import Padding

    screen.print(Padding(item, (0, 0, 0, 2), expand=False))


def _header(screen: Console, proposal: Proposal) -> None:
    from rich.text import Text

    limits = []
    if proposal.budget_usd < inf:
        limits.append(dollars(proposal.budget_usd))
    if proposal.deadline_s < inf:
        limits.append(duration(proposal.deadline_s))
    where = f"{counted(proposal.accelerators, 'accelerator')} ({proposal.cluster})"
    screen.print()
    screen.print(Text(f"{' and '.join(limits)} on {where}", style="bold"))
    screen.print(Text(proposal.stack, style="dim"))
    screen.print()
    shape = proposal.shape
    line = Text()
    line.append(f"Train {large(shape.params)} parameters", style="bold green")
    line.append(f" on {large(proposal.tokens)} tokens", style="bold green")
    line.append(f": {proposal.tokens_per_param:.1f} a parameter")
    if proposal.epochs > 1:
        line.append(f", {proposal.epochs:.1f} epochs")
    screen.print(line)
    screen.print()


def _figures(screen: Console, proposal: Proposal) -> None:
    from rich.table import Table

    shape, batch, result = proposal.shape, proposal.batch, proposal.result
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    kind = "gated" if shape.gated_mlp else "plain"
    table.add_row(
        "Shape",
        f"{shape.layers} layers, hidden {shape.hidden:,}, {shape.heads} heads of "
        f"{shape.head_dim}, {shape.kv_heads} key-value heads, {kind} MLP "
        f"{shape.ffn_hidden:,}, vocabulary {shape.vocab:,}",
    )
    parallel, training = result.plan["parallel"], result.plan["training"]
    split = [
        f"{name.removesuffix('_stage')} {parallel[name]}"
        for name in ("tp", "pp", "vpp", "dp", "zero_stage")
        if parallel[name] > (0 if name == "zero_stage" else 1)
    ]
    table.add_row(
        "Plan",
        f"{', '.join(split)}, micro-batch {training['micro_batch_seqs']}, recompute "
        f"{training['recompute']}",
    )
    table.add_row(
        "Batch",
        f"{batch.sequences:,} sequences, {large(batch.tokens)} tokens (best "
        f"{large(batch.best_tokens)}, critical {large(batch.critical_tokens)}: "
        f"{batch.regime}; useful data parallelism up to {batch.useful_dp:,})",
    )
    low, high = duration(result.step_time_low_s), duration(result.step_time_high_s)
    table.add_row(
        "MFU",
        f"{percent(result.mfu)} simulated, {duration(result.step_time_s)} a step ({low} to {high})",
    )
    bill = f"{dollars(result.cost_usd)}, " if result.cost_usd else ""
    table.add_row(
        "Run",
        f"{duration(result.wall_clock_s)}, {bill}{large(result.accelerator_hours)} "
        f"accelerator-hours; in that time {large(proposal.tokens_low)} to "
        f"{large(proposal.tokens_high)} tokens by the range of the step",
    )
    if proposal.serving is not None:
        serving = proposal.serving
        table.add_row(
            "Serving",
            f"{dollars(serving.usd)} for {large(proposal.served_tokens)} tokens on replicas of "
            f"{serving.accelerators_per_replica}, MFU {percent(serving.prompt_mfu)} of prompts "
            f"and {percent(serving.output_mfu)} of answers; {dollars(proposal.total_usd)} in all",
        )
    if proposal.loss is not None:
        table.add_row(
            "Loss",
            f"{proposal.loss:.3f} nats a token by {proposal.law} ({proposal.loss_low:.3f} to "
            f"{proposal.loss_high:.3f} by the range of the step)",
        )
    _indented(screen, table)
    screen.print()


def _spread(screen: Console, proposal: Proposal) -> None:
    from rich.table import Table
    from rich.text import Text

    sizes = [one.params for one in proposal.opinions]
    screen.print(
        Text.assemble(
            ("Laws disagree", "bold"),
            f": {large(min(sizes))} to {large(max(sizes))} parameters for the same money",
        )
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("law", overflow="fold")
    for name in ("params", "tokens", "D/N", "MFU", "loss", "proposal's"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in proposal.opinions:
        table.add_row(*_opinion_row(one), style="bold" if one.law == proposal.law else "")
    _indented(screen, table)
    screen.print(
        Text(
            f"  {proposal.law} is used: {proposal.why_law}. Losses compare along a row only.",
            style="dim",
        )
    )
    screen.print()


def _opinion_row(one: Opinion) -> tuple[str, ...]:
    return (
        one.law,
        large(one.params),
        large(one.tokens),
        figures(one.tokens_per_param),
        percent(one.mfu),
        "" if one.loss is None else f"{one.loss:.4f}",
        "" if one.loss_of_proposal is None else f"{one.loss_of_proposal:.4f}",
    )


def _assumed(screen: Console, proposal: Proposal) -> None:
    from rich.text import Text

    for one in proposal.assumed:
        screen.print(
            Text(
                f"Assuming {one.mfu:.0%} of peak, the law would say {large(one.params)} on "
                f"{large(one.tokens)}: {duration(one.seconds)} at the simulated speed.",
                style="dim",
            )
        )
    screen.print()


def _notes(screen: Console, proposal: Proposal) -> None:
    from rich.text import Text

    for line in proposal.warnings:
        screen.print(Text.assemble(("! ", "yellow"), line))
    simulated = counted(len(proposal.weighed), "shape")
    screen.print(
        Text(
            f"{simulated} simulated in full, {proposal.ruled_out} ruled out by bounds.",
            style="dim",
        )
    )
    for line in proposal.notes:
        screen.print(Text(line, style="dim"))
    screen.print()
