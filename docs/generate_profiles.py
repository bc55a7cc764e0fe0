"""Write the tables of shipped stacks and engines: ``python docs/generate_profiles.py``.

``tests/test_stacks.py`` and ``tests/test_engines.py`` fail when a table is stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ridgeline.simulator.serving.engines import engine_names, load_engine
from ridgeline.simulator.stacks import load_stack, stack_names

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- shipped: generated -->", "<!-- shipped: end -->"
PAGES: dict[str, tuple[Any, ...]] = {
    "stacks.md": tuple(map(load_stack, stack_names())),
    "engines.md": tuple(map(load_engine, engine_names())),
}
"""Page -> the profiles in its table."""


def shown(value: object) -> str:
    """Return a value as a table writes it; without an entry a rate is 1."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items()) or "1"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def shipped_table(profiles: Sequence[Any]) -> str:
    """Return what every shipped profile sets, as Markdown; an empty cell is the default."""
    lines = [
        "| field | " + " | ".join(f"`{profile.name}`" for profile in profiles) + " |",
        "|---" * (len(profiles) + 1) + "|",
    ]
    for field in fields(profiles[0]):
        cells = [
            shown(getattr(profile, field.name)) if field.name in profile.sources else ""
            for profile in profiles
        ]
        if any(cells):
            lines.append(f"| `{field.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(name: str) -> str:
    """Return a page with the generated part as it should be."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    about = "\n".join(f"- `{profile.name}`: {profile.description}" for profile in PAGES[name])
    return f"{head}{BEGIN}\n{about}\n\n{shipped_table(PAGES[name])}\n{END}{tail}"


if __name__ == "__main__":
    for page_name in PAGES:
        (FOLDER / page_name).write_text(page(page_name), encoding="utf-8")
