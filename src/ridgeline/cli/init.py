"""``ridgeline init``: a plan file for a question asked in one line."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ridgeline.cli.init_choice import Drafted
    from ridgeline.cli.init_words import Wish

_COLUMN, _WIDTH = 30, 78
"""Where comments begin, and where lines end."""


@click.command(epilog="What may stand in the file: docs/plan-file.md.")
@click.argument("question", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the plan here; printed otherwise.",
)
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def init(question: tuple[str, ...], out: Path | None, force: bool) -> None:
    """Write a commented plan file for a QUESTION asked in one line.

    \b
      ridgeline init "train llama3-70b on 512 h100 with 1T tokens" -o plan.toml
      ridgeline init "train llama3-8b on h200, 2T tokens, in 30 days, under $500k"
      ridgeline init "serve llama3-70b on 8 h100 in fp8 at 5 requests/s,
                      2000 in, 300 out, ttft 500ms, tpot 50ms"

    \b
    It understands names of models (or a config.json), accelerators, clusters,
    stacks and engines, and numbers with what they count:
      hardware   512 h100, two nodes of 8 a100, tpu-v5p:8x8x16, or no number
      training   1T tokens, 8k context, batch of 1024, 4M tokens a batch, fp8
      limits     in 30 days, under $2M; cheapest or fastest
      serving    5 requests/s, 64 users, 2000 in, 300 out, ttft 500ms, tpot 50ms
    What it does not understand it refuses; what is left open is marked as assumed
    or chosen in the file, which ridgeline train or infer answers as it stands.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.cli.init_words import read_wish
    from ridgeline.cli.numba_start import said_while_compiling, start_numba
    from ridgeline.cli.output import emit, note, write_file
    from ridgeline.errors import InputError

    if out is not None and out.exists() and not force:
        raise InputError(f"{out}: exists already; --force replaces it")
    line = " ".join(question)
    wish = read_wish(line)
    start_numba()
    from ridgeline.cli.init_choice import draft_service, draft_training

    with said_while_compiling():
        drafted = draft_service(wish) if wish.serve else draft_training(wish)
    text = plan_file(line, wish, drafted)
    if out is None:
        emit(text)
        return
    write_file(out, text)
    note(f"wrote {out}")
    emit(_summary(wish, drafted, out))


def plan_file(line: str, wish: Wish, drafted: Drafted) -> str:
    """Return the text of a plan file whose every line says where it comes from."""
    from textwrap import wrap

    from ridgeline.simulator.plan_text import toml_value

    command = "infer" if wish.serve else "train"
    head = f"Asked: {' '.join(line.split())}"
    notes = [head, f"Answered by ridgeline {command} FILE; change any value.", _limits(wish)]
    lines = [f"# {part}" for text in notes for part in wrap(_printable(text), _WIDTH)]
    section = ""
    for one in drafted.lines:
        where, _, key = one.key.partition(".")
        if where != section:
            lines += ["", f"[{where}]"]
            section = where
        lines.append(f"{key} = {toml_value(one.value)}".ljust(_COLUMN) + f" # {one.why}")
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _limits(wish: Wish) -> str:
    """Return what a plan file cannot say, and the flags of the command that takes it."""
    flags = []
    if wish.budget_usd:
        flags.append(f"--budget {wish.budget_usd:.10g}")
    if wish.deadline_s:
        flags.append(f"--deadline {wish.deadline_s / 3600:.6g}h")
    if not flags:
        return ""
    return f"Kept: {' '.join(flags)}; these are flags of ridgeline plan, which tries every split."


def _summary(wish: Wish, drafted: Drafted, out: Path) -> str:
    """Return what was understood and assumed, and the answer in a line."""
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.units import dollars, duration, percent

    rows = [f"Understood  {words.strip()}: {meaning}" for words, meaning in wish.understood]
    for mark in ("assumed", "chosen"):
        found = [one for one in drafted.lines if one.why.startswith(mark)]
        rows += [
            f"{mark.capitalize():<10}  {one.key} = {one.value}" + one.why.removeprefix(mark)
            for one in found
        ]
    result = drafted.result
    if isinstance(result, TrainingResult):
        cost = f", {dollars(result.cost_usd)}" if result.cost_usd else ""
        told = f"{duration(result.step_time_s)} a step, MFU {percent(result.mfu)}"
        told += f", {duration(result.wall_clock_s)} in all{cost}"
    else:
        told = f"first token {duration(result.ttft_s.p50)}"
        if not isnan(result.tpot_s.p50):
            told += f", then {duration(result.tpot_s.p50)} each"
        told += f", {result.output_tokens_per_s:,.0f} tokens/s"
    command = "infer" if wish.serve else "train"
    return "\n".join([*rows, f"Predicted   {told}", f"Next        ridgeline {command} {out}"])
