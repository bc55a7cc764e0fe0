"""FLOPs that a step needs by its task: what MFU counts.

Convention: a product counts once forward, once more for the gradient of its input and once more
for that of its weight; attention's scores, which have no weights, go with the layer around them.
A layer whose weights are frozen therefore counts twice, one that no gradient reaches once, and the
products of low-rank adapters and bottlenecks (under a percent) are left out. The pass of a
reference or a teacher is part of the task and counts, recomputation never does.
"""

from __future__ import annotations

from ridgeline.simulator.plan import Plan
from ridgeline.simulator.tuning import freezes_layers, only_forward, side_model, trains_head
from ridgeline.workloads.flops import forward_flops, layer_flops


def model_flops_per_token(plan: Plan) -> float:
    """Return the model FLOPs of training a token, without passes beside the step."""
    model, training = plan.model, plan.training
    tuning = training.tuning
    shape = (training.attended_len, training.flop_convention)
    forward = forward_flops(model, *shape)
    if tuning.forward_only:
        return forward.total
    if tuning.side_reduction:
        side = side_model(model, tuning.side_reduction)
        ladder = 2.0 * model.hidden * side.hidden
        trained = 3.0 * forward_flops(side, *shape).layers + model.num_layers * 2.0 * ladder
        # through the frozen head, and through the product that widens the side network again
        return forward.total + trained + forward.head + 3.0 * ladder
    if not tuning.frozen_layers:
        if tuning.trained == "embeddings":
            return 2.0 * forward.total + forward.head
        passes = 2.0 if freezes_layers(training) else 3.0
        # a frozen tower has no backward pass
        return passes * forward.total - (passes - 1.0) * forward.frozen
    below = sum(
        layer_flops(model, index, *shape)
        for index in range(model.num_layers)
        if only_forward(training, index)
    )
    reached = forward.total - below
    unlearned = 0.0 if trains_head(model, training) else forward.head
    weights = 0.0 if freezes_layers(training) else reached - unlearned
    return forward.total + reached + weights
