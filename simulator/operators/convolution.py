"""Long convolutions in training: projections, gates, and transforms by FFT or as products.

Shapes: c channels of a rank times sequences, s sequence length, n = 2 s points of a transform of
the sequence padded against wrapping around.

Two implementations (``LongConvolution.implementation``): ``cufft`` is the framework's: each step is
a kernel over tensors in memory. ``monarch`` is FlashFFTConv (Fu et al. 2023, arXiv:2311.05908): the
transform of a real sequence, half as many complex points, is a product of p Fourier matrices of N_i
points each, done on matrix units with the sequence kept on the chip as long as it fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, RECOMPUTE, WEIGHT, Builder
from ridgeline.simulator.roofline.layout import FUSED, MEMORY
from ridgeline.workloads.model import Model

ON_CHIP_POINTS = 16384
"""Complex numbers of 8 bytes that a thread block's memory holds: 128 of 164 (A100) or 228 (H100)
KiB. A longer transform goes through memory."""
LARGEST_FACTOR = 32
"""N_i at most: Fourier matrices up to it stay in registers (arXiv:2311.05908, section 3.1)."""
_FULL, _COMPLEX = 4.0, 8.0
"""Bytes of a real and a complex number in fp32, in which frameworks transform."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a convolution over all its channels."""

    name: str
    moved: float
    """HBM bytes."""
    points: int = 0
    """Complex points of a transform by products, 0 for none."""
    width: int = 0
    """Sum of its factors N_i, both ways."""
    products: int = 0
    """Their number, both ways."""
    batch: float = 0.0
    """Transforms."""


def factors(points: int) -> tuple[int, ...]:
    """Return the factors N_i of a transform by products: as few and as even as may be."""
    bits = max(4, ceil(log2(max(points, 2))))
    parts = max(1, ceil(bits / log2(LARGEST_FACTOR)))
    small, more = divmod(bits, parts)
    return tuple(2 ** (small + (place < more)) for place in range(parts))


def convolution_kernels(
    channels: float, seq_len: int, element: float, implementation: str, *, gated: bool
) -> list[Kernel]:
    """Return the kernels of y = g2 * ((g1 * u) conv k) over ``channels`` sequences.

    cufft, by tensor of n real numbers or n / 2 complex ones (fp32): gate, cast, pad, transform,
    multiply by the filter's transform, copy (the way back destroys its input), transform, scale,
    cut out and cast, gate. A transform that fits on the chip reads and writes once; a longer one
    has two passes and a third that separates the halves of the real transform.

    monarch reads u and gates and writes y where it fits on the chip; longer sequences are cut by
    outer factors, each of which reads and writes the complex sequence twice, there and back.

    Parameters
    ----------
    channels
        Sequences times channels of the rank.
    seq_len
        s, tokens of a sequence.
    element
        Bytes of an activation.
    implementation
        One of ``mixers.IMPLEMENTATIONS``.
    gated
        Whether both gates are there.
    """
    real = channels * seq_len
    points = max(1, seq_len)
    gates = 2.0 if gated else 0.0
    if implementation == "cufft":
        passes = 1.0 if points <= ON_CHIP_POINTS else 3.0
        padded = 2.0 * real
        spectrum = _COMPLEX * real
        found = [
            Kernel("cast", real * (element + _FULL)),
            Kernel("pad", _FULL * (real + padded)),
            Kernel("transform", passes * (_FULL * padded + spectrum)),
            Kernel("filter product", 2.0 * spectrum),
            Kernel("copy", 2.0 * spectrum),
            Kernel("inverse transform", passes * (spectrum + _FULL * padded)),
            Kernel("scale", 2.0 * _FULL * padded),
            Kernel("cut and cast", real * (_FULL + element)),
        ]
        if gated:
            gate = 3.0 * element * real
            found = [Kernel("gate in", gate), *found, Kernel("gate out", gate)]
        return found
    inner = factors(min(points, 2 * ON_CHIP_POINTS))
    outer = factors(points // (2 * ON_CHIP_POINTS)) if points > 2 * ON_CHIP_POINTS else ()
    ends = element * real * (2.0 + gates)
    between = 2.0 * element * real
    found = [
        Kernel(
            "transforms",
            ends if not outer else 2.0 * between,
            points,
            2 * sum(inner),
            2 * len(inner),
            channels,
        )
    ]
    for place, factor in enumerate(outer):
        moved = 4.0 * between if place else ends + 2.0 * between
        found.append(Kernel("outer transforms", moved, points, 2 * factor, 2, channels))
    return found


Row = tuple[str, int, tuple[int, ...], float]
"""Name, kind and dimensions (``roofline.layout``) and HBM bytes of an operator."""


def kernel_rows(kernel: Kernel) -> list[Row]:
    """Return the operators of a kernel: products of complex matrices, and memory traffic.

    A complex product is four real ones. A sequence fills the chip, so that loading, multiplying
    and storing follow each other (arXiv:2311.05908, equation 2).
    """
    if not kernel.points:
        return [(kernel.name, MEMORY, (), kernel.moved)]
    # each product loads and stores the sequence
    dims = (2, kernel.points, 2 * kernel.width, max(1, round(kernel.batch)), 2 * kernel.products)
    return [
        (kernel.name, FUSED, dims, 0.0),
        (f"{kernel.name} traffic", MEMORY, (), kernel.moved),
    ]


def project(b: Builder, s: Shape) -> None:
    """Add the projections to value and gates."""
    model = s.model
    branches = (_order(model) + 1) * model.hidden
    linear(b, s, "convolution in", "attention", s.tokens, branches // s.tp, model.hidden)


def project_out(b: Builder, s: Shape) -> None:
    """Add the projection out of the layer."""
    h = s.model.hidden
    linear(b, s, "attention output", "attention", s.tokens, h, h // s.tp)


def convolve(b: Builder, s: Shape) -> None:
    """Add short and long convolutions and the filter's making in the builder's phase.

    The gradients of input and filter are two more convolutions by transforms that are made again;
    the filter's network runs once for all sequences of the rank.
    """
    if b.phase == WEIGHT:
        return
    model, convolution = s.model, s.model.convolution
    assert convolution is not None
    channels = s.sequences * model.hidden / s.tp
    width, count = model.hidden / s.tp, convolution.order - 1
    backward = b.phase == BACKWARD
    passes = 4.0 if backward else 2.0
    suffix = " gradient" if backward else ""
    branches = (convolution.order + 1) * width
    elementwise(b, s, f"short convolution{suffix}", "attention", branches, passes, region=False)
    filters = s.element * s.seq_len * (convolution.filter_dim + width * count) * passes
    b.compute(f"filter network{suffix}", "attention", MEMORY, s.dtype, moved=filters)
    kernels = convolution_kernels(
        channels, s.seq_len, s.element, convolution.implementation, gated=True
    )
    for _ in range(count * (2 if backward else 1)):
        for name, kind, dims, moved in (row for one in kernels for row in kernel_rows(one)):
            b.compute(f"convolution {name}{suffix}", "attention", kind, s.dtype, dims, moved=moved)
    assert b.phase in (FORWARD, RECOMPUTE, BACKWARD)


def _order(model: Model) -> int:
    assert model.convolution is not None
    return model.convolution.order
