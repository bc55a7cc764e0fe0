"""What kinds of kernel tables there are, told apart by their columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a table of this kind must have."""
        return (*self.counts, *self.texts, self.latency)


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
OTHER_KINDS = (TPU_LAYERS, TRACE_GEMM)


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
        if kind.latency in missing:
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
    return shape + 0.1 * sum(column in have for column in kind.texts)
