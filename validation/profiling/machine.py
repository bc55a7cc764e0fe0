"""What the machine says of itself: name, cores, caches, memory, power. No host or user names."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_RAPL = Path("/sys/class/powercap/intel-rapl:0")
_DEFAULT_CACHE = 32 * 2**20
IDLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A device as one rank sees it."""

    device: str
    """``cpu`` or ``cuda``."""
    model: str
    """The vendor's name of the part."""
    vendor: str
    family: str
    """Of ``hardware/data/universal.toml``."""
    cores: int
    """SMs, compute units, or threads of a rank on a CPU."""
    vector: int
    """fp32 lanes of a CPU's vector unit; 0 on a GPU."""
    cache_bytes: float
    cache_read: bool
    """Whether the cache was read off the machine and not assumed."""
    memory_bytes: float


def read_machine(device: torch.device, threads: int, processes: int) -> Machine:
    """Return the device of a rank."""
    if device.type == "cuda":
        return _gpu(device)
    cache = _largest_cache()
    wide = torch.backends.cpu.get_cpu_capability()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = _cpu_model()
    return Machine(
        device="cpu",
        model=model,
        vendor=model.split()[0],
        family="cpu",
        cores=threads,
        vector=16 if "AVX512" in wide else 8 if "AVX2" in wide else 4,
        cache_bytes=cache or _DEFAULT_CACHE,
        cache_read=cache > 0,
        memory_bytes=memory / processes,
    )


def _gpu(device: torch.device) -> Machine:
    about = torch.cuda.get_device_properties(device)
    amd = torch.version.hip is not None
    cache = float(getattr(about, "L2_cache_size", 0))
    return Machine(
        device="cuda",
        model=about.name,
        vendor="AMD" if amd else "NVIDIA",
        family=_amd_family(about.gcnArchName) if amd else _nvidia_family(about.major, about.minor),
        cores=about.multi_processor_count,
        vector=0,
        cache_bytes=cache or _DEFAULT_CACHE,
        cache_read=cache > 0,
        memory_bytes=float(about.total_memory),
    )


def _nvidia_family(major: int, minor: int) -> str:
    """Return the class of a compute capability (CUDA C++ programming guide, appendix)."""
    if major >= 10:
        return "blackwell"
    if major == 9:
        return "hopper"
    if major == 8:
        return "ada" if minor == 9 else "ampere"
    return "volta"


def _amd_family(architecture: str) -> str:
    """Return the class of a gfx architecture (ROCm documentation, GPU specifications)."""
    for prefix, family in (("gfx95", "cdna4"), ("gfx94", "cdna3")):
        if architecture.startswith(prefix):
            return family
    return "cdna2"


def _cpu_model() -> str:
    if _CPUINFO.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.machine() or "CPU"


def _largest_cache() -> float:
    sizes = [0.0]
    for file in _CACHES.glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KM])", file.read_text().strip())
        if found:
            sizes.append(float(found.group(1)) * (2**10 if found.group(2) == "K" else 2**20))
    return max(sizes)


class Power:
    """Power of the device where it can be read: nvidia-smi on NVIDIA, RAPL on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.index or 0 if device.type == "cuda" else -1
        self._smi = shutil.which("nvidia-smi") if device.type == "cuda" else None
        self._draws: list[float] = []
        self._start = (time.perf_counter(), self._energy())
        self.limit_w = self._limit()
        self.idle_w = self._idle() if self.limit_w else 0.0

    def note(self) -> None:
        """Take a reading between rounds."""
        if self._smi:
            self._draws.append(self._query("power.draw"))

    def load_w(self) -> float:
        """Return the mean power since the start, 0 where it cannot be read."""
        if self._draws:
            return sum(self._draws) / len(self._draws)
        begin, energy = self._start
        used = self._energy() - energy
        return used / (time.perf_counter() - begin) if used > 0 else 0.0

    def _limit(self) -> float:
        if self._smi:
            return self._query("power.limit")
        limit = _RAPL / "constraint_0_power_limit_uw"
        return float(limit.read_text()) * 1e-6 if self._energy() else 0.0

    def _idle(self) -> float:
        if self._smi:
            return self._query("power.draw")
        before = self._energy()
        time.sleep(IDLE_S)
        return (self._energy() - before) / IDLE_S

    def _energy(self) -> float:
        """Return the CPU package's energy counter, J; 0 where it cannot be read."""
        try:
            return float((_RAPL / "energy_uj").read_text()) * 1e-6 if self._gpu < 0 else 0.0
        except OSError:
            return 0.0

    def _query(self, field: str) -> float:
        assert self._smi is not None
        command = [self._smi, f"--id={self._gpu}", f"--query-gpu={field}"]
        answer = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
        ).stdout.strip()
        return float(answer) if re.fullmatch(r"[\d.]+", answer) else 0.0
