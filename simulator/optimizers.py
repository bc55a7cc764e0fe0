"""Optimizers: what each keeps of a weight, what its step moves, and which products it runs.

A rule holds for the two-dimensional weights of the layers; embedding, head and one-dimensional
weights are updated by AdamW where the rule needs a matrix (as GaLore's, APOLLO's and Muon's own
programs do). Shapes: a matrix of m x n, m <= n (transposed where it is taller), r the rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.simulator.plan import Training
from ridgeline.workloads.model import Model

NEWTON_SCHULZ_STEPS = 5
"""Iterations with which Muon orthogonalises an update (Jordan et al. 2024, section "Muon")."""
REFRESH_STEPS = 200
"""Steps between two decompositions of a gradient under GaLore (Zhao et al. 2024,
arXiv:2403.03507, its default T)."""
QUANTISATION_BLOCK = 2048
"""Elements of 8-bit state that share an fp32 scale (Dettmers et al. 2022, arXiv:2110.02861)."""
WEIGHT_GROUP = 256
"""Int8 weights that share a scale and an offset of 2 bytes each (Zhang et al. 2024, Q-GaLore,
arXiv:2407.08296, groups of 256)."""
INT8_WEIGHT_BYTES = 1.0 + 4.0 / WEIGHT_GROUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One optimizer. Elements are those of its state for each weight of a matrix."""

    elements: float
    """Kept for every weight of a matrix, whatever its shape."""
    shape: str = ""
    """What it keeps beside them: ``factors`` (m + n), ``galore`` (m r + 2 n r), ``apollo``
    (2 n r); empty for nothing."""
    needs_matrix: bool = False
    """AdamW updates whatever is no matrix of a layer."""
    element_bytes: float = 0.0
    """Of an element; 0 takes that of the stack's moments."""
    reads: float = 0.0
    """Further passes over the gradient that its step makes, of 4 bytes a weight."""


RULES = {
    "adam": Rule(elements=2.0),
    "adamw": Rule(elements=2.0),
    "sgd": Rule(elements=0.0),
    "sgd-momentum": Rule(elements=1.0),
    # Chen et al. 2023, arXiv:2302.06675, algorithm 2: one momentum
    "lion": Rule(elements=1.0),
    # Dettmers et al. 2022, arXiv:2110.02861: both moments in block-wise 8 bits
    "adam-8bit": Rule(elements=2.0, element_bytes=1.0 + 4.0 / QUANTISATION_BLOCK),
    # Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4: row and column sums of the squares (a
    # pass of their own over the gradient), no momentum; vectors keep the whole second moment
    "adafactor": Rule(elements=0.0, shape="factors", reads=1.0),
    # Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982: momentum alone, AdamW for the rest
    "muon": Rule(elements=1.0, needs_matrix=True),
    # Zhao et al. 2024, arXiv:2403.03507, table 1: projection m r and moments 2 n r
    "galore": Rule(elements=0.0, shape="galore", needs_matrix=True, reads=1.0),
    # Zhu et al. 2025, arXiv:2412.05270, table 1: 2 n r, the random projection made from its seed
    "apollo": Rule(elements=0.0, shape="apollo", needs_matrix=True, reads=1.0),
}
"""Name -> rule."""
RANKED = ("galore", "apollo")
"""Optimizers that need ``training.optimizer_rank``."""
BY_MATRIX = tuple(name for name, rule in RULES.items() if rule.shape or rule.needs_matrix)
"""Optimizers whose state is no multiple of the number of weights."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """``count`` weights of ``rows`` x ``columns`` on one rank, rows <= columns."""

    rows: int
    columns: int
    count: float = 1.0

    @property
    def parameters(self) -> float:
        """All weights together."""
        return self.rows * self.columns * self.count


def matrix(inputs: float, outputs: float, count: float = 1.0) -> Matrix:
    """Return a matrix laid on its longer side."""
    sides = sorted((max(1, round(inputs)), max(1, round(outputs))))
    return Matrix(sides[0], sides[1], count)


@dataclass(frozen=True, slots=True)
class LayerMatrices:
    """Matrices of one layer on one rank."""

    dense: tuple[Matrix, ...]
    experts: tuple[Matrix, ...]


@lru_cache(maxsize=4096)
def layer_matrices(model: Model, is_moe: bool, tp: int, ep: int, expert_tp: int) -> LayerMatrices:
    """Return the matrices of a layer: query, key and value apart, gate and up apart.

    Tensor parallelism splits each by rows or columns; every rank updates its slice as a matrix of
    its own (Megatron-Core's blockwise manner of Muon). The router counts as no matrix.
    """
    a, h = model.attention, model.hidden
    out = matrix(a.heads * a.v_head_dim / tp, h)
    if a.kind == "mla":
        up = a.heads * (a.head_dim - a.rope_head_dim + a.v_head_dim) / tp
        query_inputs = a.q_lora_rank or h
        dense = [
            matrix(query_inputs, a.heads * a.head_dim / tp),
            matrix(h, a.kv_lora_rank + a.rope_head_dim),
            matrix(a.kv_lora_rank, up),
            out,
        ]
        if a.q_lora_rank:
            dense.append(matrix(h, a.q_lora_rank))
    else:
        kv_heads = max(1.0, a.kv_heads / tp)
        dense = [
            matrix(h, a.heads * a.head_dim / tp),
            matrix(h, kv_heads * a.head_dim),
            matrix(h, kv_heads * a.v_head_dim),
            out,
        ]
    ups = 3 if model.gated_mlp else 2
    if not is_moe:
        dense.append(matrix(h, model.ffn_hidden / tp, ups))
        return LayerMatrices(tuple(dense), ())
    moe = model.moe
    assert moe is not None
    if moe.shared_ffn_hidden:
        dense.append(matrix(h, moe.shared_ffn_hidden / tp, ups))
    local = moe.num_experts / ep
    return LayerMatrices(tuple(dense), (matrix(h, moe.ffn_hidden / expert_tp, ups * local),))


def matrix_elements(rule: Rule, item: Matrix, rank: int) -> float:
    """Return the elements of state that a rule keeps of some matrices."""
    m, n = item.rows, item.columns
    r = min(rank, m)
    beside = {
        "": 0.0,
        "factors": m + n,
        "galore": m * r + 2 * n * r,
        "apollo": 2 * n * r,
    }[rule.shape]
    return rule.elements * item.parameters + beside * item.count


def state_elements(training: Training, matrices: tuple[Matrix, ...], parameters: float) -> float:
    """Return the elements of optimizer state of some matrices and the weights beside them.

    Parameters
    ----------
    training
        Its optimizer and rank.
    matrices
        Two-dimensional weights of a layer.
    parameters
        All weights, those of the matrices included. Of the others AdamW keeps two elements where
        the rule needs matrices, Adafactor the whole second moment.
    """
    rule = RULES[training.optimizer]
    rest = max(0.0, parameters - sum(item.parameters for item in matrices))
    other = 2.0 if rule.needs_matrix else (1.0 if rule.shape == "factors" else rule.elements)
    rank = training.optimizer_rank
    return other * rest + sum(matrix_elements(rule, item, rank) for item in matrices)


def newton_schulz_flops(item: Matrix) -> float:
    """Return the FLOPs of one orthogonalisation: 5 (4 m^2 n + 2 m^3) a matrix.

    X X^T takes 2 m^2 n, its square 2 m^3, their product with X 2 m^2 n.
    """
    m, n = float(item.rows), float(item.columns)
    return NEWTON_SCHULZ_STEPS * (4.0 * m * m * n + 2.0 * m**3) * item.count


def products(optimizer: str, item: Matrix, rank: int) -> list[tuple[int, int, int, float]]:
    """Return the matrix products of one step as (m, n, k, times)."""
    m, n, r = item.rows, item.columns, min(rank, item.rows)
    if optimizer == "muon":
        times = NEWTON_SCHULZ_STEPS * item.count
        return [(m, m, n, times), (m, m, m, times), (m, n, m, times)]
    if optimizer == "galore":
        return [(r, n, m, item.count), (m, n, r, item.count)]
    if optimizer == "apollo":
        return [(r, n, m, item.count)]
    return []


def decomposition_bytes(item: Matrix) -> float:
    """Return the bytes that GaLore's singular value decompositions move, spread over their steps.

    Householder bidiagonalisation reads what is left of the fp32 matrix twice for each of its m
    columns, which is what the time goes into (Golub and Van Loan, Matrix Computations, section
    5.4): 8 sum_k (m - k)(n - k) = 4 m^2 n - 4 m^3 / 3 bytes.
    """
    m, n = float(item.rows), float(item.columns)
    return (4.0 * m * m * n - 4.0 * m**3 / 3.0) * item.count / REFRESH_STEPS
