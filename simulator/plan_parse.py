"""From the tables of a plan file to its sections; what pydantic finds is said in words of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ridgeline.errors import nearest
from ridgeline.simulator.plan_mistakes import Mistakes
from ridgeline.simulator.plan_schema import SECTIONS, PlanFile

MAX_MISTAKES = 100
"""A file with more is no plan file, and nobody reads on."""
STAGE = "stage"
"""Tables of a file whose run changes on the way (``growth``)."""
PEER = "peer"
"""Tables of a file whose job is spread over slow links (``peers``)."""
AVERAGING = "averaging"
"""How such peers agree."""
_SYNONYMS = {
    "tensor_parallel": "tp",
    "pipeline_parallel": "pp",
    "data_parallel": "dp",
    "context_parallel": "cp",
    "expert_parallel": "ep",
    "sequence_parallel": "sp",
    "seq_parallel": "sp",
    "zero_quantized_weights": "quantized_weights",
    "zero_quantized_gradients": "quantized_gradients",
    "zero_hpz_partition_size": "secondary_shard_size",
    "virtual_pipeline": "vpp",
    "zero": "zero_stage",
    "global_batch": "global_batch_seqs",
    "micro_batch": "micro_batch_seqs",
    "batch_size": "global_batch_seqs",
    "sequence_length": "seq_len",
    "num_accel": "count",
    "price": "usd_per_accelerator_hour",
    "rate": "request_rate",
    "prompt_len": "input_len",
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_tokens",
    "gpu_memory_utilization": "memory_fraction",
}
"""What other tools call a key."""
S = TypeVar("S", bound=BaseModel)
P = TypeVar("P", bound=PlanFile)


def parse_plan(raw: Mapping[str, Any], mistakes: Mistakes, kind: type[P]) -> P | None:
    """Return the tables of a file as sections, or None with all that is wrong in ``mistakes``.

    ``kind`` says whose question it is: ``PlanFile`` needs a training run, ``ServiceFile`` none.
    """
    tables = dict(raw)
    needed = ("model", "cluster", "training") if kind is PlanFile else ("model", "cluster")
    for section in needed:
        tables.setdefault(section, {})
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        details = error.errors()
        for detail in details[:MAX_MISTAKES]:
            _explain(detail, mistakes)
        if len(details) > MAX_MISTAKES:
            mistakes.lines.append(
                f"{mistakes.source}and {len(details) - MAX_MISTAKES:,} more mistakes"
            )
    return None


def parse_section(kind: type[S], table: object) -> S | None:
    """Return one section by itself, None when it has mistakes (``parse_plan`` says which)."""
    try:
        return kind.model_validate(table)
    except ValidationError:
        return None


def _explain(detail: ErrorDetails, mistakes: Mistakes) -> None:
    """Turn a mistake that pydantic found into one line of ours."""
    path = [str(part) for part in detail["loc"] if isinstance(part, str)]
    # Alternatives of a union append their own names to the path.
    path, pool = path[:2], detail["loc"][2:4]
    key = ".".join(path)
    if path == ["serving", "pool"] and pool and isinstance(pool[0], int):
        key = f"{key}[{pool[0]}]" + "".join(f".{name}" for name in pool[1:])
        path = ["serving.pool", *(str(name) for name in pool[1:])]
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        if len(path) == 1:
            what = f"{mistakes.source}[{key}]" if isinstance(value, dict) else mistakes.source + key
            mistakes.lines.append(f"{what}: {_no_section(key)}")
        else:
            mistakes.add(key, None, f"unknown key; {_nearest_key(path[1], _keys(path[0]))}")
        return
    if kind == "missing":
        mistakes.lines.append(
            f"{mistakes.source}{key}: missing; {_EXPECTED.get(key, 'give a value')}"
        )
        return
    rule = _rule(kind, context) or _in_our_words(detail["msg"])
    line_count = len(mistakes.lines)
    mistakes.add(key, value, rule)
    if mistakes.lines[-1] in mistakes.lines[:line_count]:
        mistakes.lines.pop()


def _no_section(name: str) -> str:
    if name == AVERAGING:
        return f"says how peers agree; give the peers too, each [[{PEER}]]"
    return f"unknown section; {nearest(name, (*PlanFile.model_fields, STAGE, PEER, AVERAGING))}"


def _nearest_key(key: str, known: tuple[str, ...]) -> str:
    synonym = _SYNONYMS.get(key)
    return f"did you mean {synonym!r}?" if synonym in known else nearest(key, known)


_EXPECTED = {
    "training.seq_len": "tokens in a sequence, for example 8192 (--seq-len)",
    "training.global_batch_seqs": "sequences in a step, for example 1024 (--global-batch)",
    "rollout.prompts": "prompts in a step, for example 64",
    "rollout.samples": "samples of each prompt, for example 16",
    "rollout.output_len": "mean tokens of a sample, for example 1024",
}
_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "finite_number": "must be finite",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "dict_type": "must be a section of keys",
}


def _in_our_words(message: str) -> str:
    rule = message.removeprefix("Value error, ").rstrip(".")
    return rule[0].lower() + rule[1:]


def _rule(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind == "greater_than_equal":
        return f"must be at least {_limit(context['ge'])}"
    if kind == "less_than_equal":
        return f"must be at most {_limit(context['le'])}"
    if kind == "greater_than":
        return f"must be more than {_limit(context['gt'])}"
    if kind == "string_too_short":
        return f"must be at least {_limit(context['min_length'])} character"
    if kind == "string_too_long":
        return f"must be at most {_limit(context['max_length'])} characters"
    return _TYPES.get(kind)


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _keys(section: str) -> tuple[str, ...]:
    return tuple(SECTIONS[section].model_fields) if section in SECTIONS else ()
