"""Matrix-multiplication FLOPs per token, under a stated convention.

A multiply and an add are two FLOPs. Norms, softmax, activations and biases are not counted, as is
usual for model FLOPs; ``chinchilla_flops`` follows another paper's own rules.

Shapes: h hidden, a heads, d head_dim, s sequence length, w window, L layers, v vocab.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log2

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.forms import Form
from ridgeline.workloads.mixers import convolution_weights, linear_weights, recurrence_flops
from ridgeline.workloads.model import Attention, Model
from ridgeline.workloads.parameters import distinct_layers
from ridgeline.workloads.tower_flops import head_flops, input_flops, layer_extra
from ridgeline.workloads.towers import Tower

CONVENTIONS = ("causal", "full")
RECOMPUTES = ("none", "selective", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardFlops:
    """FLOPs of the forward pass, per token, by part."""

    convention: str
    """"causal" (a query meets the keys before it) or "full" (it meets all, masked or not)."""
    seq_len: int
    attention_projections: float
    attention_scores: float
    """Queries by keys, and weights by values."""
    mlp: float
    """Dense MLPs."""
    experts: float
    """Chosen routed experts and shared experts."""
    router: float
    head: float
    embedding: float = 0.0
    """Projections of a narrow embedding; looking a token up costs none."""
    mtp: float = 0.0
    """Multi-token-prediction modules with their passes through the head."""
    towers: float = 0.0
    """Towers with their projectors, spread over the tokens of the sequence."""
    frozen: float = 0.0
    """Of the towers, what only runs forward in training."""

    @property
    def layers(self) -> float:
        """All transformer layers."""
        return (
            self.attention_projections
            + self.attention_scores
            + self.mlp
            + self.experts
            + self.router
        )

    @property
    def total(self) -> float:
        """The whole model."""
        return self.layers + self.head + self.embedding + self.mtp + self.towers

    @property
    def trained(self) -> float:
        """What has a backward pass in training."""
        return self.total - self.frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFlops:
    """FLOPs of a training step, per token."""

    convention: str
    recompute: str
    forward: float
    backward: float
    """Twice the forward pass: gradients of inputs and of weights."""
    recomputed: float
    """Repeated forward work of the backward pass."""

    @property
    def model(self) -> float:
        """Model FLOPs: what MFU counts."""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """Hardware FLOPs, recompute included: what HFU counts."""
        return self.model + self.recomputed


def mean_keys(seq_len: int, window: int, convention: str) -> float:
    """Return the mean number of keys that a query is counted with.

    Full attention counts s keys, causal s/2. A window of w < s leaves w keys to a query, and
    under the causal count the first w queries have half as many on average: w (1 - w / 2s).

    Raises
    ------
    InputError
        For an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"FLOP convention {convention!r}: {nearest(convention, CONVENTIONS)}")
    reach = min(window, seq_len) if window else seq_len
    if convention == "full":
        return float(reach)
    return reach * (1.0 - reach / (2.0 * seq_len))


def _projection_weights(hidden: int, attention: Attention) -> int:
    heads, kv_heads = attention.heads, attention.kv_heads
    head_dim, v_head_dim = attention.head_dim, attention.v_head_dim
    out = heads * v_head_dim * hidden
    if attention.kind == "mla":
        rank, kv_rank, rope = attention.q_lora_rank, attention.kv_lora_rank, attention.rope_head_dim
        query = rank * (hidden + heads * head_dim) if rank else hidden * heads * head_dim
        up = kv_rank * heads * (head_dim - rope + v_head_dim)
        index = attention.index_heads * (rank * attention.index_head_dim + hidden)
        index += hidden * attention.index_head_dim if attention.index_heads else 0
        return query + hidden * (kv_rank + rope) + up + out + index
    queries = heads * (head_dim + v_head_dim if attention.output_gate else head_dim)
    if attention.blocks is not None:
        out += hidden * 3 * heads
    return hidden * (queries + kv_heads * (head_dim + v_head_dim)) + out


def _scores(model: Model, form: Form, keys: float, seq_len: int) -> float:
    attention = model.attention
    if form.is_linear and model.linear is not None:
        return recurrence_flops(model.linear)
    if form.mixer == "convolution" and model.convolution is not None:
        return convolution_flops(seq_len) * model.hidden * (model.convolution.order - 1)
    if form.mixer != "attention":
        return 0.0
    per_key = 2.0 * attention.heads * (attention.head_dim + attention.v_head_dim)
    if attention.blocks is not None:
        blocks = attention.blocks
        near = min(keys, float(blocks.chosen * blocks.chosen_block)) + min(keys, blocks.window)
        return per_key * (keys / blocks.stride + near)
    if not attention.index_heads:
        return 2.0 * keys * attention.heads * (attention.head_dim + attention.v_head_dim)
    index = 2.0 * keys * attention.index_heads * attention.index_head_dim
    chosen = min(keys, float(attention.index_top_k))
    return index + 2.0 * chosen * attention.heads * (attention.head_dim + attention.v_head_dim)


def convolution_flops(seq_len: int) -> float:
    """Return the FLOPs of a long convolution by token and channel.

    Two real transforms of 2 s points, 2.5 N log2 N each (half of the complex 5 N log2 N that
    Cooley and Tukey's radix 2 takes), and s products of complex numbers: the filter's transform
    is shared by the batch.
    """
    points = 2.0 * max(seq_len, 1)
    return (2.0 * 2.5 * points * log2(points) + 3.0 * points) / max(seq_len, 1)


@dataclass(frozen=True, slots=True)
class _LayerFlops:
    projections: float
    scores: float
    mlp: float
    experts: float
    router: float

    @property
    def total(self) -> float:
        return self.projections + self.scores + self.mlp + self.experts + self.router


def _mixer_weights(model: Model, form: Form) -> int:
    if form.is_linear and model.linear is not None:
        return linear_weights(model.hidden, model.linear)
    if form.mixer == "convolution" and model.convolution is not None:
        return convolution_weights(model.hidden, model.convolution)
    return _projection_weights(model.hidden, model.attention) if form.has_mixer else 0


def _layer(model: Model, form: Form, window: int, seq_len: int, convention: str) -> _LayerFlops:
    hidden, moe, memory = model.hidden, model.moe, model.memory
    # a layer that takes a share of the tokens is one of a shorter sequence, which fewer pass
    taken = form.capacity
    length = seq_len if taken == 1.0 else max(1, round(taken * seq_len))
    keys = mean_keys(length, window, convention if model.causal else "full")
    mlp_matrices = 3 if model.gated_mlp else 2
    mlp = experts = router = 0.0
    if form.is_moe and moe is not None:
        width = moe.top_k * moe.ffn_hidden + moe.shared_ffn_hidden
        gate = hidden if moe.shared_gate else 0
        experts = 2.0 * (mlp_matrices * hidden * width + gate)
        router = 2.0 * hidden * moe.num_experts
    elif form.is_memory and memory is not None:
        scored = memory.weights(hidden) + memory.half_key_weights
        mlp = 2.0 * (scored + memory.looked_up())
    elif form.has_feed_forward:
        mlp = 2.0 * mlp_matrices * hidden * model.ffn_hidden
    return _LayerFlops(
        projections=taken * 2.0 * _mixer_weights(model, form),
        scores=taken * _scores(model, form, keys, length),
        mlp=taken * mlp,
        experts=taken * experts,
        router=taken * router + (2.0 * hidden if taken < 1.0 else 0.0),
    )


def layer_flops(model: Model, index: int, seq_len: int, convention: str = "causal") -> float:
    """Return the matrix-multiplication FLOPs of layer ``index`` forward, per token."""
    return _layer(model, model.form(index), model.window(index), seq_len, convention).total


@lru_cache(maxsize=1024)
def forward_flops(model: Model, seq_len: int, convention: str = "causal") -> ForwardFlops:
    """Count the matrix-multiplication FLOPs of the forward pass, per token.

    Parameters
    ----------
    model
        The model.
    seq_len
        Tokens of a sequence.
    convention
        "causal" or "full": whether masked scores count (see `mean_keys`).

    Raises
    ------
    InputError
        For an unknown convention or a sequence shorter than one token.
    """
    if seq_len < 1:
        raise InputError(f"seq_len {seq_len}: must be at least 1")
    projections = scores = mlp = experts = router = 0.0
    for kind in distinct_layers(model):
        layer = _layer(model, kind.form, kind.window, seq_len, convention)
        projections += kind.count * layer.projections
        scores += kind.count * layer.scores
        mlp += kind.count * layer.mlp
        experts += kind.count * layer.experts
        router += kind.count * layer.router
    more, crossed = layer_extra(model, seq_len)
    projections += model.num_layers * more
    scores += model.num_layers * crossed
    width = model.embedding_dim or model.hidden
    narrow = 2.0 * width * model.hidden if width != model.hidden else 0.0
    head = 2.0 * width * model.vocab * model.predicted + narrow if model.head != "none" else 0.0
    head += head_flops(model, seq_len)
    mtp = 0.0
    if model.num_mtp_layers:
        last = model.num_layers - 1
        window = model.window(last)
        module = _layer(model, model.form(last), window, seq_len, convention).total
        mtp = model.num_mtp_layers * (module + 4.0 * model.hidden * model.hidden + head)
    towers = [_tower(tower, seq_len, convention) for tower in model.towers]
    return ForwardFlops(
        convention=convention,
        seq_len=seq_len,
        attention_projections=projections,
        attention_scores=scores,
        mlp=mlp,
        experts=experts,
        router=router,
        head=head,
        embedding=narrow + input_flops(model, seq_len),
        mtp=mtp,
        towers=sum(both for both, _ in towers),
        frozen=sum(frozen for _, frozen in towers),
    )


def _tower(tower: Tower, seq_len: int, convention: str) -> tuple[float, float]:
    """Return the FLOPs of a tower by token of the sequence, and of these the frozen ones."""
    inside = forward_flops(tower.model, tower.tokens, convention).total * tower.tokens
    projected = 2.0 * tower.projected * tower.projector_weights
    frozen = 0.0 if tower.trained else tower.pieces * inside / seq_len
    return tower.pieces * (inside + projected) / seq_len, frozen


def training_flops_per_token(
    model: Model, seq_len: int, convention: str = "causal", recompute: str = "none"
) -> TrainingFlops:
    """Count the FLOPs of one training step, per token.

    Parameters
    ----------
    model
        The model.
    seq_len
        Tokens of a sequence.
    convention
        "causal" or "full".
    recompute
        "none"; "selective": the attention scores again (Korthikanti et al. 2022, section 6);
        "full": every layer again, but not the head.

    Raises
    ------
    InputError
        For an unknown convention or kind of recompute.
    """
    if recompute not in RECOMPUTES:
        raise InputError(f"recompute {recompute!r}: {nearest(recompute, RECOMPUTES)}")
    forward = forward_flops(model, seq_len, convention)
    again = {
        "none": 0.0,
        "selective": forward.attention_scores,
        "full": forward.layers
        + forward.mtp
        - model.num_mtp_layers * forward.head
        + forward.towers
        - forward.frozen,
    }
    return TrainingFlops(
        convention=convention,
        recompute=recompute,
        forward=forward.total,
        backward=2.0 * forward.trained,
        recomputed=again[recompute],
    )


def chinchilla_flops(model: Model, seq_len: int, *, embeddings: bool = True) -> float:
    """Count the training FLOPs of a dense model per token by the rules of Chinchilla's authors.

    Forward, per layer: 6 h a d for query, key and value, 4 s a d for the scores (full, not
    causal), 3 a s for the softmax, 2 a d h for the output, 4 h f for the MLP. With
    ``embeddings`` also 2 v h each for the embedding, as if it were a product, and for the
    logits. The backward pass is twice that. (Hoffmann et al. 2022, Appendix F.)

    Their Table A4 compares this with 6ND. Its six printed ratios follow to the printed digit
    without the terms of the embedding and the logits, and with N that counts one embedding and
    the projection of relative positions; with these terms as the appendix prints them the first
    ratio would be 1.58 instead of 1.03.

    Parameters
    ----------
    model
        A dense model with a plain MLP.
    seq_len
        Tokens of a sequence.
    embeddings
        Whether the embedding and the logits count.
    """
    attention = model.attention
    width = attention.heads * attention.head_dim
    layer = (
        6.0 * model.hidden * width
        + 4.0 * seq_len * width
        + 3.0 * attention.heads * seq_len
        + 2.0 * width * model.hidden
        + 4.0 * model.hidden * model.ffn_hidden
    )
    forward = model.num_layers * layer
    if embeddings:
        forward += 4.0 * model.vocab * model.hidden
    return 3.0 * forward


def kv_bytes_per_token(model: Model, bytes_per_element: float) -> float:
    """Return the bytes that one token adds to the key-value cache, all layers together.

    2 L g d b; under MLA, L (rank + rope) b, with an indexer also its key. L counts layers with
    attention, each by the share of the tokens that it takes: a linear one keeps a state of fixed
    size. A layer with a window stops growing at its window; this is its growth before that. The
    compressed keys of block-sparse attention are not counted.
    """
    attention = model.attention
    if attention.kind == "mla":
        elements = attention.kv_lora_rank + attention.rope_head_dim + attention.index_head_dim
    else:
        elements = attention.kv_heads * (attention.head_dim + attention.v_head_dim)
    forms = [model.form(index) for index in range(model.num_layers)]
    layers = sum(form.capacity for form in forms if form.mixer == "attention")
    return layers * elements * bytes_per_element
