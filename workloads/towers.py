"""Parts of a model beside its own stack of layers: towers, patches, conditioning, other inputs.

Shapes: h hidden, w width of a condition, d head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.workloads.model import Model

HEADS = ("logits", "masked", "classes", "patches", "none")
"""What follows the last layer: logits over the vocabulary for every token; the same behind a
transform (BERT's masked tokens); one vector for each sequence; values for each patch; nothing."""
JOINS = ("cross", "tokens", "trunk")
"""How a tower's output reaches the layers: by cross-attention; as tokens of the sequence; as the
whole input, some tokens of which may be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Images cut into patches, each a token (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

    size: int
    """Side of a patch, in pixels (in cells of the latent for a latent diffusion model)."""
    channels: int
    image: int
    """Side of the image that the model states."""
    frames: int = 1
    """Frames that one patch spans."""
    bias: bool = True
    class_tokens: int = 0
    """Learned tokens beside the patches."""

    @property
    def values(self) -> int:
        """Numbers in a patch."""
        return self.size * self.size * self.channels * self.frames

    @property
    def tokens(self) -> int:
        """Tokens of the image that the model states."""
        return (self.image // self.size) ** 2 + self.class_tokens

    def image_of(self, tokens: int) -> int:
        """Return the side of the square image that so many tokens are."""
        return isqrt(max(0, tokens - self.class_tokens)) * self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention:
    """Attention of every layer to a second input, with the heads of its own attention."""

    tokens: int
    """Of the second input, by sequence."""
    hidden: int
    """Width of the second input."""
    heads: int = 0
    """Where they are not those of attention; 0 takes these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """Adaptive norms: a vector by sequence shifts, scales and gates (arXiv:2212.09748, 3.2)."""

    width: int
    """w, of the vector."""
    vectors: int = 6
    """Of width h that a layer makes of it."""
    frequencies: int = 256
    """Inputs of the network that embeds the time step; 0 where another stack has embedded it."""
    classes: int = 0
    """Rows of the table of class labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A stack of layers with a number of tokens of its own, which runs before the model's own."""

    name: str
    model: Model
    joins: str
    """One of ``JOINS``."""
    tokens: int
    """Of one piece."""
    pieces: int = 1
    """Inputs of a sequence (images), each of which attends to itself alone."""
    outputs: int = 0
    """Tokens of the sequence that one piece becomes, 0 for none."""
    projector: tuple[tuple[int, int], ...] = ()
    """(inputs, outputs) of the matrices between the tower and the model."""
    projector_bias: bool = True
    projector_norm: int = 0
    """Parameters of the norm before them."""
    trained: bool = True
    """Its weights have gradients; else it only runs forward (the projector is trained)."""

    @property
    def projected(self) -> int:
        """Rows of the projector, by piece."""
        return self.outputs or self.tokens

    @property
    def projector_weights(self) -> int:
        """Weights of the projector."""
        return sum(n * k for n, k in self.projector)

    @property
    def projector_parameters(self) -> int:
        """Parameters of the projector with biases and norm."""
        biases = sum(outputs for _, outputs in self.projector) if self.projector_bias else 0
        return self.projector_weights + biases + self.projector_norm


def owner(model: Model, index: int) -> tuple[Model, int, Tower | None]:
    """Return whose layer an index names: the stack, the layer in it, its tower.

    The layers of a model come first, then those of its towers.
    """
    if index < model.num_layers:
        return model, index, None
    at = index - model.num_layers
    for tower in model.towers:
        if at < tower.model.num_layers:
            return tower.model, at, tower
        at -= tower.model.num_layers
    raise IndexError(index)


def first_layers(model: Model) -> tuple[int, ...]:
    """Return the index of the first layer of every tower, as ``owner`` counts."""
    starts, at = [], model.num_layers
    for tower in model.towers:
        starts.append(at)
        at += tower.model.num_layers
    return tuple(starts)


def sequence_tokens(model: Model) -> int:
    """Return the tokens of a sequence that towers provide (image tokens among the text)."""
    return sum(tower.pieces * tower.outputs for tower in model.towers if tower.joins == "tokens")


def input_parameters(model: Model) -> int:
    """Return the parameters in front of the layers beside vocabulary and position tables.

    Patches: one matrix with its bias and the class tokens. Segments: a row each. A condition: a
    network of two layers over ``frequencies`` features of the time step, and the class labels.
    """
    h, patches, condition = model.hidden, model.patches, model.conditioning
    count = model.segments * h
    if patches is not None:
        count += patches.values * h + (h if patches.bias else 0) + patches.class_tokens * h
    if condition is not None and condition.frequencies:
        w = condition.width
        count += condition.frequencies * w + w + w * w + w + condition.classes * w
    return count


def head_parameters(model: Model) -> int:
    """Return the parameters behind the layers beside the output projection to the vocabulary.

    A transform of masked tokens: a matrix, its bias and a norm. Classes and patches: a matrix and
    its bias, under a condition with a shift and a scale. A pooler: a matrix and its bias.
    """
    h, condition = model.hidden, model.conditioning
    count = h * h + h if model.pooler else 0
    if model.head == "masked":
        count += h * h + h + 2 * h
    elif model.head in ("classes", "patches"):
        count += h * model.outputs + model.outputs
        if condition is not None:
            count += condition.width * 2 * h + 2 * h
    return count


def cross_width(model: Model) -> int:
    """Return the width of the queries of cross-attention, a d, 0 for none."""
    if model.cross is None:
        return 0
    return (model.cross.heads or model.attention.heads) * model.attention.head_dim


def cross_weights(model: Model) -> tuple[int, int]:
    """Return the weights of cross-attention on the tokens of the sequence, and on the others."""
    if model.cross is None:
        return 0, 0
    width = cross_width(model)
    return 2 * model.hidden * width, 2 * model.cross.hidden * width


def cross_parameters(model: Model) -> int:
    """Return the parameters of cross-attention of a layer, without its norm."""
    if model.cross is None:
        return 0
    attention, width = model.attention, cross_width(model)
    biases = (3 * width if attention.qkv_bias else 0) + (model.hidden if attention.out_bias else 0)
    return sum(cross_weights(model)) + biases


def condition_parameters(model: Model) -> int:
    """Return the parameters that make a layer's shifts, scales and gates, with their biases."""
    if model.conditioning is None:
        return 0
    wide = model.conditioning.vectors * model.hidden
    return model.conditioning.width * wide + wide


def outer_parameters(model: Model) -> int:
    """Return the parameters of a tower beside its layers and norms: input, positions, no head."""
    positions = model.learned_positions * model.hidden
    return positions + model.position_buckets * model.attention.heads + input_parameters(model)
