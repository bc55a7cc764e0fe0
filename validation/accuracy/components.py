"""What errors of predictions have in common: shares of their variance, from left-out steps.

The log-error of a step is taken as the sum of what its stack brings, its accelerator, the two
together, the cluster (one source's runs of a stack on an accelerator) and the plan. A component's
variance is the mean product of the errors of two steps that share it and nothing finer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log1p
from typing import Any, NamedTuple

import numpy as np

from ridgeline.simulator.compare.errors import (
    COMPONENTS,
    TAIL,
    Shares,
    Spread,
    correlation,
    spread_of,
)
from ridgeline.simulator.uncertainty import step_range
from ridgeline.validation.calibration.fit import MeasuredStep

REPLICATES = 2000
SEED = 20240531
WAYS = ("stack", "accelerator")
"""What is shared must have left the fit together: in other ways a parameter is fitted to one of two
steps and judged by the other, and their errors are opposite by construction."""


class Cell(NamedTuple):
    """Runs of one stack on one accelerator by one source."""

    source: str
    stack: str
    accelerator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The share of a component in the variance of log-errors."""

    name: str
    share: float
    low: float
    high: float
    """Bootstrap over sources, 90%."""
    pairs: int
    """Pairs of cells, or of steps in a cell, behind it."""
    product: float
    """Mean product of the errors of two that share this and nothing finer, over the variance; for
    the plan that of one with itself, 1. Below 0: no sign of the component."""


def cells_of(
    residuals: Mapping[str, Any], way: str, steps: Mapping[str, Cell]
) -> dict[Cell, list[float]]:
    """Return the log of measured over predicted of each left-out step, by cell."""
    cells: dict[Cell, list[float]] = {}
    for entry in residuals["left_out"][way]:
        for row, (error, _) in entry["rows"].items():
            if row in steps:
                cells.setdefault(steps[row], []).append(-log1p(error))
    return cells


def step_cells(steps: Iterable[MeasuredStep]) -> dict[str, Cell]:
    """Return the cell of each step by its id."""
    return {
        step.id: Cell(step.source, step.plan.stack, step.plan.cluster.accelerator.name)
        for step in steps
    }


class _Moments(NamedTuple):
    """Mean products of errors by what two steps share, and the variance of one."""

    stack: float
    accelerator: float
    pair: float
    cluster: float
    total: float


def shares(by_way: Mapping[str, Mapping[Cell, Sequence[float]]]) -> tuple[Share, ...]:
    """Return the share of each component, each cell counting the same.

    Parameters
    ----------
    by_way
        Way of leaving out -> cell -> log-errors; the ways are ``WAYS``.
    """
    moments = _moments(by_way, None)
    found = _split(moments)
    sources = sorted({cell.source for cells in by_way.values() for cell in cells})
    random = np.random.default_rng(SEED)
    drawn = []
    for _ in range(REPLICATES):
        picks = random.integers(len(sources), size=len(sources))
        weight = dict(zip(sources, np.bincount(picks, minlength=len(sources)), strict=True))
        drawn.append(_split(_moments(by_way, weight)))
    low, high = np.nanquantile(np.array(drawn), [0.05, 0.95], axis=0)
    pairs = _pair_counts(by_way)
    return tuple(
        Share(
            name=name,
            share=found[i],
            low=float(low[i]),
            high=float(high[i]),
            pairs=pairs[name],
            product=moments[i] / moments.total,
        )
        for i, name in enumerate(COMPONENTS)
    )


def _split(moments: _Moments) -> tuple[float, ...]:
    """Return shares of the total that are not negative and add up to 1."""
    total = moments.total
    stack = max(0.0, moments.stack) / total
    accelerator = max(0.0, moments.accelerator) / total
    pair = max(0.0, moments.pair / total - stack - accelerator)
    cluster = max(0.0, moments.cluster / total - stack - accelerator - pair)
    common = stack + accelerator + pair + cluster
    scale = min(1.0, 1.0 / common) if common else 1.0
    parts = [part * scale for part in (stack, accelerator, pair, cluster)]
    return (*parts, 1.0 - sum(parts))


def _moments(
    by_way: Mapping[str, Mapping[Cell, Sequence[float]]], weight: Mapping[str, int] | None
) -> _Moments:
    of_way = {way: _way_moments(cells, weight) for way, cells in by_way.items()}
    both = [of_way[way] for way in WAYS]
    return _Moments(
        stack=of_way["stack"][0],
        accelerator=of_way["accelerator"][1],
        pair=float(np.mean([one[2] for one in both])),
        cluster=float(np.mean([one[3] for one in both])),
        total=float(np.mean([one[4] for one in both])),
    )


def _way_moments(
    cells: Mapping[Cell, Sequence[float]], weight: Mapping[str, int] | None
) -> tuple[float, ...]:
    names = sorted(cells)
    counts = np.array([1.0 if weight is None else weight[name.source] for name in names])
    means = np.array([np.mean(cells[name]) for name in names])
    center = float(np.average(means, weights=counts))
    product = np.outer(means - center, means - center)
    both = np.outer(counts, counts)
    products = {kind: _average(product, both * _sharing(names, kind)) for kind in COMPONENTS[:3]}
    errors = [np.asarray(cells[name]) - center for name in names]
    square = np.array([np.mean(error**2) for error in errors])
    # of n errors the products of two different ones: (sum^2 - sum of squares) / (n (n - 1))
    several = np.array([len(error) > 1 for error in errors])
    within = np.array(
        [
            (error.sum() ** 2 - (error**2).sum()) / (len(error) * (len(error) - 1))
            for error in errors
            if len(error) > 1
        ]
    )
    return (
        *(products[kind] for kind in COMPONENTS[:3]),
        _average(within, counts[several]),
        float(np.average(square, weights=counts)),
    )


def _sharing(names: Sequence[Cell], kind: str) -> Any:
    """Which cells of different sources share this and no more, bool[n, n], each pair once."""
    stacks = np.array([name.stack for name in names])
    accelerators = np.array([name.accelerator for name in names])
    sources = np.array([name.source for name in names])
    same_stack = stacks[:, None] == stacks
    same_accelerator = accelerators[:, None] == accelerators
    other_source = sources[:, None] != sources
    wanted = {
        "stack": same_stack & ~same_accelerator,
        "accelerator": ~same_stack & same_accelerator,
        "pair": same_stack & same_accelerator,
    }
    return np.triu(wanted[kind] & other_source, 1)


def _average(values: Any, weights: Any) -> float:
    """Return the weighted mean, 0 where nothing weighs: no evidence of a component."""
    total = float(np.sum(weights))
    return float(np.sum(values * weights)) / total if total else 0.0


def _pair_counts(by_way: Mapping[str, Mapping[Cell, Sequence[float]]]) -> dict[str, int]:
    cells = by_way["stack"]
    names = sorted(cells)
    steps = [len(cells[name]) for name in names]
    counts = {kind: int(_sharing(names, kind).sum()) for kind in COMPONENTS[:3]}
    counts["cluster"] = sum(n * (n - 1) // 2 for n in steps)
    counts["plan"] = sum(steps)
    return counts


TEXTS = {
    "stack": "two steps of one stack on different accelerators, of different sources",
    "accelerator": "two steps of different stacks on one accelerator, of different sources",
    "pair": "two steps of one stack on one accelerator, of different sources",
    "cluster": "two steps of one stack on one accelerator, of one source",
    "plan": "the rest: the same plan alone has it in common",
}


def differences_held(
    residuals: Mapping[str, Any], steps: Mapping[str, Cell], common: Shares
) -> dict[str, float]:
    """Return how many differences of two errors their range holds, by what the two share.

    Over the pairs of steps of ``WAYS``, each pair of cells counting the same. 0.8 is wanted.
    """
    held: dict[str, list[float]] = {kind: [] for kind in ("nothing", *COMPONENTS[:4])}
    for way in WAYS:
        cells: dict[Cell, list[tuple[float, Spread]]] = {}
        for entry in residuals["left_out"][way]:
            for row, (error, grade) in entry["rows"].items():
                if row in steps:
                    known = _spread(steps[row], grade)
                    cells.setdefault(steps[row], []).append((-log1p(error), known))
        names = sorted(cells)
        for place, first in enumerate(names):
            for second in names[: place + 1]:
                kind = _in_common(first, second)
                inside = _inside(cells[first], cells[second], common, same=first == second)
                if inside is not None and kind is not None:
                    held[kind].append(inside)
    return {kind: float(np.mean(values)) for kind, values in held.items()}


def _spread(cell: Cell, grade: str) -> Spread:
    low, high = step_range(grade)
    return spread_of(
        low, high, stack=cell.stack, accelerator=cell.accelerator, cluster=cell.source, plan=""
    )


def _in_common(first: Cell, second: Cell) -> str | None:
    """Return what two cells share, None for two accelerators or stacks of one source."""
    if first == second:
        return "cluster"
    if first.source == second.source:
        return None
    stack = first.stack == second.stack
    accelerator = first.accelerator == second.accelerator
    if stack and accelerator:
        return "pair"
    return "stack" if stack else "accelerator" if accelerator else "nothing"


def _inside(
    first: Sequence[tuple[float, Spread]],
    second: Sequence[tuple[float, Spread]],
    common: Shares,
    *,
    same: bool,
) -> float | None:
    """Return the share of differences inside their range; of one cell, those of different steps."""
    error_a, center_a, sigma_a = _columns(first)
    error_b, center_b, sigma_b = _columns(second)
    rho = correlation(first[0][1], replace(second[0][1], plan="another"), common)
    variance = np.subtract.outer(sigma_a, sigma_b) ** 2
    variance += 2.0 * (1.0 - rho) * np.outer(sigma_a, sigma_b)
    gap = np.subtract.outer(error_a - center_a, error_b - center_b)
    inside = np.abs(gap) <= TAIL * np.sqrt(variance)
    if not same:
        return float(np.mean(inside))
    several = ~np.eye(len(first), dtype=bool)
    return float(np.mean(inside[several])) if len(first) > 1 else None


def _columns(cell: Sequence[tuple[float, Spread]]) -> Any:
    return np.array([(error, one.center, one.sigma) for error, one in cell]).T


def components_toml(residuals: Mapping[str, Any], steps: Iterable[MeasuredStep]) -> str:
    """Return ``simulator/compare/errors.toml``: what predictions have in common."""
    cells = step_cells(steps)
    by_way = {way: cells_of(residuals, way, cells) for way in WAYS}
    parts = dict.fromkeys(COMPONENTS, 0.0)
    lines = [
        "# Generated by python -m ridgeline.validation.accuracy --components; do not edit.",
        "# Shares of the variance of the log-error of a predicted step time, by what two steps",
        "# must share to have it in common. From steps whose stack, or whose accelerator, was left",
        "# out of the fit (validation/data/residuals.json); every source's runs of a stack on an",
        "# accelerator count the same. interval: bootstrap over sources, 90%.",
        "",
    ]
    found = shares(by_way)
    rounded = [round(one.share, 3) for one in found[:-1]]
    rounded.append(round(1.0 - sum(rounded), 3))
    for one, share in zip(found, rounded, strict=True):
        lines += [
            f"[{one.name}]",
            f"share = {share:.3f}",
            f"interval = [{one.low:.3f}, {one.high:.3f}]",
            f"product = {one.product:.3f}",
            f"pairs = {one.pairs}",
            f'text = "{TEXTS[one.name]}"',
            "",
        ]
        parts[one.name] = share
    held = differences_held(residuals, cells, Shares(**parts))
    lines += [
        "# Share of the differences between two left-out errors that lie in the range of four in",
        "# five which these shares give, by what the two have in common.",
        "[differences]",
        *(f"{kind} = {value:.2f}" for kind, value in held.items()),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"
