"""From a measured row to the service and the traffic that it was, or the reason why not."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.topology import compact_slice
from ridgeline.simulator.serving.service import Limits, Service, Speculation
from ridgeline.validation.serving.clients import (
    Client,
    Launch,
    client_of,
    launch_of,
    matches,
    serving_data,
)
from ridgeline.validation.serving.measured import ServingRow
from ridgeline.validation.spelling import Skip
from ridgeline.workloads import load_model
from ridgeline.workloads.model import Model

CLOSED, DISAGGREGATED, STATIC, OFFLINE = "closed loop", "disaggregated", "static batch", "offline"
_POOL = r"(\d*)x\(tp(\d+),pp(\d+),dp(\d+),ep(\d+),bs(\d*)\)"
_POOLS = re.compile(rf"prefill={_POOL}; decode={_POOL}")
_BATCH_A_RANK = re.compile(r"bs_per_rank=(\d+)")
_EXPERT_TP = re.compile(r"moe_tp=(\d+)")
_CORES = re.compile(r"tp counts TensorCores \((\d+) per chip\)")
_INFERRED_CACHE = re.compile(r"kv \w+ inferred")
_SLOT = re.compile(r"cache length (\d+)")
_MOST_SEQUENCES = re.compile(r"max_num_seqs[ =](\d+)")


class _UnusableError(Exception):
    """Carries the reason for a Skip out of a helper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How one replica is split."""

    tp: int
    pp: int
    dp: int
    ep: int

    @property
    def accelerators(self) -> int:
        """Accelerators of a replica."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a row asks the simulator."""

    kind: str
    """closed loop, disaggregated, static batch or offline."""
    service: Service
    """Of disaggregated rows the pool that decodes."""
    prefill: Service | None
    """Disaggregated: the pool that takes prompts."""
    client: Client
    concurrency: int
    input_len: int
    output_len: int
    prompts: int
    accelerators: int
    """As the source counts them: its rates are for each of these."""
    router: str = ""
    """Disaggregated: which worker takes the next request."""
    decode_speaks: bool = False
    """Disaggregated: whether the client gets the first token from the pool that decodes."""
    ttft_scale: float = 1.0
    """What the source multiplied the time to first token of another row with."""
    admit_every: int = 0
    """Decode iterations between two looks at the line, 0 for the engine's default."""
    scheduler: str = ""
    """Kind of scheduler, "" for the engine's default."""
    assumptions: tuple[str, ...] = ()


def row_question(row: ServingRow) -> Question | Skip:
    """Return what a row asks.

    Nothing is guessed silently: a cell that is empty or a word that no data file of ``validation``
    knows makes a Skip; a documented default is listed among the assumptions.
    """
    try:
        return _question(row)
    except _UnusableError as unusable:
        return Skip(str(unusable))
    except InputError as error:
        return Skip("; ".join(error.problems))


def _question(row: ServingRow) -> Question:
    for entry in serving_data("serving_spellings.toml")["refused"]:
        if matches(entry, row, ("source", "notes")):
            raise _UnusableError(entry["reason"])
    notes: list[str] = []
    model, precision = _model(row, notes)
    accelerator = load_accelerator(row.accelerator)
    stack = _engine(row, notes)
    client = client_of(row)
    scale = 1.0
    if client.scaled.get("accelerator") == accelerator.name:
        scale = float(client.scaled["ttft"])
        notes.append(f"scaled by its source from {client.scaled['of']}: {scale} x its prompts")
        accelerator = load_accelerator(client.scaled["of"])
    pools = _POOLS.search(row.notes)
    if pools is not None:
        prefill, decode = _pool(pools.groups()[:6]), _pool(pools.groups()[6:])
        return _disaggregated(row, model, precision, accelerator, stack, prefill, decode, client)
    split = _split(row, model, accelerator, notes)
    counted = split.accelerators
    split = _recount(row, split, notes)
    launch = launch_of(row, split.dp)
    service = _service(row, model, precision, accelerator, stack, split, 1)
    kind = _kind(row)
    lengths = (client.mean_input, client.mean_output) if row.at_most else (0, 0)
    input_len, output_len = lengths[0] or row.input_len, lengths[1] or row.output_len
    if input_len is None or output_len is None:
        raise _UnusableError("input_len and output_len: not stated")
    concurrency = row.batch_or_concurrency or client.concurrency
    if not concurrency:
        # bs_per_rank in notes is the largest batch of a configuration, whatever its load was
        raise _UnusableError("batch_or_concurrency: not stated")
    return Question(
        kind=kind,
        service=service,
        prefill=None,
        client=client,
        concurrency=concurrency,
        input_len=input_len,
        output_len=output_len,
        prompts=client.prompts or client.prompts_per_concurrency * concurrency,
        accelerators=counted,
        ttft_scale=scale,
        admit_every=launch.admit_every,
        scheduler=launch.scheduler,
        assumptions=tuple(notes),
    )


def _kind(row: ServingRow) -> str:
    if re.search(
        r"benchmark_latency|^static batch|batch-1\b|single-stream", row.notes, re.IGNORECASE
    ):
        return STATIC
    if row.ttft_ms is None and row.tpot_ms is None:
        return OFFLINE
    return CLOSED


def _model(row: ServingRow, notes: list[str]) -> tuple[Model, str]:
    data = serving_data("serving_spellings.toml")
    entry: dict[str, Any] | None = next(
        (one for one in data["model"] if matches(one, row, ("model", "source"))), None
    )
    if entry is None:
        raise _UnusableError(f"model {row.model!r} is not known")
    text = row.precision
    if not text:
        text = "bf16"
        notes.append("precision not stated: bf16, that of the checkpoint")
    if text not in data["precision"]:
        raise _UnusableError(f"precision {text!r} is not known")
    precision = str(entry.get(text, data["precision"][text]))
    if precision == "fp8" and entry.get("blocks", False):
        precision = "fp8_block"
    return load_model(entry["name"]), precision


def _engine(row: ServingRow, notes: list[str]) -> str:
    for entry in serving_data("serving_spellings.toml")["engine"]:
        patterns = {**entry, "version": entry.get("version", "")}
        if matches(patterns, row, ("engine", "version", "source")):
            if "note" in entry:
                notes.append(entry["note"])
            return str(entry["stack"])
    raise _UnusableError(f"engine {row.engine!r} is not known")


def _split(row: ServingRow, model: Model, accelerator: Accelerator, notes: list[str]) -> Split:
    if row.tp is None:
        raise _UnusableError("tp: not stated")
    tp, pp = row.tp, row.pp or 1
    dp, ep = row.dp or 1, row.ep or 1
    cores = _CORES.search(row.notes)
    if cores:
        tp, ep = max(1, tp // int(cores[1])), max(1, ep // int(cores[1]))
        notes.append("tp counts cores, of which a chip has " + cores[1])
    if model.moe is None:
        return Split(tp=tp, pp=pp, dp=dp, ep=1)
    label = _label(row, tp, ep, dp, accelerator)
    if label:
        notes.append(label[1])
        return label[0]
    waiting = _BATCH_A_RANK.search(row.notes)
    load = row.batch_or_concurrency or 0
    if not row.dp and waiting and load > int(waiting[1]):
        ranks = load // int(waiting[1])
        if tp % ranks == 0:
            notes.append(f"concurrency is {ranks} x bs_per_rank: {ranks} ranks of attention")
            tp, dp = tp // ranks, ranks
    if launch_of(row, dp).attention_data_parallel and tp > 1:
        notes.append("attention data parallel, as the source starts models with experts")
        tp, dp, ep = 1, tp * dp, tp * dp
    world = tp * dp
    if world % ep:
        raise _UnusableError(f"ep = {ep} does not divide tp*dp = {world}")
    return Split(tp=tp, pp=pp, dp=dp, ep=ep)


def _label(
    row: ServingRow, tp: int, ep: int, dp: int, accelerator: Accelerator
) -> tuple[Split, str] | None:
    """Return the split that a label stands for where it counts accelerators twice."""
    written = f"tp={tp} ep={ep} dp={dp}"
    for entry in serving_data("serving_spellings.toml")["label"]:
        if not matches(entry, row, ("engine", "source")):
            continue
        if not re.search(entry["pattern"], written):
            continue
        if entry.get("squared") and ep == dp * dp and dp > 1:
            return Split(tp=1, pp=1, dp=dp, ep=dp), entry["reason"]
        if "tensor" in entry:
            return Split(tp=entry["tensor"], pp=1, dp=dp, ep=ep), entry["reason"]
        if entry.get("more_than_node") and dp > accelerator.per_node:
            return Split(tp=1, pp=1, dp=ep, ep=ep), entry["reason"]
    return None


def _recount(row: ServingRow, split: Split, notes: list[str]) -> Split:
    """Return a split over as many tensor ranks as the source's other figures say there were."""
    for entry in serving_data("serving_spellings.toml")["count"]:
        if matches(entry, row, ("source", "model", "accelerator", "notes")):
            notes.append(entry["reason"])
            return replace(split, tp=split.tp * entry["times"])
    return split


def _service(
    row: ServingRow,
    model: Model,
    precision: str,
    accelerator: Accelerator,
    stack: str,
    split: Split,
    replicas: int,
    pool: str = "",
) -> Service:
    launch = launch_of(row, split.dp, pool)
    most, slot = _MOST_SEQUENCES.search(row.notes), _SLOT.search(row.notes)
    limits = Limits(
        max_tokens=launch.max_tokens,
        max_sequences=int(most[1]) if most else launch.max_sequences,
        memory_fraction=launch.memory_fraction,
        slot_tokens=int(slot[1]) if slot else 0,
    )
    return Service(
        model=model,
        cluster=_cluster(accelerator, split.accelerators * replicas),
        engine=stack,
        precision=precision,
        kv_precision=_kv_precision(row, launch),
        tp=split.tp,
        pp=split.pp,
        dp=split.dp,
        ep=split.ep,
        replicas=replicas,
        expert_kernels=launch.expert_kernels,
        expert_slots=launch.expert_slots,
        limits=limits,
        speculation=_speculation(launch.draft_tokens, launch.acceptance),
    )


def _kv_precision(row: ServingRow, launch: Launch) -> str:
    """Return the cache's format: as stated, then as launched; one that was inferred comes last."""
    known = serving_data("serving_spellings.toml")["kv_precision"]
    if row.kv_precision not in known:
        raise _UnusableError(f"kv_precision {row.kv_precision!r} is not known")
    stated = str(known[row.kv_precision])
    if _INFERRED_CACHE.search(row.notes):
        return launch.kv_precision or stated
    return stated or launch.kv_precision


@lru_cache(maxsize=8)
def _speculation(tokens: int, acceptance: float) -> Speculation:
    return Speculation(tokens=tokens, acceptance=acceptance) if tokens else Speculation()


@lru_cache(maxsize=256)
def _cluster(accelerator: Accelerator, count: int) -> Cluster:
    if accelerator.torus_dims:
        shape = compact_slice(accelerator, count)
        if shape is None:
            raise _UnusableError(f"{count} chips are no slice of {accelerator.name}")
        return make_cluster(f"{accelerator.name}:{'x'.join(map(str, shape))}")
    return make_cluster(f"{count}x{accelerator.name}", per_node=gcd(count, accelerator.per_node))


def _pool(groups: tuple[str | None, ...]) -> tuple[int, Split]:
    workers, tp, pp, dp, ep, _ = groups
    if not workers:
        raise _UnusableError("disaggregated, number of workers not stated")
    split = Split(tp=int(tp or 1), pp=int(pp or 1), dp=int(dp or 1), ep=int(ep or 1))
    return int(workers), split


def _disaggregated(
    row: ServingRow,
    model: Model,
    precision: str,
    accelerator: Accelerator,
    stack: str,
    prefill: tuple[int, Split],
    decode: tuple[int, Split],
    client: Client,
) -> Question:
    if row.input_len is None or row.output_len is None or row.batch_or_concurrency is None:
        raise _UnusableError("input_len, output_len or concurrency: not stated")
    services = []
    router, speaks = "", False
    for name, (workers, written) in (("prefill", prefill), ("decode", decode)):
        split = written
        if row.engine == "sglang" and split.dp > 1 and split.ep == 1:
            # its label leaves out that experts lie on the ranks of attention; pools of workers
            # inside a node that decode are tensor parallel (so written from 0.5.8 on)
            inside = name == "decode" and workers > 1 and split.dp <= accelerator.per_node
            ranks = split.tp * split.dp
            split = replace(split, tp=ranks, dp=1) if inside else replace(split, ep=ranks)
        world = split.tp * split.dp
        if world % split.ep:
            raise _UnusableError(f"ep = {split.ep} does not divide tp*dp = {world}")
        service = _service(row, model, precision, accelerator, stack, split, workers, name)
        told = launch_of(row, split.dp, name, workers)
        limits = Limits(max_tokens=told.pool_tokens, max_sequences=told.pool_sequences)
        services.append(replace(service, limits=limits))
        router, speaks = told.router, told.decode_speaks
    count = prefill[0] * prefill[1].accelerators + decode[0] * decode[1].accelerators
    return Question(
        kind=DISAGGREGATED,
        service=services[1],
        prefill=services[0],
        client=client,
        concurrency=row.batch_or_concurrency,
        input_len=row.input_len,
        output_len=row.output_len,
        prompts=client.prompts or client.prompts_per_concurrency * row.batch_or_concurrency,
        accelerators=count,
        router=router,
        decode_speaks=speaks,
        assumptions=("workers from the notes",),
    )
