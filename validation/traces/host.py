"""Operators of a trace that has no kernels, as work of the CPU that ran them.

An operator that calls others counts for what is left between them, so that times add up.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ridgeline.validation.traces.categories import category_of
from ridgeline.validation.traces.columns import DeviceWork
from ridgeline.validation.traces.records import (
    COMMUNICATION,
    ELEMENTWISE,
    GEMM,
    OTHER,
)

_PRODUCT = re.compile(r"^aten::_?(?:mm|addmm|bmm|baddbmm|addmv|mv|dot)(?:_\w+)?$")
_AROUND = re.compile(r"^aten::(?:linear|matmul|einsum)$")
"""What calls a product and does nothing itself."""
_WIRE = re.compile(r"^(?:gloo|c10d|mpi|ccl)\b", re.IGNORECASE)


def host_category(name: str) -> int:
    """Return the place in ``CATEGORIES`` of a CPU's operator by its name."""
    if _WIRE.match(name):
        return COMMUNICATION
    if _PRODUCT.match(name):
        return GEMM
    if _AROUND.match(name):
        return OTHER
    found = category_of(name)
    # the rest of PyTorch's own operators go over memory
    return ELEMENTWISE if found == OTHER and name.startswith("aten::") else found


def add_host_work(
    work: DeviceWork,
    names: Sequence[str],
    columns: tuple[array[float], array[float], array[int], array[int]],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Add the operators, each with its own time.

    Parameters
    ----------
    work
        Gets an event an operator.
    names
        By kind.
    columns
        Start, end, thread and kind of every operator, in the trace's unit of time.

    Returns
    -------
    int32[N], int64[N]
        Kind and call of each event that was added.
    """
    start, end, thread, kind = (np.asarray(column) for column in columns)
    order = np.lexsort((-end, start, thread))
    own = (end - start).astype(np.float64)
    above: list[int] = []
    for place in order.tolist():
        while above and (thread[above[-1]] != thread[place] or end[above[-1]] <= start[place]):
            above.pop()
        if above:
            own[above[-1]] -= min(end[place], end[above[-1]]) - start[place]
        above.append(place)
    categories = [host_category(name) for name in names]
    for place, seconds in enumerate(np.maximum(own, 0.0).tolist()):
        what = int(kind[place])
        work.add(
            start=float(start[place]),
            duration=seconds,
            name=names[what],
            stream=int(thread[place]),
            correlation=place,
            category=categories[what],
        )
        work.add_call(correlation=place, start=float(start[place]))
    return kind.astype(np.int32), np.arange(len(kind), dtype=np.int64)
