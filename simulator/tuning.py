"""What of a model is trained: which weights have gradients, and where the backward pass stops.

Of a layer either all weights are trained; or none, while the gradients of its inputs still pass
(the layers that hold adapters, or lie between the loss and what is trained); or nothing runs but
its forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ridgeline.simulator.adapters import layer_adapters
from ridgeline.simulator.plan import Plan, Training
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import layer_parameters, parameters

NF4_BLOCK = 64
"""Weights that share one scale (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""
SCALE_BLOCK = 256
"""Scales that share one scale of their own under double quantisation."""


def nf4_bits(*, double_quantised: bool) -> float:
    """Return the bits of a weight in 4-bit NormalFloat, with its share of the scales.

    One fp32 scale for 64 weights is half a bit each. Double quantisation keeps the scales in 8
    bits, with an fp32 scale for each 256 of them: 8/64 + 32/(64 x 256) = 0.127 bits (Dettmers et
    al. 2023, arXiv:2305.14314, section 3).
    """
    if double_quantised:
        return 4.0 + 8.0 / NF4_BLOCK + 32.0 / (NF4_BLOCK * SCALE_BLOCK)
    return 4.0 + 32.0 / NF4_BLOCK


def adds_parameters(training: Training) -> bool:
    """Whether what is trained is added to a frozen model: adapters, bottlenecks, a ladder."""
    tuning = training.tuning
    return bool(training.lora_rank or tuning.adapter_width or tuning.side_reduction)


def freezes_layers(training: Training) -> bool:
    """Whether the weights of layers have no gradients (other layers may not even run backward)."""
    tuning = training.tuning
    return adds_parameters(training) or tuning.trained == "embeddings" or tuning.forward_only


def only_forward(training: Training, index: int) -> bool:
    """Whether layer ``index`` of the model has no backward pass."""
    tuning = training.tuning
    return tuning.forward_only or tuning.side_reduction > 0 or index < tuning.frozen_layers


def trains_embedding(training: Training) -> bool:
    """Whether the embedding (with positions) is trained."""
    tuning = training.tuning
    return not (adds_parameters(training) or tuning.forward_only or tuning.frozen_layers)


def trains_head(model: Model, training: Training) -> bool:
    """Whether the output projection is trained; a table shared with a frozen embedding is not."""
    if model.tied_embeddings and training.tuning.frozen_layers:
        return False
    return not (adds_parameters(training) or training.tuning.forward_only)


@lru_cache(maxsize=256)
def side_model(model: Model, reduction: int) -> Model:
    """Return the side network of a ladder: as deep, all widths divided by ``reduction``.

    Heads stay as many and are narrower (Sung et al. 2022, arXiv:2206.06522, section 3.2).
    """
    a = model.attention
    return replace(
        model,
        name=f"{model.name} side network",
        hidden=model.hidden // reduction,
        ffn_hidden=model.ffn_hidden // reduction,
        attention=replace(
            a, head_dim=a.head_dim // reduction, v_head_dim=a.v_head_dim // reduction
        ),
    )


def added_parameters(model: Model, index: int, training: Training, tp: int) -> float:
    """Return the trained parameters that come on top of layer ``index``, on one tensor rank.

    - Low-rank adapters (``adapters.layer_adapters``).
    - Two bottlenecks of width m with biases, 2 (2 h m + m + h) (Houlsby et al. 2019,
      arXiv:1902.00751, section 2.1), whole on every tensor rank.
    - A layer of the side network, its ladder of h x h/r and a gate (arXiv:2206.06522).

    A layer without a backward pass holds no adapter.
    """
    tuning, h = training.tuning, model.hidden
    if tuning.side_reduction:
        side = layer_parameters(side_model(model, tuning.side_reduction), index).total
        return side + h * (h // tuning.side_reduction) + 1.0
    if only_forward(training, index):
        return 0.0
    form = model.form(index)
    added = layer_adapters(model, form, training.lora_rank, training.lora_targets, tp)
    width = tuning.adapter_width
    return added + (2.0 * (2 * h * width + width + h) if width else 0.0)


def side_head_parameters(model: Model, training: Training) -> float:
    """Return the parameters of the way back from a side network's width to the model's."""
    reduction = training.tuning.side_reduction
    return float(model.hidden * (model.hidden // reduction)) if reduction else 0.0


def trained_parameters(plan: Plan) -> float:
    """Return all parameters of a plan that are trained."""
    model, training = plan.model, plan.training
    layers = range(model.num_layers)
    if adds_parameters(training):
        added = sum(added_parameters(model, index, training, 1) for index in layers)
        return added + side_head_parameters(model, training)
    count, tuning = parameters(model), training.tuning
    if tuning.forward_only:
        return 0.0
    if tuning.trained == "embeddings":
        return float(count.embedding + count.head + count.positions)
    frozen = sum(layer_parameters(model, index).total for index in layers[: tuning.frozen_layers])
    if tuning.frozen_layers:
        frozen += count.embedding + count.positions
    return float(count.total_with_mtp - frozen)
