"""How to get the same answer again: the command and the file that it read."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.report.records import Block, Code, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """How to get the same answer again."""

    command: str = ""
    plan_file: str = ""
    """Text of the file that the command read; empty when there was none."""
    title: str = "Plan file"


def rerun_section(rerun: Rerun) -> Section:
    """Return the command and the file, ready to copy."""
    blocks: list[Block] = []
    if rerun.command:
        blocks.append(Code(key="command", title="Command", text=rerun.command, language="sh"))
    if rerun.plan_file:
        blocks.append(Code(key="plan-file", title=rerun.title, text=rerun.plan_file))
    return Section(
        key="again",
        title="Run it again",
        lead="The same version, input and seed give the same answer, to the byte.",
        blocks=tuple(blocks),
    )
