"""Ends of a stack that are no vocabulary: patches and conditions going in, classes coming out."""

from __future__ import annotations

from ridgeline.simulator.operators.products import elementwise, linear
from ridgeline.simulator.operators.shape import Shape
from ridgeline.simulator.operators.table import BACKWARD, FORWARD, WEIGHT, Builder
from ridgeline.simulator.roofline.layout import MEMORY
from ridgeline.workloads.towers import Tower


def patch_embedding(b: Builder, s: Shape) -> None:
    """Add the product of patches and their matrix (whole on every tensor rank), and positions."""
    model = s.model
    assert model.patches is not None
    for phase in (FORWARD, WEIGHT):
        b.phase = phase
        values = model.patches.values
        linear(b, s, "patches", "embedding", s.region_tokens, model.hidden, values, dtype=s.dtype)
        if phase == FORWARD:
            elementwise(b, s, "embedding sum", "embedding", model.hidden, 3.0, region=True)
    _condition(b, s)


def _condition(b: Builder, s: Shape) -> None:
    """Add the network that embeds the time step, a row by sequence."""
    condition = s.model.conditioning
    if condition is None or not condition.frequencies:
        return
    width = condition.width
    for phase in (FORWARD, BACKWARD, WEIGHT):
        b.phase = phase
        if phase != BACKWARD:
            rows, inputs = s.sequences, condition.frequencies
            linear(b, s, "time step", "embedding", rows, width, inputs, dtype=s.dtype)
        linear(b, s, "time step output", "embedding", s.sequences, width, width, dtype=s.dtype)


def masked_transform(b: Builder, s: Shape) -> None:
    """Add the transform in front of the logits in the builder's phase (BERT), and the pooler."""
    h = s.model.hidden
    if s.model.head == "masked":
        linear(b, s, "transform", "head", s.region_tokens, h, h, dtype=s.dtype)
        if b.phase != WEIGHT:
            passes = 4.0 if b.phase == FORWARD else 6.0
            elementwise(b, s, "transform norm", "norm", h, passes, region=True)
    if s.model.pooler:
        linear(b, s, "pooler", "head", s.sequences, h, h, dtype=s.dtype)


def class_head(b: Builder, s: Shape) -> None:
    """Add the head of images: final norm, classes of a sequence or values of each patch, loss."""
    model = s.model
    h, outputs = model.hidden, model.outputs
    rows = s.sequences if model.head == "classes" else s.region_tokens
    shifts = model.conditioning if model.head == "patches" else None
    compared = float(rows * outputs)
    for phase in (FORWARD, BACKWARD, WEIGHT):
        b.phase = phase
        if phase == FORWARD and model.final_norm:
            elementwise(b, s, "final norm", "norm", h, 2.0, region=True)
        if shifts is not None:
            linear(b, s, "final condition", "head", s.sequences, 2 * h, shifts.width, dtype=s.dtype)
        if shifts is not None and phase != WEIGHT:
            passes = 2.0 if phase == FORWARD else 3.0
            elementwise(b, s, "final modulation", "norm", h, passes, region=True)
        if phase == BACKWARD:
            moved = compared * (s.element + 4.0)
            b.compute("loss gradient", "head", MEMORY, s.dtype, moved=moved)
        linear(b, s, "head", "head", rows, outputs, h, dtype=s.dtype)
        if phase == FORWARD:
            moved = compared * (s.element + 8.0)
            b.compute("loss", "head", MEMORY, s.dtype, moved=moved)
        if phase == BACKWARD and model.final_norm:
            elementwise(b, s, "final norm gradient", "norm", h, 3.0, region=True)


def tower_ends(b: Builder, s: Shape, tower: Tower) -> None:
    """Add what a tower has beside its layers: its input, final norm and projector.

    ``s`` is the tower's own shape. The projector is whole on every tensor rank, which share its
    rows out under sequence parallelism.
    """
    model = tower.model
    if model.patches is not None:
        patch_embedding(b, s)
    else:
        b.phase = FORWARD
        elementwise(b, s, "embedding", "embedding", model.hidden, 2.0, region=True)
    phases = (FORWARD, BACKWARD) if tower.trained else (FORWARD,)
    for phase in phases if model.final_norm else ():
        b.phase = phase
        passes = 2.0 if phase == FORWARD else 3.0
        elementwise(b, s, "final norm", "norm", model.hidden, passes, region=True)
    rows = s.sequences * tower.projected
    rows = -(-rows // s.tp) if s.sp else rows
    for phase in (FORWARD, BACKWARD, WEIGHT):
        b.phase = phase
        for number, (inputs, outputs) in enumerate(tower.projector):
            linear(b, s, f"projector {number}", "embedding", rows, outputs, inputs)
