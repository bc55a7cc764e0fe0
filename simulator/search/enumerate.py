"""Every legal plan of a space as columns: the rules of ``legality``, for all plans at once."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.legality import OFFLOADS, is_recompute
from ridgeline.simulator.legality_layers import shared_weights, special_layers, split_heads
from ridgeline.simulator.legality_memory import space_problems
from ridgeline.simulator.legality_split import MAX_TASKS, divisors
from ridgeline.simulator.plan import PRECISIONS, Tuning
from ridgeline.simulator.recompute import known_recompute
from ridgeline.simulator.search.space import Candidates, Space
from ridgeline.workloads.towers import sequence_tokens

Ints = NDArray[np.int32]
Mask = NDArray[np.bool_]

COLUMNS = tuple(f.name for f in fields(Candidates))


SEARCHED = ("gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe")
"""Schedules whose memory has a closed form, by which plans are left out before they are priced."""


def enumerate_plans(space: Space) -> Candidates:
    """Return all legal plans of a space, those for which ``legality.problems`` has nothing to say.

    The order is that of nested loops over cluster, tp, pp, cp, micro-batch, schedule, vpp, ep, etp,
    sp, ZeRO stage, recompute and offload: numbers ascending, names as the space lists them. It
    decides between plans of equal value.

    Raises
    ------
    InputError
        A name in the space is not known, or a number is not positive.
    """
    _check(space)
    return concatenate([_of_cluster(space, i) for i in range(len(space.clusters))])


def concatenate(parts: list[Candidates]) -> Candidates:
    """Join candidates of one space, in order."""
    if not parts:
        return Candidates(**{name: np.zeros(0, np.int32) for name in COLUMNS})
    return Candidates(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    )


def _check(space: Space) -> None:
    known = (
        ("schedules", space.schedules, SEARCHED),
        *(("offload", items, OFFLOADS) for items in space.offload),
    )
    lines = [
        f"{key}: {value!r} is not known; one of {', '.join(names)}"
        for key, values, names in known
        for value in values
        if value not in names
    ]
    lines += [
        f"recompute: {name!r} is not known" for name in space.recompute if not is_recompute(name)
    ]
    for key in ("tp", "pp", "vpp", "cp", "dp", "ep", "micro_batch_seqs"):
        if any(value < 1 for value in getattr(space, key)):
            lines.append(f"{key}: every value must be at least 1")
    if any(value not in (0, 1) for value in space.sp):
        lines.append("sp: every value must be 0 or 1")
    if any(value not in range(4) for value in space.zero_stage):
        lines.append("zero_stage: every value must be 0, 1, 2 or 3")
    if any(value < 0 for value in space.etp):
        lines.append("etp: every value must be at least 0")
    for key in ("clusters", "sp", "zero_stage", "recompute", "schedules", "offload"):
        if not getattr(space, key):
            lines.append(f"{key}: give at least one")
    if space.training.lora_rank:
        lines.append("training.task: the search does not know adapters; price a plan with train")
    elif space.training.tuning != Tuning():
        lines.append(
            "training: the search knows a step of all weights on next tokens alone, no frozen "
            "layers, ladder, paging, dpo, distill or grpo; price a plan with train"
        )
    lines += space_problems(space)
    if lines:
        raise InputError(lines)


class _Rows:
    """Columns under construction: each step multiplies the rows by values and keeps some."""

    def __init__(self, **columns: Ints) -> None:
        self.columns = columns

    def __getitem__(self, name: str) -> Ints:
        return self.columns[name]

    def __setitem__(self, name: str, column: Ints) -> None:
        self.columns[name] = column

    def times(self, **values: Ints) -> None:
        """Give every row each of the values, which are columns of one length, in their order."""
        count = len(next(iter(values.values())))
        rows = len(next(iter(self.columns.values())))
        for name, column in self.columns.items():
            self.columns[name] = np.repeat(column, count)
        for name, column in values.items():
            self.columns[name] = np.tile(column, rows)

    def keep(self, mask: Mask) -> None:
        """Drop the rows where ``mask`` is false."""
        for name, column in self.columns.items():
            self.columns[name] = column[mask]


def _ints(values: tuple[int, ...] | list[int]) -> Ints:
    return np.array(sorted(set(values)), dtype=np.int32)


def _chosen(asked: tuple[int, ...], every: list[int]) -> Ints:
    """Return the values to try: all that may be legal, or those asked for that are among them."""
    return _ints([value for value in every if value in asked] if asked else every)


def _of_cluster(space: Space, index: int) -> Candidates:
    cluster = space.clusters[index]
    if not _runs(space, cluster):
        return concatenate([])
    rows = _splits(space, cluster.count)
    _add_batches(space, rows)
    _add_schedules(space, rows)
    _add_experts(space, rows)
    _add_sequence(space, rows)
    stages = [stage for stage in space.zero_stage if stage < 3 or not shared_weights(space.model)]
    rows.times(zero_stage=_ints(stages))
    if space.parallel.shard_size:
        _keep_shards(space.parallel.shard_size, rows)
    _add_recompute(space, rows)
    rows.times(offload=np.arange(len(space.offload), dtype=np.int32))
    if space.model.towers:
        moves = np.array(["activations" in names for names in space.offload])
        rows.keep(~moves[rows["offload"]])
    rows["cluster"] = np.full(len(rows["tp"]), index, np.int32)
    return Candidates(**{name: rows[name] for name in COLUMNS})


def _runs(space: Space, cluster: Cluster) -> bool:
    """Whether the cluster has the precision, and the run is long enough to be one."""
    training, run = space.training, space.run
    if sequence_tokens(space.model) > training.seq_len:
        return False
    if training.precision in PRECISIONS and training.precision not in (
        cluster.accelerator.peak_flops
    ):
        return False
    if (
        0
        < training.tokens
        < max(training.global_batch_seqs * training.seq_len, run.batch_warmup_tokens)
    ):
        return False
    return bool(run.eval_interval_steps) == bool(run.eval_steps)


def _splits(space: Space, count: int) -> _Rows:
    """Cross tp, pp and cp; what is left of the accelerators is dp."""
    model = space.model
    every = divisors(count)
    rows = _Rows(tp=_chosen(space.tp, every))
    rows.keep(_splits_tensors(space, rows["tp"]))
    rows.times(pp=_chosen(space.pp, [d for d in every if d <= model.num_layers]))
    rows.keep(count % (rows["tp"] * rows["pp"]) == 0)
    if not space.uneven_stages:
        rows.keep(model.num_layers % rows["pp"] == 0)
    rows.times(cp=_chosen(space.cp, every))
    group = rows["tp"].astype(np.int64) * rows["pp"] * rows["cp"]
    rows.keep((count % group == 0) & _splits_towers(space, rows))
    rows.keep(_splits_layers(space, rows))
    rows["dp"] = (count // (rows["tp"] * rows["pp"] * rows["cp"])).astype(np.int32)
    if space.dp:
        rows.keep(np.isin(rows["dp"], space.dp))
    return rows


def _splits_tensors(space: Space, tp: Ints) -> Mask:
    """Whether heads and widths divide (``legality_split``)."""
    model, attention = space.model, space.model.attention
    widths = [attention.heads, model.hidden]
    if model.ffn_hidden:
        widths.append(model.ffn_hidden)
    if model.moe is not None and model.moe.num_shared_experts:
        widths.append(model.moe.shared_ffn_hidden)
    good: Mask = np.ones(len(tp), np.bool_)
    for width in widths:
        good &= width % tp == 0
    if attention.kind == "gqa":
        good &= (attention.kv_heads % tp == 0) | (tp % attention.kv_heads == 0)
    alone: Mask = tp == 1
    return good | alone


def _splits_towers(space: Space, rows: _Rows) -> Mask:
    """Whether towers run: inputs whole, heads and widths divided (``legality_towers``)."""
    good: Mask = np.ones(len(rows["tp"]), np.bool_)
    for tower in space.model.towers:
        good &= rows["cp"] == 1
        if tower.joins == "cross":
            good &= rows["pp"] == 1
        good &= tower.model.attention.heads % rows["tp"] == 0
        good &= tower.model.ffn_hidden % rows["tp"] == 0
    return good


def _splits_layers(space: Space, rows: _Rows) -> Mask:
    """Whether layers of other kinds run as they are split (``legality_layers``)."""
    model = space.model
    good: Mask = np.ones(len(rows["tp"]), np.bool_)
    if special_layers(model):
        good &= (rows["cp"] == 1) & (space.training.lora_rank == 0)
    if shared_weights(model):
        good &= rows["pp"] == 1
    for _, heads in split_heads(model):
        good &= heads % rows["tp"] == 0
    return good


def _add_batches(space: Space, rows: _Rows) -> None:
    """Give every split the micro-batches that divide its share of the batch."""
    batch, run = space.training.global_batch_seqs, space.run
    rows.times(micro_batch_seqs=_chosen(space.micro_batch_seqs, divisors(batch)))
    unit = rows["dp"].astype(np.int64) * rows["micro_batch_seqs"]
    good = batch % unit == 0
    if run.batch_warmup_tokens > 0:
        start = run.batch_warmup_start_seqs
        good &= (start % unit == 0) & (0 < start <= batch)
    rows.keep(good)
    rows["micro_batches"] = batch // (rows["dp"] * rows["micro_batch_seqs"])


def _add_schedules(space: Space, rows: _Rows) -> None:
    """Give every row the schedules that it can run, interleaving with its numbers of chunks."""
    layers = space.model.num_layers
    every = list(range(2, layers + 1)) if space.uneven_stages else divisors(layers)
    chunks = _chosen(space.vpp, [v for v in every if v > 1])
    pairs = [
        (place, vpp)
        for place, name in enumerate(space.schedules)
        if name not in space.schedules[:place]
        for vpp in (
            chunks.tolist() if name == "interleaved" else [1] * (not space.vpp or 1 in space.vpp)
        )
    ]
    table = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    rows.times(schedule=table[:, 0], vpp=table[:, 1])
    pp, vpp, m = rows["pp"], rows["vpp"], rows["micro_batches"]
    parts = pp * vpp
    good = (parts <= layers) & (2 * m.astype(np.int64) * parts <= MAX_TASKS)
    if not space.uneven_stages:
        good &= layers % parts == 0
    for place, name in enumerate(space.schedules):
        of_kind = rows["schedule"] == place
        if name == "interleaved":
            good &= ~of_kind | ((pp > 1) & (m % pp == 0))
        if name == "dualpipe":
            good &= ~of_kind | ((pp % 2 == 0) & (m >= 2 * pp) & (m % 2 == 0))
    rows.keep(good)


def _add_experts(space: Space, rows: _Rows) -> None:
    """Give every row its ways of splitting experts; without experts there is one, none."""
    moe = space.model.moe
    if moe is None:
        alone = (not space.ep or 1 in space.ep) and (not space.etp or min(space.etp) <= 1)
        none = np.array([1] * alone, np.int32)
        rows.times(ep=none, etp=none - 1)
        return
    rows.times(ep=_chosen(space.ep, divisors(moe.num_experts)))
    ranks = rows["tp"].astype(np.int64) * rows["cp"] * rows["dp"]
    rows.keep(ranks % rows["ep"] == 0)
    rows.times(etp=_ints(divisors(moe.ffn_hidden)))
    if space.etp:  # 0 means as many ways as tp
        as_tp = (rows["etp"] == rows["tp"]) & (0 in space.etp)
        rows.keep(np.isin(rows["etp"], space.etp) | as_tp)
    group = rows["etp"].astype(np.int64) * rows["ep"]
    ranks = rows["tp"].astype(np.int64) * rows["cp"] * rows["dp"]
    rows.keep(ranks % group == 0)


def _add_sequence(space: Space, rows: _Rows) -> None:
    """Give rows with tensor parallelism their sequence parallelism; drop what does not divide."""
    rows.times(sp=_ints(space.sp))
    many = rows["tp"] > 1
    first = rows["sp"] == min(space.sp)  # without tensor parallelism there is one way, none
    rows.keep(many | first)
    rows["sp"] = np.where(rows["tp"] > 1, rows["sp"], 0).astype(np.int32)
    cp, tp = rows["cp"].astype(np.int64), rows["tp"]
    ring = space.parallel.cp_kind == "ring"
    parts = np.where((cp > 1) & ring, 2 * cp, cp) * np.where(rows["sp"] == 1, tp, 1)
    good = space.training.seq_len % parts == 0
    if space.parallel.cp_kind == "ulysses":
        good &= (cp == 1) | (space.model.attention.heads % (tp * cp) == 0)
    rows.keep(good)


def _keep_shards(size: int, rows: _Rows) -> None:
    ranks = rows["dp"].astype(np.int64) * rows["cp"]
    rows.keep((rows["zero_stage"] > 0) & (ranks % size == 0))


def _add_recompute(space: Space, rows: _Rows) -> None:
    """Give every row the recomputation that its stages have layers for."""
    places = [i for i, name in enumerate(space.recompute) if name not in space.recompute[:i]]
    rows.times(recompute=np.array(places, dtype=np.int32))
    layers = space.model.num_layers
    good: Mask = np.ones(len(rows["tp"]), np.bool_)
    for place in places:
        scope = known_recompute(space.recompute[place])[1]
        of_kind = rows["recompute"] == place
        if scope.mode == "every":
            good &= ~of_kind | (scope.number <= layers)
        elif scope.mode == "first":
            good &= ~of_kind | (scope.number <= -(-layers // rows["pp"]))
    rows.keep(good)
