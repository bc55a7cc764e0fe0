"""What a trace says about the plan behind it: model, device, batch, precision, how it is split."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.validation.traces.devices import find_accelerator
from ridgeline.validation.traces.gemms import Gemms, find_gemms
from ridgeline.validation.traces.model_shapes import find_models, rows_of, weights_of
from ridgeline.validation.traces.records import OPTIMIZER, Trace
from ridgeline.validation.traces.steps import find_steps
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.model import Model

_BACKWARD = re.compile(r"backward|_bwd|bwd_", re.IGNORECASE)
_ENGINE_BATCH = re.compile(r"^execute_\d+_context_(\d+)\(sq(\d+)sk\d+sqsq(\d+).*?_generation_(\d+)")
_SCHEDULED = re.compile(r"^step\[(EXTEND|DECODE) bs=(\d+)(?: toks=(\d+))?", re.IGNORECASE)
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")
MOST_LISTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One field of a plan, and where it comes from."""

    key: str
    """As the plan file has it: ``training.seq_len``."""
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPlan:
    """What a trace shows and what was given, enough for a plan."""

    training: bool
    """A step with backward pass; else one forward pass of inference."""
    overrides: dict[str, object]
    """Of ``read_plan``: inferred fields under given ones."""
    inferred: tuple[Finding, ...]
    """What was not given."""
    head_rows: int
    """Of a forward pass: rows that reach the output projection, 0 when it is not in the trace."""
    program: str
    """Software that wrote the trace, empty when nothing tells."""
    stack_file: str
    """Of a forward pass: path of its stack, empty when one was given."""


def infer_plan(trace: Trace, given: Mapping[str, object]) -> TracedPlan:
    """Infer the plan of a trace; what is given stands.

    Parameters
    ----------
    trace
        Of one rank.
    given
        Dotted keys of the plan file -> values, as flags say them.

    Raises
    ------
    InputError
        What is needed can be neither inferred nor is given: one line each. Or the trace shows
        steps of decoding.
    """
    gemms = find_gemms(trace)
    training = is_training(trace)
    if not training:
        _refuse_decoding(trace)
    problems: list[str] = []
    found: list[Finding] = []
    model, tp, rounds = _model(gemms, given, found, problems, training=training)
    device = _device(trace, given, found, problems)
    tokens = rows_of(gemms.shapes)
    if model is not None:
        _batch(trace, given, found, problems, tokens, model)
    _precision(gemms, given, found)
    if problems:
        raise InputError(problems)
    assert model is not None
    merged: dict[str, object] = {one.key: one.value for one in found} | dict(given)
    spread = _spread(trace, merged, found, tp, rounds, device, training=training)
    program, stack = _program(trace)
    stack_file = ""
    if "stack.name" not in given:
        why = f"operators and annotations of {program}" if program else "nothing tells"
        name = stack["training" if training else "stack"]
        found.append(Finding(key="stack.name", value=name, why=why))
        if training:
            spread["stack.name"] = name
        else:
            stack_file = str(files("ridgeline.validation") / "traces" / "stacks" / f"{name}.toml")
    (head,) = weights_of(model, tp)["head"]
    heads = [s for s in gemms.shapes if s.batch == 1 and (s.n, s.k) == head]
    return TracedPlan(
        training=training,
        overrides={**merged, **spread},
        inferred=tuple(found),
        head_rows=heads[0].m if heads else 0,
        program=program,
        stack_file=stack_file,
    )


def is_training(trace: Trace) -> bool:
    """Return whether a trace has a backward pass or an optimizer."""
    if any(_BACKWARD.search(operator.name) for operator in trace.operators):
        return True
    if any(_BACKWARD.search(name) for name in trace.names):
        return True
    return bool((trace.events.category == OPTIMIZER).any())


def _refuse_decoding(trace: Trace) -> None:
    for span in trace.annotations:
        batch, step = _ENGINE_BATCH.match(span.name), _SCHEDULED.match(span.name)
        generated = int(batch[4]) if batch else 0
        if (step and step[1].upper() == "DECODE") or generated:
            raise InputError(
                "the trace holds steps that decode; only prefill and training are predicted"
            )


def _model(
    gemms: Gemms,
    given: Mapping[str, object],
    found: list[Finding],
    problems: list[str],
    *,
    training: bool,
) -> tuple[Model | None, int, float]:
    """Return the model, its tensor ways and the micro-batches of a step."""
    named: Model | None = None
    if "model.config" in given:
        named = model_from_config(str(given["model.config"]))
    elif "model.name" in given:
        named = load_model(str(given["model.name"]))
    models = None if named is None else [named]
    matches = find_models(gemms.shapes, gemms.steps, training=training, models=models)
    if not matches:
        if named is not None:
            return named, int(str(given.get("parallel.tp", 1))), 1.0
        why = "no shapes of matrix products" if not gemms.shapes else "shapes of no known model"
        problems.append(f"model: the trace has {why}; give --model")
        return None, 1, 1.0
    best = matches[0]
    if named is None:
        others = dict.fromkeys(m.model.name for m in matches if m.model.name != best.model.name)
        alike = f" (also of {', '.join(list(others)[:MOST_LISTED])})" if others else ""
        why = f"its weights have the shapes of {100 * best.explained:.0f}% of GEMM time{alike}"
        found.append(Finding(key="model.name", value=best.model.name, why=why))
    if "parallel.tp" not in given and best.tp > 1:
        why = f"weights in the trace are 1/{best.tp} of the model's"
        found.append(Finding(key="parallel.tp", value=best.tp, why=why))
    tp = int(str(given.get("parallel.tp", best.tp)))
    if best.recomputed and "training.recompute" not in given:
        why = "first products of the MLP run forward twice for each weight gradient"
        found.append(Finding(key="training.recompute", value="full", why=why))
    return best.model, tp, best.rounds


def _device(
    trace: Trace, given: Mapping[str, object], found: list[Finding], problems: list[str]
) -> str:
    """Return the accelerator's name; empty when a cluster was given."""
    if "cluster.spec" in given:
        return ""
    if "cluster.accelerator" in given:
        return str(given["cluster.accelerator"])
    name = find_accelerator(trace.device_name, trace.device_memory_bytes)
    if not name:
        said = f"{trace.device_name[:60]!r}" if trace.device_name else "not named in the trace"
        problems.append(f"accelerator: the device is {said}; give --accelerator or --cluster")
        return ""
    why = f"the driver's {trace.device_name[:60]!r}"
    if trace.device_memory_bytes:
        why += f", {trace.device_memory_bytes / 2**30:.0f} GiB"
    found.append(Finding(key="cluster.accelerator", value=name, why=why))
    return name


def _batch(
    trace: Trace,
    given: Mapping[str, object],
    found: list[Finding],
    problems: list[str],
    tokens: int,
    model: Model,
) -> None:
    """Find sequences of a micro-batch and their length."""
    seqs, length = given.get("training.micro_batch_seqs"), given.get("training.seq_len")
    if seqs is not None and length is not None:
        return
    if length is not None:
        value = max(1, round(tokens / int(str(length))))
        why = f"{tokens:,} rows of the products over --seq-len" if tokens else "taken as one"
        found.append(Finding(key="training.micro_batch_seqs", value=value, why=why))
        return
    if seqs is not None and tokens:
        value = max(1, tokens // int(str(seqs)))
        why = f"{tokens:,} rows of the products over --micro-batch"
        found.append(Finding(key="training.seq_len", value=value, why=why))
        return
    shown, why = _annotated_batch(trace) or _shaped_batch(trace, tokens, model)
    if not shown[0]:
        problems.append("batch: the trace shows neither shapes nor batches; give --seq-len")
        return
    if seqs is None:
        found.append(Finding(key="training.micro_batch_seqs", value=shown[0], why=why))
    found.append(Finding(key="training.seq_len", value=shown[1], why=why))


def _annotated_batch(trace: Trace) -> tuple[tuple[int, int], str] | None:
    """Return sequences and their length as an inference engine notes them beside its steps.

    The sum of squared lengths over the sum of lengths is the length that attention sees.
    """
    for span in trace.annotations:
        batch = _ENGINE_BATCH.match(span.name)
        if batch and int(batch[2]) > 0:
            total, squares = int(batch[2]), int(batch[3])
            length = max(1, round(squares / total)) if squares else total // int(batch[1])
            return (max(1, round(total / length)), length), "the engine's annotation of the batch"
    for span in trace.annotations:
        step = _SCHEDULED.match(span.name)
        if step and step[3] and int(step[2]) > 0:
            seqs = int(step[2])
            return (seqs, max(1, int(step[3]) // seqs)), "the engine's annotation of the batch"
    return None


def _shaped_batch(trace: Trace, tokens: int, model: Model) -> tuple[tuple[int, int], str]:
    """Return sequences and length by the tensors [b, s, h] of the steps' operators."""
    votes: dict[tuple[int, int], int] = {}
    for step in find_steps(trace):
        places, times = np.unique(step.events.operator, return_counts=True)
        for place, count in zip(places.tolist(), times.tolist(), strict=True):
            for shape in trace.operators[place].shapes if place >= 0 else ():
                if len(shape) == 3 and shape[2] == model.hidden and shape[0] * shape[1] == tokens:
                    key = (shape[0], shape[1])
                    votes[key] = votes.get(key, 0) + count
    if votes:
        return max(votes, key=lambda key: (votes[key], key)), "tensors [batch, sequence, hidden]"
    return ((1, tokens) if tokens else (0, 0)), "rows of the products, taken as one sequence"


def _precision(gemms: Gemms, given: Mapping[str, object], found: list[Finding]) -> None:
    if "training.precision" in given:
        return
    time: dict[str, float] = {}
    for shape in gemms.shapes:
        time[shape.dtype] = time.get(shape.dtype, 0.0) + shape.total_s
    known = {name: s for name, s in time.items() if name in _PRECISIONS}
    if known:
        best = max(known, key=lambda name: known[name])
        why = f"inputs of {100 * known[best] / sum(time.values()):.0f}% of GEMM time"
        found.append(Finding(key="training.precision", value=best, why=why))


def _spread(
    trace: Trace,
    merged: Mapping[str, object],
    found: list[Finding],
    tp: int,
    rounds: float,
    device: str,
    *,
    training: bool,
) -> dict[str, object]:
    """Return what the number of ranks and their collectives say about the split."""

    def ways(name: str) -> int:
        return int(str(merged.get(f"parallel.{name}", 1)))

    spread: dict[str, object] = {}
    inner = tp * ways("pp") * ways("cp")
    world = max(1, trace.world_size) if training else inner
    if "cluster.spec" in merged:
        world = make_cluster(str(merged["cluster.spec"])).count
    if device:
        world = max(world // inner, 1) * inner
        spread["cluster.count"] = world
        if "cluster.accelerator" not in merged:
            spread["cluster.accelerator"] = device
        if training and trace.world_size:
            why = "ranks that the trace says the job has"
            found.append(Finding(key="cluster.count", value=world, why=why))
    kinds = {one.kind for one in trace.collectives if one.ranks in (0, world // inner)}
    sharded = {"all_gather", "reduce_scatter"} <= kinds and world > inner
    if training and sharded and "parallel.zero_stage" not in merged:
        why = "weights are gathered and gradients scattered"
        spread["parallel.zero_stage"] = 3
        found.append(Finding(key="parallel.zero_stage", value=3, why=why))
    if "training.global_batch_seqs" not in merged:
        copies = int(str(merged.get("parallel.dp", max(1, world // inner))))
        times = max(1, round(rounds)) if training else 1
        batch = int(str(merged["training.micro_batch_seqs"])) * copies * times
        spread["training.global_batch_seqs"] = batch
        if training:
            why = f"{times} micro-batches on each of {copies} copies"
            found.append(Finding(key="training.global_batch_seqs", value=batch, why=why))
    return spread


@lru_cache(maxsize=1)
def _programs() -> tuple[dict[str, str], ...]:
    text = files("ridgeline.validation").joinpath("traces", "programs.toml").read_text("utf-8")
    return tuple(tomllib.loads(text)["program"])


def _program(trace: Trace) -> tuple[str, dict[str, str]]:
    """Return what wrote the trace and its stacks (``programs.toml``)."""
    names = [operator.name for operator in trace.operators]
    names += [span.name for span in trace.annotations]
    for entry in _programs():
        if _any(entry["pattern"], names):
            return entry["name"], entry
    return "", {"stack": "serving-engine", "training": "megatron-core"}


def _any(pattern: str, names: Iterable[str]) -> bool:
    rule = re.compile(pattern, re.IGNORECASE)
    return any(rule.search(name) for name in names)
