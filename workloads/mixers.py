"""What layers mix tokens with beside full attention, as numbers: weights, states and FLOPs.

Shapes: h hidden, H value heads, G key heads, K key dimension, V value dimension, s sequence length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.workloads.model import LinearAttention

IMPLEMENTATIONS = ("cufft", "monarch")
LINEAR_KINDS = ("gated-delta", "kimi-delta", "mamba2")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSparse:
    """Native sparse attention (arXiv:2502.11089): three branches, added by learned gates."""

    block: int
    """Keys that one compressed key stands for."""
    stride: int
    """Between the starts of compressed blocks."""
    chosen_block: int
    """Keys of a block that is chosen whole."""
    chosen: int
    """Blocks that a query chooses."""
    window: int
    """Keys before a query that it always meets."""

    @property
    def near(self) -> int:
        """Keys that a query meets in full: chosen blocks and window."""
        return self.chosen * self.chosen_block + self.window

    def keys_read(self, context: float) -> float:
        """Return the keys that a query reads behind ``context`` tokens (the paper's table 4)."""
        return min(context, context / self.stride + self.near)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongConvolution:
    """Hyena operator (arXiv:2302.10866): gates around a convolution as long as the sequence."""

    order: int = 2
    """Projections beside the value; each but the last gates a convolution."""
    short_kernel: int = 3
    """Taps of the causal convolution over the projections."""
    filter_dim: int = 64
    """Width of the network that makes the filter."""
    filter_inputs: int = 3
    """Features of a position."""
    filter_layers: int = 4
    implementation: str = "cufft"
    """One of ``IMPLEMENTATIONS``: the framework's transforms, or FlashFFTConv's products."""


def state_elements(linear: LinearAttention) -> int:
    """Return the numbers of a sequence's state in one layer: a K x V matrix a value head."""
    return linear.value_heads * linear.key_head_dim * linear.value_head_dim


def convolved(linear: LinearAttention) -> int:
    """Return the channels of the short convolution: query, key and value."""
    keys = linear.key_heads * linear.key_head_dim
    return 2 * keys + linear.value_heads * linear.value_head_dim


def input_width(linear: LinearAttention) -> int:
    """Return the outputs of the projections that read the hidden state, low-rank ones apart.

    Query, key, value and output gate, and by value head the decay and the step (gated delta net)
    or the step alone (Mamba-2, whose decay follows from it). Kimi delta attention decays every
    channel of a key and makes decay and output gate of low rank: K and V wide before they fan out.
    """
    values = linear.value_heads * linear.value_head_dim
    if linear.kind == "kimi-delta":
        small = linear.value_heads + linear.key_head_dim + linear.value_head_dim
        return convolved(linear) + small
    per_head = 1 if linear.kind == "mamba2" else 2
    return convolved(linear) + values + per_head * linear.value_heads


def fan_out(linear: LinearAttention) -> tuple[tuple[int, int], ...]:
    """Return (outputs, inputs) of the second matrices of low-rank projections."""
    if linear.kind != "kimi-delta":
        return ()
    heads, keys, values = linear.value_heads, linear.key_head_dim, linear.value_head_dim
    return ((heads * keys, keys), (heads * values, values))


def linear_weights(hidden: int, linear: LinearAttention) -> int:
    """Return the weights of the projections of a layer with linear attention."""
    values = linear.value_heads * linear.value_head_dim
    inner = sum(n * k for n, k in fan_out(linear))
    return hidden * (input_width(linear) + values) + inner


def linear_parameters(hidden: int, linear: LinearAttention) -> int:
    """Return the parameters of linear attention.

    The projections; a depthwise convolution over query, key and value (with a bias in Mamba-2);
    by value head a decay rate and a bias of the step (Mamba-2 also the skip; Kimi delta attention
    a bias by channel of the key, and one of the output gate); and the norm of the output: of one
    value head, in Mamba-2 of all.
    """
    heads, values = linear.value_heads, linear.value_heads * linear.value_head_dim
    convolution = linear.conv_kernel * convolved(linear)
    total = linear_weights(hidden, linear) + convolution
    if linear.kind == "mamba2":
        return total + convolved(linear) + 3 * heads + values
    if linear.kind == "kimi-delta":
        return total + heads + heads * linear.key_head_dim + values + linear.value_head_dim
    return total + 2 * heads + linear.value_head_dim


def recurrence_flops(linear: LinearAttention) -> float:
    """Return the FLOPs of one step of the recurrence.

    The query reads the state and an outer product is added to it, 4 H K V; under the delta rule
    the key reads it too, 6 H K V.
    """
    per = 4.0 if linear.kind == "mamba2" else 6.0
    return per * state_elements(linear)


def convolution_weights(hidden: int, convolution: LongConvolution) -> int:
    """Return the weights of the projections of a Hyena operator, into its branches and out."""
    return hidden * hidden * (convolution.order + 2)


def convolution_parameters(hidden: int, convolution: LongConvolution) -> int:
    """Return the parameters of a Hyena operator.

    Projections with biases, the short convolution with its bias, the filter's network (position
    features to ``filter_dim``, its inner layers, to one filter a channel and order) and a skip of
    every channel.
    """
    branches, width = convolution.order + 1, convolution.filter_dim
    filters = (convolution.order - 1) * hidden
    network = convolution.filter_inputs * width + width
    network += (convolution.filter_layers - 2) * (width * width + width) + width * filters
    short = branches * hidden * (convolution.short_kernel + 1)
    biases = (branches + 1) * hidden
    return convolution_weights(hidden, convolution) + biases + short + network + filters
