"""The laws by name, and which one is the default and why."""

from __future__ import annotations

from functools import cache

from ridgeline.errors import InputError, nearest
from ridgeline.workloads.scaling.allocation import (
    AllocationLaw,
    AnchoredPowerLaw,
    Diffusion,
    FixedRatio,
    KaplanJoint,
    LossSurface,
    PowerLaw,
)
from ridgeline.workloads.scaling.bundle import load_bundle
from ridgeline.workloads.scaling.repetition import DataConstrained

DEFAULT_LAW = "besiroglu-2024"
WHY_DEFAULT = (
    "the loss surface of Hoffmann's own runs, fitted again without the faults of the first fit: "
    "the only one with standard errors, and in agreement with Hoffmann's approaches 1 and 2"
)

_FORMS: dict[str, type[AllocationLaw]] = {
    "besiroglu-2024": LossSurface,
    "hoffmann-2022-a1": PowerLaw,
    "hoffmann-2022-a2": PowerLaw,
    "hoffmann-2022-a3": LossSurface,
    "chinchilla-20": FixedRatio,
    "porian-2024": PowerLaw,
    "muennighoff-2023": DataConstrained,
    "dey-2023": FixedRatio,
    "kaplan-2020": AnchoredPowerLaw,
    "kaplan-2020-joint": KaplanJoint,
    "hoffmann-2022-a3-rounded": LossSurface,
    "liang-2024": Diffusion,
}
LANGUAGE_LAWS = (
    "besiroglu-2024",
    "hoffmann-2022-a1",
    "hoffmann-2022-a2",
    "hoffmann-2022-a3",
    "porian-2024",
    "muennighoff-2023",
    "chinchilla-20",
    "kaplan-2020",
)
"""What a proposal for a dense language model is compared over: the rounded constants and the joint
fit of converged models are no advice, and Cerebras-GPT's ratio is that of chinchilla-20."""


def law_names() -> tuple[str, ...]:
    """Return the laws that split a compute budget."""
    return tuple(_FORMS)


@cache
def load_law(name: str) -> AllocationLaw:
    """Return a law of training compute.

    Raises
    ------
    InputError
        When there is none of this name.
    """
    if name not in _FORMS:
        raise InputError(f"scaling law {name[:200]!r}: is not known; {nearest(name, _FORMS)}")
    form = _FORMS[name]
    return form(bundle=load_bundle(name))  # type: ignore[call-arg] # all are made of a bundle


def load_loss_surface(name: str) -> LossSurface:
    """Return a law of the form E + A / N^alpha + B / D^beta.

    Raises
    ------
    InputError
        When the law is unknown or of another form.
    """
    law = load_law(name)
    if not isinstance(law, LossSurface):
        fitting = [key for key, form in _FORMS.items() if form is LossSurface]
        raise InputError(f"scaling law {name!r}: has no loss surface; {', '.join(fitting)} have")
    return law
