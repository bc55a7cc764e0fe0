"""Deadlines on 1,024 A100 with and without simulated plans, after vTrain's second case study.

Bang et al., MICRO 2024 (arXiv 2312.12391) give ElasticFlow simulated plans and report 1.09x and
1.23x more deadlines met at 64 and 128 jobs, 15.21% shorter job completion, 23.03% shorter makespan.
Their job trace is not published, so jobs are drawn here: three models, Poisson arrivals over a day,
a deadline of 0.5 to 1.5 times what a job takes on a middle allocation. Without simulated plans a
job is split by a rule of thumb. Run: python examples/fleet_elasticflow.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ridgeline.simulator.fleet.results import FleetResult, play_fleet
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool, Rates
from ridgeline.simulator.fleet.speeds import Ask, training_rates

MODELS = {"gpt3-6.7b": 16, "gpt3-13b": 16, "gpt-22b": 32}
"""Model -> its smallest allocation; five doublings of it."""
BATCH, SEQ_LEN = 512, 2048
DAY_S = 86400.0
MEAN_S = 9 * 3600.0
"""Of a job on its middle allocation."""
SEEDS = range(5)


def rates_of(scaling: str) -> dict[str, Rates]:
    """Return tokens per second of each model by allocation."""
    return {
        model: training_rates(
            Ask(
                model=model,
                accelerator="a100-sxm-80gb",
                per_node=8,
                counts=tuple(least << k for k in range(5)),
                seq_len=SEQ_LEN,
                global_batch_seqs=BATCH,
                stack="megatron-2021",
                precision="bf16",
                scaling=scaling,
            )
        )
        for model, least in MODELS.items()
    }


def fleet_of(jobs: int, rates: dict[str, Rates], stated: dict[str, Rates], seed: int) -> Fleet:
    """Return the jobs of a seed; their work and deadlines do not depend on ``rates``."""
    rng = np.random.default_rng(seed)
    made = []
    at = np.sort(rng.random(jobs)) * DAY_S
    for number in range(jobs):
        model = list(MODELS)[rng.integers(len(MODELS))]
        seconds = float(rng.exponential(MEAN_S))
        made.append(
            Job(
                name=f"{model} {number}",
                work=seconds * stated[model].per_s[2],
                rates={"a100": rates[model]},
                submitted_s=float(at[number]),
                deadline_s=float(at[number] + rng.uniform(0.5, 1.5) * seconds),
                start_s=60.0,
            )
        )
    pool = Pool(name="a100", accelerator="a100-sxm-80gb", nodes=128)
    return Fleet(name="elasticflow", pools=(pool,), jobs=tuple(made), policy="elastic")


def compare(jobs: int) -> dict[str, float]:
    """Return gains of simulated plans over the rule of thumb, means over seeds."""
    stated, best = rates_of("rule-of-thumb"), rates_of("best")
    met, completion, makespan = [], [], []
    for seed in SEEDS:
        plain, good = (
            play_fleet(fleet_of(jobs, rates, stated, seed)).result for rates in (stated, best)
        )
        met.append(good.deadlines_met / plain.deadlines_met)
        every = [
            play_fleet(replace(fleet_of(jobs, rates, stated, seed), options={"admit": 0.0})).result
            for rates in (stated, best)
        ]
        completion.append(_gain(every, "mean_jct_s"))
        makespan.append(_gain(every, "makespan_s"))
    return {
        "jobs": jobs,
        "deadlines_met_ratio": float(np.mean(met)),
        "mean_jct_change": float(np.mean(completion)),
        "makespan_change": float(np.mean(makespan)),
    }


def _gain(pair: list[FleetResult], name: str) -> float:
    before, after = (float(getattr(result, name)) for result in pair)
    return after / before - 1.0


def lines(found: list[dict[str, float]]) -> list[str]:
    """Return the table of docs/fleet.md: the paper's figures beside those of :func:`compare`."""
    heads = " | ".join(f"here, {one['jobs']} jobs" for one in found)
    met = " | ".join(f"{one['deadlines_met_ratio']:.2f}x" for one in found)
    completion = " | ".join(f"{100 * one['mean_jct_change']:+.1f}%" for one in found)
    makespan = " | ".join(f"{100 * one['makespan_change']:+.1f}%" for one in found)
    return [
        f"| | paper | {heads} |",
        "|---|---|" + "---|" * len(found),
        f"| deadlines met | 1.09x (64 jobs), 1.23x (128) | {met} |",
        f"| mean completion | -15.21% | {completion} |",
        f"| makespan | -23.03% | {makespan} |",
    ]


if __name__ == "__main__":
    print("\n".join(lines([compare(64), compare(128)])))  # noqa: T201
