"""How operators are laid out in arrays for the compiled kernels.

N operators are five arrays: ``kind`` int8[N], ``dtype`` int8[N], ``dims`` int64[N, DIMS],
``extra`` float64[N, EXTRAS].

======================  ======================================================================
kind                    dims
======================  ======================================================================
GEMM                    m, n, k, batch, dynamic quantisation (0 or 1): out[m,n] = x[m,k] W[n,k]^T
GROUPED_GEMM            m (tokens of all groups on the rank), n, k, groups, dynamic quantisation
ATTENTION_FORWARD       batch, heads, kv_heads, seq_q, seq_kv, head_dim, v_head_dim, window, causal
ATTENTION_BACKWARD      the same
MEMORY                  none: ``extra`` holds its bytes (element-wise kernels, casts, optimizer)
FUSED                   m, n, k, batch, staged: products whose operands a kernel keeps on the chip,
                        each output going ``staged`` times to and from its registers, beside the
                        HBM bytes of ``extra`` (chunked scans, transforms as products)
======================  ======================================================================
"""

from __future__ import annotations

GEMM, GROUPED_GEMM, ATTENTION_FORWARD, ATTENTION_BACKWARD, MEMORY, FUSED = range(6)
KINDS = ("gemm", "grouped_gemm", "attention_forward", "attention_backward", "memory", "fused")
DIMS = 9

FP32, TF32, BF16, FP16, FP8, INT8, FP4 = range(7)
DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
BYTES = (4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.5)

BYTES_MOVED = 0
"""``extra`` column: bytes of a MEMORY operator; further HBM bytes of any other."""
RATE = 1
"""``extra`` column: compute rate relative to the device's fit (attention era); 1 by default."""
SKEW = 2
"""``extra`` column: busiest group over mean group of a GROUPED_GEMM; 1 when balanced."""
EXTRAS = 3

(
    PEAK,
    HBM,
    CORES,
    SYSTOLIC,
    ELEMENT_BYTES,
    GEMM_LAUNCH,
    GEMM_COMPUTE,
    GEMM_MEMORY,
    GEMM_L2,
    GEMM_TILE,
    GEMM_SPLIT,
    GEMM_SHARPNESS,
    GEMM_STEP,
    QUANTISE,
    QUANTISE_MEMORY,
    ATTENTION_LAUNCH,
    ATTENTION_COMPUTE,
    ATTENTION_SOFTMAX,
    ATTENTION_BLOCK,
    ATTENTION_TAIL,
    ATTENTION_MEMORY,
    ATTENTION_SHARPNESS,
    ELEMENTWISE_LAUNCH,
    ELEMENTWISE_MEMORY,
    SUSTAINED,
    SUSTAINED_AFTER,
    WEIGHT_BYTES,
    WARM_BYTES,
    WARM_SHARE,
    WAVE_BLEND,
    QUANTISE_ROW,
    TILE_TO_64,
    TILE_TO_128,
    TILE_TO_512,
    TILE_BEYOND,
) = range(35)
PARAMETERS = 35
"""Columns of a device's parameters, one row by dtype: float64[len(DTYPES), PARAMETERS].

``PEAK`` (FLOP/s) is NaN in the rows of dtypes that the device lacks. ``GEMM_*`` and ``QUANTISE*``
are the fields of ``GemmEfficiency``, ``ATTENTION_*`` those of ``AttentionEfficiency``,
``ELEMENTWISE_*`` and ``SUSTAINED*`` those of ``Efficiency``; all in SI units.

``WEIGHT_BYTES`` is the width of an element of W (narrower than the activation where weights alone
are quantised). The rest belongs to kernel sets and is 0 elsewhere:

- ``WARM_BYTES``, ``WARM_SHARE``: weights under that size stay in the L2 between the runs of a
  benchmark, and that share of them is not read from HBM;
- ``WAVE_BLEND``: 0 when a last wave costs a whole one, 1 when it costs its share;
- ``QUANTISE_ROW``: s by row of x;
- ``TILE_*``: the library's tile up to so many rows of x: 0 any of the first eight, else the place
  in ``TILES``, counted from 1.
"""

GRID_AXES = 3
GRID_NODES = 12
GRID_VALUES = 400
GRID = GRID_AXES + GRID_AXES * GRID_NODES + GRID_VALUES
"""Further columns of parameters that carry corrections of GEMM over log2 m, n, k.

Number of nodes by axis (0: no correction for the dtype), their nodes, values.
"""

PAIRS = 2
PAIR_NODES = 24
PAIR_VALUES = 200
PAIR = 2 + 2 + 2 * PAIR_NODES + PAIR_VALUES
PAIR_TILE = 64
FILL_ROWS, FILL_COLUMNS = 128, 256
ROW_BLOCK = 128
COORDINATES = ("m", "n", "k", "tiles", "last_rows", "fill")
"""What a grid over two coordinates may go over, log2 each: ``tiles`` are tiles of 64x64 an SM,
``last_rows`` the rows in the last block of 128 (m less whole blocks, 1 to 128), ``fill`` the share
of the SMs that whole waves of tiles of 128x256 keep busy (at most 1)."""
CORRECTIONS = GRID + PAIRS * PAIR
"""After ``GRID`` come the grids over two coordinates that are added to the first.

Each: its coordinates (0 no grid, else the place in ``COORDINATES`` counted from 1), their numbers
of nodes, the nodes, values. A device's parameters are ``PARAMETERS`` wide without corrections and
``PARAMETERS + CORRECTIONS`` with them.
"""

TILES = (
    "128x128",
    "128x256",
    "256x128",
    "64x128",
    "128x64",
    "64x256",
    "256x64",
    "64x64",
    "256x256",
    "128x192",
    "192x128",
)
"""Rows by columns of the tiles of the GEMM model; 256x256 is that of a pair of SMs."""
