"""The two errors a user can meet: bad input (exit code 2) and no feasible answer (exit code 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class InputError(ValueError):
    """What the user gave cannot be used.

    Parameters
    ----------
    problems
        One line each: where, what was given, the rule, the fix. All mistakes of an input are
        reported together.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(self.problems))


class InfeasibleError(Exception):
    """The question was understood and has no feasible answer (for example out of memory)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the closest known name, or the sorted list when nothing is close."""
    known = sorted(known)
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown}"
