"""Collectives as traces spell them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ridgeline.validation.traces.records import Collective

_KINDS = (
    ("all_reduce", r"all_?reduce"),
    ("reduce_scatter", r"reduce_?scatter"),
    ("all_gather", r"all_?gather"),
    ("all_to_all", r"all_?to_?all|dispatch|combine"),
    ("broadcast", r"broadcast"),
    ("send_recv", r"send_?recv|send|recv"),
)
_COMPILED = tuple((kind, re.compile(rule, re.IGNORECASE)) for kind, rule in _KINDS)
_WIRE = re.compile(
    r"nccl|rccl|deep_?ep|\bep::|multimem_|nvshmem|cross_device_reduce", re.IGNORECASE
)
_RANKS = re.compile(r"\[\s*(\d{1,9}(?:\s*,\s*\d{1,9}){0,65535})\s*\]")
_BYTES = {
    "byte": 1,
    "char": 1,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "half": 2,
    "float16": 2,
    "bfloat16": 2,
    "short": 2,
    "float": 4,
    "float32": 4,
    "int": 4,
    "int32": 4,
    "double": 8,
    "float64": 8,
    "long": 8,
    "int64": 8,
}
"""Bytes of an element, by PyTorch's names of scalar types."""


def collective_of(name: str, args: dict[str, Any]) -> Collective | None:
    """Return what a communication kernel moves, from its arguments or, failing them, its name."""
    said = args.get("Collective name")
    if said is None and not _on_wire(name):
        return None
    kind = _kind_of(str(said) if said is not None else name)
    dtype = str(args.get("dtype", ""))
    element = _BYTES.get(dtype.lower().removeprefix("c10::"), 0)
    counts = [args.get("In msg nelems"), args.get("Out msg nelems")]
    elements = max((c for c in counts if isinstance(c, int) and 0 <= c < 2**62), default=0)
    ranks = args.get("Group size")
    return Collective(
        kind=kind,
        bytes=float(elements) * element,
        ranks=ranks if isinstance(ranks, int) and 0 < ranks < 2**31 else 0,
        dtype=dtype,
        members=_members(str(args.get("Process Group Ranks", ""))),
    )


@lru_cache(maxsize=4096)
def _members(spelled: str) -> tuple[int, ...]:
    """Return the ranks of ``[0, 1]``; none of a list that is elided (``[0, 1, ..., 63]``)."""
    found = _RANKS.fullmatch(spelled)
    return tuple(int(rank) for rank in found[1].split(",")) if found else ()


@lru_cache(maxsize=65536)
def _on_wire(name: str) -> bool:
    return _WIRE.search(name) is not None


@lru_cache(maxsize=4096)
def _kind_of(spelled: str) -> str:
    return next((kind for kind, rule in _COMPILED if rule.search(spelled)), "other")
