"""``ridgeline completion``, and the names that complete where a flag takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, flags and names in SHELL.

    \b
    bash: echo 'eval "$(ridgeline completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(ridgeline completion zsh)"' >> ~/.zshrc
    fish: ridgeline completion fish > ~/.config/fish/completions/ridgeline.fish
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from click.shell_completion import get_completion_class

    from ridgeline.cli import COMPLETE, app

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(app, {}, "ridgeline", COMPLETE)
    # Not script.source(): for bash it starts one to ask its version.
    click.echo((script.source_template % script.source_vars()).strip())


def complete_model(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the models of the catalogue that start so."""
    from ridgeline.workloads.catalogue import model_aliases, model_names

    return _starting(incomplete, model_names()) or _starting(incomplete, model_aliases())


def complete_accelerator(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the accelerators that start so; the last of a list, behind what it already says.

    ``512xh100-sxm,b2`` goes on with ``512xh100-sxm,b200-sxm``: a count and the names before stay.
    """
    from ridgeline.hardware.profiles import accelerator_names

    return _last_of_list(incomplete, accelerator_names())


def complete_cluster(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the accelerators and named clusters that start so; counts before them stay."""
    from ridgeline.hardware.profiles import accelerator_names
    from ridgeline.hardware.topology import cluster_names

    return _last_of_list(incomplete, (*accelerator_names(), *cluster_names()))


def complete_stack(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the software stacks that start so."""
    from ridgeline.simulator.stacks import stack_names

    return _starting(incomplete, stack_names())


def complete_engine(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the serving engines that start so."""
    from ridgeline.simulator.serving.engines import engine_aliases, engine_names

    return _starting(incomplete, (*engine_aliases(), *engine_names()))


def _complete_word(
    words: tuple[str, ...], _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    return _starting(incomplete, words)


Completer = Callable[[click.Context, click.Parameter, str], Any]

OF_KEY: dict[str, Completer] = {
    "model.name": complete_model,
    "cluster.spec": complete_cluster,
    "stack.name": complete_stack,
    "serving.engine": complete_engine,
    "training.precision": partial(_complete_word, ("bf16", "fp16", "fp32", "fp4", "fp8", "tf32")),
    "training.schedule": partial(
        _complete_word, ("1f1b", "dualpipe", "gpipe", "interleaved", "zb-h1")
    ),
}
"""Completer of a field of the plan file."""


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete.lower())]


def _last_of_list(incomplete: str, names: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    counts, x, name = last.rpartition("x")
    if x and not counts.replace("x", "").isdigit():
        counts, x, name = "", "", last
    return [before + comma + counts + x + found for found in _starting(name, names)]
