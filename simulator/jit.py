"""The one way kernels are compiled: lazily, cached on disk when any cache can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile ``function`` with Numba; a read-only install without any cache still works."""
    return _compiled(function)


def inner(function: F) -> F:
    """Compile a kernel that only other kernels call, without what Python would need to call it.

    Unpacking some twenty arrays for Python takes a fifth of the time to compile such a function.
    """
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compiled(function: F, **options: Any) -> F:
    try:
        return cast("F", njit(cache=True, error_model="numpy", **options)(function))
    except RuntimeError:  # Numba finds no writable cache directory
        return cast("F", njit(error_model="numpy", **options)(function))
