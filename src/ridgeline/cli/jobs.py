"""Jobs that are more than one plan: runs in stages, several kinds of accelerators, peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFlags:
    """How such a job is to be answered."""

    rung: str | None
    refused: Sequence[str]
    """Flags that were given and ask for what is made of one plan alone."""
    as_json: bool
    as_csv: bool
    explain: bool

    def check(self, what: str, instead: str) -> None:
        """Refuse what is not made of such a job.

        Raises
        ------
        InputError
            There is some.
        """
        from ridgeline.cli.html import html_path
        from ridgeline.errors import InputError

        flags = [*self.refused, *(["--html"] if html_path() else [])]
        if flags:
            raise InputError(f"{', '.join(flags)}: not made for {what}; give {instead}")


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
    from ridgeline.simulator.planfile import PEER, STAGE, joined_spec, read_tables

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
