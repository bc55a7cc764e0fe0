"""What calibrating on a few steps gives on measured tables.

``python -m ridgeline.validation.calibration.user_shown TABLE.csv`` prints the tables of
``docs/calibration.md``; with ``--others``, that of the sources by which the noise and the widths
of the priors were chosen.
"""

from __future__ import annotations

import random
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from ridgeline.simulator.stacks import Stack, load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.validation.calibration.tunables import applied, load_tunables
from ridgeline.validation.calibration.user import UserStep, calibrate, most_telling
from ridgeline.validation.measured import read_measured
from ridgeline.validation.rows import row_plan
from ridgeline.validation.spelling import Skip
from ridgeline.validation.steptime import measured_step_time

SMALL, LARGE = 64, 256
TRIPLES = 20
SEED = 0
FEWEST = 8
"""Rows of one stack on one accelerator from which triples are drawn."""
SHOWN = ("vtrain-multi", "bigscience-bloom")
"""Sources of which three rows are shown to tell the others; they chose no noise and no width."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Errors of the steps that a calibration did not see."""

    name: str
    rows: int
    seen: int
    before: float
    """Mean error of the defaults, a fraction."""
    mape: float
    median: float
    without_noted: float
    """Mean error without the rows whose oddities ``data/row_notes.toml`` documents."""


def steps_of(path: Path, source: str) -> list[tuple[UserStep, Stack]]:
    """Return a source's pre-training steps and their stack as known without any measured step.

    Every tunable of the stack, the device and the cluster is put back to its prior, since the
    shipped values have seen these rows.
    """
    found = []
    for row in read_measured(path):
        if row.source != source or row.task != "pretrain":
            continue
        planned = row_plan(row)
        if isinstance(planned, Skip):
            continue
        measured = measured_step_time(row, planned.plan)
        if isinstance(measured, Skip):
            continue
        touching = [t for t in load_tunables() if t.touches(planned.plan)]
        priors = [t.prior for t in touching]
        plan, stack = applied(planned.plan, load_stack(planned.plan.stack), touching, priors)
        found.append((UserStep(row.id, plan, measured.seconds), stack))
    return found


def errors_of(steps: Sequence[UserStep], stack: Stack) -> dict[str, float]:
    """Return predicted / measured - 1 by id."""
    return {s.id: simulate_step(s.plan, stack).seconds / s.seconds - 1 for s in steps}


def shown(
    name: str, seen: Sequence[UserStep], unseen: Sequence[UserStep], base: Stack
) -> tuple[Shown, dict[str, float]]:
    """Calibrate on ``seen`` and return the errors of ``unseen``."""
    fitted = calibrate(seen, base=base).stack
    before, after = errors_of(unseen, base), errors_of(unseen, fitted)
    sizes = np.abs(list(after.values()))
    right = [abs(error) for step, error in after.items() if step not in _noted()]
    return (
        Shown(
            name=name,
            rows=len(unseen),
            seen=len(seen),
            before=float(np.mean(np.abs(list(before.values())))),
            mape=float(np.mean(sizes)),
            median=float(np.median(sizes)),
            without_noted=float(np.mean(right)) if right else float("nan"),
        ),
        after,
    )


def _dense(step: UserStep, precision: str) -> bool:
    return step.plan.model.moe is None and step.plan.training.precision == precision


@lru_cache(maxsize=1)
def _noted() -> frozenset[str]:
    """Return the rows whose odd behaviour ``data/row_notes.toml`` documents."""
    text = (files("ridgeline.validation") / "data" / "row_notes.toml").read_text(encoding="utf-8")
    return frozenset(row for note in tomllib.loads(text)["note"] for row in note["rows"])


def scale_up(path: Path) -> list[Shown]:
    """Return the errors of 256 accelerators and more from steps of 64 and fewer, by kind."""
    steps = steps_of(path, "dgxc-benchmarking")
    mine = [
        (step, stack)
        for step, stack in steps
        if stack.name == "megatron-core" and step.plan.cluster.accelerator.name == "h100-sxm"
    ]
    base = mine[0][1]
    small = [step for step, _ in mine if step.plan.cluster.count <= SMALL]
    large = [step for step, _ in mine if step.plan.cluster.count >= LARGE]
    whole, errors = shown("all", small, large, base)
    table = [whole]

    def part(name: str, belongs: Callable[[UserStep], bool]) -> None:
        chosen = [step for step in large if belongs(step)]
        sizes = [abs(errors[step.id]) for step in chosen]
        before = np.abs(list(errors_of(chosen, base).values()))
        right = [abs(errors[step.id]) for step in chosen if step.id not in _noted()]
        table.append(
            Shown(
                name=name,
                rows=len(chosen),
                seen=whole.seen,
                before=float(np.mean(before)),
                mape=float(np.mean(sizes)),
                median=float(np.median(sizes)),
                without_noted=float(np.mean(right)) if right else float("nan"),
            )
        )

    part("without DeepSeek-V3", lambda s: "deepseek" not in s.plan.model.name.lower())
    part("DeepSeek-V3", lambda s: "deepseek" in s.plan.model.name.lower())
    for precision in ("bf16", "fp8"):
        part(f"dense, {precision}", partial(_dense, precision=precision))
    part(
        "experts (without DeepSeek-V3)",
        lambda s: s.plan.model.moe is not None and "deepseek" not in s.plan.model.name.lower(),
    )
    return table


@dataclass(frozen=True, slots=True)
class Triples:
    """What three rows of a source tell of its other rows."""

    source: str
    rows: int
    chosen: tuple[Shown, Shown]
    """From the first, middle and last row by id; from those that ``most_telling`` names."""
    drawn: list[float]
    """Mean errors from random triples, sorted."""
    all_seen: float
    """Mean error of all rows under a fit to all of them: what the parameters cannot explain."""
    rest_seen: float
    """The same of the rows beside the first, middle and last."""


def triples(source: str, steps: Sequence[tuple[UserStep, Stack]]) -> Triples:
    """Return the errors of a source's rows from three of them."""
    base = steps[0][1]
    every = sorted((step for step, _ in steps), key=lambda step: step.id)
    chosen = [every[0], every[len(every) // 2], every[-1]]
    telling = most_telling(every, base)

    def rest(some: Sequence[UserStep]) -> list[UserStep]:
        return [step for step in every if step not in some]

    by_id, _ = shown(f"{source}: first, middle, last", chosen, rest(chosen), base)
    best, _ = shown(f"{source}: most telling", telling, rest(telling), base)
    generator = random.Random(SEED)
    spread = []
    for _ in range(TRIPLES):
        some = generator.sample(every, 3)
        spread.append(shown(source, some, rest(some), base)[0].mape)
    whole = errors_of(every, calibrate(every, base=base).stack)
    return Triples(
        source=source,
        rows=len(every),
        chosen=(by_id, best),
        drawn=sorted(spread),
        all_seen=float(np.mean(np.abs(list(whole.values())))),
        rest_seen=float(np.mean([abs(whole[step.id]) for step in rest(chosen)])),
    )


def main(path: Path) -> list[str]:
    """Return the tables as Markdown lines."""
    head = "| steps | seen | predicted | before | after: mean | median | without noted rows |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    drawn = []
    table = scale_up(path)
    for source in SHOWN:
        found = triples(source, steps_of(path, source))
        table += found.chosen
        spread = found.drawn
        low, high = spread[2], spread[-3]
        drawn.append(
            f"- `{source}`, {TRIPLES} random triples: median {_percent(float(np.median(spread)))}, "
            f"80% between {_percent(low)} and {_percent(high)}, "
            f"best {_percent(spread[0])}, worst {_percent(spread[-1])}; "
            f"fitted to all {found.rows}: {_percent(found.all_seen)} of them, "
            f"{_percent(found.rest_seen)} beside the first, middle and last"
        )
    for one in table:
        numbers = (one.before, one.mape, one.median, one.without_noted)
        cells = (one.name, str(one.seen), str(one.rows), *map(_percent, numbers))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *drawn]


def others(path: Path) -> list[str]:
    """Return what three rows tell of the others on the tables that are not shown above."""
    sources = sorted({row.source for row in read_measured(path)} - set(SHOWN))
    head = (
        "source | stack | accelerator | rows | before | random triples: median | mean | "
        "first, middle, last | most telling | fitted to all"
    )
    lines = [f"| {head} |", "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    every = []
    for source in sources:
        clusters: dict[tuple[str, str], list[tuple[UserStep, Stack]]] = {}
        for step, stack in steps_of(path, source):
            key = (stack.name, step.plan.cluster.accelerator.name)
            clusters.setdefault(key, []).append((step, stack))
        for (stack_name, accelerator), steps in sorted(clusters.items()):
            if len(steps) < FEWEST:
                continue
            found = triples(source, steps)
            numbers = (
                float(
                    np.mean(np.abs(list(errors_of([s for s, _ in steps], steps[0][1]).values())))
                ),
                float(np.median(found.drawn)),
                float(np.mean(found.drawn)),
                *(one.mape for one in found.chosen),
                found.all_seen,
            )
            every.append(numbers)
            cells = (source, stack_name, accelerator, str(found.rows), *map(_percent, numbers))
            lines.append(f"| {' | '.join(cells)} |")
    means = (_percent(float(mean)) for mean in np.mean(every, axis=0))
    lines.append(f"| mean | | | | {' | '.join(means)} |")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


if __name__ == "__main__":
    show = others if "--others" in sys.argv[2:] else main
    sys.stdout.write("\n".join(show(Path(sys.argv[1]))) + "\n")
