"""torchtitan's TOML job files."""

from __future__ import annotations

import tomllib
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.launchers.models import named_model
from ridgeline.simulator.launchers.records import Converted, Key, Written, read_keys
from ridgeline.simulator.plan import Plan

_SCHEDULES = {
    "1f1b": "1f1b",
    "interleaved1f1b": "interleaved",
    "gpipe": "gpipe",
    "interleavedzerobubble": "zb-h1",
    "dualpipev": "dualpipe",
}
_WRITTEN_SCHEDULES = {"1f1b": "1F1B", "interleaved": "Interleaved1F1B", "gpipe": "GPipe"}
_READ_ELSEWHERE = {
    *("model.name", "model.flavor", "training.steps", "activation_checkpoint.mode"),
    *("activation_checkpoint.selective_ac_option", "training.global_batch_size"),
    *("parallelism.data_parallel_shard_degree", "parallelism.data_parallel_replicate_degree"),
}

KEYS = (
    Key(theirs="parallelism.tensor_parallel_degree", ours="parallel.tp", read=int),
    Key(theirs="parallelism.pipeline_parallel_degree", ours="parallel.pp", read=int),
    Key(theirs="parallelism.context_parallel_degree", ours="parallel.cp", read=int),
    Key(theirs="parallelism.expert_parallel_degree", ours="parallel.ep", read=int),
    Key(theirs="experimental.pipeline_parallel_degree", ours="parallel.pp", read=int),
    Key(theirs="experimental.context_parallel_degree", ours="parallel.cp", read=int),
    Key(theirs="training.tensor_parallel_degree", ours="parallel.tp", read=int),
    Key(
        theirs="parallelism.pipeline_parallel_schedule",
        ours="training.schedule",
        read=lambda name: _SCHEDULES.get(str(name).lower()),
    ),
    Key(theirs="training.seq_len", ours="training.seq_len", read=int),
    Key(theirs="training.batch_size", ours="training.micro_batch_seqs", read=int),
    Key(theirs="training.local_batch_size", ours="training.micro_batch_seqs", read=int),
    Key(
        theirs="float8.enable_float8_linear",
        ours="training.precision",
        read=lambda on: "fp8" if on else None,
    ),
    Key(
        theirs="optimizer.name",
        ours="training.optimizer",
        read=lambda name: str(name).lower() if str(name).lower() in ("adam", "adamw") else None,
    ),
)


def read_torchtitan(text: str, accelerators: int = 0) -> Converted:
    """Return a torchtitan job file as tables of a plan file.

    Parameters
    ----------
    text
        The TOML file.
    accelerators
        Of the cluster: torchtitan derives the degree of sharding, and so the batch, from it.

    Raises
    ------
    InputError
        Not TOML, or not torchtitan's.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"launcher: not TOML: {error}") from None
    given = {
        f"{section}.{key}": value
        for section, table in tables.items()
        if isinstance(table, dict)
        for key, value in table.items()
    }
    converted = Converted(tables={"stack": {"name": "torchtitan"}})
    try:
        seen = read_keys(given, KEYS, converted)
        if "training.seq_len" not in given:
            raise InputError("launcher: no training.seq_len: not a job file of torchtitan")
        _data_parallel(given, converted, accelerators)
        _checkpointing(given, converted)
    except (TypeError, ValueError) as error:
        raise InputError(f"launcher: {error}") from None
    if accelerators:
        converted.put("cluster.count", accelerators)
    unmapped = [f"{key} = {given[key]}" for key in given if key not in seen | _READ_ELSEWHERE]
    name = named_model(f"{given.get('model.name')}-{given.get('model.flavor')}")
    if name is None:
        unmapped.append(f"model {given.get('model.name')} {given.get('model.flavor')}: not known")
    else:
        converted.put("model.name", name)
    return Converted(tables=converted.tables, unmapped=tuple(unmapped))


def _data_parallel(given: dict[str, Any], converted: Converted, accelerators: int) -> None:
    replicate = int(given.get("parallelism.data_parallel_replicate_degree", 1))
    shard = int(given.get("parallelism.data_parallel_shard_degree", -1))
    others = 1
    for way in ("tp", "pp", "cp"):
        others *= int(converted.get(f"parallel.{way}", 1))
    if shard < 0 and accelerators:
        shard = max(1, accelerators // (replicate * others))
    if shard > 0:
        converted.put("parallel.dp", replicate * shard)
    if shard != 1:
        converted.put("parallel.zero_stage", 3)
        if replicate > 1 and shard > 1:
            converted.put("parallel.shard_size", shard)
    batch = int(given.get("training.global_batch_size", -1))
    if batch > 0:
        converted.put("training.global_batch_seqs", batch)
    elif shard > 0:
        local = int(converted.get("training.micro_batch_seqs", 1))
        converted.put("training.global_batch_seqs", local * replicate * shard)
    steps = int(given.get("training.steps", 0))
    if steps and converted.get("training.global_batch_seqs"):
        tokens = converted.get("training.global_batch_seqs") * converted.get("training.seq_len")
        converted.put("training.tokens", float(steps * tokens))


def _checkpointing(given: dict[str, Any], converted: Converted) -> None:
    mode = str(given.get("activation_checkpoint.mode", "none"))
    option = str(given.get("activation_checkpoint.selective_ac_option", "2"))
    if mode == "selective" and option.isdigit():
        converted.put("training.recompute", f"every-{option}" if int(option) > 1 else "full")
    elif mode in ("selective", "full", "none"):
        converted.put("training.recompute", mode)


def write_torchtitan(plan: Plan) -> Written:
    """Return a plan as a torchtitan job file."""
    parallel, training = plan.parallel, plan.training
    sharded = parallel.zero_stage == 3
    shard = (parallel.shard_size or parallel.dp) if sharded else 1
    family, _, flavor = plan.model.name.rpartition("-")
    unmapped = []
    if parallel.zero_stage in (1, 2):
        unmapped.append(
            f"parallel.zero_stage = {parallel.zero_stage}: torchtitan shards all or none"
        )
    if training.precision not in ("bf16", "fp8"):
        unmapped.append(f"training.precision = {training.precision}")
    mode, option = training.recompute, ""
    if mode.startswith("every-"):
        mode, option = "selective", mode[6:]
    elif mode == "selective":
        option = "op"
    elif mode not in ("none", "full"):
        unmapped.append(f"training.recompute = {mode}")
        mode = "none"
    schedule = _WRITTEN_SCHEDULES.get(training.schedule)
    if schedule is None:
        unmapped.append(f"training.schedule = {training.schedule}")
    if parallel.vpp > 1:
        unmapped.append(f"parallel.vpp = {parallel.vpp}: set layers per stage by hand")
    step_tokens = training.global_batch_seqs * training.seq_len
    lines = [
        "[model]",
        f'name = "{family}"',
        f'flavor = "{flavor.upper()}"',
        "",
        "[training]",
        f"local_batch_size = {training.micro_batch_seqs}",
        f"global_batch_size = {training.global_batch_seqs}",
        f"seq_len = {training.seq_len}",
        *([f"steps = {round(training.tokens / step_tokens)}"] if training.tokens else []),
        "",
        "[parallelism]",
        f"data_parallel_replicate_degree = {parallel.dp // shard}",
        f"data_parallel_shard_degree = {shard}",
        f"tensor_parallel_degree = {parallel.tp}",
        f"pipeline_parallel_degree = {parallel.pp}",
        f"context_parallel_degree = {parallel.cp}",
        *([f"expert_parallel_degree = {parallel.ep}"] if parallel.ep > 1 else []),
        *([f'pipeline_parallel_schedule = "{schedule}"'] if schedule and parallel.pp > 1 else []),
        "",
        "[activation_checkpoint]",
        f'mode = "{mode}"',
        *([f'selective_ac_option = "{option}"'] if option else []),
        *(["", "[float8]", "enable_float8_linear = true"] if training.precision == "fp8" else []),
    ]
    return Written(text="\n".join(lines) + "\n", unmapped=tuple(unmapped))
