"""The host of a node: its processors, memory, links to the accelerators and NVMe drives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware._reader import Reader, citations, normalise, open_text, parse

_FOLDER = Path(__file__).parent / "data" / "hosts"
_KEYS: dict[str, dict[str, tuple[float, bool]]] = {
    "cpu": {
        "sockets": (64, True),
        "cores": (1e5, True),
        "clock_ghz": (20, True),
        "flops_per_cycle": (4096, True),
    },
    "memory": {"capacity_gb": (1e6, True), "gb_per_s": (1e5, True), "efficiency": (1, True)},
    "links": {"uplinks": (1024, False), "efficiency": (1, True)},
    "nvme": {
        "drives": (1024, False),
        "capacity_gb": (1e6, False),
        "read_gb_per_s": (1e4, False),
        "write_gb_per_s": (1e4, False),
    },
}
"""Table -> key -> (largest value, whether a profile must say it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One node without its accelerators. SI units."""

    name: str
    title: str
    sockets: int
    cores: int
    """Of all sockets."""
    flops: float
    """fp32 peak of the vector units, all cores together [FLOP/s]."""
    memory_bytes: float
    memory_bytes_per_s: float
    """What programs reach, all sockets together."""
    link_efficiency: float
    """Share of an accelerator's host link that copies of pinned memory reach."""
    uplinks: int
    """Host links that all accelerators of the node share; 0 where each has its own."""
    nvme_bytes: float
    """Capacity of all drives; 0 without."""
    nvme_read_bytes_per_s: float
    """All drives together."""
    nvme_write_bytes_per_s: float
    stated: dict[str, float]
    """Key -> value as the profile has it, in the unit that the key ends in."""
    sources: dict[str, str]
    """Key -> where its value comes from."""
    unconfirmed: tuple[str, ...]

    def __hash__(self) -> int:
        """Hash by name: the table of sources is a dict, and a name stands for one profile."""
        return hash(self.name)

    def memory_share(self, accelerators: int) -> float:
        """Return the memory bandwidth of one of so many accelerators' updates [byte/s].

        A rank's threads and pages lie on one socket, so that none gets more than that one's.
        """
        return min(self.memory_bytes_per_s / self.sockets, self.memory_bytes_per_s / accelerators)

    def flops_share(self, accelerators: int) -> float:
        """Return the vector peak of one of so many accelerators' updates [FLOP/s]."""
        return min(self.flops / self.sockets, self.flops / accelerators)

    def link_share(self, link_bytes_per_s: float, accelerators: int) -> float:
        """Return what copies to or from one of so many accelerators reach, a direction [byte/s]."""
        own = link_bytes_per_s * self.link_efficiency
        return min(own, own * self.uplinks / accelerators) if self.uplinks else own


def host_names() -> tuple[str, ...]:
    """Return the names of the profiles that ship, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@lru_cache(maxsize=64)
def load_host(name: str) -> Host:
    """Return the host called ``name``, or that of a file of one's own ending in ``.toml``.

    Raises
    ------
    InputError
        No such profile (the nearest name is given), or a mistake in the file.
    """
    if name.lower().endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"host: no such file {name[:200]!r}")
        return _read(path)
    wanted = normalise(name)
    if wanted not in host_names():
        raise InputError(f"host: unknown name {name[:200]!r}; {nearest(wanted, host_names())}")
    return _read(_FOLDER / f"{wanted}.toml")


def _read(path: Path) -> Host:
    document = parse(open_text(path), path.name)
    reader = Reader(path.name, citations(document, path.name))
    reader.known(document, ("name", "title", "sources", *_KEYS), "")
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    unconfirmed: list[str] = []
    for table, keys in _KEYS.items():
        found: dict[str, Any] = reader.table(document, table)
        reader.known(found, keys, table)
        for key, (most, needed) in keys.items():
            where = f"{table}.{key}"
            values[where] = 0.0
            if key in found:
                entry = reader.sourced(found[key], where, most=most)
                values[where], sources[where] = entry.value, entry.source
                if not entry.confirmed:
                    unconfirmed.append(where)
            elif needed:
                reader.problem(where, "missing")
    drives = values["nvme.drives"]
    if drives:
        for key in _KEYS["nvme"]:
            if not values[f"nvme.{key}"]:
                reader.problem(f"nvme.{key}", "missing; drives have one")
    reader.finish()
    return Host(
        name=str(document.get("name", path.stem)),
        title=str(document.get("title", "")),
        sockets=int(values["cpu.sockets"]),
        cores=int(values["cpu.cores"]),
        flops=values["cpu.cores"] * values["cpu.clock_ghz"] * 1e9 * values["cpu.flops_per_cycle"],
        memory_bytes=values["memory.capacity_gb"] * 1e9,
        memory_bytes_per_s=values["memory.gb_per_s"] * 1e9 * values["memory.efficiency"],
        link_efficiency=values["links.efficiency"],
        uplinks=int(values["links.uplinks"]),
        nvme_bytes=drives * values["nvme.capacity_gb"] * 1e9,
        nvme_read_bytes_per_s=drives * values["nvme.read_gb_per_s"] * 1e9,
        nvme_write_bytes_per_s=drives * values["nvme.write_gb_per_s"] * 1e9,
        stated={key: values[key] for key in sources},
        sources=sources,
        unconfirmed=tuple(unconfirmed),
    )
