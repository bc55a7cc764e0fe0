"""The command line.

Only click is imported here: ``ridgeline --help`` pays for nothing else. Each command lives in a
module of its own, imported when it is called, and imports what is heavy inside its function.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from ridgeline import __version__
from ridgeline.errors import InfeasibleError, InputError, nearest

ANSWERED, INFEASIBLE, BAD_INPUT, BUG = 0, 1, 2, 70
INTERRUPTED, BROKEN_PIPE = 130, 141
COMPLETE = "_RIDGELINE_COMPLETE"
"""Where a shell's completion script says what it wants."""
LONGEST_COMPLAINT = 600
"""Characters; what a user gave may be as long as it likes."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to standard output dies of on a full disk."""

COMMANDS = {
    "train": ("train", "train", "Predict a training run: time, memory, money, energy."),
    "infer": ("infer", "infer", "Predict a service: latency, throughput, goodput, money, energy."),
    "plan": ("plan", "plan", "Find the best plan: split, batch, schedule and cluster."),
    "compare": ("compare", "compare", "Compare accelerators and clouds on one job."),
    "cluster": ("cluster", "cluster", "Play many jobs, failures and checkpoints over months."),
    "validate": ("validate", "validate", "Compare predictions with measured steps or kernels."),
    "convert": ("convert", "convert", "Read other programs' settings as plans, and write them."),
    "fit": ("fit", "fit", "Calibrate a device on kernels, or a stack on measured steps."),
    "profile": ("profile", "profile", "Measure this machine into an accelerator profile."),
    "hardware": ("catalogue", "hardware", "List accelerators and show one with its sources."),
    "models": ("catalogue", "models", "List models and show one."),
    "stacks": ("catalogue", "stacks", "List software stacks and show one."),
    "web": ("web", "web", "Serve the pages on this machine: choose, see, compare, share."),
    "init": ("init", "init", "Write a plan file for a question asked in one line."),
    "completion": ("completion", "completion", "Print the completion script of a shell."),
}
"""Name -> module in this package, attribute, one line of help."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, None when there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(f"ridgeline.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 answered, 1 no feasible plan, 2 bad input, 70 a bug.",
)
@click.version_option(__version__, prog_name="ridgeline", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.option("--quiet", is_flag=True, help="The answer alone: no progress, no notes.")
def app(debug: bool, quiet: bool) -> None:
    """Predict what it takes to train and to serve transformers: time, memory, money, energy.

    \b
    For example, Llama 3 8B on one node, 8 sequences of 8,192 tokens a step:
      ridgeline train --model llama3-8b --cluster 8xh100-sxm --zero-stage 3 \\
          --seq-len 8192 --global-batch 8
    """  # noqa: D301  (click's mark of preformatted text is a backspace)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Parameters
    ----------
    arguments
        What follows the program's name. ``--debug`` and ``--quiet`` are understood anywhere.
    """
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument not in ("--debug", "--quiet")]
    if "--quiet" in arguments:
        rest.insert(0, "--quiet")
    try:
        # Not app.main(): it turns a broken pipe into exit code 1, which here has a meaning.
        with app.make_context("ridgeline", rest) as context:
            app.invoke(context)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return ANSWERED
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _complain([_one_line(error.format_message())], BAD_INPUT)
    except InputError as error:
        return _complain(error.problems, BAD_INPUT)
    except InfeasibleError as error:
        return _complain([str(error)], INFEASIBLE)
    except (KeyboardInterrupt, click.Abort):
        return _complain(["interrupted"], INTERRUPTED)
    except BrokenPipeError:
        _abandon_output()
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001  (the last line of defence: a bug becomes one line)
        if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
            _abandon_output()
            reason = (error.strerror or str(error)).lower()
            return _complain([f"standard output: cannot be written: {reason}"], BAD_INPUT)
        if debug:
            traceback.print_exc()
        hint = "" if debug else " (--debug shows the traceback)"
        line = (
            f"this is a bug in ridgeline: {type(error).__name__}: "
            f"{_one_line(str(error)) or 'no message'}; "
            f"please report it together with the command and its plan file{hint}"
        )
        return _complain([line], BUG)
    return ANSWERED


def main() -> None:
    """Run the command line and leave with its exit code."""
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        raise SystemExit(shell_complete(app, {}, "ridgeline", COMPLETE, instruction))
    raise SystemExit(run(sys.argv[1:]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _printable(line: str) -> str:
    """Return a complaint on one line, without colours, of bearable length."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line[:LONGEST_COMPLAINT])
    return text if len(line) <= LONGEST_COMPLAINT else text + "..."


def _abandon_output() -> None:
    """Let the interpreter flush what is left to nowhere; nobody can take it."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(lines: Sequence[str], code: int) -> int:
    try:
        for line in lines:
            click.echo(f"error: {_printable(line)}", err=True)
    except OSError:
        # Nobody hears the complaint either; the exit code still says it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code
