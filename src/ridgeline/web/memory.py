"""Answers kept for as long as there is room, and asked for once however many ask."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

from ridgeline.web.answers import Answer

MOST_CHARACTERS = 64 << 20


class Memory:
    """The answers asked for last.

    Parameters
    ----------
    most
        Characters that all answers together may have.
    """

    def __init__(self, most: int = MOST_CHARACTERS) -> None:
        self.most = most
        self.size = 0
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._coming: dict[Hashable, asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer under ``key``, made by ``make`` where none is kept or on its way."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._coming:
            coming = asyncio.ensure_future(make())
            self._coming[key] = coming
            coming.add_done_callback(lambda done: self._arrive(key, done))
        # Shielded: a visitor who leaves takes nothing from the others who wait for the same.
        return await asyncio.shield(self._coming[key])

    def _arrive(self, key: Hashable, done: asyncio.Future[Answer]) -> None:
        del self._coming[key]
        if done.cancelled() or done.exception() is not None:
            return
        answer = self._kept[key] = done.result()
        self.size += answer.size
        while self.size > self.most:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.size
