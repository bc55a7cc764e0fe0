"""How many GEMM shapes one core prices in a second, beside the naive Python twin."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ridgeline.hardware.profiles import load_accelerator
from ridgeline.simulator.roofline import _kernels, layout
from ridgeline.simulator.roofline.device import device_parameters

SHAPES = 200_000
NAIVE_SHAPES = 300
REPEATS = 7


def run() -> dict[str, float]:
    """Price random bf16 GEMMs, each dimension log-uniform over 1 to 32768, on an H100.

    Returns
    -------
    dict
        ``shapes_per_s`` of the compiled kernel and ``corrected_shapes_per_s`` of a kernel set
        with its correction, warm, one process, CPU seconds, median of
        repeats; ``naive_shapes_per_s`` of the twin in ``tests/``; ``ratio`` of the two;
        ``largest_difference``, relative, between their answers.
    """
    naive = _naive()
    table = device_parameters(load_accelerator("h100-sxm"), sustained=False)
    dims = np.zeros((SHAPES, layout.DIMS), np.int64)
    dims[:, :3] = 2 ** np.random.default_rng(0).uniform(0, 15, (SHAPES, 3))
    dims[:, 3] = 1
    operators = (
        np.full(SHAPES, layout.GEMM, np.int8),
        np.full(SHAPES, layout.BF16, np.int8),
        dims,
        np.tile([0.0, 1.0, 1.0], (SHAPES, 1)),
    )
    out, out_corrected = np.empty(SHAPES), np.empty(SHAPES)
    _kernels.price(*operators, table, out)
    fast_s = _median_cpu_s(lambda: _kernels.price(*operators, table, out))

    corrected = device_parameters(
        load_accelerator("h100-sxm"), sustained=False, rung="corrected", library="trtllm"
    )
    _kernels.price(*operators, corrected, out_corrected)
    corrected_s = _median_cpu_s(lambda: _kernels.price(*operators, corrected, out_corrected))

    columns = [name for name in vars(layout) if name.isupper()]
    columns = columns[columns.index("PEAK") : columns.index("PARAMETERS")]
    row = dict(zip(columns, table[layout.BF16].tolist(), strict=True))
    shapes = dims[:NAIVE_SHAPES, :3].tolist()
    slow: list[float] = []

    def price_slowly() -> None:
        slow[:] = [naive(row, m, n, k, 1, False, 0.0, 1.0) for m, n, k in shapes]

    slow_s = _median_cpu_s(price_slowly)
    difference = np.abs(out[:NAIVE_SHAPES] / np.array(slow) - 1).max()
    return {
        "shapes_per_s": SHAPES / fast_s,
        "corrected_shapes_per_s": SHAPES / corrected_s,
        "naive_shapes_per_s": NAIVE_SHAPES / slow_s,
        "ratio": SHAPES / fast_s / (NAIVE_SHAPES / slow_s),
        "largest_difference": float(difference),
    }


def _naive() -> Callable[..., float]:
    """Load the twin, which lives with the tests and is not part of the package."""
    tests = str(Path(__file__).parents[1] / "tests")
    sys.path.insert(0, tests)
    try:
        from naive_roofline import gemm
    finally:
        sys.path.remove(tests)
    twin: Callable[..., float] = gemm
    return twin


def _median_cpu_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
