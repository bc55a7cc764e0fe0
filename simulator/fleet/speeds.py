"""How fast a training job goes on an allocation: what the step simulator says for its best plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ridgeline.errors import InfeasibleError
from ridgeline.hardware import make_cluster
from ridgeline.simulator.fleet.spec import Rates
from ridgeline.simulator.plan import RunOptions, Training
from ridgeline.simulator.search.search import search
from ridgeline.simulator.search.space import Space, usual_space
from ridgeline.simulator.training import checkpoint_bytes
from ridgeline.workloads import load_model

BARE = RunOptions(failures=False, checkpoint_interval_s=0.0)
"""Failures and checkpoints are played by the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A training job whose speed is asked for; equal ones are simulated once."""

    model: str
    accelerator: str
    per_node: int
    counts: tuple[int, ...]
    seq_len: int
    global_batch_seqs: int
    stack: str
    precision: str
    scaling: str = "best"
    """best: the best plan on each allocation. data-parallel: the tensor and pipeline split of the
    smallest allocation, and more replicas of it. rule-of-thumb: what the rule of
    ``search.heuristic`` picks on each."""


_KNOWN: dict[Ask, Rates] = {}


def training_rates(ask: Ask) -> Rates:
    """Return tokens per second on each allocation that the model fits on.

    Allocations on which no plan fits, or on which more accelerators are not faster than fewer, are
    left out.

    Raises
    ------
    InfeasibleError
        The model fits on none of them.
    """
    if ask not in _KNOWN:
        _KNOWN[ask] = _simulated(ask)
    return _KNOWN[ask]


def _simulated(ask: Ask) -> Rates:
    model = load_model(ask.model)
    space = Space(
        model=model,
        clusters=(),
        training=Training(
            seq_len=ask.seq_len,
            global_batch_seqs=ask.global_batch_seqs,
            micro_batch_seqs=1,
            precision=ask.precision,
        ),
        stack=ask.stack,
        run=BARE,
        cp=(1,),
    )
    space = usual_space(space)
    counts: list[int] = []
    speeds: list[float] = []
    plans: list[str] = []
    flops = exposed = held = 0.0
    reason = ""
    for count in ask.counts:
        cluster = make_cluster(f"{count}x{ask.accelerator}", per_node=min(count, ask.per_node))
        try:
            found = search(replace(space, clusters=(cluster,)), runners_up=0)
        except InfeasibleError as error:
            reason = str(error)
            continue
        best = found.best
        if ask.scaling == "rule-of-thumb":
            if found.heuristic is None:
                continue
            best = found.heuristic.found
        result = best.result
        tokens = ask.global_batch_seqs * ask.seq_len
        if speeds and result.tokens_per_s <= speeds[-1]:
            continue
        counts.append(count)
        speeds.append(result.tokens_per_s)
        split = best.plan.parallel
        plans.append(f"tp {split.tp}, pp {split.pp}, dp {split.dp}, ep {split.ep}")
        flops = result.model_flops_per_step / tokens
        exposed = result.exposed_communication_fraction
        held = checkpoint_bytes(best.plan)
        if ask.scaling == "data-parallel" and len(counts) == 1:
            space = replace(space, tp=(split.tp,), pp=(split.pp,))
    if not counts:
        raise InfeasibleError(f"{ask.model} on {ask.accelerator}: {reason}")
    return Rates(
        counts=tuple(counts),
        per_s=tuple(speeds),
        flops_per_work=flops,
        exposed_fraction=exposed,
        checkpoint_bytes=held,
        plans=tuple(plans),
    )
