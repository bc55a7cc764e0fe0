"""Prices of candidate plans a second on one core, and vTrain's whole search for MT-NLG 530B."""

from __future__ import annotations

import json
import statistics
import time

import numpy as np

from ridgeline.hardware import make_cluster
from ridgeline.simulator.plan import Training
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.memory import worst_memory_bytes
from ridgeline.simulator.search.pricing import Pricer
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import Space
from ridgeline.workloads import load_model

MOST = 3360
BATCHES = {"calculon": 2520, "vtrain": 1920}
"""Sequences of a step: calculon's own example for this model, and vTrain's."""
STACK = "megatron-lm"
REPEATS = 5


def space_of(batch: int) -> Space:
    """Return the ways to train MT-NLG 530B on up to 3,360 A100 in whole nodes of eight."""
    nodes = range(1, MOST // 8 + 1)
    return Space(
        model=load_model("mt-nlg-530b"),
        clusters=tuple(make_cluster(f"{count}x8xa100-sxm-80gb") for count in nodes),
        training=Training(seq_len=2048, global_batch_seqs=batch, micro_batch_seqs=1, tokens=270e9),
        stack=STACK,
        tp=(1, 2, 4, 8, 16),
        dp=tuple(range(1, 33)),
        cp=(1,),
        micro_batch_seqs=tuple(range(1, 9)),
    )


def run() -> dict[str, float]:
    """Price every plan that fits into memory, then search for the best.

    Returns
    -------
    dict
        ``plans_priced_per_s_per_core``: plans of calculon's batch that fit into memory, each priced
        exactly, over the CPU time that it takes with nothing priced before (the prices of their
        parts included; what does not fit is not counted), median of the repeats; ``_vtrain`` the
        same for vTrain's batch, ``_all`` for all legal plans of calculon's. ``plans_priced`` how
        many. ``mtnlg_search_s``: wall time of the whole search of vTrain's space on one worker,
        enumeration and replays included, with the kernels compiled; ``mtnlg_plans`` its plans.
    """
    figures: dict[str, float] = {}
    for name, batch in BATCHES.items():
        space = space_of(batch)
        every = enumerate_plans(space)
        room = np.array([cluster.accelerator.memory_bytes for cluster in space.clusters])
        fitting = every.take(worst_memory_bytes(space, every) <= room[every.cluster])
        suffix = "" if name == "calculon" else f"_{name}"
        for plans, which in ((fitting, suffix), (every, f"_all{suffix}")):
            Pricer(space).step_seconds(plans.take(np.arange(4)))  # kernels compile
            seconds = []
            for _ in range(REPEATS):
                start = time.process_time()
                priced = Pricer(space).step_seconds(plans)
                seconds.append(time.process_time() - start)
            count = int(np.isfinite(priced).sum())
            figures[f"plans_priced_per_s_per_core{which}"] = count / statistics.median(seconds)
            figures[f"plans_priced{which}"] = count
    space = space_of(BATCHES["vtrain"])
    search(space_of(BATCHES["calculon"]))
    start = time.perf_counter()
    search(space)
    figures["mtnlg_search_s"] = time.perf_counter() - start
    figures["mtnlg_plans"] = len(enumerate_plans(space))
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
