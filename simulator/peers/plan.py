"""A job among peers: read, and checked.

A plan file with ``[[peer]]`` tables: each is ``count`` peers of one kind, with links
``up_mbit_per_s`` and ``down_mbit_per_s``; what else it says (``cluster.spec``, ``parallel.tp``)
goes before the sections above. ``[averaging]`` says how and how often peers average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.plan_parse import AVERAGING, PEER
from ridgeline.simulator.planfile import read_plan, read_tables

MOST_PEERS = 10_000
MOST_MBIT_PER_S = 1e7
_BYTES_PER_MBIT = 1e6 / 8.0
_OWN = {
    "count": 1,
    "up_mbit_per_s": None,
    "down_mbit_per_s": None,
    "latency_ms": 50.0,
    "volunteer": False,
    "batch_share": 0,
}
"""Keys of a peer's own, with their defaults; None must be given."""
_AVERAGING = {"local_steps": 1, "bits": 16, "group": 0, "parts": "adapted", "overlap": False}
BITS = (4, 8, 16, 32)
PARTS = ("adapted", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind:
    """Peers that are alike."""

    plan: Plan
    """Of one of them, by itself; its batch is not yet that of the peer."""
    count: int
    up_bytes_per_s: float
    down_bytes_per_s: float
    latency_s: float
    volunteer: bool
    """Nobody pays for it."""
    share_seqs: int
    """Sequences that it takes of a step; 0 where that is to be chosen."""

    @property
    def unit_seqs(self) -> int:
        """Sequences that go through all of a peer's ranks at once."""
        return self.plan.parallel.dp * self.plan.training.micro_batch_seqs

    def alone(self) -> Plan:
        """Return the plan of one peer with one micro-batch for each of its ranks."""
        t = replace(self.plan.training, global_batch_seqs=self.unit_seqs)
        return replace(self.plan, training=t)

    @property
    def slower_bytes_per_s(self) -> float:
        """Of its two links."""
        return min(self.up_bytes_per_s, self.down_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """How peers average."""

    local_steps: int = 1
    """Steps that every peer takes by itself before they do; with 1 they average gradients."""
    bits: int = 16
    group: int = 0
    """Peers of a group; 0 for all in one."""
    parts: str = "adapted"
    """adapted to the links, or equal."""
    overlap: bool = False
    """The next local steps run while peers average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersPlan:
    """A job among peers."""

    name: str
    kinds: tuple[PeerKind, ...]
    averaging: Averaging
    global_batch_seqs: int

    @property
    def peers(self) -> int:
        """All of them."""
        return sum(kind.count for kind in self.kinds)


def read_peers(
    path: Path,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> PeersPlan:
    """Read a plan file with ``[[peer]]`` tables.

    Parameters
    ----------
    path, overrides, labels
        As :func:`ridgeline.simulator.planfile.read_plan` takes them; flags hold for every peer.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    tables = read_tables(path, overrides)
    found = tables.get(PEER)
    if not isinstance(found, list) or not found or not all(isinstance(t, dict) for t in found):
        raise InputError(f"{path}: {PEER}: must be tables, each [[{PEER}]]")
    lines: list[str] = []
    averaging = _averaging(f"{path}: {AVERAGING}", tables.get(AVERAGING, {}), lines)
    kinds: list[PeerKind] = []
    for number, table in enumerate(found, start=1):
        where = f"{path}: {PEER} {number}"
        own = {k: table.get(k, default) for k, default in _OWN.items()}
        known = (*_OWN, "name", *_SECTIONS)
        lines += [
            f"{where}: {k}: unknown key; {nearest(k, known)}" for k in table if k not in known
        ]
        wrong = _wrong_peer(where, own)
        lines += wrong
        try:
            plan = read_plan(path, overrides, labels, legal=False, peer=number)
        except InputError as error:
            lines += error.problems
            continue
        if not wrong:
            kinds.append(make_peer(plan, own))
    if lines:
        raise InputError(list(dict.fromkeys(lines)))
    peers = PeersPlan(
        name=str(tables.get("name") or path.stem),
        kinds=tuple(kinds),
        averaging=averaging,
        global_batch_seqs=kinds[0].plan.training.global_batch_seqs,
    )
    if problems := _problems(peers):
        raise InputError([f"{path}: {line}" for line in problems])
    return peers


_SECTIONS = ("model", "cluster", "parallel", "training", "stack", "run", "money")


def make_peer(plan: Plan, table: Mapping[str, Any]) -> PeerKind:
    """Return peers of a legal table's own keys, with the defaults of those that it leaves out."""
    own = {key: table.get(key, default) for key, default in _OWN.items()}
    return PeerKind(
        plan=plan,
        count=own["count"],
        up_bytes_per_s=own["up_mbit_per_s"] * _BYTES_PER_MBIT,
        down_bytes_per_s=own["down_mbit_per_s"] * _BYTES_PER_MBIT,
        latency_s=own["latency_ms"] / 1e3,
        volunteer=own["volunteer"],
        share_seqs=own["batch_share"],
    )


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least <= float(value) <= most  # type: ignore[arg-type]  # a number by now


def _wrong_peer(where: str, own: Mapping[str, Any]) -> list[str]:
    found = []
    if not _is_whole(own["count"], 1, MOST_PEERS):
        found.append(f"{where}: count = {own['count']!r}: must be from 1 to {MOST_PEERS:,}")
    if not _is_whole(own["batch_share"], 0, 10**8):
        found.append(f"{where}: batch_share = {own['batch_share']!r}: must be a whole number")
    if not isinstance(own["volunteer"], bool):
        found.append(f"{where}: volunteer = {own['volunteer']!r}: must be true or false")
    for key in ("up_mbit_per_s", "down_mbit_per_s"):
        if own[key] is None:
            found.append(f"{where}: {key}: missing; give its link to the others in Mbit/s")
        elif not _is_number(own[key], 1e-3, MOST_MBIT_PER_S):
            found.append(
                f"{where}: {key} = {own[key]!r}: must be from 0.001 to {MOST_MBIT_PER_S:g} Mbit/s"
            )
    if not _is_number(own["latency_ms"], 0.0, 1e5):
        found.append(f"{where}: latency_ms = {own['latency_ms']!r}: must be from 0 to 100,000")
    return found


def _averaging(where: str, table: object, lines: list[str]) -> Averaging:
    if not isinstance(table, dict):
        lines.append(f"{where}: must be a section of keys")
        return Averaging()
    lines += [
        f"{where}.{key}: unknown key; {nearest(key, _AVERAGING)}"
        for key in table
        if key not in _AVERAGING
    ]
    said = {key: table.get(key, default) for key, default in _AVERAGING.items()}
    before = len(lines)
    if not _is_whole(said["local_steps"], 1, 10**9):
        lines.append(f"{where}.local_steps = {said['local_steps']!r}: must be at least 1")
    if said["bits"] not in BITS:
        lines.append(f"{where}.bits = {said['bits']!r}: must be one of {', '.join(map(str, BITS))}")
    if not _is_whole(said["group"], 0, MOST_PEERS) or said["group"] == 1:
        lines.append(f"{where}.group = {said['group']!r}: must be 2 or more, or 0 for all in one")
    if said["parts"] not in PARTS:
        lines.append(f"{where}.parts = {said['parts']!r}: must be adapted or equal")
    if not isinstance(said["overlap"], bool):
        lines.append(f"{where}.overlap = {said['overlap']!r}: must be true or false")
    return Averaging() if len(lines) > before else Averaging(**said)


def _problems(plan: PeersPlan) -> list[str]:
    """Return why peers cannot run the job together, one line each."""
    found: list[str] = []
    first = plan.kinds[0].plan
    if plan.peers > MOST_PEERS:
        found.append(f"{PEER}: {plan.peers:,} peers; the most is {MOST_PEERS:,}")
    if plan.peers < 2:
        found.append(f"{PEER}: one alone averages with nobody; give more, or no [[{PEER}]]")
    for number, kind in enumerate(plan.kinds, start=1):
        t, u = kind.plan.training, first.training
        same = (t.seq_len, t.global_batch_seqs, t.tokens, t.lora_rank, t.lora_targets)
        if kind.plan.model != first.model or same != (
            u.seq_len,
            u.global_batch_seqs,
            u.tokens,
            u.lora_rank,
            u.lora_targets,
        ):
            found.append(
                f"{PEER} {number}: trains another model, batch, sequence or number of tokens than "
                f"the first; all peers train one"
            )
        if kind.share_seqs % kind.unit_seqs:
            found.append(
                f"{PEER} {number}: batch_share = {kind.share_seqs}: not a multiple of its "
                f"dp*micro_batch_seqs = {kind.unit_seqs}"
            )
    given = [kind for kind in plan.kinds if kind.share_seqs]
    total = sum(kind.share_seqs * kind.count for kind in given)
    if given and len(given) < len(plan.kinds):
        found.append(f"{PEER}: batch_share: give that of every peer, or of none")
    elif given and total != plan.global_batch_seqs:
        found.append(
            f"{PEER}: batch_share: over all peers that is {total} sequences, and "
            f"training.global_batch_seqs = {plan.global_batch_seqs}"
        )
    return found
