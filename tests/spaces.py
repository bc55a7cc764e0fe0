"""Small random spaces of plans, and the slow obvious twin of their enumeration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from ridgeline.hardware import make_cluster
from ridgeline.simulator import legality
from ridgeline.simulator.plan import Parallelism, Plan, RunOptions, Training
from ridgeline.simulator.search.space import Space
from ridgeline.workloads import load_model
from ridgeline.workloads.model import Model

QUIET = RunOptions(failures=False, checkpoint_interval_s=0.0)


def small_model(rng: random.Random) -> Model:
    """Return a model of a few layers whose heads and layers divide in some ways, not in all."""
    kind = rng.choice(["dense", "dense", "grouped", "experts", "shared"])
    layers = rng.choice([2, 3, 4, 6, 8])
    if kind == "dense":
        return replace(load_model("llama2-7b"), name="small", num_layers=layers)
    if kind == "grouped":
        return replace(load_model("llama3-8b"), name="small-grouped", num_layers=layers)
    base = load_model("mixtral-8x7b" if kind == "experts" else "qwen1.5-moe-a2.7b")
    assert base.moe is not None
    moe = replace(base.moe, num_experts=rng.choice([4, 6]), top_k=2)
    return replace(base, name=f"small-{kind}", num_layers=layers, moe=moe)


def random_space(seed: int) -> Space:
    """Return a space of some ten to a few hundred plans."""
    rng = random.Random(seed)
    while True:
        space = _drawn(rng)
        if next(every_legal_plan(space), None) is not None:
            return space


def _drawn(rng: random.Random) -> Space:
    model = small_model(rng)
    kinds = rng.sample(["h100-sxm", "a100-sxm-80gb", "a100-sxm-40gb"], rng.choice([1, 1, 2]))
    counts = rng.sample([2, 4, 6, 8, 16], rng.choice([1, 2]))
    clusters = tuple(make_cluster(f"{count}x{kind}") for kind in kinds for count in counts)
    batch = rng.choice([8, 12, 16, 24])
    seq_len = rng.choice([1024, 2048, 3072, 8192])
    tokens = rng.choice([0.0, 1e9])
    warm = tokens and rng.random() < 0.3
    run = RunOptions(
        failures=rng.random() < 0.5,
        checkpoint_interval_s=rng.choice([-1.0, 0.0, 1800.0]),
        batch_warmup_tokens=1e8 if warm else 0.0,
        batch_warmup_start_seqs=batch // 2 if warm else 0,
        eval_interval_steps=rng.choice([0, 500]),
    )
    if run.eval_interval_steps:
        run = replace(run, eval_steps=10)
    return Space(
        model=model,
        clusters=clusters,
        training=Training(
            seq_len=seq_len, global_batch_seqs=batch, micro_batch_seqs=1, tokens=tokens
        ),
        stack=rng.choice(["megatron-core", "megatron-2021", "torchtitan"]),
        parallel=Parallelism(cp_kind=rng.choice(["ring", "ulysses"])),
        run=run,
        tp=rng.choice([(), (1, 2), (1, 2, 4)]),
        cp=rng.choice([(1,), (1, 2)]),
        ep=rng.choice([(1, 2), (2, 3)]) if model.moe else (),
        etp=rng.choice([(0,), (1,), (0, 1, 2)]) if model.moe else (),
        micro_batch_seqs=rng.choice([(1,), (1, 2), (2, 3, 4)]),
        sp=rng.choice([(1,), (0, 1)]),
        zero_stage=rng.choice([(0,), (0, 1), (1, 3)]),
        recompute=rng.choice([("none",), ("none", "full"), ("full-2", "every-3", "selective")]),
        schedules=rng.choice(
            [("1f1b",), ("1f1b", "interleaved"), ("gpipe", "zb-h1"), ("interleaved", "dualpipe")]
        ),
        offload=rng.choice([((),), ((),), ((), ("optimizer",))]),
        uneven_stages=rng.random() < 0.3,
    )


def every_legal_plan(space: Space) -> Iterator[Plan]:
    """Yield every plan of a space that ``legality.problems`` lets through, by nested loops."""
    model, batch = space.model, space.training.global_batch_seqs
    widths = range(1, 17)
    for cluster in space.clusters:
        numbers = range(1, cluster.count + 1)
        for tp, pp, cp in product(space.tp or numbers, space.pp or numbers, space.cp or numbers):
            dp, left = divmod(cluster.count, tp * pp * cp)
            if left or dp < 1 or (space.dp and dp not in space.dp):
                continue
            eps = space.ep or (range(1, model.moe.num_experts + 1) if model.moe else (1,))
            etps = sorted({etp or tp for etp in space.etp or widths}) if model.moe else [0]
            for micro, schedule, vpp, ep, etp, sp, zero, recompute, offload in product(
                space.micro_batch_seqs or range(1, batch + 1),
                space.schedules,
                space.vpp or range(1, model.num_layers + 1),
                eps,
                etps,
                sorted(space.sp) if tp > 1 else [0],
                sorted(space.zero_stage),
                space.recompute,
                space.offload,
            ):
                plan = Plan(
                    model=model,
                    cluster=cluster,
                    parallel=replace(
                        space.parallel,
                        tp=tp,
                        pp=pp,
                        vpp=vpp,
                        dp=dp,
                        cp=cp,
                        ep=ep,
                        etp=etp,
                        sp=bool(sp),
                        zero_stage=zero,
                    ),
                    training=replace(
                        space.training,
                        micro_batch_seqs=micro,
                        recompute=recompute,
                        schedule=schedule,
                        offload=offload,
                        uneven_stages=space.uneven_stages,
                    ),
                    stack=space.stack,
                    run=space.run,
                    money=space.money,
                )
                if not legality.problems(plan):
                    yield plan
