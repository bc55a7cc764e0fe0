"""Which accelerators of a pool a job gets: packed close together or spread out.

A gang takes whole nodes and, for what is left over, part of one more. Whole free nodes lie in one
heap per pod, partly used ones in one heap per number of free accelerators; entries that have become
wrong are dropped when they come up, so that taking and giving a node back cost O(log n).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

Allocation = list[tuple[int, int]]
"""Pairs of node and accelerators taken of it."""


class Nodes:
    """The accelerators of one pool."""

    def __init__(
        self, nodes: int, per_node: int, nodes_per_rack: int, nodes_per_pod: int, *, packed: bool
    ) -> None:
        self.per_node = per_node
        self.nodes_per_rack = nodes_per_rack
        self.nodes_per_pod = nodes_per_pod
        self.packed = packed
        self.free = [per_node] * nodes
        """Of each node; what a job holds and what is out is not free."""
        self.out: dict[int, int] = {}
        """Nodes that are down or kept as spares -> accelerators of them that jobs still hold."""
        self.total_free = nodes * per_node
        self.whole_free = nodes
        """Nodes that are free altogether."""
        pods = -(-nodes // nodes_per_pod)
        self._pod_free = [min(nodes_per_pod, nodes - pod * nodes_per_pod) for pod in range(pods)]
        self._whole = [
            list(range(pod * nodes_per_pod, pod * nodes_per_pod + self._pod_free[pod]))
            for pod in range(pods)
        ]
        self._partial: list[list[int]] = [[] for _ in range(per_node)]
        self._partial_count = [0] * per_node
        for heap in self._whole:
            heapify(heap)

    def fits(self, count: int) -> bool:
        """Whether a gang of so many can be placed now."""
        if count > self.total_free:
            return False
        whole, rest = divmod(count, self.per_node)
        if whole + (rest > 0) <= self.whole_free:
            return True
        return whole <= self.whole_free and (not rest or self.partial(rest))

    def partial(self, count: int) -> bool:
        """Whether a partly used node has so many free."""
        return any(self._partial_count[count:])

    def take(self, count: int) -> Allocation:
        """Place a gang that fits."""
        assert self.fits(count), count
        whole, rest = divmod(count, self.per_node)
        taken = [(node, self.per_node) for node in self._take_whole(whole)]
        if rest:
            node = self._node_for(rest)
            self._set(node, self.free[node] - rest)
            taken.append((node, rest))
        return taken

    def give(self, allocation: Allocation) -> None:
        """Take back what a job held."""
        for node, count in allocation:
            if node in self.out:
                self.out[node] -= count
            else:
                self._set(node, self.free[node] + count)

    def remove(self, node: int) -> None:
        """Put a node out of use; what jobs hold of it stays theirs until they give it back."""
        assert node not in self.out, node
        held = self.per_node - self.free[node]
        self._set(node, 0)
        self.out[node] = held

    def restore(self, node: int) -> None:
        """Bring a node back."""
        held = self.out.pop(node)
        self._set(node, self.per_node - held)

    def span(self, allocation: Allocation) -> tuple[int, int]:
        """Return how many racks and how many pods a gang lies in."""
        racks = {node // self.nodes_per_rack for node, _ in allocation}
        pods = {node // self.nodes_per_pod for node, _ in allocation}
        return len(racks), len(pods)

    @property
    def fragmented(self) -> int:
        """Free accelerators on nodes that are partly used."""
        return self.total_free - self.whole_free * self.per_node

    def _set(self, node: int, free: int) -> None:
        """Change how many accelerators of a node are free."""
        before, full = self.free[node], self.per_node
        self.free[node] = free
        self.total_free += free - before
        pod = node // self.nodes_per_pod
        if before == full:
            self.whole_free -= 1
            self._pod_free[pod] -= 1
        elif before:
            self._partial_count[before] -= 1
        if free == full:
            self.whole_free += 1
            self._pod_free[pod] += 1
            heappush(self._whole[pod], node)
        elif free:
            self._partial_count[free] += 1
            heappush(self._partial[free], node)

    def _take_whole(self, count: int) -> list[int]:
        """Take whole nodes: out of as few pods as they go, or evenly out of all."""
        taken: list[int] = []
        while len(taken) < count:
            missing = count - len(taken)
            free = self._pod_free
            if self.packed:
                enough = [(n, pod) for pod, n in enumerate(free) if n >= missing]
                pod = min(enough)[1] if enough else max(range(len(free)), key=free.__getitem__)
                number = min(missing, free[pod])
            else:
                pod, number = max(range(len(free)), key=free.__getitem__), 1
            taken += [self._pop_whole(pod) for _ in range(number)]
        return taken

    def _pop_whole(self, pod: int) -> int:
        heap = self._whole[pod]
        while True:
            node = heappop(heap)
            if self.free[node] == self.per_node:
                self._set(node, 0)
                return node

    def _node_for(self, count: int) -> int:
        """Return a node with so many free: the fullest that has them, or the emptiest."""
        if not self.packed and self.whole_free:
            return self._peek_whole()
        sizes = range(count, self.per_node)
        for size in sizes if self.packed else reversed(sizes):
            if self._partial_count[size]:
                heap = self._partial[size]
                while self.free[heap[0]] != size:
                    heappop(heap)
                return heap[0]
        return self._peek_whole()

    def _peek_whole(self) -> int:
        free = self._pod_free
        if self.packed:
            pod = min((n, pod) for pod, n in enumerate(free) if n)[1]
        else:
            pod = max(range(len(free)), key=free.__getitem__)
        heap = self._whole[pod]
        while self.free[heap[0]] != self.per_node:
            heappop(heap)
        return heap[0]


class Room:
    """What would be free in a pool if some jobs gave back what they hold."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._freed: dict[int, int] = {}
        self._total = nodes.total_free
        self._whole = nodes.whole_free
        self._most_partial = 0

    def add(self, allocation: Allocation) -> None:
        """Count what a job holds as free."""
        nodes, full = self._nodes, self._nodes.per_node
        for node, count in allocation:
            if node in nodes.out:
                continue
            freed = self._freed.get(node, 0) + count
            self._freed[node] = freed
            self._total += count
            free = nodes.free[node] + freed
            if free == full:
                self._whole += 1
            else:
                self._most_partial = max(self._most_partial, free)

    def fits(self, count: int) -> bool:
        """Whether a gang of so many could be placed."""
        if count > self._total:
            return False
        whole, rest = divmod(count, self._nodes.per_node)
        if whole + (rest > 0) <= self._whole:
            return True
        # a partly used node may be counted as whole too, so only small gangs may rely on it
        return not whole and (self._most_partial >= rest or self._nodes.partial(rest))
