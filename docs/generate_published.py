"""Write the table of published results into ``docs/published.md``.

Run ``python docs/generate_published.py``; ``tests/test_published.py`` fails when it is stale.
"""

from __future__ import annotations

from pathlib import Path

from ridgeline.validation.published.report import Recomputed, recompute

PAGE = Path(__file__).resolve().parent / "published.md"
BEGIN, END = "<!-- published: generated -->", "<!-- published: end -->"


def table(found: tuple[Recomputed, ...]) -> str:
    """Return the figures as Markdown, a table for each topic."""
    parts = []
    for topic in dict.fromkeys(one.result.topic for one in found):
        lines = [
            f"## {topic}",
            "",
            "| published figure | theirs | ours | apart | room | specified | left open | source |",
            "|---|--:|--:|--:|--:|---|---|---|",
        ]
        for one in found:
            result = one.result
            if result.topic == topic:
                apart = f"{100 * one.difference:+.1f}%"
                memory = " (recollected)" if result.status == "memory" else ""
                room = f"{100 * result.tolerance:g}%{'' if result.blind else ' (seen)'}"
                bound = "" if result.relation == "equal" else f"{result.relation} "
                lines.append(
                    f"| {result.claim} | {bound}{result.published:,.5g} | {one.ours:,.5g} "
                    f"| {apart if one.agrees else f'**{apart}**'} | {room} "
                    f"| {result.specified} | {result.missing} | {result.source}{memory} |"
                )
        parts.append("\n".join(lines))
    stated = [one for one in found if one.result.specified == "yes"]
    parts.append(
        f"{sum(one.agrees for one in stated)} of {len(stated)} fully specified figures agree "
        f"within their room, {sum(one.agrees for one in found)} of {len(found)} in all; those "
        "that do not are in bold."
    )
    return "\n\n".join(parts)


def page() -> str:
    """Return the page with the generated part as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table(recompute())}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
