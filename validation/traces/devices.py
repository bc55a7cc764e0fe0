"""Which accelerator of the catalogue a driver's name of a device means."""

from __future__ import annotations

import re

from ridgeline.hardware import load_accelerator
from ridgeline.hardware.profiles import accelerator_names

_FORMS = ("pcie", "nvl")
"""Words that a driver's name has for these forms and leaves out for the others."""
_DETAIL = re.compile(r"^(sxm\d?|pcie|nvl|gcd|\d+gb|\d+w)$")


def find_accelerator(device: str, memory_bytes: float) -> str:
    """Return the catalogue's name of a device, empty when it is not known.

    The longest chip name found in the driver's decides; of its variants those of the form factor
    that it says (or of none that it would say), then the one whose memory is nearest.
    """
    said = _squashed(device)
    chips = {name: _chip(name) for name in accelerator_names()}
    found = max((chip for chip in chips.values() if chip in said), key=len, default="")
    if not found:
        return ""
    variants = [name for name, chip in chips.items() if chip == found]
    alike = [
        name for name in variants if all((form in said) == (form in name) for form in _FORMS)
    ] or variants
    if memory_bytes <= 0.0:
        return min(alike, key=lambda name: (len(name), name))
    near = {name: abs(load_accelerator(name).memory_bytes / memory_bytes - 1.0) for name in alike}
    # totals of one part differ by a percent with the driver's reserve
    return min(alike, key=lambda name: (round(near[name], 1), len(name), name))


def _chip(name: str) -> str:
    """Return a name without form, memory and power: ``h100-sxm`` is ``h100``."""
    return "".join(part for part in name.split("-") if not _DETAIL.match(part))


def _squashed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
