"""Write the table of shipped stacks into ``docs/stacks.md``: ``python docs/generate_stacks.py``.

``tests/test_stacks.py`` fails when the table is stale.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ridgeline.simulator.stacks import Stack, load_stack, stack_names

PAGE = Path(__file__).resolve().parent / "stacks.md"
BEGIN, END = "<!-- shipped: generated -->", "<!-- shipped: end -->"


def shown(value: object) -> str:
    """Return a value as a table writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:g}" for key, number in value.items()) or "1"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def shipped_table() -> str:
    """Return what every shipped stack sets, as Markdown; an empty cell is the default."""
    stacks = [load_stack(name) for name in stack_names()]
    lines = [
        "| field | " + " | ".join(f"`{stack.name}`" for stack in stacks) + " |",
        "|---" * (len(stacks) + 1) + "|",
    ]
    for field in fields(Stack):
        cells = [
            shown(getattr(stack, field.name)) if field.name in stack.sources else ""
            for stack in stacks
        ]
        if any(cells):
            lines.append(f"| `{field.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def descriptions() -> str:
    """Return one line about every shipped stack."""
    return "\n".join(f"- `{name}`: {load_stack(name).description}" for name in stack_names())


def page() -> str:
    """Return the page with the generated part as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n{descriptions()}\n\n{shipped_table()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
