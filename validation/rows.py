"""From a measured row to the plan that was run, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.topology import compact_slice
from ridgeline.simulator.legality import problems
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.stages import balanced_layers
from ridgeline.validation.measured import MeasuredRow
from ridgeline.validation.spelling import (
    Skip,
    find_dataset,
    find_fabric,
    find_spelling,
    find_stack,
)
from ridgeline.workloads import custom_model, load_model
from ridgeline.workloads.expert_load import with_routing
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters

MOST_MISMATCH = 0.2
"""A shape whose parameter count is further from the stated one is another model (a hybrid)."""
_NEEDED = (
    "num_accel",
    "layers",
    "hidden",
    "heads",
    "seq_len",
    "global_batch_seqs",
    "micro_batch_seqs",
    "tp",
    "pp",
)
_GATED = re.compile(r"mlp=(swiglu|geglu|gated)", re.IGNORECASE)
_PLAIN = re.compile(r"mlp=(non-gated|gelu|relu|squared-relu)", re.IGNORECASE)
_SLICES = re.compile(r"(\d+) slice(?:\(s\)|s over DCN)", re.IGNORECASE)
_TORUS = re.compile(r"torus (\d+x\d+(?:x\d+)?)", re.IGNORECASE)
_WHOLE = re.compile(r"^(\d+)\.0+$")
"""A whole number as a table of floats writes it."""
_SHARD = re.compile(r"fsdp=(\d+) inside slice", re.IGNORECASE)
_NO_MTP = re.compile(r"without MTP", re.IGNORECASE)
_CAPACITY = re.compile(r"capacity factor ([\d.]+\d|\d)")
_OPTIMIZER = re.compile(r"\boptimizer=(\w+)")
_ULYSSES = re.compile(r"\bcp=a2a\b")
_DEVICES = re.compile(r"one chip = (\d+) JAX devices", re.IGNORECASE)


class _UnusableError(Exception):
    """Carries the reason for a Skip out of a helper."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A plan and what was assumed to make it."""

    plan: Plan
    assumptions: tuple[str, ...]


def row_plan(row: MeasuredRow) -> PlannedRow | Skip:
    """Return the plan that a row describes.

    Nothing is guessed silently: a cell that is empty or a word that no data file of ``validation``
    knows makes a Skip; a documented default (of the framework, or of the accelerator's usual
    network) is listed among the assumptions.
    """
    try:
        return _row_plan(row)
    except _UnusableError as unusable:
        return Skip(str(unusable))
    except InputError as error:
        return Skip("; ".join(error.problems))


def _row_plan(row: MeasuredRow) -> PlannedRow:
    missing = [column for column in _NEEDED if getattr(row, column) is None]
    if missing:
        raise _UnusableError(f"not stated: {', '.join(missing)}")
    notes: list[str] = []
    task = _spelled("task", row.task, notes)
    stack = find_stack(row.framework, row.accelerator, f"{row.source_detail}; {row.notes}")
    if stack.note:
        notes.append(stack.note)
    accelerator = load_accelerator(row.accelerator)
    model = row_model(row)
    recompute = row.recompute
    if not recompute and stack.recompute:
        recompute = stack.recompute
        notes.append(f"recompute not stated: {stack.recompute}, the framework's default")
    zero_stage = row.zero_stage
    if not zero_stage and stack.zero_stage:
        zero_stage = stack.zero_stage
        notes.append(f"zero_stage not stated: {stack.zero_stage}, the framework's default")
    kept = _spelled("recompute", recompute, notes)
    sharded = _spelled("zero_stage", zero_stage, notes)["zero_stage"]
    parallel, per_chip = _parallel(row, sharded, row.seq_parallel or stack.seq_parallel)
    words = _spelled("schedule", row.schedule, notes)
    schedule = words.get("schedule", "interleaved" if parallel.vpp > 1 else "1f1b")
    if parallel.pp == 1 and schedule != "gpipe":
        schedule = "1f1b"
    elif schedule == "interleaved" and parallel.vpp == 1:
        raise _UnusableError("schedule is interleaved, but vpp is not above 1")
    assert row.seq_len is not None
    assert row.global_batch_seqs is not None
    assert row.micro_batch_seqs is not None
    training = Training(
        seq_len=row.seq_len,
        global_batch_seqs=row.global_batch_seqs,
        micro_batch_seqs=row.micro_batch_seqs * per_chip,
        precision=_spelled("precision", row.precision, notes)["precision"],
        recompute=kept["recompute"],
        offload=tuple(kept.get("offload", ())),
        schedule=schedule,
        lora_rank=task.get("lora_rank", 0),
        lora_targets=task.get("lora_targets", "attention"),
        sample_len=_sample_len(row, notes),
        stage_layers=_stage_layers(model, row.seq_len, parallel, notes),
        uneven_stages=True,
        optimizer=_optimizer(row),
    )
    plan = Plan(
        model=model,
        cluster=_cluster(row, accelerator, notes),
        parallel=parallel,
        training=training,
        stack=stack.name,
        name=row.id,
    )
    if lines := problems(plan):
        raise _UnusableError("; ".join(lines))
    return PlannedRow(plan, tuple(notes))


def _optimizer(row: MeasuredRow) -> str:
    """Return the optimizer that the notes name, AdamW where they name none."""
    found = _OPTIMIZER.search(row.notes)
    return found[1] if found else "adamw"


def _sample_len(row: MeasuredRow, notes: list[str]) -> int:
    """Return the mean length of packed samples, 0 where a task fills sequences with one each."""
    found = find_dataset(row.task, row.framework)
    if found is None or row.seq_len is None or found.sample_len >= row.seq_len:
        return 0
    notes.append(f"{found.name}, packed: {found.sample_len} tokens a sample on average")
    return found.sample_len


def _stage_layers(
    model: Model, seq_len: int, parallel: Parallelism, notes: list[str]
) -> tuple[int, ...]:
    """Return layers a part where the even split is not what frameworks do.

    One layer a part where embedding and head take the place of a layer each, as Megatron Core's
    account_for_embedding_in_pipeline_split and account_for_loss_in_pipeline_split do; with more
    layers a part the even split comes to the same. Models with multi-token modules are laid out by
    hand, and balanced (`balanced_layers`).
    """
    parts = parallel.pp * parallel.vpp
    if parts > 1 and model.num_mtp_layers and model.num_layers % parts:
        notes.append("stages balanced by the work of head and multi-token modules")
        return balanced_layers(model, seq_len, parts)
    if parts != model.num_layers + 2:
        return ()
    notes.append("embedding and head are pipeline parts of their own")
    return (0, *(1,) * model.num_layers, 0)


def _spelled(column: str, text: str, notes: list[str]) -> dict[str, Any]:
    entry = find_spelling(column, _WHOLE.sub(r"\1", text))
    if isinstance(entry, Skip):
        raise _UnusableError(entry.reason)
    if "note" in entry:
        notes.append(entry["note"])
    return entry


def _parallel(row: MeasuredRow, zero_stage: int, seq_parallel: str) -> tuple[Parallelism, int]:
    """Return the parallelism, counting accelerators, and how many devices each of them counts."""
    tp, pp, cp = row.tp or 1, row.pp or 1, row.cp or 1
    count = row.num_accel or 1
    group = tp * pp * cp
    if count % group:
        raise _UnusableError(f"tp*pp*cp = {group} does not divide num_accel = {count}")
    dp, devices = count // group, 1
    found = _DEVICES.search(row.notes)
    if found and row.dp == dp * int(found[1]):
        devices = int(found[1])
    elif row.dp is not None and row.dp != dp:
        raise _UnusableError(f"dp = {row.dp}, but num_accel / (tp*pp*cp) = {dp}")
    shard = _SHARD.search(row.notes)
    shard_size = int(shard[1]) if shard and zero_stage and dp * cp % int(shard[1]) == 0 else 0
    if seq_parallel not in ("", "0", "1"):
        raise _UnusableError(f"seq_parallel {seq_parallel!r} is not known")
    return (
        Parallelism(
            tp=tp,
            pp=pp,
            vpp=(row.vpp or 1) if pp > 1 else 1,
            dp=dp,
            cp=cp,
            cp_kind="ulysses" if _ULYSSES.search(row.notes) else "ring",
            ep=row.ep or 1,
            etp=row.etp or 0,
            sp=seq_parallel == "1" and tp > 1,
            zero_stage=zero_stage,
            shard_size=0 if shard_size == dp * cp else shard_size,
        ),
        devices,
    )


def row_model(row: MeasuredRow) -> Model:
    """Return the model of a row: of the catalogue where name and shape agree, else of its numbers.

    A count of parameters further than 20% from ``params_b`` means that the shape columns do not
    tell the model (state-space layers, experts of another width): refused.
    """
    named = _named(row.model)
    candidates = [named] if named is not None and _agrees(named, row) else []
    stated = row.params_b
    if stated is None:
        return candidates[0] if candidates else _custom(row)
    capacity = _CAPACITY.search(row.notes)

    def mismatch(model: Model) -> float:
        return abs(parameters(model).total / 1e9 / stated - 1)

    if not candidates or mismatch(candidates[0]) > MOST_MISMATCH:
        candidates.append(_custom(row))
    model = min(candidates, key=mismatch)
    if mismatch(model) > MOST_MISMATCH:
        counted = parameters(model).total / 1e9
        raise _UnusableError(
            f"the columns make {counted:.4g}B parameters, the row says {stated:.4g}B"
        )
    if capacity and model.moe:
        model = with_routing(model, capacity_factor=float(capacity[1]))
    return replace(model, num_mtp_layers=0) if _NO_MTP.search(row.notes) else model


@lru_cache(maxsize=512)
def _named(name: str) -> Model | None:
    bare = re.sub(r"\s*\(.*\)$", "", name)
    # DeepSeek-V3-671B, Grok-1-314B: the size is no part of the catalogue's name
    for candidate in (bare, re.sub(r"-[\d.]+[BT]$", "", bare)):
        try:
            return load_model(candidate) if re.fullmatch(r"[\w. -]+", candidate) else None
        except InputError:
            continue
    return None


def _agrees(model: Model, row: MeasuredRow) -> bool:
    attention = model.attention
    same = (model.num_layers, model.hidden, attention.heads) == (row.layers, row.hidden, row.heads)
    kv_heads = attention.heads if attention.kind == "mla" else attention.kv_heads
    same = same and row.kv_heads in (None, kv_heads)
    widths = {model.ffn_hidden} | ({model.moe.ffn_hidden} if model.moe else set())
    same = same and (row.ffn_hidden is None or row.ffn_hidden in widths)
    experts = model.moe.num_experts if model.moe else 0
    same = same and (row.num_experts or 0) == experts
    # vocabularies are padded to multiples of up to a few thousand
    return same and (row.vocab is None or abs(row.vocab - model.vocab) < 0.03 * model.vocab)


def _custom(row: MeasuredRow) -> Model:
    gated = True if _GATED.search(row.notes) else False if _PLAIN.search(row.notes) else None
    if gated is None and row.params_b is None:
        raise _UnusableError("the notes do not say whether the MLP is gated, and params_b is empty")
    assert row.layers is not None
    assert row.hidden is not None
    assert row.heads is not None
    return custom_model(
        name=row.model or row.id,
        layers=row.layers,
        hidden=row.hidden,
        heads=row.heads,
        ffn_hidden=row.ffn_hidden,
        kv_heads=row.kv_heads,
        head_dim=row.head_dim,
        vocab=row.vocab,
        gated=gated,
        num_experts=row.num_experts or 0,
        top_k=row.top_k or 0,
        seq_len=row.seq_len or 2048,
        params_b=row.params_b,
        source=row.source_detail,
    )


def _cluster(row: MeasuredRow, accelerator: Accelerator, notes: list[str]) -> Cluster:
    count = row.num_accel or 1
    if accelerator.torus_dims:
        return make_cluster(_slices(row, accelerator, count))
    per_node = min(row.accel_per_node or accelerator.per_node, count)
    spec = f"{count}x{accelerator.name}"
    if count <= max(per_node, _domain(accelerator, per_node)):
        return make_cluster(spec, per_node=per_node)
    found = find_fabric(row.interconnect)
    if found is None:
        text = f"interconnect {row.interconnect!r} is not known" if row.interconnect else ""
        notes.append(f"{text or 'interconnect not stated'}: the accelerator's usual network")
        return make_cluster(spec, per_node=per_node)
    if found.assumed:
        notes.append(f"interconnect: {found.source}")
    if found.cluster:
        return make_cluster(f"{found.cluster}:{count // per_node}")
    return make_cluster(
        spec,
        per_node=per_node,
        fabric=found.fabric,
        scaleout_bytes_per_s=found.per_accelerator(per_node),
    )


def _domain(accelerator: Accelerator, per_node: int) -> int:
    return max(per_node, accelerator.scaleup_domain)


def _slices(row: MeasuredRow, accelerator: Accelerator, count: int) -> str:
    found = _SLICES.search(f"{row.interconnect}; {row.notes}")
    slices = int(found[1]) if found else 1
    if count % slices:
        raise _UnusableError(f"{slices} slices do not divide num_accel = {count}")
    shape = _TORUS.search(row.interconnect)
    if shape:
        dims: tuple[int, ...] | None = tuple(int(side) for side in shape[1].split("x"))
    else:
        dims = compact_slice(accelerator, count // slices)
    if dims is None:
        raise _UnusableError(f"{count // slices} chips are no slice of {accelerator.name}")
    return f"{accelerator.name}:{'x'.join(map(str, dims))}*{slices}"
