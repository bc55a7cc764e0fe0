"""Matrix products of one pass on one rank, and their price by the engine's kernels.

Shapes: t tokens of the rank, h hidden, f ffn_hidden, a heads, g kv_heads, d head_dim (all after
tensor parallelism, Shoeybi et al. 2019, arXiv 1909.08053), v vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.hardware.kernels import KernelSet
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.simulator.roofline.gemm_parameters import FORMATS, put_correction, put_parameters
from ridgeline.simulator.serving.constants import constants
from ridgeline.simulator.serving.kernel_choice import clock_share, gemm_set
from ridgeline.simulator.serving.layers import linear_sizes, memory_sizes
from ridgeline.simulator.serving.quantisation import Format, Scheme
from ridgeline.simulator.serving.shape import Shape
from ridgeline.workloads.parameters import LayerKind
from ridgeline.workloads.towers import cross_width

Floats = NDArray[np.float64]

LINEAR, PLAIN, EXPERTS = range(3)
"""Rows of the device table: formats of the scheme."""


@dataclass(frozen=True, slots=True)
class Product:
    """out[m,n] = x[m,k] W[n,k]^T, ``batch`` times with weights of their own."""

    n: int
    k: int
    batch: int = 1
    form: int = LINEAR
    share: float = 1.0
    """Of the tokens that reach it."""


def _split(width: int, ranks: int) -> int:
    return max(1, math.ceil(width / ranks))


def layer_products(s: Shape, kind: LayerKind, *, prefill: bool) -> list[Product]:
    """Return the products of one layer whose rows are the tokens of the rank.

    Parameters
    ----------
    s
        Local sizes.
    kind
        Which layer.
    prefill
        Latent attention (MLA) projects keys and values up for prompts and folds those projections
        into query and output for decodes (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
    """
    found = _mixer(s, kind, prefill=prefill)
    if s.scheme.attention != s.scheme.linear:
        found = [replace(product, form=PLAIN) for product in found]
    found += _cross(s)
    model, moe, tp = s.model, s.model.moe, s.service.tp
    fan = 2 if model.gated_mlp else 1
    width = model.ffn_hidden if kind.form.feed_forward == "mlp" else 0
    if kind.form.is_memory and model.memory is not None:
        found += [Product(*sizes) for sizes in memory_sizes(model.memory, model.hidden, tp)]
    if kind.is_moe and moe is not None:
        found.append(Product(moe.num_experts, model.hidden, form=PLAIN))
        width = moe.shared_ffn_hidden if moe.num_shared_experts else 0
    if width:
        inner = _split(width, tp)
        found += [Product(fan * inner, model.hidden), Product(model.hidden, inner)]
    share = kind.form.capacity
    if share < 1.0:
        found = [replace(product, share=share) for product in found]
        found.append(Product(1, model.hidden, form=PLAIN))
    return found


def _mixer(s: Shape, kind: LayerKind, *, prefill: bool) -> list[Product]:
    linear, model = s.model.linear, s.model
    if kind.is_linear and linear is not None:
        sizes = linear_sizes(linear, model.hidden, s.service.tp)
        return [Product(*size) for size in sizes]
    return _attention(s, prefill=prefill) if kind.form.mixer == "attention" else []


def _attention(s: Shape, *, prefill: bool) -> list[Product]:
    a, h = s.model.attention, s.model.hidden
    out = Product(h, s.heads * a.v_head_dim)
    if a.kind != "mla":
        queries = s.heads * (a.head_dim + (a.v_head_dim if a.output_gate else 0))
        qkv = Product(queries + s.kv_heads * (a.head_dim + a.v_head_dim), h)
        return [qkv, Product(3 * s.heads, h), out] if a.blocks is not None else [qkv, out]
    latent, nope = a.kv_lora_rank, a.head_dim - a.rope_head_dim
    if a.q_lora_rank:
        down = Product(a.q_lora_rank + latent + a.rope_head_dim, h)
        found = [down, Product(s.heads * a.head_dim, a.q_lora_rank)]
    else:
        found = [Product(s.heads * a.head_dim + latent + a.rope_head_dim, h)]
    if prefill:
        found.append(Product(s.heads * (nope + a.v_head_dim), latent))
    else:
        found += [
            Product(latent, nope, s.heads, PLAIN),
            Product(a.v_head_dim, latent, s.heads, PLAIN),
        ]
    if a.index_heads:
        keys = a.index_head_dim + a.index_heads
        found += [Product(a.index_heads * a.index_head_dim, a.q_lora_rank), Product(keys, h)]
    return [*found, out]


def key_value_products(s: Shape) -> list[Product]:
    """Return the products of a layer that make what a token leaves in the cache."""
    a, h = s.model.attention, s.model.hidden
    width = s.kv_heads * (a.head_dim + a.v_head_dim)
    return [Product(a.kv_lora_rank + a.rope_head_dim if a.kind == "mla" else width, h)]


def _cross(s: Shape) -> list[Product]:
    """Return queries and output of cross-attention; keys and values are made with the prompt."""
    if s.model.cross is None:
        return []
    width = _split(cross_width(s.model), s.service.tp)
    return [Product(width, s.model.hidden), Product(s.model.hidden, width)]


def head_products(s: Shape) -> list[Product]:
    """Return the output projection, whose rows are the tokens that are sampled.

    A model that answers with a vector has its pooler or classes, with a row for each input.
    """
    h = s.model.hidden
    if s.model.head == "none":
        return []
    if s.model.head != "logits":
        return [Product(s.model.outputs or h, h, form=PLAIN)]
    return [Product(_split(s.model.vocab, s.service.tp), s.model.hidden, form=PLAIN)]


def device_table(s: Shape) -> Floats:
    """Return a device table with the engine's kernels in the rows LINEAR, PLAIN and EXPERTS.

    Weights of a layer are cold when its turn comes, so that nothing of a benchmark's warm L2
    counts. Fusion takes ``quantise_fused`` of what launching a quantised product costs more than
    launching a plain one.
    """
    table = np.zeros((len(layout.DTYPES), layout.PARAMETERS + layout.CORRECTIONS))
    forms = {PLAIN: s.scheme.plain, LINEAR: s.scheme.linear, EXPERTS: s.scheme.experts}
    for index, form in forms.items():
        _put_row(table[index], s, form)
        launch = table[PLAIN, layout.GEMM_LAUNCH]
        row = table[index]
        more = row[layout.GEMM_LAUNCH] + row[layout.QUANTISE] - launch
        fused = s.engine.fuses_blocks or form.kernel != "fp8_block"
        removed = s.engine.quantise_fused * max(0.0, more) if fused and _quantised(form) else 0.0
        apart = min(removed, row[layout.QUANTISE])
        row[layout.QUANTISE] -= apart
        row[layout.GEMM_LAUNCH] -= removed - apart
    table.flags.writeable = False
    return table


def _quantised(form: Format) -> bool:
    known = FORMATS.get(form.kernel)
    return known is not None and known.quantised


def _put_row(row: Floats, s: Shape, form: Format) -> None:
    burst = device_parameters(s.accelerator, sustained=False)
    row[: layout.PARAMETERS] = burst[layout.DTYPES.index(form.compute)]
    chosen = None if weights_alone(form) else _chosen(s, form)
    if chosen is not None:
        put_parameters(row, chosen.dtype, chosen.parameters)
        put_correction(row[layout.PARAMETERS :], chosen.correction)
        row[layout.WARM_SHARE] = 0.0
    row[layout.WEIGHT_BYTES] = form.weight_bytes
    row[layout.ELEMENT_BYTES] = form.activation_bytes
    row[layout.SUSTAINED] = clock_share(s.accelerator, s.device, form.compute)
    if row[layout.SUSTAINED] < 1.0:
        # a cap holds for the whole pass, in which no kernel runs alone: short ones have it too
        row[layout.SUSTAINED_AFTER] = 0.0


def weights_alone(form: Format) -> bool:
    """Whether weights are kept narrower than the 16 bits in which they are multiplied."""
    return form.weight_bytes < 2.0 <= form.activation_bytes


_NEAREST = {
    "fp8_block": ("fp8_block", "fp8"),
    "sq": ("sq", "fp8"),
    "float16": ("float16", "bfloat16"),
}
"""Dtypes of sets that price a format, first found first. Weight-only products have none: the one
table of such kernels is of TensorRT plugins from before Marlin."""
_EXPANDED_ROWS = 64.0
"""Rows for which weights are expanded once (IST-DASLab/marlin issue 2: more run it again)."""
_EXPAND_SHARPNESS = 4.0
"""How far streaming and multiplying overlap: nearly wholly (asynchronous copies)."""


def _chosen(s: Shape, form: Format) -> KernelSet | None:
    for dtype in _NEAREST.get(form.kernel, (form.kernel,)):
        found = gemm_set(s.device, s.engine.library, dtype)
        if found is not None:
            return found
    return None


def products_seconds(products: Counter[Product], rows: Floats, s: Shape, table: Floats) -> Floats:
    """Return the seconds of all products together, float64[T], for ``rows`` float64[T] of each.

    Parameters
    ----------
    products
        With how often each runs.
    rows
        Rows of x (per copy of a batched product), rounded up.
    s
        Local sizes.
    table
        From ``device_table``.
    """
    prepared = _PREPARED.of(
        (products, table, s.scheme), lambda: _prepare(products, table, s.scheme)
    )
    total = np.zeros(len(rows))
    for product in prepared.expanded:
        reached = np.maximum(1.0, np.ceil(rows * product.share))
        total += products[product] * _expanded_seconds(product, reached, s)
    if len(prepared.times):
        m = np.maximum(1.0, np.ceil(prepared.shares * rows))
        total += prepared.times @ _tiled_seconds(prepared, m, table)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """Products as arrays, which do not change between calls."""

    expanded: list[Product]
    """Those whose weights alone are narrow."""
    times: Floats
    """float64[P], how often each of the others runs."""
    shares: Floats
    """float64[P, 1]."""
    forms: NDArray[np.int8]
    """int8[P]."""
    dims: NDArray[np.int64]
    """int64[P, 1, DIMS], with 0 rows."""


_PREPARED = ByIdentity[_Prepared](1024)


def _prepare(products: Counter[Product], table: Floats, formats: Scheme) -> _Prepared:
    narrow = weights_alone(formats.linear)
    expanded = [product for product in products if narrow and product.form == LINEAR]
    tiled = [product for product in products if not narrow or product.form != LINEAR]
    forms = np.array([p.form for p in tiled], np.int8)
    dims = np.zeros((len(tiled), 1, layout.DIMS), np.int64)
    if tiled:
        dims[:, 0, 1:4] = [(p.n, p.k, p.batch) for p in tiled]
    dims[:, 0, 4] = table[forms, layout.ELEMENT_BYTES] < 2.0
    return _Prepared(
        expanded=expanded,
        times=np.array([products[product] for product in tiled], float),
        shares=np.array([[product.share] for product in tiled]),
        forms=forms,
        dims=dims,
    )


_PLAIN_EXTRA = np.array([0.0, 1.0, 1.0])
"""No bytes beside, as fast as fitted, no skew."""


def _tiled_seconds(prepared: _Prepared, m: Floats, table: Floats) -> Floats:
    """Return the seconds of each product at each m, float64[P, T], by the tile model or sets."""
    count, points = m.shape
    dims = np.empty((count, points, layout.DIMS), np.int64)
    dims[:] = prepared.dims
    dims[:, :, 0] = m
    extra = np.empty((count * points, layout.EXTRAS))
    extra[:] = _PLAIN_EXTRA
    kinds = np.full(count * points, layout.GEMM, np.int8)
    seconds = price_operators(
        kinds, np.repeat(prepared.forms, points), dims.reshape(-1, layout.DIMS), extra, table
    )
    return seconds.reshape(count, points)


def _expanded_seconds(product: Product, m: Floats, s: Shape) -> Floats:
    """Price a weight-only product: stream, expand and multiply overlap, the slowest counts most.

    T = t0 + (X^p + M^p)^(1/p), X = 2 r n k/(e P), M = max(bytes/(b HBM), n k/(c r)). Weights are
    expanded once for 64 rows, r = min(c, 64) + (c - 64)/s from there on, with c = ceil16(m) and s
    the rate of such a product over that of one of 16 bits (``Constants.expand_compute``).
    """
    accelerator, form = s.accelerator, s.scheme.linear
    row = device_parameters(accelerator, sustained=False)[layout.DTYPES.index(form.compute)]
    weights = float(product.n) * product.k * product.batch
    c = constants()
    tiles = np.ceil(m / c.expand_rows) * c.expand_rows
    if not accelerator.systolic:
        rate = c.expand_compute.get(accelerator.family, c.expand_compute["default"])
        tiles = tiles + np.maximum(0.0, tiles - _EXPANDED_ROWS) * (1.0 / rate - 1.0)
    compute = 2.0 * tiles * weights / (row[layout.GEMM_COMPUTE] * row[layout.PEAK])
    moved = weights * form.weight_bytes + 2.0 * m * product.batch * (product.n + product.k)
    streamed: Floats = moved / (c.expand_streamed * accelerator.memory_bytes_per_s)
    launch = c.expand_launch_s
    if accelerator.systolic:
        launch = accelerator.efficiency.elementwise_launch_s
    else:
        streamed = np.maximum(streamed, weights / (accelerator.cores * c.expanded_per_s))
    high, low = np.maximum(compute, streamed), np.minimum(compute, streamed)
    p = _EXPAND_SHARPNESS
    seconds: Floats = launch + high * (1.0 + (low / high) ** p) ** (1.0 / p)
    return seconds
