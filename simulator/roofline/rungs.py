"""Which rung prices an operator of a step: measured kernels, a kernel set, a profile, a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import (
    DEFAULT_RUNG,
    Operators,
    device_parameters,
    price_operators,
)
from ridgeline.simulator.roofline.gemm_parameters import FORMATS
from ridgeline.simulator.roofline.gemm_sets import SETS_OF, default_set

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]

LADDER = ("table", "corrected", "fitted", "universal")
"""Names of the rungs, best first; a row's rung is its place here."""
TABLE, CORRECTED = 0, 1


class MeasuredKernels(Protocol):
    """Measured kernels of the device, at burst clock."""

    def gemm_seconds(self, m: Counts, n: Counts, k: Counts, dtype: str) -> Floats:
        """Return measured seconds of out[m,n] = x[m,k] W[n,k]^T.

        Parameters
        ----------
        m, n, k
            int64[N].
        dtype
            As kernel tables spell it: ``bfloat16``, ``fp8`` and so on.

        Returns
        -------
        float64[N]
            NaN where nothing measured is near.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Where the prices of a step's kernels come from."""

    rung: str = DEFAULT_RUNG
    """Of the model: corrected, fitted or universal (``device_parameters``)."""
    measured: MeasuredKernels | None = None
    """The user's own kernels, above the model where they have the shape."""


MODEL_ALONE = Kernels()
"""What stands when nothing else is asked for."""


def price_by_rungs(
    operators: Operators,
    accelerator: Accelerator,
    device: Accelerator | Floats,
    kernels: Kernels,
) -> tuple[Floats, NDArray[np.int8]]:
    """Return the seconds of N operators, and the rung of each.

    A measured GEMM is a burst without further bytes, and a table in fp8 counts the quantisation
    of x. Its time in the step is
    T = measured x model(as it is, sustained) / model(as measured, burst):
    clock, accumulation and casts come from the model, the level from the table.

    Parameters
    ----------
    operators
        kind, dtype, dims, extra, as ``layout`` has them.
    accelerator
        The device.
    device
        The accelerator again, or the parameters that stand for it at ``kernels.rung``.
    kernels
        Rung of the model, and measured kernels.

    Returns
    -------
    float64[N], int8[N]
        Seconds; places in ``LADDER``.

    Raises
    ------
    InputError
        What ``price_operators`` and ``device_parameters`` refuse.
    """
    seconds = price_operators(*operators, device)
    rungs = _model_rungs(operators, accelerator, kernels.rung)
    if kernels.measured is None:
        return seconds, rungs
    kind, dtype, dims, extra = operators
    burst = device_parameters(accelerator, sustained=False, rung=kernels.rung)
    plain = (kind == layout.GEMM) & (dims[:, 3] == 1)
    for index, name in enumerate(layout.DTYPES):
        for measured_as in SETS_OF.get(name, ()):
            rows = np.flatnonzero(plain & (dtype == index) & (rungs != TABLE))
            m, n, k = dims[rows, :3].T
            measured = kernels.measured.gemm_seconds(m, n, k, measured_as)
            rows, measured = rows[measured > 0.0], measured[measured > 0.0]
            alone, bare = dims[rows].copy(), extra[rows].copy()
            alone[:, 4] = FORMATS[measured_as].quantised
            bare[:, layout.BYTES_MOVED] = 0.0
            model = price_operators(kind[rows], dtype[rows], alone, bare, burst)
            seconds[rows] *= measured / model
            rungs[rows] = TABLE
    return seconds, rungs


def _model_rungs(operators: Operators, accelerator: Accelerator, rung: str) -> NDArray[np.int8]:
    """Return the rung of every operator without measured kernels."""
    kind, dtype, _, _ = operators
    own = "universal" if rung == "universal" else accelerator.efficiency.rung
    rungs = np.full(len(kind), LADDER.index(own), np.int8)
    if rung != "corrected":
        return rungs
    table = device_parameters(accelerator)
    product = (kind == layout.GEMM) | (kind == layout.GROUPED_GEMM)
    for name, sets in SETS_OF.items():
        index = layout.DTYPES.index(name)
        row = table[index]
        if row[layout.PEAK] > 0.0 and default_set(accelerator.name, sets, row, None) is not None:
            rungs[product & (dtype == index)] = CORRECTED
    return rungs
