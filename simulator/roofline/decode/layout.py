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
    "launch_us",
    "memory",
    "l2_speedup",
    "l2_share",
    "sharpness",
    "grouped_block_us",
    "grouped_step_ns",
    "grouped_block_gb_per_s",
    "grouped_combine_us",
    "grouped_combine_memory",
    "grouped_compute",
    "single_block_us",
    "single_step_ns",
    "single_block_gb_per_s",
    "single_combine_us",
    "single_combine_memory",
    "group_rows",
    "group_min",
    "group_max",
    "splits",
    "split_batch_max",
)
"""Names of a decode set's parameters, in the order in which the kernel reads them (after DEVICE).

====================  =============================================================================
launch_us             replayed launch of an empty call (t0)
memory                fraction of HBM bandwidth that KV reads reach (em)
l2_speedup            L2 over HBM bandwidth (l)
l2_share              half of the traffic misses when it is this share of the L2 (r)
sharpness             exponent p that joins compute and memory time
*_block_us            prologue and epilogue of one thread block (te)
*_step_ns             least time of one step of 64 keys (tl)
*_block_gb_per_s      bandwidth that one block draws (bl)
*_combine_us          fixed time of adding up the splits (ts)
*_combine_memory      bandwidth of adding up the splits over HBM bandwidth (cb)
grouped_compute       fraction of peak in the matrix products of one SM (e)
group_rows            query heads of one KV head that share a thread block (R)
group_min, group_max  heads per KV head that the grouped kernel takes; others run one query head
                      a block and read the keys once for each
splits                splits that the library always makes; 0 when it picks the fastest number
split_batch_max       largest batch for which it makes them
====================  =============================================================================
"""

PARAMETERS = len(DEVICE) + len(FITTED)
STEP = 64
"""Keys of one step of the inner loop."""
SPLIT_LIMIT = 256
"""Most splits of one sequence."""
