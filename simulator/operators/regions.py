"""What surrounds the products of a block: tensor-parallel communication and the residual.

Tensors are split by columns, then by rows (Shoeybi et al. 2019, arXiv 1909.08053), sequence regions
as Korthikanti et al. 2022 (arXiv 2205.05198).
"""

from __future__ import annotations

from ridgeline.simulator.collectives.layout import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from ridgeline.simulator.operators.products import elementwise
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import FORWARD, RECOMPUTE, Builder


def entered(s: Shape, name: str, what: str) -> tuple[str, ...]:
    """Return the products that enter the tensor ranks behind ``name``; empty for no certain ones.

    Megatron launches the reduction of an input gradient, then the weight gradient of the same
    layer, and then waits (Korthikanti et al. 2022, section 6.2); likewise the second gather of a
    saved input and the input gradient. XLA's schedule ties them to no product.
    """
    if s.stack.tp_gradient_overlap <= s.stack.tp_overlap:
        return ()
    products = {
        "qkv": ("qkv", "query", "query up", "key-value up"),
        "mlp": ("mlp up", "shared expert up"),
    }.get(name, (name,))
    if name == "qkv" and s.model.parallel_block:
        products += ("mlp up",)
    return tuple(f"{product} {what}" for product in products)


def gradient_overlap(s: Shape) -> float:
    """Return the share of an input gradient's reduction that may hide."""
    return max(s.stack.tp_overlap, s.stack.tp_gradient_overlap)


def enter(b: Builder, s: Shape, name: str) -> None:
    """Communicate before a column-parallel matrix product (backward: behind its gradient).

    MLA gathers its latents in place of the hidden state where all queries come from them.
    """
    a = s.model.attention
    latent = name == "qkv" and s.sp and a.kind == "mla" and a.q_lora_rank > 0
    width = a.q_lora_rank + a.kv_lora_rank + a.rope_head_dim if latent else s.model.hidden
    moved = s.tokens * width * s.element
    g, overlap = s.groups.tp, s.stack.tp_overlap
    if b.phase in (FORWARD, RECOMPUTE):
        if s.sp:
            b.collective(
                f"{name} gather", "tp", ALL_GATHER, moved, g.size, g.stride, overlap=overlap
            )
    else:
        operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
        overlap, beside = gradient_overlap(s), entered(s, name, "wgrad")
        row = f"{name} gradient reduce"
        b.collective(row, "tp", operation, moved, g.size, g.stride, overlap=overlap, beside=beside)


def leave(b: Builder, s: Shape, name: str) -> None:
    """Communicate behind a row-parallel matrix product (backward: before its gradient)."""
    moved = s.tokens * s.model.hidden * s.element
    g, overlap = s.groups.tp, s.stack.tp_overlap
    if b.phase in (FORWARD, RECOMPUTE):
        operation = REDUCE_SCATTER if s.sp else ALL_REDUCE
        b.collective(f"{name} reduce", "tp", operation, moved, g.size, g.stride, overlap=overlap)
    elif s.sp:
        b.collective(
            f"{name} gradient gather", "tp", ALL_GATHER, moved, g.size, g.stride, overlap=overlap
        )


def regather(b: Builder, s: Shape, name: str) -> None:
    """Gather the saved input again for its weight gradient; hidden behind the input gradient."""
    trained = not s.frozen or any(target.startswith(name) for target in s.lora_targets)
    if s.sp and s.tp > 1 and trained:
        moved = s.tokens * s.model.hidden * s.element
        g, beside = s.groups.tp, entered(s, name, "dgrad")
        row = f"{name} input gather"
        b.collective(row, "tp", ALL_GATHER, moved, g.size, g.stride, overlap=1.0, beside=beside)


def residual(b: Builder, s: Shape, name: str) -> None:
    """Bias, dropout and residual in one kernel: reads x and the residual, writes the sum."""
    mask = 1.0 / s.element if s.stack.dropout else 0.0
    elementwise(b, s, f"{name} residual", "norm", s.model.hidden, 3.0 + mask, region=True)
    if s.model.norms_per_layer > 2:
        elementwise(b, s, f"{name} post-norm", "norm", s.model.hidden, 2.0, region=True)


def residual_backward(b: Builder, s: Shape, name: str) -> None:
    """Gradient through dropout, and the sum of the two branches of the residual."""
    mask = (2.0 + 1.0 / s.element) if s.stack.dropout else 0.0
    elementwise(b, s, f"{name} residual gradient", "norm", s.model.hidden, 3.0 + mask, region=True)
    if s.model.norms_per_layer > 2:
        elementwise(b, s, f"{name} post-norm gradient", "norm", s.model.hidden, 3.0, region=True)
