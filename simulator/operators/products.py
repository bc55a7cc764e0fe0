"""Products and memory-bound kernels of a layer, in the phase of the builder."""

from __future__ import annotations

from ridgeline.simulator.operators.added import dequantise
from ridgeline.simulator.operators.gradients import accumulate
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.roofline.layout import DTYPES, GEMM, MEMORY


def elementwise(
    b: Builder, s: Shape, name: str, group: str, width: float, passes: float, *, region: bool
) -> None:
    """Add a memory-bound kernel over tokens x ``width`` elements that moves ``passes`` of them."""
    tokens = s.region_tokens if region else s.tokens
    moved = tokens * width * passes * s.element * s.stack.elementwise_factor
    b.compute(name, group, MEMORY, s.dtype, moved=moved)


def linear(
    b: Builder, s: Shape, name: str, group: str, m: int, n: int, k: int, *, dtype: int | None = None
) -> None:
    """Add out[m,n] = x[m,k] W[n,k]^T in the builder's phase, with the casts it needs."""
    kind = s.linear_dtype if dtype is None else dtype
    m, n, k = max(1, m), max(1, n), max(1, k)
    cast = s.cast_bytes(kind)
    if name in s.lora_targets:
        _adapter(b, s, name, group, m, n, k)
    if group != "head":
        dequantise(b, s, name, n, k)
    if b.phase in (FORWARD, RECOMPUTE):
        if cast:
            b.compute(f"{name} cast", "cast", MEMORY, s.dtype, moved=cast * m * k)
        b.compute(name, group, GEMM, kind, (m, n, k, 1))
    elif b.phase == WEIGHT and not (s.trains_head if group == "head" else not s.frozen):
        return  # the weights are frozen
    elif b.phase == BACKWARD:
        if cast:
            b.compute(f"{name} gradient cast", "cast", MEMORY, s.dtype, moved=cast * m * n)
        b.compute(f"{name} dgrad", group, GEMM, kind, (m, k, n, 1))
    else:
        moved = s.fused_accumulation_bytes * n * k
        rate = s.stack.weight_gradient_compute(DTYPES[kind])
        b.compute(f"{name} wgrad", group, GEMM, kind, (n, k, m, 1), moved=moved, rate=rate)
        accumulate(b, s, name, float(n) * k)


def _adapter(b: Builder, s: Shape, name: str, group: str, m: int, n: int, k: int) -> None:
    """Add the two thin products of an adapter, and the sum with the frozen product's output.

    Forward x A^T and its product with B^T; backward the gradients through both, behind which the
    gradients of A and B follow.
    """
    r = s.lora_rank
    if b.phase in (FORWARD, RECOMPUTE):
        thin, moved = [(m, r, k, 1), (m, n, r, 1)], 3.0 * m * n
    elif b.phase == BACKWARD:
        thin, moved = [(m, r, n, 1), (m, k, r, 1)], 3.0 * m * k
    else:
        thin, moved = [(n, r, m, 1), (r, k, m, 1)], 0.0
    for letter, shape in zip("AB" if b.phase in (FORWARD, RECOMPUTE) else "BA", thin, strict=True):
        b.compute(f"{name} adapter {letter}", group, GEMM, s.dtype, shape)
    if moved:
        moved *= s.element * s.stack.elementwise_factor
        b.compute(f"{name} adapter sum", group, MEMORY, s.dtype, moved=moved)
