"""The operator table: what one accelerator computes and sends in one pass over one layer.

A row is an operator or a collective, in the order of execution inside its (part, phase). Parts are
the distinct layer kinds of the model, then embedding, head, multi-token prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ridgeline.simulator.roofline.layout import DIMS, EXTRAS

FORWARD, RECOMPUTE, BACKWARD, WEIGHT = range(4)
"""Phases: forward; forward again inside the backward pass; input gradients; weight gradients."""
PHASES = ("forward", "recompute", "backward", "weight")

GROUPS = ("attention", "mlp", "moe", "norm", "embedding", "head", "cast", "tp", "ep", "cp")
"""What a row belongs to; the last three are collectives."""
_GROUP = {name: code for code, name in enumerate(GROUPS)}

COLLECTIVE = 100
"""Kind of a row that is a collective; its operation is in ``operation``."""


@dataclass(slots=True)
class Builder:
    """Collects rows; ``part`` and ``phase`` apply to the rows that follow."""

    part: int = 0
    phase: int = FORWARD
    names: list[str] = field(default_factory=list)
    codes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    dims: list[tuple[int, ...]] = field(default_factory=list)
    extra: list[tuple[float, float, float]] = field(default_factory=list)
    wires: list[tuple[int, float, int, int, float]] = field(default_factory=list)
    beside: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def compute(
        self,
        name: str,
        group: str,
        kind: int,
        dtype: int,
        dims: tuple[int, ...] = (),
        *,
        moved: float = 0.0,
        rate: float = 1.0,
        skew: float = 1.0,
    ) -> None:
        """Add an operator; ``dims`` as in ``roofline.layout``, ``moved`` in bytes."""
        self.names.append(name)
        self.codes.append((self.part, self.phase, kind, dtype, _GROUP[group]))
        self.dims.append(dims + (0,) * (DIMS - len(dims)))
        self.extra.append((moved, rate, skew))
        self.wires.append((0, 0.0, 1, 1, 0.0))

    def collective(
        self,
        name: str,
        group: str,
        operation: int,
        moved: float,
        size: int,
        stride: int,
        *,
        overlap: float = 0.0,
        beside: tuple[str, ...] = (),
    ) -> None:
        """Add a collective of ``moved`` bytes; groups of one rank add nothing.

        It may overlap with the operators of its part that are named in ``beside``, of whatever
        phase, and with nothing else; without names with all of its phase.
        """
        if size <= 1:
            return
        if beside:
            self.beside.append((len(self.names), beside))
        self.names.append(name)
        self.codes.append((self.part, self.phase, COLLECTIVE, 0, _GROUP[group]))
        self.dims.append((0,) * DIMS)
        self.extra.append((0.0, 1.0, 1.0))
        self.wires.append((operation, moved, size, stride, overlap))

    def build(self) -> OperatorTable:
        """Freeze the rows into arrays."""
        n = len(self.names)
        codes = np.array(self.codes, dtype=np.int64).reshape(n, 5)
        wires = np.array(self.wires, dtype=np.float64).reshape(n, 5)
        place = {(self.codes[row][0], name): row for row, name in enumerate(self.names)}
        return OperatorTable(
            names=tuple(self.names),
            group=codes[:, 4].astype(np.int8),
            part=codes[:, 0].astype(np.int32),
            phase=codes[:, 1].astype(np.int8),
            kind=codes[:, 2].astype(np.int8),
            dtype=codes[:, 3].astype(np.int8),
            dims=np.array(self.dims, dtype=np.int64).reshape(n, DIMS),
            extra=np.array(self.extra, dtype=np.float64).reshape(n, EXTRAS),
            operation=wires[:, 0].astype(np.int8),
            message=np.ascontiguousarray(wires[:, 1]),
            size=wires[:, 2].astype(np.int32),
            stride=wires[:, 3].astype(np.int64),
            overlap=np.ascontiguousarray(wires[:, 4]),
            beside=tuple(
                (row, tuple(place[part, name] for name in names if (part, name) in place))
                for row, names in self.beside
                for part in (self.codes[row][0],)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTable:
    """N operators as arrays."""

    names: tuple[str, ...]
    group: NDArray[np.int8]
    """Codes of GROUPS."""
    part: NDArray[np.int32]
    phase: NDArray[np.int8]
    kind: NDArray[np.int8]
    """``roofline.layout`` kinds, or COLLECTIVE."""
    dtype: NDArray[np.int8]
    dims: NDArray[np.int64]
    extra: NDArray[np.float64]
    operation: NDArray[np.int8]
    """Of a collective (``collectives.layout``)."""
    message: NDArray[np.float64]
    """Bytes of a collective."""
    size: NDArray[np.int32]
    stride: NDArray[np.int64]
    overlap: NDArray[np.float64]
    """Share of a collective that is hidden behind neighbouring operators."""
    beside: tuple[tuple[int, tuple[int, ...]], ...]
    """Collectives that overlap with certain rows alone, and these rows."""

    def __len__(self) -> int:
        return len(self.names)
