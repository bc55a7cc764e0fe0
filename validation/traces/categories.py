"""What kind of work a kernel does, told by its name.

The first rule that matches decides. Names are those of cuBLAS, CUTLASS, cuDNN, hipBLASLt/Tensile,
composable kernel, Triton, PyTorch's own kernels, NCCL/RCCL and the inference engines.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ridgeline.validation.traces.records import (
    ATTENTION,
    COMMUNICATION,
    CONVOLUTION,
    COPY,
    ELEMENTWISE,
    GEMM,
    NORM,
    OPTIMIZER,
    OTHER,
)

_WORDS: dict[int, tuple[str, ...]] = {
    COMMUNICATION: (
        r"nccl|rccl|deep_?ep::|\bep::(?:inter|intra)node|multimem_|nvshmem|cross_device_reduce",
        r"quick_?(?:all_?)?reduce|custom_?all_?reduce|allreduce_fusion|(?:one|two)_?shot_?all",
        r"all-?reduce|all-?gather|reduce-?scatter|all-?to-?all|collective-?permute",
    ),
    COPY: (
        r"^mem(?:cpy|set)\b|^copy(?:buffer|hosttodevice|devicetohost)",
        r"__amd_rocclr_(?:copy|fill)",
    ),
    ATTENTION: (
        r"flash|fmha|\bmha_|attention|attn_(?:fwd|bwd|kernel)|_attn\b|paged_?kv|sdpa",
        r"mla_(?:decode|prefill)|flashinfer::(?:batch|single)",
    ),
    CONVOLUTION: (
        r"implicit_?gemm|convolution|conv[123]d|(?:wgrad|dgrad|fprop)_(?:optimized|implicit)",
        r"_xmma_(?:wgrad|dgrad|fprop)|cudnn_infer_\w*scudnn|winograd|cudnn::cnn|conv_depthwise",
        # cuDNN's own changes of layout, which only its convolutions need
        r"nchwtonhwc|nhwctonchw",
    ),
    GEMM: (
        r"gemm|cijk_|nvjet|\bgemv|_mm_kernel|matmul|\bdot[-_]|splitk_?reduce|wgmma|tensorop_",
        r"cublas|wvsplitk|skinny|marlin|machete|bmm",
    ),
    OPTIMIZER: (r"multi_tensor_apply|adamw?_|lamb_|fused_?(?:adam|optimizer)",),
    NORM: (r"norm|bn_(?:bw|fw)|welford",),
    ELEMENTWISE: (
        r"elementwise|vectorized_|unrolled_|catarray|copy_kernel|activation|act_and_mul|silu|gelu",
        r"swiglu|rotary|rope|reduce_kernel|softmax|index|gather|scatter|embedding|dropout|cast",
        r"quant|transpose|permute|fill|store_?kv|reshape_and_cache|triton_",
        r"fusion|broadcast|iota|pool|arange|masked|cross_?entropy|concat",
    ),
}
"""In order of precedence."""
_COMPILED = tuple(
    (category, re.compile("|".join(words), re.IGNORECASE)) for category, words in _WORDS.items()
)


@lru_cache(maxsize=65536)
def category_of(name: str) -> int:
    """Return the place in ``CATEGORIES`` of a kernel by its name."""
    for category, rule in _COMPILED:
        if rule.search(name):
            return category
    return OTHER
