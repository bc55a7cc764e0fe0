"""Models, promises and accelerators -> the joint cheapest placement."""

from __future__ import annotations

from time import perf_counter

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.serving.choice.space import rented
from ridgeline.simulator.serving.placement.cover import cheapest_cover
from ridgeline.simulator.serving.placement.options import ALONE, Say, options_of
from ridgeline.simulator.serving.placement.question import FleetQuestion
from ridgeline.simulator.serving.placement.records import Placement, make_placement


def place_models(question: FleetQuestion, *, say: Say | None = None) -> Placement:
    """Return the placement that costs least and keeps every model's promises.

    Exact over its options (``options_of``): every model alone on the fewest accelerators of every
    kind, alone and released when idle, and in every group that can take turns.

    Raises
    ------
    InputError
        A model without anything legal, an accelerator without a price.
    InfeasibleError
        A model that nothing serves, or too few accelerators for all.
    """
    started = perf_counter()
    found = options_of(question, say)
    if found.lost:
        raise InfeasibleError(f"no placement keeps what is promised: {'; '.join(found.lost)}")
    kinds = found.kinds
    limits = [question.available.get(name, question.most) for name in question.accelerators]

    def rent(kind: int, held: int) -> int:
        return rented(kinds[kind].accelerator, held, question.most)

    arguments = ([kind.usd_per_hour for kind in kinds], limits, question.most, rent)
    cover = cheapest_cover(len(question.tenants), found.options, *arguments)
    if cover is None:
        raise InfeasibleError(
            f"no placement fits: every model is served by itself, and {question.most} accelerators "
            "(fleet.max_accelerators, fleet.available) are too few for all; give more"
        )
    alone = cheapest_cover(
        len(question.tenants),
        [option for option in found.options if option.way == ALONE],
        *arguments,
    )
    return make_placement(
        question,
        found,
        cover,
        alone_usd_per_hour=None if alone is None else alone.usd_per_hour,
        elapsed_s=perf_counter() - started,
    )
