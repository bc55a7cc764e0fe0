"""What keeps a fleet from being played."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from ridgeline.errors import nearest
from ridgeline.simulator.fleet.schema import MOST_JOBS
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool


def mistakes(fleet: Fleet) -> list[str]:
    """Return what keeps a fleet from being played: too large gangs, circles, unknown pools."""
    wrong: list[str] = []
    room = {pool.name: pool.accelerators - _spares(pool) * pool.per_node for pool in fleet.pools}
    for job in [*fleet.jobs, *(service.replica for service in fleet.services)]:
        if not job.work > 0:
            wrong.append(f"job {job.name!r}: work = {job.work}: must be above 0")
        for name in job.rates:
            if name not in room:
                wrong.append(f"job {job.name!r}: no pool {name!r}; {nearest(name, room)}")
            elif job.asks(name) > room[name]:
                what = "service" if job.work == inf else "job"
                wrong.append(_too_large(f"{what} {job.name!r}", job.asks(name), name, room[name]))
    for stream in fleet.arrivals:
        size = max(stream.sizes)
        wrong += [
            _too_large(f"arrivals {stream.name!r}", size, name, room[name])
            for name in stream.rates[size]
            if size > room[name]
        ]
    count = len(fleet.jobs) + sum(stream.jobs for stream in fleet.arrivals)
    wrong += too_many(count)
    circle = _circle(fleet.jobs)
    if circle:
        names = " -> ".join(fleet.jobs[place].name for place in (*circle, circle[0]))
        wrong.append(f"job {fleet.jobs[circle[0]].name!r}: waits for itself: {names}")
    return wrong


def too_many(jobs: int) -> list[str]:
    """Return what is wrong with a number of jobs."""
    if jobs <= MOST_JOBS:
        return []
    return [f"{jobs:,} jobs: must be at most {MOST_JOBS:,}; play a part of them"]


def _too_large(what: str, asked: int, pool: str, room: int) -> str:
    return (
        f"{what}: needs {asked:,} accelerators, and pool {pool!r} has {room:,} beside spares; "
        "shrink it or name another pool"
    )


def _spares(pool: Pool) -> int:
    model = pool.failures
    if model is None:
        return 0
    return model.spare_nodes(int(pool.nodes / (1.0 + model.spare_fraction)))


def _circle(jobs: Sequence[Job]) -> list[int]:
    """Return places of jobs that wait for each other, empty when there are none."""
    left = {place: set(job.after) for place, job in enumerate(jobs) if job.after}
    free = [place for place, job in enumerate(jobs) if not job.after]
    children: dict[int, list[int]] = {}
    for place, parents in left.items():
        for parent in parents:
            children.setdefault(parent, []).append(place)
    while free:
        done = free.pop()
        for child in children.get(done, ()):
            left[child].discard(done)
            if not left[child]:
                del left[child]
                free.append(child)
    if not left:
        return []
    path = [min(left)]
    while True:
        following = min(parent for parent in left[path[-1]] if parent in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)
