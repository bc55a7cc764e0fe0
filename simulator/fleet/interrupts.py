"""Wishes to stop: heard between two events of a simulation, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Wish:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.stop = False

    def heed(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second stops whatever is going on."""
        del number, frame
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True


@contextmanager
def stoppable() -> Iterator[Wish]:
    """Listen for an interrupt and for a request to end while the block runs.

    Signals reach the main thread alone; elsewhere nobody is listened to.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, wish.heed) for number in SIGNALS}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Take a request to end (SIGTERM) for an interrupt while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
