"""What 3,360 A100 train in 30 days: vTrain's compute-optimal case (MICRO 2024).

At full utilisation the 20 tokens a parameter of Hoffmann et al. 2022 call for 145.61B parameters on
2,912B tokens. At the utilisation that a plan reaches this takes nearly three times as long, and a
model of about half the size is what fits.

    python examples/vtrain_chinchilla.py
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.hardware import make_cluster
from ridgeline.simulator import simulate_training
from ridgeline.simulator.budget.candidate import Workshop
from ridgeline.simulator.budget.choose import choose
from ridgeline.simulator.budget.question import BudgetQuestion
from ridgeline.simulator.budget.shapes import every_shape
from ridgeline.simulator.plan import Parallelism, Plan, RunOptions, Training
from ridgeline.workloads.flops import training_flops_per_token
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters

CLUSTER = make_cluster("420x8xa100-sxm-80gb")
DAYS = 30.0
SEQ_LEN = 2048
TOKENS_PER_PARAM = 20.0
STACK = "megatron-2022"
NAIVE, FEASIBLE = (80, 12288), (60, 10240)
"""Layers and hidden of vTrain's two models."""
THEIR_SPLIT = Parallelism(tp=8, dp=70, pp=6)
THEIR_BATCH = 1680
"""Sequences; not published: a multiple of 70 near the 1,920 of MT-NLG."""
NO_FAILURES = RunOptions(failures=False, checkpoint_interval_s=0.0)


@dataclass(frozen=True)
class Case:
    """Ours beside theirs; shares of the budget at full peak, 0 to 1."""

    naive_params: int
    naive_tokens: float
    naive_share_6nd: float
    naive_share: float
    naive_days: float
    naive_mfu: float
    their_params: int
    their_days: float
    their_mfu: float
    feasible_params: int
    feasible_tokens: float
    feasible_mfu: float
    free_params: int
    free_tokens: float
    free_mfu: float


def solve() -> Case:
    """Compute the case."""
    shapes = {(m.num_layers, m.hidden): m for m in every_shape("gpt", SEQ_LEN)}
    naive, theirs = shapes[NAIVE], shapes[FEASIBLE]
    tokens = TOKENS_PER_PARAM * parameters(naive).total
    budget = CLUSTER.count * CLUSTER.accelerator.peak("bf16") * DAYS * 86400.0
    then = question(tuple(shapes.values()), recompute=("full",), schedules=("1f1b",))
    workshop = Workshop(then)
    slow = workshop.candidate(naive, CLUSTER)
    assert slow is not None
    found = choose(workshop, then.law).best.candidate
    run = simulate_training(plan_of(theirs))
    free = choose(Workshop(question(tuple(shapes.values()))), then.law).best.candidate
    return Case(
        naive_params=parameters(naive).total,
        naive_tokens=tokens,
        naive_share_6nd=6.0 * parameters(naive).total * tokens / budget,
        naive_share=training_flops_per_token(naive, SEQ_LEN, "full").model * tokens / budget,
        naive_days=tokens / slow.tokens * DAYS,
        naive_mfu=slow.result().mfu,
        their_params=parameters(theirs).total,
        their_days=run.wall_clock_s / 86400.0,
        their_mfu=run.mfu,
        feasible_params=found.params,
        feasible_tokens=found.tokens,
        feasible_mfu=found.mfu,
        free_params=free.params,
        free_tokens=free.tokens,
        free_mfu=free.mfu,
    )


def question(
    shapes: tuple[Model, ...],
    recompute: tuple[str, ...] = ("none", "selective", "full"),
    schedules: tuple[str, ...] = ("1f1b", "interleaved"),
) -> BudgetQuestion:
    """Return the question: GPT shapes at 20 tokens a parameter, 30 days."""
    return BudgetQuestion(
        clusters=(CLUSTER,),
        shapes=shapes,
        deadline_s=DAYS * 86400.0,
        stack=STACK,
        seq_len=SEQ_LEN,
        law="chinchilla-20",
        recompute=recompute,
        schedules=schedules,
        run=NO_FAILURES,
    )


def plan_of(model: Model) -> Plan:
    """Return vTrain's plan for its feasible model."""
    return Plan(
        model=model,
        cluster=CLUSTER,
        parallel=THEIR_SPLIT,
        training=Training(
            seq_len=SEQ_LEN,
            global_batch_seqs=THEIR_BATCH,
            micro_batch_seqs=1,
            recompute="full",
            tokens=TOKENS_PER_PARAM * parameters(model).total,
            flop_convention="full",
        ),
        stack=STACK,
        run=NO_FAILURES,
    )


def lines(case: Case) -> list[str]:
    """Return the table of ``docs/scaling-laws.md``."""
    found = f"{case.feasible_params / 1e9:.1f}B on {case.feasible_tokens / 1e9:,.0f}B"
    free = f"{case.free_params / 1e9:.1f}B on {case.free_tokens / 1e9:,.0f}B"
    return [
        "| | vTrain | here |",
        "|---|--:|--:|",
        f"| naive size at full utilisation | 145.61B | {case.naive_params / 1e9:.2f}B |",
        f"| its tokens | 2,912B | {case.naive_tokens / 1e9:,.0f}B |",
        f"| its 6ND over the budget | 93.6% | {100 * case.naive_share_6nd:.1f}% |",
        f"| its FLOPs, attention and head counted | 100% | {100 * case.naive_share:.1f}% |",
        f"| its utilisation, full recomputation, 1F1B | 35.56% | {100 * case.naive_mfu:.1f}% |",
        f"| its days | 85 | {case.naive_days:.0f} |",
        f"| days of 76.04B on 1,521B under (8, 70, 6) | up to 30 | {case.their_days:.1f} |",
        f"| its utilisation | about 27% | {100 * case.their_mfu:.1f}% |",
        f"| largest that fits, full recomputation, 1F1B | 76.04B on 1,521B | {found} |",
        f"| largest that fits, any recomputation, interleaving | | {free} |",
    ]


if __name__ == "__main__":
    print("\n".join(lines(solve())))  # noqa: T201
