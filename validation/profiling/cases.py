"""What a profile runs: one small program a case, with the sizes that a device can bear.

Sizes are those between which transformers of a few million to a few billion parameters lie. A grid
is cut by the time that a case may take, so that the same list serves a laptop and an H100.
"""

from __future__ import annotations

from dataclasses import dataclass

GEMM, GEMM_BACKWARD = "gemm", "gemm backward"
ATTENTION, ATTENTION_BACKWARD = "attention", "attention backward"
NORM, NORM_BACKWARD = "layer norm", "layer norm backward"
ACTIVATION, ACTIVATION_BACKWARD = "gelu", "gelu backward"
ADD, COPY, STACK = "add", "copy", "stack qkv gradient"
LOSS, OPTIMIZER = "cross-entropy", "adamw"
LAUNCH, GRAPH_LAUNCH = "eager launch", "graph launch"
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
COPY_BYTES = 2**26
"""Beyond every cache, so that it is the memory that is measured."""

_WIDTHS = (
    *((256, 256), (256, 1024), (1024, 256), (512, 512), (512, 2048), (2048, 512)),
    *((1024, 1024), (1024, 4096), (4096, 1024), (2048, 2048), (4096, 4096), (8192, 8192)),
)
"""(n, k) of matrix products: square, up and down projections."""
_ROWS = (64, 256, 1024, 4096, 16384)
_ATTENTION = (
    # batch, heads, sequence, head dimension
    *((4, 4, 128, 32), (2, 4, 256, 32), (2, 8, 128, 64), (1, 4, 512, 64), (1, 8, 256, 128)),
    *((1, 4, 1024, 64), (2, 16, 1024, 128), (4, 16, 2048, 128), (1, 32, 8192, 128)),
)
_TOKENS = ((64, 128), (128, 256), (256, 512), (1024, 256), (512, 768), (2048, 1024), (8192, 4096))
"""(tokens, width) of element-wise kernels."""
_LOGITS = ((128, 1024), (512, 4096), (2048, 8192), (4096, 32768))
_PARAMETERS = (2**18, 2**20, 2**22, 2**25)
_MESSAGES = (2**10, 2**13, 2**16, 2**19, 2**22, 2**24, 2**26)
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured program."""

    kind: str
    dtype: str
    dims: tuple[int, ...]
    """GEMM: m, n, k. Attention: batch, heads, sequence, head dimension. Element-wise and loss:
    rows, width. Optimizer: parameters. Copy and collectives: bytes."""

    @property
    def key(self) -> str:
        """Return a name that says everything, for files and complaints."""
        return f"{self.kind} {self.dtype} {'x'.join(map(str, self.dims))}"

    @property
    def flops(self) -> float:
        """Return the FLOPs of matrix products (causal attention counts half the square)."""
        if self.kind in (GEMM, GEMM_BACKWARD):
            m, n, k = self.dims
            return (2.0 if self.kind == GEMM else 4.0) * m * n * k
        if self.kind in (ATTENTION, ATTENTION_BACKWARD):
            batch, heads, seq, dim = self.dims
            return (2.0 if self.kind == ATTENTION else 5.0) * batch * heads * seq * seq * dim
        return 0.0


def case_of(key: str) -> Case:
    """Return the case that a key names."""
    kind, dtype, dims = key.rsplit(" ", 2)
    return Case(kind=kind, dtype=dtype, dims=tuple(int(side) for side in dims.split("x")))


def device_cases(
    dtypes: tuple[str, ...], flops: dict[str, float], most_s: float, *, graphs: bool
) -> list[Case]:
    """Return the cases of one rank.

    Parameters
    ----------
    dtypes
        Number formats; the first is the one in which everything but matrix products and
        attention is measured.
    flops
        A rough rate by dtype, FLOP/s.
    most_s
        A case may take so long, s.
    graphs
        Whether the device replays graphs of kernels.
    """
    kept: list[Case] = []
    for place, dtype in enumerate(dtypes):
        grid = [(m, n, k) for m in _ROWS for n, k in _WIDTHS]
        products = [
            case
            for kind in (GEMM, GEMM_BACKWARD)
            for case in (Case(kind=kind, dtype=dtype, dims=dims) for dims in grid)
            if case.flops <= most_s * flops[dtype]
        ]
        # one law needs no more than every other shape of the grid, and fewer keep a round short
        kept += products[1 :: 2 if place == 0 else 5]
        kept += [
            case
            for kind in (ATTENTION, ATTENTION_BACKWARD)
            for case in (Case(kind=kind, dtype=dtype, dims=dims) for dims in _ATTENTION)
            if place == 0 and case.flops <= 0.5 * most_s * flops[dtype]
        ]
    first = dtypes[0]
    memory = most_s * 2e8  # elements a second, rough: exponentials on one core
    for kind in (NORM, NORM_BACKWARD, ACTIVATION, ACTIVATION_BACKWARD, ADD, STACK):
        wide = 4 if "gelu" in kind else 1
        sizes = [(rows, width * wide) for rows, width in _TOKENS]
        kept += [Case(kind=kind, dtype=first, dims=d) for d in sizes if d[0] * d[1] <= memory]
    kept += [Case(kind=LOSS, dtype=first, dims=d) for d in _LOGITS if d[0] * d[1] <= memory]
    kept += [Case(kind=OPTIMIZER, dtype="fp32", dims=(n,)) for n in _PARAMETERS if n <= memory]
    kept += [Case(kind=COPY, dtype="fp32", dims=(COPY_BYTES,))]
    launches = (LAUNCH, GRAPH_LAUNCH) if graphs else (LAUNCH,)
    kept += [Case(kind=kind, dtype=first, dims=(1,)) for kind in launches]
    return kept


def collective_cases(ranks: int, most_s: float, *, graphs: bool) -> list[Case]:
    """Return the collectives of ``ranks`` processes that take at most about ``most_s``, s.

    None for one process. ``graphs`` tells a GPU's links from loopback sockets.
    """
    if ranks < 2:
        return []
    most = most_s * (1e10 if graphs else 4e8)
    sizes = [size for size in _MESSAGES if size <= most]
    return [Case(kind=kind, dtype="fp32", dims=(size,)) for kind in COLLECTIVES for size in sizes]
