"""What a service's precision means to its weights, matrix products and cache."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.model import Model


@dataclass(frozen=True, slots=True)
class Format:
    """How a weight is kept and multiplied."""

    kernel: str
    """Dtype of the kernel sets that run it (``roofline.gemm_parameters.FORMATS``)."""
    expert_kernels: tuple[str, ...]
    """Dtypes of the expert sets that run it, first found first (``moe.layer.PRECISIONS``)."""
    compute: str
    """Number format that is multiplied."""
    weight_bytes: float
    """Of one weight, scales counted in."""
    activation_bytes: float
    """Of one operand beside it."""


_HALF = Format("bfloat16", ("bfloat16",), "bf16", 2.0, 2.0)
FORMATS = {
    "fp32": Format("float32", (), "fp32", 4.0, 4.0),
    "fp16": Format("float16", ("bfloat16",), "fp16", 2.0, 2.0),
    "bf16": _HALF,
    # one scale for a tensor or a row
    "fp8": Format("fp8", ("fp8", "fp8_block"), "fp8", 1.0, 1.0),
    # one fp32 scale for 128 x 128 weights (DeepSeek-V3 report, 3.3.2)
    "fp8_block": Format("fp8_block", ("fp8_block", "fp8"), "fp8", 1.0 + 4 / 128**2, 1.0 + 4 / 128),
    "int8": Format("sq", (), "int8", 1.0, 1.0),
    # one fp16 scale for 128 weights, which are expanded to 16 bits in registers (Frantar et al.
    # 2024, Marlin, arXiv 2408.11743)
    "w4a16": Format("int4_wo", ("int4_wo", "w4a16_mxfp4"), "bf16", 0.5 + 2 / 128, 2.0),
    "w8a16": Format("int8_wo", (), "bf16", 1.0, 2.0),
    # one fp8 scale for 16 values (NVIDIA, NVFP4)
    "nvfp4": Format("nvfp4", ("nvfp4",), "fp4", 0.5 + 1 / 16, 0.5 + 1 / 16),
    # one 8-bit exponent for 32 values (OCP Microscaling Formats 1.0); weights alone
    "mxfp4": Format("int4_wo", ("w4a16_mxfp4", "w4a8_mxfp4_mxfp8"), "bf16", 0.5 + 1 / 32, 2.0),
}
"""By precision of a service."""

EXPERTS_ALONE = ("w4a16", "mxfp4")
"""On a mixture of experts these formats keep attention and dense layers in 16 bits, as published
checkpoints do: Kimi-K2 INT4, gpt-oss MXFP4 (model cards). NVFP4 takes every product of a layer,
but the projections of latent and of linear attention (DeepSeek-R1-NVFP4, Qwen3.5-NVFP4)."""

KV_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
"""Of a cached value; scales of a whole head or token are under 1% and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Number formats of a service by part of the model.

    Embedding, output projection, router and norms stay in 16 bits under every precision (ModelOpt
    and compressed-tensors recipes exclude ``lm_head`` and gates).
    """

    linear: Format
    """Dense and shared MLPs."""
    attention: Format
    """Projections of attention: ``linear`` or ``plain``."""
    experts: Format
    plain: Format
    """Embedding, head, router, norms, activations between kernels."""
    kv: str
    kv_bytes: float
    """Of one cached value."""


def scheme(model: Model, precision: str, kv_precision: str) -> Scheme:
    """Return the number formats of a model served in a precision.

    Parameters
    ----------
    model
        What is served.
    precision, kv_precision
        Of the service and of its cache.

    Raises
    ------
    InputError
        A precision that is not known.
    """
    problems = [
        f"{what} {given!r}: unknown; {nearest(given, known)}"
        for what, given, known in (
            ("precision", precision, tuple(FORMATS)),
            ("kv_precision", kv_precision, tuple(KV_BYTES)),
        )
        if given not in known
    ]
    if problems:
        raise InputError(problems)
    chosen = FORMATS[precision]
    plain = FORMATS[precision] if precision in ("fp32", "fp16") else _HALF
    alone = model.moe is not None and precision in EXPERTS_ALONE
    narrow = model.attention.kind == "mla" or model.linear is not None
    return Scheme(
        linear=plain if alone else chosen,
        attention=plain if alone or (narrow and precision == "nvfp4") else chosen,
        experts=chosen,
        plain=plain,
        kv=kv_precision,
        kv_bytes=KV_BYTES[kv_precision],
    )
