"""The cheapest set of options that serves every model once: branch and bound, exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ridgeline.simulator.serving.placement.options import RELEASED, Option

Rent = Callable[[int, int], int]
"""Kind and accelerators held -> accelerators rented for them, 0 where there are not so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Options that serve every model once."""

    options: tuple[Option, ...]
    usd_per_hour: float
    rented: tuple[int, ...]
    """Accelerators of each kind that are rented all the time."""
    visited: int
    """Partial placements that were looked at."""


def cheapest_cover(
    models: int,
    options: Sequence[Option],
    prices: Sequence[float],
    limits: Sequence[int],
    most: int,
    rent: Rent,
) -> Cover | None:
    """Return the cheapest options that serve every model once; None where there are none.

    Accelerators of a kind that are held all the time are rented together, in whole nodes where
    that is how they come. A partial placement costs at least what it holds at the price of single
    accelerators, and each model left at least the smallest share, over the options with it, of
    their dollars by their members: summed over the members of an option, shares are at most its
    price. What reaches the best so far is dropped; so is a partial placement that serves the same
    models from the same accelerators as an earlier one that was no dearer.

    Parameters
    ----------
    models
        How many, numbered from 0.
    options
        From ``options_of``.
    prices, limits
        USD an hour and number of each kind of accelerator.
    most
        Accelerators, all kinds together.
    rent
        How many are rented for so many held.
    """
    order = sorted(range(len(options)), key=lambda i: (options[i].usd_per_hour, i))
    by_model = [[i for i in order if m in options[i].members] for m in range(models)]
    if not all(by_model):
        return None
    share = [
        min(options[i].usd_per_hour / len(options[i].members) for i in by_model[m])
        for m in range(models)
    ]
    masks = [sum(1 << m for m in option.members) for option in options]
    full = (1 << models) - 1
    kinds = len(prices)
    best_usd, best_count = math.inf, 0
    best: tuple[int, ...] | None = None
    best_rented: tuple[int, ...] = ()
    seen: dict[tuple[int, tuple[int, ...], int], float] = {}
    visited = 0

    def bill(held: tuple[int, ...], burst: int) -> tuple[tuple[int, ...], float] | None:
        counts = tuple(rent(kind, held[kind]) if held[kind] else 0 for kind in range(kinds))
        short = any(
            (held[kind] and not counts[kind]) or counts[kind] > limits[kind]
            for kind in range(kinds)
        )
        if short or sum(counts) + burst > most:
            return None
        usd = sum(price * count for price, count in zip(prices, counts, strict=True))
        return counts, usd

    def descend(
        covered: int, held: tuple[int, ...], burst: int, released: float, taken: tuple[int, ...]
    ) -> None:
        nonlocal best, best_usd, best_count, best_rented, visited
        visited += 1
        billed = bill(held, burst)
        if billed is None:
            return
        counts, rented_usd = billed
        if covered == full:
            usd, count = rented_usd + released, sum(counts) + burst
            nearly = 1e-12 * max(1.0, usd)
            if usd < best_usd - nearly or (usd <= best_usd + nearly and count < best_count):
                best, best_usd, best_count, best_rented = taken, usd, count, counts
            return
        least = released + sum(p * n for p, n in zip(prices, held, strict=True))
        open_ = [m for m in range(models) if not covered >> m & 1]
        if least + sum(share[m] for m in open_) > best_usd * (1.0 + 1e-12):
            return
        state = (covered, held, burst)
        if seen.get(state, math.inf) <= released:
            return
        seen[state] = released
        # the model that is dearest at its best leaves least to try below it
        model = max(open_, key=lambda m: (share[m], -m))
        for i in by_model[model]:
            if masks[i] & covered:
                continue
            option = options[i]
            gone = option.way == RELEASED
            after = tuple(
                count + (option.held if kind == option.kind else 0)
                for kind, count in enumerate(held)
            )
            descend(
                covered | masks[i],
                after,
                burst + (option.accelerators if gone else 0),
                released + (option.usd_per_hour if gone else 0.0),
                (*taken, i),
            )

    descend(0, (0,) * kinds, 0, 0.0, ())
    if best is None:
        return None
    return Cover(
        options=tuple(options[i] for i in best),
        usd_per_hour=best_usd,
        rented=best_rented,
        visited=visited,
    )
