"""The one way kernels are compiled: lazily, cached on disk when any cache can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile ``function`` with Numba; a read-only install without any cache still works."""
    try:
        return cast("F", njit(cache=True, error_model="numpy")(function))
    except RuntimeError:  # Numba finds no writable cache directory
        return cast("F", njit(error_model="numpy")(function))
