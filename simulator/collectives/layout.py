"""Codes of the collective operations and algorithms, and the meaning of a size.

``bytes`` follow nccl-tests: all_reduce the buffer, all_gather the gathered output,
reduce_scatter the input, all_to_all the buffer of one rank, send_recv the message.
"""

from __future__ import annotations

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND_RECV, BROADCAST = range(6)
NAMES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")

AUTO, RING, TREE, IN_SWITCH, HIERARCHICAL = range(5)
ALGORITHMS = ("auto", "ring", "tree", "in_switch", "hierarchical")
