"""Seconds of averaging a vector over peers with uplinks and downlinks of their own.

In a group of n every peer i adds up a part w_i of the V bytes: it sends the other parts away and
gets its own from all others, then the other way round. Up and down it moves (1 + (n - 2) w_i) V
bytes, the two phases streaming into each other, over the slower b_i of its two links:

    T = max_i (1 + (n - 2) w_i) V / b_i,  sum_i w_i = 1

With equal parts that is 2 (n - 1) / n V / min b, the ring's time. The best parts are larger where
links are faster; where all take part T = 2 (n - 1) / n V / mean b. A peer with less than V / T
adds nothing up and still sends and gets V.

Peers in groups of g average in d rounds, g^d being at least their number: the groups of a round
are the lines of a d-dimensional grid along one axis. Where the grid is full the average is exact,
else near.

References
----------
Diskin et al. 2021, DeDLOC, arXiv:2106.10207, section 3.2. Ryabinin et al. 2021, Moshpit SGD,
arXiv:2103.03239, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def group_seconds(size_bytes: float, bytes_per_s: Sequence[float], *, adapted: bool) -> float:
    """Return the seconds in which one group averages.

    Parameters
    ----------
    size_bytes
        V.
    bytes_per_s
        b_i, the slower of up and down, > 0.
    adapted
        Parts suit the links; else all are equal.
    """
    n = len(bytes_per_s)
    if n == 1:
        return 0.0
    if not adapted:
        return 2.0 * (n - 1) / n * size_bytes / min(bytes_per_s)
    return size_bytes * _best_time(bytes_per_s)


def _best_time(rates: Sequence[float]) -> float:
    """Return T / V with the best parts."""
    n = len(rates)
    alone = 1.0 / min(rates)
    if n == 2:
        return alone
    fastest = sorted(rates, reverse=True)
    # the fastest k add up: the time that they need for all of it, least over k; a peer whose
    # part would be negative leaves it to the others
    total, best = 0.0, float("inf")
    for k, rate in enumerate(fastest, start=1):
        total += rate
        best = min(best, (n - 2 + k) / total)
    return max(alone, best)


def rounds(peers: int, group: int) -> int:
    """Return in how many rounds groups of ``group`` reach all; 0 means one group of all."""
    if peers == 1:
        return 0
    count, reach = 1, group or peers
    while reach < peers:
        count, reach = count + 1, reach * group
    return count


def grid_groups(peers: int, group: int) -> Iterator[list[list[int]]]:
    """Yield the groups of every round: the lines of a grid along one axis after the other."""
    size = group or peers
    for axis in range(rounds(peers, group)):
        step = size**axis
        lines: dict[int, list[int]] = {}
        for peer in range(peers):
            place = peer // step % size
            lines.setdefault(peer - place * step, []).append(peer)
        yield list(lines.values())


def averaging_seconds(
    size_bytes: float,
    bytes_per_s: Sequence[float],
    latency_s: Sequence[float],
    *,
    group: int = 0,
    adapted: bool = True,
) -> float:
    """Return the seconds in which all peers average.

    Parameters
    ----------
    size_bytes
        V, of what is averaged.
    bytes_per_s, latency_s
        By peer: the slower of its links, and the time of a message.
    group
        Peers of a group; 0 for all in one.
    adapted
        Parts suit the links (DeDLOC); else all are equal, as in a ring or a plain butterfly.

    Notes
    -----
    A round ends with its slowest group and costs the two phases' latency of its slowest peer.
    """
    total = 0.0
    for lines in grid_groups(len(bytes_per_s), group):
        total += max(
            group_seconds(size_bytes, [bytes_per_s[p] for p in line], adapted=adapted)
            + (2.0 * max(latency_s[p] for p in line) if len(line) > 1 else 0.0)
            for line in lines
        )
    return total
