"""How decode attention is laid out in arrays for the compiled kernel.

N shapes are ``shapes`` float64[N, SHAPE]: batch, heads, kv_heads, kv_len (the new token included),
window (keys that a query sees, 0 for all), qk_dim, v_dim and ``cached`` (values kept per token and
KV head: qk_dim + v_dim, or the latent width of MLA). Parameters are one float64[PARAMETERS].
"""

from __future__ import annotations

BATCH, HEADS, KV_HEADS, KV_LEN, WINDOW, QK_DIM, V_DIM, CACHED = range(8)
SHAPE = 8

DEVICE = ("peak_flops", "memory_bytes_per_s", "cores", "l2_bytes", "kv_element_bytes")
"""Leading parameters: the datasheet, and bytes of a cached value."""

FITTED = (
    "launch_s",
    "memory",
    "l2_speedup",
    "l2_share",
    "sharpness",
    "grouped_block_s",
    "grouped_step_s",
    "grouped_block_bytes_per_s",
    "grouped_combine_s",
    "grouped_combine_memory",
    "grouped_compute",
    "single_block_s",
    "single_step_s",
    "single_block_bytes_per_s",
    "single_combine_s",
    "single_combine_memory",
    "group_rows",
    "group_min",
    "group_max",
)
"""Names of a decode set's parameters, in the order in which the kernel reads them (after DEVICE).

====================  =============================================================================
launch_s              replayed launch of an empty call, s (t0)
memory                fraction of HBM bandwidth that KV reads reach (em)
l2_speedup            L2 over HBM bandwidth (l)
l2_share              half of the traffic misses when it is this share of the L2 (r)
sharpness             exponent p that joins compute and memory time
*_block_s             prologue and epilogue of one thread block, s (te)
*_step_s              least time of one step of 64 keys, s (tl)
*_block_bytes_per_s   bandwidth that one block draws, bytes/s (bl)
*_combine_s           fixed time of adding up the splits, s (ts)
*_combine_memory      bandwidth of adding up the splits over HBM bandwidth (cb)
grouped_compute       fraction of peak in the matrix products of one SM (e)
group_rows            query heads of one KV head that share a thread block (R)
group_min, group_max  heads per KV head that the grouped kernel takes; others run one query head
                      a block and read the keys once for each
====================  =============================================================================
"""

PARAMETERS = len(DEVICE) + len(FITTED)
STEP = 64
"""Keys of one step of the inner loop."""
SPLIT_LIMIT = 256
"""Most splits of one sequence."""
