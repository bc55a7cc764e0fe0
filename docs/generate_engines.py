"""Write the table of shipped engines into ``docs/engines.md``: ``python docs/generate_engines.py``.

``tests/test_engines.py`` fails when the table is stale.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ridgeline.simulator.serving.engines import Engine, engine_names, load_engine

PAGE = Path(__file__).resolve().parent / "engines.md"
BEGIN, END = "<!-- shipped: generated -->", "<!-- shipped: end -->"


def shown(value: object) -> str:
    """Return a value as a table writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def shipped_table() -> str:
    """Return what every shipped engine sets, as Markdown; an empty cell is the default."""
    engines = [load_engine(name) for name in engine_names()]
    lines = [
        "| field | " + " | ".join(f"`{engine.name}`" for engine in engines) + " |",
        "|---" * (len(engines) + 1) + "|",
    ]
    for field in fields(Engine):
        cells = [
            shown(getattr(engine, field.name)) if field.name in engine.sources else ""
            for engine in engines
        ]
        if any(cells):
            lines.append(f"| `{field.name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def descriptions() -> str:
    """Return one line about every shipped engine."""
    return "\n".join(f"- `{name}`: {load_engine(name).description}" for name in engine_names())


def page() -> str:
    """Return the page with the generated part as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n{descriptions()}\n\n{shipped_table()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
