"""Kernel tables of other projects, as they are downloaded: aiconfigurator's and vidur's.

Columns and units are those of ai-dynamo/aiconfigurator (``collector/``, ``*_perf.txt``: ms,
messages in elements) and microsoft/vidur (``vidur/profiling``: ms, sizes in bytes of fp16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.validation.kernels.columns import (
    AIC_ALLREDUCE,
    AIC_ATTENTION,
    AIC_GEMM,
    AIC_MOE,
    AIC_NCCL,
    TPU_LAYERS,
    TRACE_GEMM,
    VIDUR_ATTENTION,
    VIDUR_COLLECTIVES,
    VIDUR_MLP,
    VIDUR_OPS,
    Kind,
)
from ridgeline.validation.kernels.other import from_layers, from_trace
from ridgeline.validation.kernels.table import KernelTable

Columns = Mapping[str, NDArray[Any]]

_ELEMENT_BYTES = {"half": 2, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1, "float": 4}
_ROW_LEFT_OUT = "no figure of it in the row"


def _table(
    path: str,
    kind: str,
    columns: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    filtered: list[tuple[int, str]] | None = None,
) -> KernelTable:
    if not len(rows):
        reason = f" ({filtered[0][1]})" if filtered else ""
        raise InputError(f"{path}: no row of it can be priced{reason}")
    return KernelTable(
        path=path, kind=kind, columns=columns, rows=rows, filtered=tuple(filtered or ())
    )


def _who(columns: Columns) -> dict[str, NDArray[Any]]:
    return {
        "latency_us": columns["latency_us"],
        "backend": np.char.lower(columns["framework"]),
        "version": columns["version"],
        "kernel": columns["kernel_source"],
    }


def _aic_gemm(path: str, columns: Columns) -> KernelTable:
    shape = {name: columns[name] for name in ("m", "n", "k")}
    made = shape | {"dtype": columns["gemm_dtype"]} | _who(columns)
    return _table(path, "gemm", made, np.arange(len(columns["m"])))


def _aic_attention(path: str, columns: Columns) -> KernelTable:
    """Return the rows of a context or of a generation table; ``op_name`` says which.

    A generated token reads ``isl + step`` keys, itself among them; a context row with a ``step``
    continues a cached prefix, which prefill tables do not have.
    """
    names = {str(name) for name in np.unique(columns["op_name"])}
    if names not in ({"context_attention"}, {"generation_attention"}):
        raise InputError(
            f"{path}: op_name = {', '.join(sorted(names))[:80]}: one table has context_attention "
            "or generation_attention only"
        )
    context = names == {"context_attention"}
    made = {
        "batch": columns["batch_size"],
        ("seq_len" if context else "kv_len"): columns["isl"]
        + (0 if context else 1) * columns["step"],
        "heads": columns["num_heads"],
        "kv_heads": columns["num_key_value_heads"],
        "head_dim": columns["head_dim"],
        "window": columns["window_size"],
        "attn_dtype": columns["attn_dtype"],
        "kv_dtype": columns["kv_cache_dtype"],
    } | _who(columns)
    keep = columns["step"] == 0 if context else np.ones(len(columns["step"]), bool)
    filtered = [(int(row), "continues a cached prefix") for row in np.flatnonzero(~keep)]
    rows = np.flatnonzero(keep)
    kind = "prefill" if context else "decode"
    return _table(path, kind, {key: value[rows] for key, value in made.items()}, rows, filtered)


def _aic_moe(path: str, columns: Columns) -> KernelTable:
    names = {
        "tokens": "num_tokens",
        "hidden": "hidden_size",
        "ffn": "inter_size",
        "top_k": "topk",
        "experts": "num_experts",
        "tp": "moe_tp_size",
        "ep": "moe_ep_size",
        "dtype": "moe_dtype",
        "distribution": "distribution",
    }
    made = {ours: columns[theirs] for ours, theirs in names.items()} | _who(columns)
    return _table(path, "moe", made, np.arange(len(columns["topk"])))


def _aic_nccl(path: str, columns: Columns) -> KernelTable:
    made = _collective(path, columns, columns["nccl_dtype"])
    count = len(columns["num_gpus"])
    made |= {"op": columns["op_name"]}
    made |= {"backend": np.full(count, "nccl"), "kernel": np.full(count, "nccl")}
    return _table(path, "collective", made, np.arange(count))


def _aic_allreduce(path: str, columns: Columns) -> KernelTable:
    made = _collective(path, columns, columns["allreduce_dtype"])
    count = len(columns["num_gpus"])
    return _table(
        path, "collective", made | {"op": np.full(count, "custom_all_reduce")}, np.arange(count)
    )


def _collective(path: str, columns: Columns, dtype: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the columns of a table whose messages are counted in elements."""
    unknown = sorted({str(name) for name in np.unique(dtype)} - _ELEMENT_BYTES.keys())
    if unknown:
        raise InputError(
            f"{path}: dtype {unknown[0]!r} of messages is not known; known: "
            f"{', '.join(_ELEMENT_BYTES)}"
        )
    size = np.array([_ELEMENT_BYTES[str(name)] for name in dtype], np.int64)
    return _who(columns) | {
        "num_gpus": columns["num_gpus"],
        "bytes": columns["message_size"] * size,
        "dtype": dtype,
    }


def _vidur(
    path: str,
    kind: str,
    parts: list[tuple[str, NDArray[np.float64], dict[str, NDArray[Any]]]],
    filtered: list[tuple[int, str]],
) -> KernelTable:
    """Join parts (kernel, ms[N], columns) into one table; rows without a figure are left out.

    ``filtered`` says why rows were left out before, whose figures are NaN here.
    """
    made: dict[str, list[NDArray[Any]]] = {}
    rows: list[NDArray[np.int64]] = []
    told = {row for row, _ in filtered}
    for kernel, milliseconds, columns in parts:
        keep = np.flatnonzero(milliseconds > 0)
        filtered += [
            (row, f"{kernel}: {_ROW_LEFT_OUT}")
            for row in np.flatnonzero(~(milliseconds > 0)).tolist()
            if row not in told
        ]
        whole = columns | {
            "latency_us": milliseconds * 1e3,
            "backend": np.full(len(milliseconds), "vidur"),
            "version": np.full(len(milliseconds), "unknown"),
            "kernel": columns.get("kernel", np.full(len(milliseconds), kernel)),
        }
        for name, column in whole.items():
            made.setdefault(name, []).append(column[keep])
        rows.append(keep)
    return _table(
        path,
        kind,
        {name: np.concatenate(columns) for name, columns in made.items()},
        np.concatenate(rows),
        sorted(filtered),
    )


def _vidur_mlp(path: str, columns: Columns) -> KernelTable:
    """Return the four projections of a layer, split over tensor-parallel workers."""
    workers, hidden = columns["num_tensor_parallel_workers"], columns["n_embd"]
    head = hidden // columns["n_head"]
    gated = np.char.lower(columns["use_gated_mlp"]) == "true"
    qkv = (columns["n_head"] + 2 * columns["n_kv_head"]) * head // workers
    ffn = columns["n_expanded_embd"] // workers
    sizes = {
        "attn_pre_proj": (qkv, hidden),
        "attn_post_proj": (hidden, columns["n_head"] * head // workers),
        "mlp_up_proj": (np.where(gated, 2, 1) * ffn, hidden),
        "mlp_down_proj": (hidden, ffn),
    }
    least = np.minimum.reduce([np.minimum(n, k) for n, k in sizes.values()])
    if (least < 1).any():
        row = int(np.flatnonzero(least < 1)[0])
        raise InputError(f"{path}: row {row}: more tensor-parallel workers than there are columns")
    dtype = np.full(len(hidden), "float16")
    return _vidur(
        path,
        "gemm",
        [
            (
                op,
                columns[f"time_stats.{op}.median"],
                {"m": columns["num_tokens"], "n": sizes[op][0], "k": sizes[op][1], "dtype": dtype},
            )
            for op in VIDUR_OPS
        ],
        [],
    )


def _vidur_attention(path: str, columns: Columns) -> KernelTable:
    """Return the decoding rows, or the prefill rows where there are no others."""
    prefill = np.char.lower(columns["is_prefill"]) == "true"
    both = bool(prefill.any() and not prefill.all())
    decode = not bool(prefill.all())
    workers = columns["num_tensor_parallel_workers"]
    fp16 = np.full(len(workers), "float16")
    made = {
        "batch": columns["batch_size"],
        "heads": np.maximum(1, columns["n_q_head"] // workers),
        "kv_heads": np.maximum(1, columns["n_kv_head"] // workers),
        "head_dim": columns["n_embd"] // columns["n_q_head"],
        "window": np.zeros(len(workers), np.int64),
        "attn_dtype": fp16,
        "kv_dtype": fp16,
        "kernel": columns["attention_backend"],
    }
    filtered: list[tuple[int, str]] = []
    if decode:
        made["kv_len"] = columns["kv_cache_size"] + 1
        milliseconds = np.where(prefill, np.nan, columns["time_stats.attn_decode.median"])
        if both:
            reason = "a prefill row among decoding rows; give them as a file of their own"
            filtered = [(int(row), reason) for row in np.flatnonzero(prefill)]
    else:
        made["seq_len"] = columns["prefill_chunk_size"]
        cached = columns["kv_cache_size"] > 0
        milliseconds = np.where(cached, np.nan, columns["time_stats.attn_prefill.median"])
        filtered = [(int(row), "continues a cached prefix") for row in np.flatnonzero(cached)]
    return _vidur(
        path, "decode" if decode else "prefill", [("attention", milliseconds, made)], filtered
    )


def _vidur_collective(path: str, columns: Columns) -> KernelTable:
    """Return the collectives inside one node: those of a table are of one node."""
    (name,) = (name for name in columns if name.startswith("time_stats."))
    op = name.split(".")[1]
    if op == "send_recv":
        raise InputError(f"{path}: sends to one peer; give a table of collectives")
    inside = columns["num_workers"] <= columns["devices_per_node"]
    reason = "crosses nodes"
    return _vidur(
        path,
        "collective",
        [
            (
                "nccl",
                np.where(inside, columns[name], np.nan),
                {
                    "op": np.full(len(inside), op),
                    "num_gpus": columns["num_workers"],
                    "bytes": columns["size"],
                    "dtype": np.full(len(inside), "half"),
                },
            )
        ],
        [(int(row), reason) for row in np.flatnonzero(~inside)],
    )


CONVERTERS: dict[Kind, Callable[[str, Columns], KernelTable]] = {
    TPU_LAYERS: from_layers,
    TRACE_GEMM: from_trace,
    AIC_GEMM: _aic_gemm,
    AIC_ATTENTION: _aic_attention,
    AIC_MOE: _aic_moe,
    AIC_NCCL: _aic_nccl,
    AIC_ALLREDUCE: _aic_allreduce,
    VIDUR_MLP: _vidur_mlp,
    VIDUR_ATTENTION: _vidur_attention,
    **dict.fromkeys(VIDUR_COLLECTIVES, _vidur_collective),
}
"""From the columns of each kind of table to one that is read everywhere."""
