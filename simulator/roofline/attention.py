"""What prefill and decode have in common: shapes as columns, precisions, corrections."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.roofline.correction import apply_correction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ridgeline.hardware.kernels import Correction, KernelSet

Floats: TypeAlias = NDArray[np.float64]

_BYTES = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0}
_UNITS = {"_us": 1e-6, "_ns": 1e-9, "_ps_per_score": 1e-12, "_gb_per_s": 1e9}


def stacked(names: Sequence[str], columns: Sequence[ArrayLike]) -> Floats:
    """Return ``columns``, broadcast, as float64[N, len(columns)].

    Raises
    ------
    InputError
        The columns have lengths that cannot be broadcast.
    """
    lengths = [_length(column) for column in columns]
    longest = min(lengths) if min(lengths) == 0 else max(lengths)
    table = np.empty((longest, len(columns)))
    try:
        # ten times as fast as numpy.broadcast_arrays, which a static estimate calls often
        for place, column in enumerate(columns):
            table[:, place] = column
    except ValueError:
        sizes = ", ".join(f"{n} {length}" for n, length in zip(names, lengths, strict=True))
        raise InputError(f"columns have different lengths ({sizes}): give equal ones") from None
    return table


def _length(column: ArrayLike) -> int:
    if isinstance(column, np.ndarray):
        return column.size
    return 1 if isinstance(column, int | float) else np.size(column)


def checked(
    what: str,
    names: Sequence[str],
    columns: Sequence[ArrayLike],
    problem: Callable[[Floats], int],
) -> Floats:
    """Return ``columns`` as ``stacked`` does, each row a shape that can be priced.

    Parameters
    ----------
    what
        What a message calls a row.
    names, columns
        As ``stacked`` takes them.
    problem
        Number of the first row that cannot be priced, negative where all can.

    Raises
    ------
    InputError
        The first row that cannot be priced, and the rule.
    """
    shapes = stacked(names, columns)
    bad = problem(shapes)
    if bad >= 0:
        raise InputError(
            f"{what} {bad} is {dict(zip(names, shapes[bad].tolist(), strict=True))}: every size "
            "must be at least 1, window at least 0, heads a multiple of kv_heads"
        )
    return shapes


def check_operator(kernel_set: KernelSet, op: str) -> None:
    """Refuse a kernel set of another operator with an InputError."""
    if kernel_set.op != op:
        raise InputError(f"kernel set is for {kernel_set.op}: give one for {op}")


def element_bytes(dtype: str) -> tuple[float, float]:
    """Return the bytes of an operand and of a cached value of ``"bfloat16/fp8"`` and the like.

    Raises
    ------
    InputError
        Not two of bfloat16, float16, fp8.
    """
    compute, slash, cached = dtype.partition("/")
    if not slash or compute not in _BYTES or cached not in _BYTES:
        raise InputError(
            f"attention dtype {dtype!r}: give the precision of the products and of the KV cache, "
            f"each one of {', '.join(_BYTES)}, for example bfloat16/fp8"
        )
    return _BYTES[compute], _BYTES[cached]


def in_si(parameters: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return the values of ``names`` in SI units; the end of a name is its unit."""
    return [parameters[name] * _scale(name) for name in names]


@cache
def _scale(name: str) -> float:
    return next((scale for unit, scale in _UNITS.items() if name.endswith(unit)), 1.0)


def axis_names(correction: Correction | None) -> frozenset[str]:
    """Return the names of a correction's axes."""
    return frozenset() if correction is None else frozenset(name for name, _ in correction.axes)


def coordinates(only: Collection[str] | None = None, /, **quantities: Floats) -> dict[str, Floats]:
    """Return log2 of every quantity, or of those named: corrections are smooth in ratios."""
    return {
        name: np.log2(values) for name, values in quantities.items() if only is None or name in only
    }


def corrected(seconds: Floats, coords: dict[str, Floats], correction: Correction | None) -> Floats:
    """Return ``seconds`` times the fitted correction at ``coords``, picked by its axes' names."""
    if correction is None:
        return seconds
    picked = np.empty((len(seconds), len(correction.axes)))
    for place, (name, _) in enumerate(correction.axes):
        picked[:, place] = coords[name]
    return apply_correction(seconds, picked, correction)
