"""Jobs that are more than one plan: runs in stages, several kinds of accelerators, peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ridgeline.simulator.roofline.rungs import Kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFlags:
    """How such a job is to be answered."""

    rung: str | None
    refused: Sequence[str]
    """Flags that were given and ask for what is made of one plan alone."""
    as_json: bool
    as_csv: bool
    explain: bool

    def kernels(self, what: str, instead: str) -> Kernels | None:
        """Refuse what is not made of such a job; start Numba and return the kernels to price with.

        Raises
        ------
        InputError
            There is some.
        """
        from ridgeline.cli.html import html_path
        from ridgeline.cli.numba_start import start_numba
        from ridgeline.errors import InputError

        flags = [*self.refused, *(["--html"] if html_path() else [])]
        if flags:
            raise InputError(f"{', '.join(flags)}: not made for {what}; give {instead}")
        start_numba()
        from ridgeline.simulator.roofline.rungs import Kernels

        return None if self.rung is None else Kernels(rung=self.rung, measured=None)

    def show(
        self,
        record: dict[str, Any],
        rows: str,
        tables: Sequence[Sequence[dict[str, Any]]],
        titles: Sequence[str],
        draw: Callable[[Console], None],
    ) -> None:
        """Print an answer as JSON, CSV or text, with the operators of each of its plans.

        Parameters
        ----------
        record, rows
            The answer, and which of its keys holds a record for each plan.
        tables, titles
            Operators of each plan, empty where they are not asked for, and what heads them.
        draw
            Prints the text of the answer.
        """
        from ridgeline.cli import output

        for row, table in zip(record[rows], tables, strict=False):
            row["operators"] = table
        if self.as_json:
            output.emit(output.to_json(record))
        elif self.as_csv:
            output.emit(output.to_csv(list(record[rows])))
        else:
            from rich.text import Text

            from ridgeline.cli.training_report import print_operators

            screen = output.console()
            draw(screen)
            for title, table in zip(titles, tables, strict=False):
                screen.print(Text(title, style="bold"))
                print_operators(screen, table)


def answer_job(
    path: Path | None,
    overrides: Mapping[str, object],
    labels: Mapping[str, str],
    flags: JobFlags,
) -> bool | None:
    """Predict and print such a job; return whether it fits, None for the plan of one job.

    Raises
    ------
    InputError
        Mistakes of the file, or flags that it does not take.
    InfeasibleError
        No split of the batch or the layers fits.
    """
    from ridgeline.simulator.plan_parse import PEER, STAGE
    from ridgeline.simulator.planfile import joined_spec, read_tables

    tables = read_tables(path, overrides)
    if path is not None and STAGE in tables:
        from ridgeline.cli.staged import train_stages

        return train_stages(path, overrides, labels, flags)
    if path is not None and PEER in tables:
        from ridgeline.cli.peers import train_peers

        return train_peers(path, overrides, labels, flags)
    if joined_spec(tables):
        from ridgeline.cli.mixed import train_mixed

        return train_mixed(path, overrides, labels, flags)
    return None
