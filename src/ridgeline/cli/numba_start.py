"""Start Numba without SciPy, where SciPy happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

SILENCE_S = 1.0
"""A cached prediction answers sooner; what takes longer is told of."""
WORKING = "working; a first run compiles its kernels, once, for some {} seconds"


def start_numba() -> None:
    """Import Numba's array support with SciPy's BLAS out of sight.

    Numba looks for BLAS at its first kernel, and importing ``scipy.linalg`` for that takes a fifth
    of a second of a command; no kernel here uses it. Only the command line does this: in a user's
    process Numba keeps its BLAS.
    """
    if "numba" in sys.modules or "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        import numba.np.arraymath  # noqa: F401  # for its effect
    finally:
        del sys.modules["scipy.linalg"]


TRAINING_S, SERVING_S = 15, 30
"""What the kernels of a training step, and of a service, take to compile on one core of 2024."""


@contextmanager
def said_while_compiling(seconds: int = TRAINING_S) -> Iterator[None]:
    """Tell whoever watches that work goes on, from the first second of silence on.

    ``seconds`` is what the kernels of the command take to compile.
    """
    from ridgeline.cli.output import watched

    if not watched():
        yield
        return
    status: list[Status] = []
    lock = Lock()
    done = Event()

    def show() -> None:
        from rich.console import Console
        from rich.status import Status

        with lock:
            if not done.is_set():
                status.append(Status(WORKING.format(seconds), console=Console(stderr=True)))
                status[0].start()

    timer = Timer(SILENCE_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            done.set()
            for one in status:
                one.stop()
