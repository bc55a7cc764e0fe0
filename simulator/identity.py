"""What is made of objects once, found again by their identity: hashing them takes longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class ByIdentity(Generic[Made]):
    """What was made of objects, which are held so that none other takes their place.

    The objects must not change afterwards, nor may what is made of them.
    """

    def __init__(self, most: int = 256) -> None:
        """Keep at most ``most``, and begin anew behind them."""
        self._most = most
        self._known: dict[tuple[int, ...], tuple[tuple[object, ...], Made]] = {}

    def of(self, parts: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """Return what was made of these very objects, by ``make`` where nothing was yet."""
        key = tuple(map(id, parts))
        known = self._known.get(key)
        if known is None:
            known = (parts, make())
            if len(self._known) >= self._most:
                self._known.clear()  # one step, so that threads may share it
            self._known[key] = known
        return known[1]
