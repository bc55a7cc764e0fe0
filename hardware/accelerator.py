"""One accelerator: its datasheet and how close kernels come to it. SI units throughout."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.errors import InputError
from ridgeline.hardware.efficiency import Efficiency

DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
"""Number formats a peak may be given for."""

_STAND_INS = {"fp16": "bf16", "bf16": "fp16", "tf32": "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """An accelerator as a user counts it (a GPU, a GCD, a TPU chip)."""

    name: str
    """Canonical name: lower case with hyphens, e.g. ``h100-sxm``."""
    aliases: tuple[str, ...]
    vendor: str
    family: str
    """Class for universal parameters: one of the families of ``data/universal.toml``."""
    release_year: int
    peak_flops: dict[str, float]
    """Dense peak by dtype, FLOP/s: fp32, tf32, bf16, fp16, fp8, int8, fp4 (only those it has)."""
    cores: int
    """SMs, CUs or TensorCores."""
    systolic: int
    """Side of the systolic array (128, 256), 0 when there is none."""
    l2_bytes: float
    memory_bytes: float
    """Memory a program can allocate, bytes."""
    memory_bytes_per_s: float
    scaleup_bytes_per_s: float
    """Per direction, all links of one accelerator together."""
    scaleup_domain: int
    """Accelerators reachable over the scale-up links."""
    scaleout_bytes_per_s: float
    """Usual network bandwidth per accelerator and direction."""
    host_bytes_per_s: float
    """PCIe or C2C bandwidth to the host, per direction."""
    per_node: int
    """Accelerators in the usual node."""
    torus_dims: int
    """0 for switched links; 2 or 3 for a TPU torus."""
    tdp_w: float
    idle_w: float
    load_fraction: float
    """Average power while training as a fraction of TDP."""
    efficiency: Efficiency
    sources: dict[str, str]
    """Field name -> where its value comes from."""
    unconfirmed: tuple[str, ...]
    """Fields whose value no document confirmed."""
    host_time: float = 1.0
    """Time of a framework's code on the usual host over that on an x86 server."""

    def __hash__(self) -> int:
        """Hash by name: the tables inside are dicts, and a name stands for one profile."""
        return hash(self.name)

    def peak(self, dtype: str) -> float:
        """Return the dense peak of ``dtype``, FLOP/s.

        Where a vendor publishes only one 16-bit figure, fp16 stands for bf16 and bf16 for fp16
        (both run at one rate on every matrix unit that has both). A device without tf32 runs such
        products as fp32, so tf32 falls back to fp32. Nothing else is guessed.

        Raises
        ------
        InputError
            The device has no such peak; the message names those it has.
        """
        for candidate in (dtype, _STAND_INS.get(dtype, dtype)):
            if candidate in self.peak_flops:
                return self.peak_flops[candidate]
        if dtype not in DTYPES:
            raise InputError(f"precision: unknown number format {dtype!r}; use {', '.join(DTYPES)}")
        raise InputError(
            f"accelerator {self.name}: has no {dtype} peak; it has {', '.join(self.peak_flops)}"
        )
