"""Which ways of training are not modelled for models with towers or layers of other kinds."""

from __future__ import annotations

from collections.abc import Iterator

from ridgeline.simulator.legality_layers import special_layers
from ridgeline.simulator.optimizers import BY_MATRIX
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import OPTIMAL


def together_problems(plan: Plan) -> Iterator[str]:
    """Yield what of a plan is priced for stacks of attention and MLP alone, one line each."""
    model, training, tuning = plan.model, plan.training, plan.training.tuning
    what = special_layers(model)
    if not what and (model.towers or model.cross is not None):
        what = "towers" if model.towers else "cross-attention"
    if not what:
        return
    asked = (
        (training.optimizer in BY_MATRIX, f"training.optimizer = {training.optimizer!r}"),
        (training.int8_weights, "training.int8_weights = true"),
        (bool(tuning.quantised_bits), "training.task = 'qlora'"),
        (tuning.adapter_width > 0, "training.task = 'adapters'"),
        (tuning.side_reduction > 0, "training.task = 'ladder'"),
        (tuning.frozen_layers > 0, f"training.frozen_layers = {tuning.frozen_layers}"),
        (tuning.trained != "all", f"training.trained = {tuning.trained!r}"),
        (
            training.recompute == OPTIMAL or "*" in training.recompute,
            f"training.recompute = {training.recompute!r}",
        ),
        (training.sample_len > 0, f"training.sample_len = {training.sample_len}"),
        (plan.parallel.low_bandwidth, "quantized or nearer partitions of ZeRO"),
    )
    for is_asked, name in asked:
        if is_asked:
            yield (
                f"{name}: is modelled for layers of attention and MLP, and {model.name} has "
                f"{what}; leave it out"
            )
