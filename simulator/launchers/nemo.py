"""NeMo's YAML for pre-training GPT-like models."""

from __future__ import annotations

from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.launchers.models import Shape, model_of_shape, unmapped_layers
from ridgeline.simulator.launchers.records import Converted, Key, Written, read_keys
from ridgeline.simulator.launchers.yamls import read_yaml
from ridgeline.simulator.plan import Plan


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _precision(value: Any) -> str | None:
    text = str(value)
    return "bf16" if "bf16" in text else "fp16" if text.startswith("16") else None


KEYS = (
    Key(theirs="model.tensor_model_parallel_size", ours="parallel.tp", read=int),
    Key(theirs="model.pipeline_model_parallel_size", ours="parallel.pp", read=int),
    Key(theirs="model.virtual_pipeline_model_parallel_size", ours="parallel.vpp", read=_number),
    Key(theirs="model.context_parallel_size", ours="parallel.cp", read=int),
    Key(theirs="model.expert_model_parallel_size", ours="parallel.ep", read=int),
    Key(theirs="model.sequence_parallel", ours="parallel.sp", read=bool),
    Key(theirs="model.encoder_seq_length", ours="training.seq_len", read=int),
    Key(theirs="model.micro_batch_size", ours="training.micro_batch_seqs", read=int),
    Key(theirs="model.global_batch_size", ours="training.global_batch_seqs", read=int),
    Key(theirs="trainer.precision", ours="training.precision", read=_precision),
    Key(theirs="model.fp8", ours="training.precision", read=lambda on: "fp8" if on else None),
)
_SHAPE = (
    *("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size"),
    *("activation", "num_moe_experts", "moe_router_topk", "share_embeddings_and_output_weights"),
)
_ELSEWHERE = {
    *("trainer.num_nodes", "trainer.devices", "trainer.max_steps", "model.optim.name"),
    *(f"model.{name}" for name in _SHAPE),
    *("model.activations_checkpoint_granularity", "model.activations_checkpoint_num_layers"),
}


def read_nemo(text: str) -> Converted:
    """Return a NeMo configuration as tables of a plan file.

    Raises
    ------
    InputError
        Not YAML, or not NeMo's.
    """
    given = read_yaml(text)
    converted = Converted(tables={"stack": {"name": "megatron-core"}})
    try:
        seen = read_keys(given, KEYS, converted)
        if "model.encoder_seq_length" not in given:
            raise InputError("launcher: no model.encoder_seq_length: not a configuration of NeMo")
        nodes, per_node = (int(given.get(f"trainer.{key}", 0)) for key in ("num_nodes", "devices"))
        if nodes and per_node:
            converted.put("cluster.count", nodes * per_node)
            converted.put("cluster.accel_per_node", per_node)
        if given.get("model.optim.name") == "distributed_fused_adam":
            converted.put("parallel.zero_stage", 1)
        granularity = given.get("model.activations_checkpoint_granularity")
        if granularity in ("selective", "full"):
            converted.put("training.recompute", granularity)
        steps = int(given.get("trainer.max_steps", 0))
        batch = converted.get("training.global_batch_seqs", 0)
        if steps > 0 and batch:
            tokens = float(steps * batch * converted.get("training.seq_len"))
            converted.put("training.tokens", tokens)
        config = _model(given, converted)
    except (TypeError, ValueError) as error:
        raise InputError(f"launcher: {error}") from None
    left = tuple(f"{key} = {value}" for key, value in given.items() if key not in seen | _ELSEWHERE)
    return Converted(tables=converted.tables, model_config=config, unmapped=left)


def _model(given: dict[str, Any], converted: Converted) -> dict[str, Any] | None:
    said = {name: given.get(f"model.{name}") for name in _SHAPE}
    if not all(said[name] for name in _SHAPE[:3]):
        return None
    hidden, heads = int(said["hidden_size"] or 0), int(said["num_attention_heads"] or 0)
    shape = Shape(
        layers=int(said["num_layers"] or 0),
        hidden=hidden,
        heads=heads,
        kv_heads=int(said["num_query_groups"] or heads),
        ffn_hidden=int(said["ffn_hidden_size"] or 4 * hidden),
        gated="swiglu" in str(said["activation"]),
        experts=int(said["num_moe_experts"] or 0),
        top_k=int(said["moe_router_topk"] or 0),
        tied=bool(said["share_embeddings_and_output_weights"]),
    )
    name = model_of_shape(shape)
    if name is None:
        return shape.config()
    converted.put("model.name", name)
    return None


def write_nemo(plan: Plan) -> Written:
    """Return a plan as a NeMo configuration."""
    import yaml

    model, parallel, training = plan.model, plan.parallel, plan.training
    per_node = min(plan.cluster.accelerator.per_node, plan.cluster.count)
    unmapped = ["training.precision = fp4"] if training.precision == "fp4" else []
    section: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden,
        "num_attention_heads": model.attention.heads,
        "num_query_groups": model.attention.kv_heads,
        "ffn_hidden_size": model.ffn_hidden or (model.moe.ffn_hidden if model.moe else 0),
        "activation": "fast-swiglu" if model.gated_mlp else "gelu",
        "share_embeddings_and_output_weights": model.tied_embeddings,
        "encoder_seq_length": training.seq_len,
        "micro_batch_size": training.micro_batch_seqs,
        "global_batch_size": training.global_batch_seqs,
        "tensor_model_parallel_size": parallel.tp,
        "pipeline_model_parallel_size": parallel.pp,
        "virtual_pipeline_model_parallel_size": parallel.vpp if parallel.vpp > 1 else None,
        "context_parallel_size": parallel.cp,
        "expert_model_parallel_size": parallel.ep,
        "sequence_parallel": parallel.sp,
        "fp8": training.precision == "fp8",
    }
    if model.moe:
        section |= {"num_moe_experts": model.moe.num_experts, "moe_router_topk": model.moe.top_k}
    if training.recompute in ("selective", "full"):
        section["activations_checkpoint_granularity"] = training.recompute
    elif training.recompute != "none":
        unmapped.append(f"training.recompute = {training.recompute}")
    if parallel.zero_stage in (1, 2):
        section["optim"] = {"name": "distributed_fused_adam"}
    elif parallel.zero_stage == 3:
        unmapped.append("parallel.zero_stage = 3")
    trainer: dict[str, Any] = {
        "num_nodes": max(1, plan.cluster.count // per_node),
        "devices": per_node,
        "precision": "16-mixed" if training.precision == "fp16" else "bf16-mixed",
    }
    if training.tokens:
        step = training.seq_len * training.global_batch_seqs
        trainer["max_steps"] = round(training.tokens / step)
    text = yaml.safe_dump({"trainer": trainer, "model": section}, sort_keys=False)
    return Written(text=text, unmapped=(*unmapped_layers(model), *unmapped))
