"""Number formats as kernel tables spell them, and what each computes in and stores."""

from __future__ import annotations

from dataclasses import dataclass

_SAME = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float8_e4m3fn": "fp8",
}


def plain_dtype(dtype: str) -> str:
    """Return one spelling of a number format: ``bfloat16/fp8`` is ``bf16/fp8``."""
    return "/".join(_SAME.get(part, part) for part in dtype.lower().split("/"))


@dataclass(frozen=True, slots=True)
class GemmFormat:
    """What a GEMM of some format is."""

    compute: str
    """Format of the matrix unit, a key of ``Accelerator.peak_flops``."""
    weight_bytes: float
    activation_bytes: float
    quantised: bool
    """The activation arrives in 16 bits and is quantised by the call."""


GEMM_FORMATS = {
    "bf16": GemmFormat("bf16", 2.0, 2.0, quantised=False),
    "fp16": GemmFormat("fp16", 2.0, 2.0, quantised=False),
    "tf32": GemmFormat("tf32", 4.0, 4.0, quantised=False),
    "fp32": GemmFormat("fp32", 4.0, 4.0, quantised=False),
    "fp8": GemmFormat("fp8", 1.0, 1.0, quantised=True),
    "fp8_block": GemmFormat("fp8", 1.0, 1.0, quantised=True),
    "nvfp4": GemmFormat("fp4", 0.5, 0.5, quantised=True),
    "mxfp4": GemmFormat("fp4", 0.5, 0.5, quantised=True),
    "sq": GemmFormat("int8", 1.0, 1.0, quantised=True),
    "int8_wo": GemmFormat("bf16", 1.0, 2.0, quantised=False),
    "int4_wo": GemmFormat("bf16", 0.5, 2.0, quantised=False),
    "w4a16_mxfp4": GemmFormat("bf16", 0.5, 2.0, quantised=False),
    "w4a8_mxfp4_mxfp8": GemmFormat("fp8", 0.5, 1.0, quantised=True),
}
