"""A schedule as data: the order of passes of every device, from a file or another builder.

The text of a description, for two devices with one virtual stage each and two micro-batches::

    stages: 0 1
    0: F0.0 F0.1 B0.0 B0.1
    1: F1.0 B1.0 F1.1 B1.1

``stages`` gives the device of every virtual stage in the order of the model. Then each device's
passes: F forward, B backward, W the weight-gradient half, with ``stage.micro-batch`` behind it.
With any W in it, every B is an input-gradient half. A micro-batch that does not visit all stages,
or not in the order of the model, has a line of its path, from the first stage to the last::

    path 1: 0 2 3
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ridgeline.errors import InputError

MAX_BYTES = 64 << 20
_PASS = re.compile(r"([FBW])(\d{1,6})\.(\d{1,9})")
_LETTERS = "FBW"

Pass = tuple[int, int, int]
"""Kind (0 forward, 1 backward, 2 weight), virtual stage, micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Passes of every device in order."""

    name: str
    home: tuple[int, ...]
    """Device of every virtual stage, in model order."""
    orders: tuple[tuple[Pass, ...], ...]
    """By device."""
    paths: tuple[tuple[int, ...], ...] = ()
    """Virtual stages that each micro-batch visits, in order; empty where all visit all."""

    def path(self, batch: int) -> tuple[int, ...]:
        """Return the virtual stages that a micro-batch visits, in order."""
        return self.paths[batch] if self.paths else tuple(range(len(self.home)))

    @property
    def split(self) -> bool:
        """Whether weight gradients are passes of their own."""
        return any(kind == 2 for order in self.orders for kind, _, _ in order)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of the step."""
        return 1 + max((batch for order in self.orders for _, _, batch in order), default=-1)


def problems(described: Description) -> list[str]:
    """Return what makes a description no schedule, one line each (the first few).

    Every pass of every virtual stage and micro-batch must be there once, on the device of its
    stage, and the orders of the devices must not wait for each other in a circle.
    """
    name, home, orders = described.name, described.home, described.orders
    if set(home) != set(range(len(orders))):
        return [f"{name}: stages: must name every device 0 to {len(orders) - 1}"]
    if wrong := _path_problems(described):
        return wrong
    kinds = 3 if described.split else 2
    wanted = {
        (kind, stage, batch)
        for batch in range(described.micro_batches)
        for stage in described.path(batch)
        for kind in range(kinds)
    }
    found: list[str] = []
    seen: set[Pass] = set()
    for device, order in enumerate(orders):
        for one in order:
            text = f"{_LETTERS[one[0]]}{one[1]}.{one[2]}"
            if one not in wanted:
                what = "is not on its path" if 0 <= one[1] < len(home) else "no such stage"
                found.append(f"{name}: device {device}: {text}: {what}")
            elif home[one[1]] != device:
                found.append(f"{name}: device {device}: {text}: stage {one[1]} is elsewhere")
            elif one in seen:
                found.append(f"{name}: device {device}: {text}: stands there twice")
            seen.add(one)
    for kind, stage, batch in sorted(wanted - seen)[:3]:
        found.append(f"{name}: {_LETTERS[kind]}{stage}.{batch}: missing")
    if found:
        return found[:5]
    stuck = _stuck(described)
    return [f"{name}: {stuck}: waits for a pass that waits for it"] if stuck else []


def _path_problems(described: Description) -> list[str]:
    """Return what is wrong with the paths of micro-batches, the first few."""
    name, stages, paths = described.name, len(described.home), described.paths
    if not paths:
        return []
    if len(set(described.home)) < stages:
        return [f"{name}: path: needs one stage a device; here {stages} lie on fewer"]
    if len(paths) != described.micro_batches:
        return [f"{name}: path: of {len(paths)} micro-batches, and {described.micro_batches} run"]
    found = []
    for batch, path in enumerate(paths):
        ends = path[:1] + path[-1:] == (0, stages - 1)
        if not ends or len(set(path)) < len(path) or not set(path) <= set(range(stages)):
            found.append(
                f"{name}: path {batch}: must go from stage 0 to stage {stages - 1}, to no stage "
                f"twice"
            )
    found += [
        f"{name}: stage {stage}: no micro-batch visits it"
        for stage in range(stages)
        if not any(stage in path for path in paths)
    ]
    return found[:5]


def _stuck(described: Description) -> str:
    """Return a pass that never becomes ready, an empty text when all run."""
    done: set[Pass] = set()
    at = [0] * len(described.orders)
    moved = True
    while moved:
        moved = False
        for device, order in enumerate(described.orders):
            while at[device] < len(order) and _ready(order[at[device]], described, done):
                done.add(order[at[device]])
                at[device] += 1
                moved = True
    for device, order in enumerate(described.orders):
        if at[device] < len(order):
            kind, stage, batch = order[at[device]]
            return f"device {device}: {_LETTERS[kind]}{stage}.{batch}"
    return ""


def _ready(one: Pass, described: Description, done: set[Pass]) -> bool:
    kind, stage, batch = one
    if kind == 2:
        return (1, stage, batch) in done
    path = described.path(batch)
    place = path.index(stage)
    if kind == 0:
        return place == 0 or (0, path[place - 1], batch) in done
    behind = place + 1 == len(path) or (1, path[place + 1], batch) in done
    return behind and (0, stage, batch) in done


def read_description(path: str | Path) -> Description:
    """Read a schedule from a file.

    Raises
    ------
    InputError
        It cannot be read, a line is not understood, or it is no schedule (``problems``).
    """
    where = Path(path)
    try:
        with where.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{where}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{where}: larger than {MAX_BYTES >> 20} MiB; this is no schedule")
    home: tuple[int, ...] = ()
    orders: dict[int, tuple[Pass, ...]] = {}
    paths: dict[int, tuple[int, ...]] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        head, rest = words[0], words[1:]
        if head == "stages:" and all(word.isdecimal() and len(word) < 7 for word in rest):
            home = tuple(int(word) for word in rest)
        elif head == "path" and _is_path(rest):
            paths[int(rest[0][:-1])] = tuple(int(word) for word in rest[1:])
        elif head[:-1].isdecimal() and head.endswith(":") and len(head) < 8:
            orders[int(head[:-1])] = tuple(_pass(word, where, number) for word in rest)
        else:
            raise InputError(
                f"{where}: line {number}: {line.strip()[:60]!r}: must be 'stages: 0 1 ...', "
                "'DEVICE: F0.0 B0.0 ...' or 'path MICRO-BATCH: 0 2 ...'"
            )
    if not home or sorted(orders) != list(range(len(orders))) or not orders:
        raise InputError(f"{where}: needs a line 'stages:' and one for every device from 0 on")
    described = Description(
        name=where.name, home=home, orders=tuple(orders[device] for device in range(len(orders)))
    )
    if paths:
        straight, count = tuple(range(len(home))), max(described.micro_batches, max(paths) + 1)
        every = tuple(paths.get(batch, straight) for batch in range(count))
        described = replace(described, paths=every)
    if wrong := problems(described):
        raise InputError(wrong)
    return described


def _is_path(words: Sequence[str]) -> bool:
    numbers = [words[0][:-1], *words[1:]] if words and words[0].endswith(":") else [""]
    return all(word.isdecimal() and len(word) < 7 for word in numbers)


def _pass(word: str, where: Path, number: int) -> Pass:
    found = _PASS.fullmatch(word)
    if found is None:
        raise InputError(
            f"{where}: line {number}: {word[:40]!r}: must be such as F0.0, B1.3 or W0.2"
        )
    return _LETTERS.index(found[1]), int(found[2]), int(found[3])


def description_text(described: Description) -> str:
    """Return a description as the text that ``read_description`` reads."""
    lines = ["stages: " + " ".join(map(str, described.home))]
    for device, order in enumerate(described.orders):
        passes = (f"{_LETTERS[kind]}{stage}.{batch}" for kind, stage, batch in order)
        lines.append(f"{device}: " + " ".join(passes))
    for batch, path in enumerate(described.paths):
        if path != tuple(range(len(described.home))):
            lines.append(f"path {batch}: " + " ".join(map(str, path)))
    return "\n".join(lines) + "\n"


def v_schedule(pp: int, micro_batches: int) -> Description:
    """Return ZB-V: two chunks a device on the two arms of a V, three kinds of pass.

    Virtual stages 0 to p-1 go down the devices, p to 2p-1 come back up, so that a device which
    begins a micro-batch also ends it. Of its passes that are ready a device takes a backward
    before a forward before a weight gradient, of the later chunk first, of weight gradients the
    earlier; and a forward only while it holds fewer than 2p chunks of activations, of stage v
    fewer than 2p - v, with a place left for the later chunk. The peak memory is that of 1F1B, and
    with equal passes it idles p - 1 of them: while the pipeline fills.

    References
    ----------
    Qi et al. 2023, Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 6.
    """
    stages = 2 * pp
    home = (*range(pp), *range(pp - 1, -1, -1))
    next_batch = [[0] * stages for _ in range(3)]
    orders: list[list[Pass]] = [[] for _ in range(pp)]
    finished: list[list[int]] = [[0] * stages for _ in range(2)]
    left = 3 * stages * micro_batches
    while left:
        chosen = []
        for device in range(pp):
            one = _choose(device, pp, micro_batches, next_batch, finished)
            if one is not None:
                chosen.append((device, one))
        # all passes of a turn end together: what they give is there for the next turn
        for device, (kind, stage, batch) in chosen:
            orders[device].append((kind, stage, batch))
            next_batch[kind][stage] += 1
        for _, (kind, stage, _) in chosen:
            if kind < 2:
                finished[kind][stage] += 1
        left -= len(chosen)
    return Description(name="zb-v", home=home, orders=tuple(map(tuple, orders)))


def _choose(
    device: int,
    pp: int,
    micro_batches: int,
    next_batch: Sequence[Sequence[int]],
    finished: Sequence[Sequence[int]],
) -> Pass | None:
    """Return what a device of ZB-V runs next, None while it has to wait."""
    last = 2 * pp - 1
    mine = (last - device, device)
    for stage in mine:
        batch = next_batch[1][stage]
        above = finished[1][stage + 1] if stage < last else finished[0][stage]
        if batch < min(above, finished[0][stage]):
            return 1, stage, batch
    held = [next_batch[0][stage] - next_batch[2][stage] for stage in mine]
    for stage, kept in zip(mine, held, strict=True):
        batch = next_batch[0][stage]
        below = finished[0][stage - 1] if stage else micro_batches
        most = last + 1 - stage - (1 if stage < pp else 0)
        if batch < min(below, micro_batches) and kept < most and sum(held) < last + 1:
            return 0, stage, batch
    for stage in reversed(mine):
        batch = next_batch[2][stage]
        if batch < finished[1][stage]:
            return 2, stage, batch
    return None
