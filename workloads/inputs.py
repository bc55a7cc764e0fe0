"""What a question may change of the inputs of a model: their lengths, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from ridgeline.errors import InputError
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import Tower


def with_inputs(
    model: Model,
    *,
    encoder_len: int | None = None,
    images: int | None = None,
    image_tokens: int | None = None,
    train_vision: bool | None = None,
) -> Model:
    """Return the model with other inputs.

    Parameters
    ----------
    encoder_len
        Tokens of the encoder's input, for a model whose layers attend to one.
    images
        Images in a sequence; 0 for text alone.
    image_tokens
        Tokens of the sequence that one image becomes, for a model whose images have any size.
    train_vision
        Whether the tower that reads images is trained.

    Raises
    ------
    InputError
        The model has no such input.
    """
    if encoder_len is not None:
        if model.cross is None or not _named(model, "encoder"):
            raise InputError(f"encoder_len = {encoder_len}: {model.name} has no encoder")
        towers = [replace(t, tokens=encoder_len) for t in model.towers]
        cross = replace(model.cross, tokens=encoder_len)
        model = replace(model, towers=tuple(towers), cross=cross)
    asked = {"images": images, "image_tokens": image_tokens, "train_vision": train_vision}
    for key, value in asked.items():
        if value is not None and not _named(model, "vision"):
            raise InputError(f"{key} = {value}: {model.name} reads no images among its text")
    if images is not None:
        towers = [replace(t, pieces=images) for t in model.towers] if images else []
        model = replace(model, towers=tuple(towers))
    if image_tokens is not None:
        towers = [_resized(model, tower, image_tokens) for tower in model.towers]
        model = replace(model, towers=tuple(towers))
    if train_vision is not None:
        towers = [replace(tower, trained=train_vision) for tower in model.towers]
        model = replace(model, towers=tuple(towers))
    return model


def _named(model: Model, name: str) -> bool:
    return any(tower.name == name for tower in model.towers)


def _resized(model: Model, tower: Tower, tokens: int) -> Tower:
    if tower.model.learned_positions and tokens != tower.outputs:
        raise InputError(
            f"image_tokens = {tokens}: every image of {model.name} becomes {tower.outputs} tokens"
        )
    return replace(tower, tokens=tokens * tower.tokens // tower.outputs, outputs=tokens)


def masked(model: Model, seq_len: int, share: float) -> tuple[Model, int]:
    """Return the model for images of ``seq_len`` patches and the tokens that its layers see.

    A tower in front of the layers sees all patches, the layers what is left behind it:
    floor(s (1 - share)).

    Raises
    ------
    InputError
        The model has no tower behind which patches could be left out.
    """
    if not any(tower.joins == "trunk" for tower in model.towers):
        if share:
            raise InputError(
                f"masked = {share:g}: {model.name} has no patch mixer behind which patches are "
                "left out"
            )
        return model, seq_len
    patches = model.patches
    side = isqrt(seq_len)
    if patches is not None and side * side != seq_len:
        raise InputError(
            f"seq_len = {seq_len}: the patches of a square image are a square number; "
            f"{side * side} is one"
        )
    towers = [
        replace(tower, tokens=seq_len) if tower.joins == "trunk" else tower
        for tower in model.towers
    ]
    return replace(model, towers=tuple(towers)), max(1, int(seq_len * (1.0 - share)))
