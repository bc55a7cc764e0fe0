"""Arguments of Megatron-LM's training scripts."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.launchers.models import Shape, model_of_shape, unmapped_layers
from ridgeline.simulator.launchers.records import Converted, Key, Written, read_keys
from ridgeline.simulator.plan import Plan
from ridgeline.workloads.model import Model

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=([^\s(].*)?$", re.MULTILINE)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")

KEYS = (
    Key(theirs="tensor-model-parallel-size", ours="parallel.tp", read=int),
    Key(theirs="pipeline-model-parallel-size", ours="parallel.pp", read=int),
    Key(theirs="context-parallel-size", ours="parallel.cp", read=int),
    Key(theirs="expert-model-parallel-size", ours="parallel.ep", read=int),
    Key(theirs="expert-tensor-parallel-size", ours="parallel.etp", read=int),
    Key(theirs="num-virtual-stages-per-pipeline-rank", ours="parallel.vpp", read=int),
    Key(theirs="sequence-parallel", ours="parallel.sp", read=lambda _: True),
    Key(theirs="use-distributed-optimizer", ours="parallel.zero_stage", read=lambda _: 1),
    Key(theirs="seq-length", ours="training.seq_len", read=int),
    Key(theirs="micro-batch-size", ours="training.micro_batch_seqs", read=int),
    Key(theirs="global-batch-size", ours="training.global_batch_seqs", read=int),
    Key(theirs="bf16", ours="training.precision", read=lambda _: "bf16"),
    Key(theirs="fp16", ours="training.precision", read=lambda _: "fp16"),
    Key(theirs="fp8-format", ours="training.precision", read=lambda _: "fp8"),
    Key(theirs="fp4-format", ours="training.precision", read=lambda _: "fp4"),
)
"""Later ones win: fp8 and fp4 are said beside bf16."""
_OF_THE_MODEL = {
    *("num-layers", "hidden-size", "num-attention-heads", "group-query-attention"),
    *("num-query-groups", "ffn-hidden-size", "swiglu", "vocab-size", "num-experts"),
    *("moe-router-topk", "moe-ffn-hidden-size", "untie-embeddings-and-output-weights"),
}
_ELSEWHERE = {
    *("nnodes", "nproc-per-node", "train-iters", "train-samples", "optimizer"),
    *("recompute-granularity", "recompute-method", "recompute-num-layers"),
    *("num-layers-per-virtual-pipeline-stage", "recompute-activations"),
    *("num-nodes", "gpus-per-node", "max-position-embeddings"),
}


def arguments(text: str) -> dict[str, str | bool]:
    """Return the ``--name value`` pairs of a command line or shell script.

    Comments go, continued lines are joined, variables that the script assigns are put in. A name
    without a value is True. Underscores in names count as hyphens.

    Raises
    ------
    InputError
        A quote is left open.
    """
    joined = re.sub(r"\\\r?\n", " ", re.sub(r"(^|\s)#[^\n]*", r"\1", text))
    known = {name: (value or "").strip("\"'") for name, value in _ASSIGNMENT.findall(joined)}
    joined = _VARIABLE.sub(lambda found: known.get(found[1], found[0]), joined)
    try:
        words = shlex.split(joined.replace("(", " ").replace(")", " "))
    except ValueError as error:
        raise InputError(f"launcher: {str(error).lower()}; close the quotation") from None
    found: dict[str, str | bool] = {}
    for word, after in pairwise([*words, ""]):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        follows = bool(after) and not after.startswith("--")
        found[name.replace("_", "-")] = value if equals else (after if follows else True)
    return found


def read_megatron(text: str) -> Converted:
    """Return Megatron-LM arguments as tables of a plan file.

    Raises
    ------
    InputError
        Not one argument of Megatron's is there, or one is no number.
    """
    given = arguments(text)
    converted = Converted(tables={"stack": {"name": "megatron-lm"}})
    try:
        seen = read_keys(given, KEYS, converted)
        if not seen:
            raise InputError("launcher: no argument of Megatron-LM found, such as --seq-length")
        nodes, per_node = (
            _int(given, "nnodes", "num-nodes"),
            _int(given, "nproc-per-node", "gpus-per-node"),
        )
        if nodes and per_node:
            converted.put("cluster.count", nodes * per_node)
            converted.put("cluster.accel_per_node", per_node)
        _recompute(given, converted)
        _length(given, converted)
        config = _model(given, converted)
        layers = _int(given, "num-layers-per-virtual-pipeline-stage")
        if layers and _int(given, "num-layers"):
            stages = converted.get("parallel.pp", 1) * layers
            converted.put("parallel.vpp", max(1, _int(given, "num-layers") // stages))
    except ValueError as error:
        raise InputError(f"launcher: {error}") from None
    if str(given.get("optimizer", "adam")) in ("adam", "sgd"):
        converted.put("training.optimizer", str(given.get("optimizer", "adam")))
    left = [
        f"--{name}{'' if value is True else f' {value}'}"
        for name, value in given.items()
        if name not in seen | _OF_THE_MODEL | _ELSEWHERE
    ]
    return Converted(tables=converted.tables, model_config=config, unmapped=tuple(left))


def _int(given: dict[str, str | bool], *names: str) -> int:
    """Return the first of the named arguments that is there as a number, 0 when none is."""
    return next((int(given[name]) for name in names if name in given), 0)


def _recompute(given: dict[str, str | bool], converted: Converted) -> None:
    granularity = given.get("recompute-granularity")
    if granularity == "selective" or "recompute-activations" in given:
        converted.put("training.recompute", "selective")
    elif granularity == "full":
        layers = _int(given, "recompute-num-layers")
        uniform = given.get("recompute-method") != "block"
        converted.put("training.recompute", "full" if uniform or not layers else f"full-{layers}")


def _length(given: dict[str, str | bool], converted: Converted) -> None:
    seq_len = converted.get("training.seq_len", 0)
    samples = _int(given, "train-samples")
    if not samples:
        samples = _int(given, "train-iters") * converted.get("training.global_batch_seqs", 0)
    if samples and seq_len:
        converted.put("training.tokens", float(samples * seq_len))


def _model(given: dict[str, str | bool], converted: Converted) -> dict[str, Any] | None:
    """Put the model's name into the tables, or return its configuration."""
    if not all(name in given for name in ("num-layers", "hidden-size", "num-attention-heads")):
        return None
    hidden, heads = _int(given, "hidden-size"), _int(given, "num-attention-heads")
    shape = Shape(
        layers=_int(given, "num-layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_int(given, "num-query-groups") or heads,
        ffn_hidden=_int(given, "ffn-hidden-size") or 4 * hidden,
        gated="swiglu" in given,
        vocab=_int(given, "vocab-size"),
        experts=_int(given, "num-experts"),
        top_k=_int(given, "moe-router-topk"),
        expert_ffn=_int(given, "moe-ffn-hidden-size"),
        tied="untie-embeddings-and-output-weights" not in given,
    )
    name = model_of_shape(shape)
    if name is None:
        return shape.config()
    converted.put("model.name", name)
    return None


def write_megatron(plan: Plan) -> Written:
    """Return a plan as Megatron-LM arguments, launched by torchrun."""
    model, parallel, training = plan.model, plan.parallel, plan.training
    per_node = plan.cluster.accelerator.per_node
    lines = [
        f"torchrun --nnodes {max(1, plan.cluster.count // per_node)}",
        f"--nproc-per-node {min(per_node, plan.cluster.count)} pretrain_gpt.py",
        *_model_arguments(model),
        f"--tensor-model-parallel-size {parallel.tp}",
        f"--pipeline-model-parallel-size {parallel.pp}",
    ]
    if parallel.vpp > 1:
        lines.append(f"--num-virtual-stages-per-pipeline-rank {parallel.vpp}")
    if parallel.cp > 1:
        lines.append(f"--context-parallel-size {parallel.cp}")
    if parallel.ep > 1:
        lines.append(f"--expert-model-parallel-size {parallel.ep}")
        lines.append(f"--expert-tensor-parallel-size {parallel.expert_tp}")
    lines += ["--sequence-parallel"] if parallel.sp else []
    lines += ["--use-distributed-optimizer"] if parallel.zero_stage in (1, 2) else []
    lines += [
        f"--seq-length {training.seq_len}",
        f"--max-position-embeddings {max(training.seq_len, model.max_positions)}",
        f"--micro-batch-size {training.micro_batch_seqs}",
        f"--global-batch-size {training.global_batch_seqs}",
    ]
    if training.tokens:
        lines.append(f"--train-samples {round(training.tokens / training.seq_len)}")
    lines.append("--fp16" if training.precision == "fp16" else "--bf16")
    quantised = {"fp8": "--fp8-format hybrid", "fp4": "--fp4-format e2m1 --fp4-recipe nvfp4"}
    lines += [quantised[training.precision]] if training.precision in quantised else []
    unmapped = _unsaid(plan)
    policy = training.recompute
    if policy == "selective":
        lines.append("--recompute-granularity selective")
    elif policy == "full":
        lines.append("--recompute-granularity full --recompute-method uniform")
        lines.append("--recompute-num-layers 1")
    elif policy.startswith("full-"):
        lines.append("--recompute-granularity full --recompute-method block")
        lines.append(f"--recompute-num-layers {policy[5:]}")
    elif policy != "none":
        unmapped.append(f"training.recompute = {policy}")
    return Written(
        text=" \\\n    ".join(lines) + "\n", unmapped=(*unmapped_layers(model), *unmapped)
    )


def _model_arguments(model: Model) -> list[str]:
    attention = model.attention
    lines = [
        f"--num-layers {model.num_layers} --hidden-size {model.hidden}",
        f"--num-attention-heads {attention.heads} --kv-channels {attention.head_dim}",
        f"--ffn-hidden-size {model.ffn_hidden or (model.moe.ffn_hidden if model.moe else 0)}",
    ]
    if attention.kv_heads != attention.heads:
        lines.append(f"--group-query-attention --num-query-groups {attention.kv_heads}")
    lines += ["--swiglu"] if model.gated_mlp else []
    lines += [] if model.tied_embeddings else ["--untie-embeddings-and-output-weights"]
    if model.moe:
        lines.append(f"--num-experts {model.moe.num_experts} --moe-router-topk {model.moe.top_k}")
        lines.append(f"--moe-ffn-hidden-size {model.moe.ffn_hidden}")
    return lines


def _unsaid(plan: Plan) -> list[str]:
    """Return what the arguments have no word for."""
    found = []
    if plan.parallel.zero_stage == 3:
        found.append("parallel.zero_stage = 3: pass --use-megatron-fsdp or use another program")
    if plan.model.attention.kind == "mla":
        found.append("model.attention: multi-latent attention needs its own arguments")
    if plan.training.stage_layers or plan.training.uneven_stages:
        found.append("training.uneven_stages: give --decoder-first-pipeline-num-layers")
    if plan.training.offload:
        found.append(f"training.offload = {', '.join(plan.training.offload)}")
    if plan.training.schedule in ("zb-h1", "dualpipe", "gpipe"):
        found.append(f"training.schedule = {plan.training.schedule}")
    return found
