"""Which measured kernels stand for an engine's on a device: its own, a twin's, or none."""

from __future__ import annotations

import math
from functools import lru_cache

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import DIRECTORY, KernelSet, load_kernel_sets
from ridgeline.hardware.profiles import load_accelerator

_CORES_ALIKE = 0.15
"""Twins have the same architecture and as many SMs within this share: tiles fill them alike."""
_LINKS_ALIKE = 1.7
"""Largest ratio of scale-up bandwidths at which a twin's collectives carry over."""

_REFERENCE = "h100-sxm"
"""Device whose libraries' all-reduces stand for those of accelerators without a twin."""


@lru_cache(maxsize=1)
def measured_devices() -> tuple[str, ...]:
    """Return the accelerators whose GEMMs were measured."""
    return tuple(
        sorted(path.name.removesuffix(".gemm.json") for path in DIRECTORY.glob("*.gemm.json"))
    )


@lru_cache(maxsize=256)
def twin(accelerator: Accelerator) -> str:
    """Return the measured device whose kernel sets stand for an accelerator's, "" for none.

    Parameters of a set are shares of the datasheet's peak and bandwidth and fixed times, so that
    they carry over within an architecture; of several, the nearest in memory bandwidth.
    """
    if accelerator.name in measured_devices():
        return accelerator.name
    near: list[tuple[float, str]] = []
    for name in measured_devices():
        other = load_accelerator(name)
        alike = abs(other.cores / accelerator.cores - 1.0) <= _CORES_ALIKE
        if other.family == accelerator.family and alike:
            ratio = accelerator.memory_bytes_per_s / other.memory_bytes_per_s
            near.append((abs(math.log(ratio)), name))
    return min(near)[1] if near else ""


def clock_share(accelerator: Accelerator, device: str, compute: str) -> float:
    """Return an accelerator's sustained clock over that of the twin whose kernels price it.

    At most 1. Kernels were measured at the twin's power: a part of the same chip with less of it (a
    power cap) multiplies at this share of their speed, and streams as they do.
    """
    if device in ("", accelerator.name):
        return 1.0
    own, other = accelerator.efficiency.sustained, load_accelerator(device).efficiency.sustained
    form = "bf16" if compute == "fp16" else compute
    if form not in own or form not in other:
        return 1.0
    return min(1.0, own[form] / other[form])


@lru_cache(maxsize=1024)
def gemm_set(device: str, library: str, dtype: str) -> KernelSet | None:
    """Return the set of a library for a dtype, else another library's, else None."""
    return _best(load_kernel_sets(device, "gemm") if device else (), library, dtype)


@lru_cache(maxsize=1024)
def attention_set(device: str, op: str, library: str, dtypes: tuple[str, ...]) -> KernelSet | None:
    """Return the prefill or decode set of a library, dtypes first found first."""
    sets = load_kernel_sets(device, op) if device else ()
    own = tuple(one for one in sets if one.library == library)
    for candidates in (own, sets):
        for dtype in dtypes:
            found = _best(candidates, library, dtype)
            if found is not None:
                return found
    return None


@lru_cache(maxsize=1024)
def expert_set(
    device: str,
    library: str,
    dtypes: tuple[str, ...],
    projections: float,
    preferred: tuple[str, ...],
    told: str = "",
) -> KernelSet | None:
    """Return the set of a library's expert kernels.

    Parameters
    ----------
    device, library, dtypes
        As for attention.
    projections
        Matrices of an expert: 3 when gated, else 2.
    preferred
        Texts in the name or dtype of the kernels that an engine prefers, first found first.
    told
        Text in the name of the kernels that the server was told to take, of any library.
    """
    every = load_kernel_sets(device, "moe") if device else ()
    sets = tuple(
        one for one in every if one.parameters["projections"] == projections and one.dtype in dtypes
    )
    own = tuple(one for one in sets if one.library == library)
    liked = [
        tuple(one for one in own if text in one.kernel or text in one.dtype) for text in preferred
    ]
    asked = [tuple(one for one in those if told and told in one.kernel) for those in (own, sets)]
    for candidates in (*asked, *liked, own, sets):
        for dtype in dtypes:
            found = _best(candidates, library, dtype)
            if found is not None:
                return found
    return None


@lru_cache(maxsize=1024)
def custom_all_reduce_set(accelerator: Accelerator, library: str) -> KernelSet | None:
    """Return the all-reduce that a library brings along, as graphs replay it."""
    sets = _linked(accelerator, "custom_all_reduce")
    own = [one for one in sets if one.library == library and not one.kernel.endswith("_eager")]
    return own[0] if own else None


@lru_cache(maxsize=1024)
def collective_set(accelerator: Accelerator, operation: str) -> KernelSet | None:
    """Return NCCL's set of an operation inside one scale-up domain."""
    sets = _linked(accelerator, "collective")
    own = [one for one in sets if one.kernel == operation and one.dtype in ("any", "half")]
    return own[0] if own else None


def _linked(accelerator: Accelerator, op: str) -> tuple[KernelSet, ...]:
    """Return a twin's sets whose links are alike; own all-reduces also of the reference device.

    Such kernels are written alike everywhere (peers' buffers read over the links behind a barrier),
    and their form takes the accelerator's own bandwidth.
    """
    device = twin(accelerator)
    if not device and op == "custom_all_reduce":
        device = _REFERENCE
    if not device:
        return ()
    ratio = accelerator.scaleup_bytes_per_s / load_accelerator(device).scaleup_bytes_per_s
    return load_kernel_sets(device, op) if 1.0 / _LINKS_ALIKE < ratio < _LINKS_ALIKE else ()


def _best(sets: tuple[KernelSet, ...], library: str, dtype: str) -> KernelSet | None:
    """Return the best measured set of a dtype: the library's own, then the one of most rows."""
    found = [one for one in sets if one.dtype == dtype]
    return max(found, key=lambda one: (one.library == library, one.rows), default=None)
