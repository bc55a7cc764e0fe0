"""What was asked for last, kept for as long as there is room, and made once however many ask."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """Things by key, the last ones asked for.

    Parameters
    ----------
    most
        Size that all things together may have.
    size_of
        Returns that of one.
    """

    def __init__(self, most: int, size_of: Callable[[T], int]) -> None:
        self.most = most
        self.size = 0
        self._size_of = size_of
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._coming: dict[Hashable, asyncio.Future[T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> T | None:
        """Return what is kept under ``key``, None where nothing is."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, key: Hashable, thing: T) -> None:
        """Keep a thing, and forget what was asked for longest ago where there is no room."""
        if key in self._kept:
            self.size -= self._size_of(self._kept.pop(key))
        self._kept[key] = thing
        self.size += self._size_of(thing)
        while self.size > self.most:
            _, oldest = self._kept.popitem(last=False)
            self.size -= self._size_of(oldest)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return what is kept under ``key`` or on its way, else what ``make`` returns."""
        found = self.find(key)
        if found is not None:
            return found
        if key not in self._coming:
            coming = asyncio.ensure_future(make())
            self._coming[key] = coming
            coming.add_done_callback(lambda done: self._arrive(key, done))
        # Shielded: a visitor who leaves takes nothing from the others who wait for the same.
        return await asyncio.shield(self._coming[key])

    def _arrive(self, key: Hashable, done: asyncio.Future[T]) -> None:
        del self._coming[key]
        if not done.cancelled() and done.exception() is None:
            self.keep(key, done.result())
