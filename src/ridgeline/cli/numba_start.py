"""Start Numba without SciPy, where SciPy happens to be installed."""

from __future__ import annotations

import sys


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
