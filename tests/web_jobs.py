"""Jobs for workers of tests; a worker imports them by name."""

from __future__ import annotations

import os
import time

from ridgeline.errors import InfeasibleError, InputError


def nothing() -> None:
    """Start at once."""


def twice(number: int) -> int:
    return 2 * number


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def die() -> None:
    os._exit(3)


def eat(gibibytes: int) -> int:
    return len(bytes(gibibytes << 30))


def refuse() -> None:
    raise InputError(["first: wrong", "second: wrong"])


def cannot() -> None:
    raise InfeasibleError("does not fit")


def fail() -> None:
    raise KeyError("a bug")
