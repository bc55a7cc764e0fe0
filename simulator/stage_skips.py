"""The name of a schedule that skips stages, and what it asks of a pipeline."""

from __future__ import annotations

import re

_NAME = re.compile(r"skip-([1-9][0-9]{0,3})")


def skipped_stages(kind: str) -> int:
    """Return N of the schedule ``skip-N``, 0 for any other."""
    found = _NAME.fullmatch(kind)
    return int(found[1]) if found else 0


def skip_problems(pp: int, vpp: int, skip: int) -> list[str]:
    """Return why stages cannot be skipped so, one line each."""
    found = []
    if vpp > 1:
        found.append(f"vpp = {vpp}: a schedule that skips has one chunk a stage; use vpp = 1")
    if pp < skip + 2:
        found.append(
            f"pp = {pp}: the first and the last stage are never skipped, so 'skip-{skip}' needs pp "
            f"of {skip + 2} or more"
        )
    return found
