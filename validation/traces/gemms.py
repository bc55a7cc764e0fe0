"""Matrix products of a trace by shape, and the speed that each reached.

The shape is that of the operator that launched the kernels; all kernels of one call (split-K
reductions included) are its time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from math import prod
from statistics import median
from typing import Any

import numpy as np

from ridgeline.validation.traces.records import GEMM, Operator, Trace
from ridgeline.validation.traces.steps import find_steps

_DTYPES = {
    "bfloat16": "bf16",
    "half": "fp16",
    "float16": "fp16",
    "float": "fp32",
    "float32": "fp32",
    "double": "fp64",
    "signed char": "int8",
    "char": "int8",
    "int8": "int8",
}
_TF32 = ("tf32", "s1688gemm")
"""Marks of kernels that compute fp32 products in TF32 (CUTLASS names its MMA shape 16x8x8)."""
_TRANSPOSED = ("aten::linear",)
"""Operators whose weight is [n, k]."""
_PLAIN = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::matmul",
    "aten::_scaled_mm",
    "aten::_addmm_activation",
    "aten::_int_mm",
)
"""Operators whose second factor is [k, n]; ``add`` in the name puts an addend before both."""
_BY_NAME = ("mm", "gemm", "linear", "matmul")
"""What the names of other operators that multiply matrices have in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmShape:
    """Products out[m, n] = x[m, k] W[k, n] of one shape, over the steps read."""

    m: int
    n: int
    k: int
    batch: int
    dtype: str
    """bf16, fp16, tf32, fp32, fp8, int8, or as the trace spells it."""
    calls: int
    total_s: float
    median_s: float

    @property
    def flops(self) -> float:
        """Of one call: 2 batch m n k."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def flops_per_s(self) -> float:
        """Mean over the calls; 0 when they took no time."""
        return self.calls * self.flops / self.total_s if self.total_s > 0.0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the speed in TFLOP/s among them."""
        return asdict(self) | {"tflops_per_s": self.flops_per_s / 1e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemms:
    """All matrix products of the steps of some ranks."""

    shapes: tuple[GemmShape, ...]
    """By falling time."""
    kernel_s: float
    """All kernels that are matrix products by name, added up."""
    steps: int
    """Over all ranks: what a step has is the total over this."""

    @property
    def matched_s(self) -> float:
        """Of those, with a shape."""
        return sum(shape.total_s for shape in self.shapes)

    @property
    def flops_per_step(self) -> float:
        """FLOPs of one step on one rank, of the products that have a shape."""
        return sum(shape.calls * shape.flops for shape in self.shapes) / self.steps


def find_gemms(*traces: Trace) -> Gemms:
    """Return the matrix products of the steps of one or more ranks."""
    times: dict[tuple[int, int, int, int, str], list[float]] = defaultdict(list)
    kernel_s, steps = 0.0, 0
    for trace in traces:
        shapes = [shape_of(operator) for operator in trace.operators]
        tf32 = np.array([any(mark in name for mark in _TF32) for name in trace.names], bool)
        for step in find_steps(trace):
            steps += 1
            events = step.events.take(step.events.category == GEMM)
            kernel_s += float(events.duration_s.sum())
            known = events.take(events.call >= 0)
            calls, first, place = np.unique(known.call, return_index=True, return_inverse=True)
            seconds = np.bincount(place, weights=known.duration_s, minlength=len(calls))
            for row, took in zip(first.tolist(), seconds.tolist(), strict=True):
                shape = shapes[int(known.operator[row])]
                if shape is not None:
                    *sizes, dtype = shape
                    if dtype == "fp32" and tf32[known.name[row]]:
                        dtype = "tf32"
                    m, n, k, batch = sizes
                    times[m, n, k, batch, dtype].append(took)
    found = [
        GemmShape(
            m=m,
            n=n,
            k=k,
            batch=batch,
            dtype=dtype,
            calls=len(took),
            total_s=sum(took),
            median_s=median(took),
        )
        for (m, n, k, batch, dtype), took in times.items()
    ]
    found.sort(key=lambda one: (-one.total_s, one.m, one.n, one.k, one.batch, one.dtype))
    return Gemms(shapes=tuple(found), kernel_s=kernel_s, steps=steps)


def shape_of(operator: Operator) -> tuple[int, int, int, int, str] | None:
    """Return m, n, k, batch and number format of an operator, None when it is no product."""
    name = operator.name
    known = name in _PLAIN or name in _TRANSPOSED
    if not known and not any(word in name.lower() for word in _BY_NAME):
        return None
    # an addend comes before the factors
    skip = 1 if known and "add" in name else 0
    tensors = [
        (shape, dtype)
        for shape, dtype in zip(operator.shapes, _padded(operator), strict=True)
        if len(shape) >= 2
    ]
    if skip and operator.shapes and len(operator.shapes[0]) >= 2:
        tensors = tensors[1:]
    if len(tensors) < 2:
        return None
    (left, dtype), (right, _) = tensors[:2]
    transposed = name in _TRANSPOSED or (not known and left[-1] != right[-2])
    k, n = (right[-1], right[-2]) if transposed else (right[-2], right[-1])
    if left[-1] != k:
        return None
    if len(right) == 2:
        m, batch = prod(left[:-1]), 1
    elif left[:-2] == right[:-2]:
        m, batch = left[-2], prod(left[:-2])
    else:
        return None
    sizes = (m, n, k, batch)
    return (*sizes, plain_dtype(dtype)) if all(0 < size < 2**40 for size in sizes) else None


def _padded(operator: Operator) -> tuple[str, ...]:
    return (operator.dtypes + ("",) * len(operator.shapes))[: len(operator.shapes)]


def plain_dtype(spelled: str) -> str:
    """Return a number format as the kernel tables spell it."""
    word = spelled.lower().removeprefix("c10::")
    return "fp8" if word.startswith("float8") else _DTYPES.get(word, word)
