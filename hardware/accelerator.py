"""One accelerator: its datasheet and how close kernels come to it. SI units throughout."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware.efficiency import Efficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """An accelerator as a user counts it (a GPU, a GCD, a TPU chip)."""

    name: str
    """Canonical name: lower case with hyphens, e.g. ``h100-sxm``."""
    aliases: tuple[str, ...]
    vendor: str
    family: str
    """Class for universal parameters: volta, ampere, ada, hopper, blackwell, cdna, tpu-128, tpu-256."""
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

    def peak(self, dtype: str) -> float:
        """Return the dense peak of ``dtype`` in FLOP/s, or raise InputError naming what it has."""
        raise NotImplementedError
