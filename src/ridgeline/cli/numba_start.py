"""Start Numba without SciPy, where SciPy happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

SILENCE_S = 2.0
"""A cached prediction answers sooner; what takes longer is compiling."""


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
    """Tell whoever watches why the first prediction takes long: some ``seconds`` of compiling."""
    text = f"compiling kernels: only the first run does, for some {seconds} seconds of one core\n"
    timer = Timer(SILENCE_S, sys.stderr.write, [text])
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
