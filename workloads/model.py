"""A transformer as numbers. Nothing here knows hardware or time.

Shapes: h hidden, f ffn_hidden, a heads, g kv_heads, d head_dim, v vocab, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.workloads.forms import SAME_MEMORY, Form, MemoryTable, Recursion
from ridgeline.workloads.mixers import BlockSparse, LongConvolution
from ridgeline.workloads.towers import Conditioning, CrossAttention, Patches, Tower


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention of every layer (windows differ by layer, see ``Model.windows``)."""

    kind: str
    """"gqa" (MHA when kv_heads == heads, MQA when 1) or "mla"."""
    heads: int
    kv_heads: int
    head_dim: int
    """Query and key dimension per head (MLA: nope + rope)."""
    v_head_dim: int
    """Value dimension per head; equals head_dim except under MLA."""
    q_lora_rank: int = 0
    """MLA: rank of the query compression, 0 for none."""
    kv_lora_rank: int = 0
    """MLA: rank of the key-value compression."""
    rope_head_dim: int = 0
    """MLA: rotary part of head_dim."""
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    """RMSNorm on query and key heads."""
    qk_norm_full: bool = False
    """The norm spans all heads (h) rather than one head (d)."""
    sinks: bool = False
    """One learned sink logit per head."""
    output_gate: bool = False
    """The query projection also makes a gate on the output of attention (Qwen3-Next)."""
    index_heads: int = 0
    """Sparse attention: heads of the indexer that picks keys (DeepSeek-V3.2), 0 for none."""
    index_head_dim: int = 0
    index_top_k: int = 0
    """Keys that a query attends to at most."""
    blocks: BlockSparse | None = None
    """Native sparse attention: compressed blocks, chosen blocks and a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """A recurrence in place of attention, with a state of fixed size.

    Gated delta net (arXiv:2412.06464), Kimi delta attention (arXiv:2510.26692) or Mamba-2
    (arXiv:2405.21060), whose C and B are query and key, groups of heads its key heads, and the
    state's size its key dimension.
    """

    kind: str = "gated-delta"
    """"gated-delta", "kimi-delta" or "mamba2"."""
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int = 4
    """Taps of the causal convolution over query, key and value."""
    every: int = 4
    """Each ``every``-th layer keeps full attention, the others are linear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """Mixture of experts in place of the MLP."""

    num_experts: int
    top_k: int
    ffn_hidden: int
    """Of one routed expert."""
    num_shared_experts: int = 0
    shared_ffn_hidden: int = 0
    """Of all shared experts together."""
    shared_gate: bool = False
    """A learned gate h -> 1 on the shared expert (qwen2_moe)."""
    router_bias: bool = False
    """One (correction) bias per expert in the router."""
    expert_bias: bool = False
    """Experts have biases on both projections (gpt_oss)."""
    clamped: bool = False
    """The inputs of their activation are clamped (gpt_oss, swiglu_limit)."""
    first_dense_layers: int = 0
    every: int = 1
    """Layers from ``first_dense_layers`` on are MoE when (index + 1) % every == 0."""
    capacity_factor: float = 0.0
    """0 means dropless."""
    load: tuple[float, ...] = ()
    """Relative load of experts (histogram); empty means balanced."""
    groups: int = 1
    """Groups of experts, usually one on each node."""
    top_groups: int = 0
    """Groups that one token may use (DeepSeek-V3, section 2.1.2); 0 means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A stack of transformer layers with its ends, and the towers that feed it."""

    name: str
    family: str
    num_layers: int
    hidden: int
    ffn_hidden: int
    """Of the dense MLP (dense layers of an MoE model; 0 if it has none)."""
    vocab: int
    attention: Attention
    gated_mlp: bool
    mlp_bias: bool = False
    moe: MoE | None = None
    linear: LinearAttention | None = None
    """What most layers have in place of ``attention`` in a hybrid model."""
    convolution: LongConvolution | None = None
    """What layers whose mixer is a convolution have in place of ``attention``."""
    memory: MemoryTable | None = None
    """What layers whose feed-forward is a memory have in place of the MLP."""
    mixers: tuple[str, ...] = ()
    """By layer one of ``forms.MIXERS``; empty: attention, but where ``linear`` says otherwise."""
    feed_forwards: tuple[str, ...] = ()
    """By layer one of ``forms.FEED_FORWARDS``; empty: MLPs, but where ``moe`` says otherwise."""
    capacities: tuple[float, ...] = ()
    """Share of the tokens that each layer takes, the others pass by; empty: all of them."""
    recursion: Recursion | None = None
    """Layers that run several times over with the same weights."""
    tied_embeddings: bool = False
    embedding_dim: int = 0
    """Width of the embedding and head where it is not h (OPT-350M), 0 for h."""
    head_bias: bool = False
    """One bias per token of the vocabulary in the output projection."""
    position: str = "rotary"
    """rotary, learned, alibi, relative (Transformer-XL), buckets (T5) or none."""
    learned_positions: int = 0
    """Rows of the learned position table."""
    norm: str = "rmsnorm"
    """rmsnorm (weight), layernorm (weight and bias) or plain (a LayerNorm without either)."""
    norm_bias: bool = True
    """For layernorm: has a bias."""
    norms_per_layer: int = 2
    """Gemma 2 and 3 have 4, falcon and phi-style parallel blocks may have 1."""
    final_norm: bool = True
    embedding_norm: bool = False
    """LayerNorm behind the embedding (BLOOM)."""
    parallel_block: bool = False
    """Attention and MLP read the same input (GPT-NeoX, Falcon)."""
    windows: tuple[int, ...] = ()
    """Sliding window by layer, 0 for full attention; empty means full everywhere."""
    num_mtp_layers: int = 0
    """Multi-token-prediction heads (one transformer layer each, DeepSeek-V3)."""
    max_positions: int = 0
    """Longest sequence the model states, 0 if unknown."""
    causal: bool = True
    """A token meets those before it alone; False: all of its sequence."""
    patches: Patches | None = None
    """Tokens are patches of images."""
    head: str = "logits"
    """One of ``towers.HEADS``."""
    outputs: int = 0
    """Of a head over classes, or of values by patch."""
    predicted: float = 1.0
    """Share of the tokens for which the head is computed in training (BERT: those masked)."""
    pooler: bool = False
    """One more matrix over the first token of a sequence (BERT)."""
    segments: int = 0
    """Rows of a table of token types (BERT)."""
    position_buckets: int = 0
    """Learned biases of attention by distance and head, shared by all layers (T5)."""
    cross: CrossAttention | None = None
    conditioning: Conditioning | None = None
    towers: tuple[Tower, ...] = ()
    """Stacks that run before this one, in their order."""
    source: str = ""

    @property
    def is_decoder(self) -> bool:
        """Whether it is one stack over tokens, each of which meets those before it."""
        return self.causal and self.head == "logits" and not self.towers

    def is_moe_layer(self, index: int) -> bool:
        """Whether layer ``index`` (from 0) routes to experts."""
        if self.feed_forwards:
            return self.feed_forwards[index] == "moe"
        moe = self.moe
        if moe is None or index < moe.first_dense_layers:
            return False
        return (index + 1) % moe.every == 0

    def is_linear_layer(self, index: int) -> bool:
        """Whether layer ``index`` (from 0) has linear attention."""
        if self.mixers:
            return self.mixers[index] == "linear"
        return self.linear is not None and (index + 1) % self.linear.every != 0

    def form(self, index: int) -> Form:
        """Return what layer ``index`` (from 0) is made of."""
        linear = self.is_linear_layer(index)
        if self.feed_forwards:
            feed_forward = self.feed_forwards[index]
            again = self.memory is not None and self.memory.shared
            if feed_forward == "memory" and again and "memory" in self.feed_forwards[:index]:
                feed_forward = SAME_MEMORY
        else:
            feed_forward = "moe" if self.is_moe_layer(index) else "mlp"
        return Form(
            self.mixers[index] if self.mixers else ("linear" if linear else "attention"),
            feed_forward,
            self.capacities[index] if self.capacities else 1.0,
            self.recursion is not None and self.recursion.repeats(index),
        )

    def window(self, index: int) -> int:
        """Sliding window of layer ``index``, 0 for full attention."""
        return self.windows[index] if self.windows else 0
