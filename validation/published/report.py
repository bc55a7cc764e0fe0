"""All published figures beside ours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ridgeline.validation.published.answers import answer
from ridgeline.validation.published.records import PublishedResult, published_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """A published figure with ours."""

    result: PublishedResult
    ours: float

    @property
    def difference(self) -> float:
        """Ours over the published figure, less one."""
        return self.ours / self.result.published - 1.0

    @property
    def agrees(self) -> bool:
        """Whether ours is the published figure, or keeps its bound, within the tolerance."""
        room = self.result.tolerance + 1e-12
        over = self.result.relation == "at most" or self.difference >= -room
        under = self.result.relation == "at least" or self.difference <= room
        return over and under

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the JSON contract (``docs/json.md``); the question is left out."""
        row = asdict(self.result)
        del row["ask"]
        return row | {"ours": self.ours, "difference": self.difference, "agrees": self.agrees}


def recompute(ids: tuple[str, ...] = ()) -> tuple[Recomputed, ...]:
    """Return every published figure, or those named, with ours beside it."""
    return tuple(
        Recomputed(result=result, ours=answer(result))
        for result in published_results()
        if not ids or result.id in ids
    )
