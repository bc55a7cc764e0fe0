"""What kinds of kernel tables there are, told apart by their columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError

LATENCY = "latency_us"
MOST_COUNT = 2**53
"""Largest count: above it float64 is not exact, and no shape comes near."""
MOST_LATENCY_US = 1e12


@dataclass(frozen=True, slots=True)
class Kind:
    """Columns of one kind of table."""

    name: str
    counts: tuple[str, ...]
    """Whole numbers, the shape."""
    texts: tuple[str, ...]
    latency: str = LATENCY
    may_be_zero: tuple[str, ...] = ("window",)
    """Counts that start at 0; the others at 1."""
    to_us: float = 1.0
    """What a latency is multiplied by to be in microseconds."""
    numbers: tuple[str, ...] = ()
    """Measured figures that a row may lack."""
    optional: tuple[str, ...] = ()
    """Texts that older files lack: ``unknown`` there."""
    optional_counts: tuple[str, ...] = ()
    """Counts that older files lack: 0 there."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a table of this kind must have."""
        latency = (self.latency,) if self.latency else ()
        return (*self.counts, *self.texts, *self.numbers, *latency)


_WHO = ("backend", "version", "kernel")
_ATTENTION = ("heads", "kv_heads", "head_dim", "window")
KINDS = (
    Kind("gemm", ("m", "n", "k"), ("dtype", *_WHO)),
    Kind("prefill", ("batch", "seq_len", *_ATTENTION), ("attn_dtype", "kv_dtype", *_WHO)),
    Kind("decode", ("batch", "kv_len", *_ATTENTION), ("attn_dtype", "kv_dtype", *_WHO)),
    Kind(
        "moe",
        ("tokens", "hidden", "ffn", "top_k", "experts", "tp", "ep"),
        ("dtype", "distribution", *_WHO),
    ),
    Kind("collective", ("num_gpus", "bytes"), ("op", "dtype", *_WHO)),
)
TPU_LAYERS = Kind("tpu_layers", ("tokens", "k", "n"), ("layer",), "us")
"""GEMM of a model's layers on a TPU: read as ``gemm``."""
TRACE_GEMM = Kind(
    "trace_gemm", ("N", "K"), ("op", "phase", "precision", "M_rows"), "mean_us", ("N", "K")
)
"""GEMM of a profiled training step: read as ``gemm``."""


def _aic(name: str, counts: tuple[str, ...], texts: tuple[str, ...], **zero: Any) -> Kind:
    return Kind(
        f"aiconfigurator {name}",
        counts,
        texts,
        latency="latency",
        to_us=1e3,
        optional=("framework", "version", "kernel_source"),
        **zero,
    )


AIC_GEMM = _aic("gemm", ("m", "n", "k"), ("gemm_dtype",))
AIC_ATTENTION = _aic(
    "attention",
    ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step"),
    ("op_name", "attn_dtype", "kv_cache_dtype"),
    may_be_zero=("step", "window_size"),
    optional_counts=("window_size",),
)
AIC_MOE = _aic(
    "moe",
    (
        *("num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
        *("moe_tp_size", "moe_ep_size"),
    ),
    ("moe_dtype", "distribution"),
)
AIC_NCCL = _aic("nccl", ("num_gpus", "message_size"), ("nccl_dtype", "op_name"))
AIC_ALLREDUCE = _aic("custom all-reduce", ("num_gpus", "message_size"), ("allreduce_dtype",))
"""Tables of NVIDIA's aiconfigurator as they are downloaded, in milliseconds."""
VIDUR_OPS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
"""Of a layer, the operators that are GEMM."""
VIDUR_MLP = Kind(
    "vidur mlp",
    (
        *("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens"),
        "num_tensor_parallel_workers",
    ),
    ("use_gated_mlp",),
    latency="",
    numbers=tuple(f"time_stats.{op}.median" for op in VIDUR_OPS),
)
VIDUR_ATTENTION = Kind(
    "vidur attention",
    (
        *("n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", "batch_size"),
        *("prefill_chunk_size", "kv_cache_size"),
    ),
    ("is_prefill",),
    latency="",
    may_be_zero=("prefill_chunk_size", "kv_cache_size"),
    numbers=("time_stats.attn_prefill.median", "time_stats.attn_decode.median"),
    optional=("attention_backend",),
)
VIDUR_COLLECTIVES = tuple(
    Kind(
        f"vidur {op}",
        ("num_workers", "size", "devices_per_node"),
        ("collective",),
        latency="",
        numbers=(f"time_stats.{op}.median",),
    )
    for op in ("all_reduce", "all_gather", "send_recv")
)
"""Profiles of Microsoft's vidur as they are downloaded, in milliseconds."""
OTHER_KINDS = (
    *(TPU_LAYERS, TRACE_GEMM),
    *(AIC_GEMM, AIC_ATTENTION, AIC_MOE, AIC_NCCL, AIC_ALLREDUCE),
    *(VIDUR_MLP, VIDUR_ATTENTION, *VIDUR_COLLECTIVES),
)


def tell_kind(path: Path, header: list[str]) -> Kind:
    """Return the kind of a table with these columns.

    Raises
    ------
    InputError
        Repeated columns, or no kind has all its columns here: the nearest kind is named with
        what is missing.
    """
    problems = []
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        problems.append(f"{path}: column {', '.join(repeated)} appears more than once")
    have = set(header)
    found = [kind for kind in (*KINDS, *OTHER_KINDS) if have.issuperset(kind.columns)]
    if len(found) == 1 and not problems:
        return found[0]
    if not found:
        kind = max((*KINDS, *OTHER_KINDS), key=lambda kind: _likeness(kind, have))
        missing = [column for column in kind.columns if column not in have]
        hint = ""
        if kind.latency and kind.latency in missing:
            others = [column for column in header if "latency" in column or column.endswith("_ms")]
            if others:
                hint = f" ({others[0]} is there: convert it to microseconds)"
        known = ", ".join(kind.name for kind in KINDS)
        problems.append(
            f"{path}: missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}{hint} "
            f"of a {kind.name} table, the nearest kind (of {known}); see docs/kernels.md"
        )
    elif len(found) > 1:
        names = " and ".join(kind.name for kind in found)
        problems.append(f"{path}: has the columns of {names}; keep those of one kind")
    raise InputError(problems)


def _likeness(kind: Kind, have: set[str]) -> float:
    shape = sum(column in have for column in kind.counts) / len(kind.counts)
    return shape + 0.1 * sum(column in have for column in (*kind.texts, *kind.numbers))
