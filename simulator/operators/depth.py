"""Layers that take a share of the tokens: their router, and the way in and out.

Mixture of depths (Raposo et al. 2024, arXiv:2404.02258): of each sequence the tokens with the
highest scores go through the layer, as a sequence of their own that is shorter; the others pass by
on the residual stream. Mixture of recursions (arXiv:2507.10524) does so at each recursion.
"""

from __future__ import annotations

from dataclasses import replace

from ridgeline.simulator.operators.products import elementwise
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, Builder
from ridgeline.simulator.roofline.layout import GEMM


def taken(s: Shape, capacity: float) -> Shape:
    """Return the sizes of a layer that takes ``capacity`` of the tokens of each sequence."""
    if capacity >= 1.0:
        return s
    seq_len = max(1, round(capacity * s.seq_len))
    local_seq = max(1, round(capacity * s.local_seq))
    tokens = s.sequences * local_seq
    return replace(
        s,
        seq_len=seq_len,
        local_seq=local_seq,
        tokens=tokens,
        region_tokens=max(1, tokens // s.tp) if s.sp else tokens,
    )


def route(b: Builder, s: Shape, inner: Shape) -> None:
    """Add the router in the builder's phase: a score a token, and the rows that it moves.

    Forward the chosen rows are gathered, and their results weighted and added to the stream;
    backward the other way round.
    """
    if inner is s:
        return
    h = s.model.hidden
    if b.phase in (FORWARD, RECOMPUTE):
        b.compute("depth router", "norm", GEMM, s.dtype, (max(1, s.region_tokens), 1, h, 1))
        elementwise(b, inner, "depth gather", "norm", h, 2.0, region=True)
        if b.phase == FORWARD:
            elementwise(b, inner, "depth scatter", "norm", h, 3.0, region=True)
    elif b.phase == BACKWARD:
        elementwise(b, inner, "depth scatter gradient", "norm", h, 3.0, region=True)
        elementwise(b, inner, "depth gather gradient", "norm", h, 3.0, region=True)
        b.compute("depth router dgrad", "norm", GEMM, s.dtype, (max(1, s.region_tokens), h, 1, 1))
    else:
        b.compute("depth router wgrad", "norm", GEMM, s.dtype, (1, h, max(1, s.region_tokens), 1))
