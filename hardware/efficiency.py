"""How close a device comes to its datasheet, kernel by kernel: parameters with meaning and unit.

A profile may carry fitted values; where it does not, the universal values of its class apply.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmEfficiency:
    """Parameters of the GEMM tile model for one device, library and dtype."""

    launch_s: float
    """Time of an empty kernel under graph replay, s (t0)."""
    compute: float
    """Fraction of the datasheet peak that a full wave reaches (ec)."""
    memory: float
    """Fraction of the datasheet HBM bandwidth that a GEMM reaches (em)."""
    l2_bytes_per_flop: float
    """L2-to-SM bytes per peak FLOP: bandwidth of one SM is this times its peak (beta)."""
    tile_s: float
    """Prologue and epilogue of one tile wave, s (te)."""
    split_s: float
    """Extra time of a split-K reduction, s (ts)."""
    sharpness: float
    """Exponent p joining compute and memory time: T = (X^p + M^p)^(1/p)."""
    step_s: float
    """Latency of one 64-wide step of the K loop, s (tl)."""
    quantise_s: float = 0.0
    """Fixed time of dynamic quantisation of the activation, s (tq0)."""
    quantise_memory: float = 1.0
    """Fraction of HBM bandwidth that the quantisation reaches (bq)."""
    wave_blend: float = 0.0
    """Last wave of tiles: 0 when it costs a whole one, 1 when it costs its share (wb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEfficiency:
    """Parameters of the fused-attention tile model for one device and dtype."""

    launch_s: float
    compute: float
    """Fraction of peak in the matrix products (e)."""
    softmax_s_per_score: float
    """Softmax time per score element on the whole device's SM, s (cx)."""
    block_s: float
    """Fixed time of one thread block, s (tp)."""
    tail: float
    """Weight of the last, unbalanced wave (phi)."""
    memory: float
    sharpness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveEfficiency:
    """T = base + per_rank (n-2) + w S / (B eff n/(n+delta)) + ramp (S/1 MB)^gamma, one node.

    w is 2(n-1)/n for all-reduce and (n-1)/n for the others; B is the scale-up bandwidth.
    """

    base_s: float
    per_rank_s: float
    bandwidth: float
    """Fraction of the scale-up bandwidth reached by large messages and many ranks."""
    ramp_s: float
    gamma: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Everything a roofline needs beside the datasheet."""

    rung: str
    """"fitted" when measured on this device, "universal" when taken from its class."""
    gemm: dict[str, GemmEfficiency]
    """By dtype: bf16 (also fp16), fp8, tf32, fp32."""
    attention: dict[str, AttentionEfficiency]
    """By dtype: bf16, fp8; fp32 where it was measured."""
    collectives: dict[str, CollectiveEfficiency]
    """By operation: all_reduce, all_gather, reduce_scatter, all_to_all."""
    elementwise_memory: float
    """Fraction of HBM bandwidth that element-wise kernels reach."""
    elementwise_launch_s: float
    """Fixed time of an element-wise kernel, s."""
    sustained: dict[str, float]
    """By dtype: clock under long load over clock of a short burst."""
    sustained_after_s: float
    """Kernel duration at which half of the throttling shows, s."""
    source: str
