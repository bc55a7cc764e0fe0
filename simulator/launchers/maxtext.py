"""MaxText's YAML, and ``key=value`` pairs on its command line."""

from __future__ import annotations

from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.launchers.models import named_model
from ridgeline.simulator.launchers.records import Converted, Key, Written, read_keys
from ridgeline.simulator.launchers.yamls import read_yaml
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.recompute import POLICIES

_AXES = {
    "tp": ("tensor_parallelism",),
    "ep": ("expert_parallelism",),
    "cp": ("context_parallelism", "sequence_parallelism"),
    "pp": ("pipeline_parallelism",),
    "fsdp": ("fsdp_parallelism", "fsdp_transpose_parallelism"),
    "data": ("data_parallelism",),
}
_POLICIES = {"save_dot_except_mlp": "selective", "minimal_with_context": "minimal-with-context"}

_DTYPES = {"bfloat16": "bf16", "float32": "fp32"}

_FORMATS = {"fp8": "fp8", "fp4": "te_nvfp4"}
"""Precision -> ``quantization``; the second is Transformer Engine's, on GPUs."""


def _quantised(name: object) -> str | None:
    text = str(name)
    return "fp4" if "nvfp4" in text else "fp8" if "fp8" in text else None


KEYS = (
    Key(theirs="max_target_length", ours="training.seq_len", read=int),
    Key(
        theirs="dtype", ours="training.precision", read={"bfloat16": "bf16", "float32": "fp32"}.get
    ),
    Key(
        theirs="quantization",
        ours="training.precision",
        read=_quantised,
    ),
    Key(theirs="opt_type", ours="training.optimizer", read={"adamw": "adamw", "sgd": "sgd"}.get),
)


def read_maxtext(text: str, accelerators: int = 0) -> Converted:
    """Return MaxText settings as tables of a plan file.

    Parameters
    ----------
    text
        YAML, or ``key=value`` words.
    accelerators
        Chips of the cluster: an axis of -1 takes what the others leave, and the batch is said by
        the chip.

    Raises
    ------
    InputError
        Neither YAML nor pairs, or no setting of MaxText's.
    """
    pairs = [word.partition("=") for word in text.split() if "=" in word]
    pairwise = bool(pairs) and ":" not in text
    given: dict[str, Any] = (
        {key: _value(value) for key, _, value in pairs} if pairwise else read_yaml(text)
    )
    converted = Converted(tables={"stack": {"name": "maxtext"}})
    seen = read_keys(given, KEYS, converted)
    if "max_target_length" not in given:
        raise InputError("launcher: no max_target_length: not a configuration of MaxText")
    try:
        seen |= _axes(given, converted, accelerators)
    except (TypeError, ValueError) as error:
        raise InputError(f"launcher: {error}") from None
    policy = str(given.get("remat_policy", "full"))
    named = _POLICIES.get(policy, policy.replace("_", "-"))
    if named in POLICIES:
        converted.put("training.recompute", named)
        seen.add("remat_policy")
    steps, batch = given.get("steps"), converted.get("training.global_batch_seqs", 0)
    if isinstance(steps, int) and steps > 0 and batch:
        converted.put("training.tokens", float(steps * batch * converted.get("training.seq_len")))
        seen.add("steps")
    name = named_model(str(given.get("model_name", "")))
    if name is not None:
        converted.put("model.name", name)
        seen.add("model_name")
    unmapped = [f"{key} = {value}" for key, value in given.items() if key not in seen]
    return Converted(tables=converted.tables, unmapped=tuple(unmapped))


def _value(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _axes(given: dict[str, Any], converted: Converted, accelerators: int) -> set[str]:
    """Put the degrees of the mesh and the batch; return the settings that were read."""
    degrees, seen, open_axis = {}, {"per_device_batch_size"}, ""
    for way, names in _AXES.items():
        degrees[way] = 1
        for name in names:
            for level in ("ici", "dcn"):
                setting = f"{level}_{name}"
                if setting in given:
                    seen.add(setting)
                    degree = int(given[setting])
                    if degree == -1:
                        open_axis = way
                    else:
                        degrees[way] *= max(1, degree)
    if open_axis and accelerators:
        product = 1
        for degree in degrees.values():
            product *= degree
        degrees[open_axis] *= max(1, accelerators // product)
    for way in ("tp", "ep", "cp", "pp"):
        if degrees[way] > 1:
            converted.put(f"parallel.{way}", degrees[way])
    if degrees["fsdp"] > 1 or open_axis == "fsdp":
        converted.put("parallel.zero_stage", 3)
        if degrees["data"] > 1 and degrees["fsdp"] > 1:
            converted.put("parallel.shard_size", degrees["fsdp"])
    if accelerators:
        converted.put("cluster.count", accelerators)
        batch = float(given.get("per_device_batch_size", 1)) * accelerators
        dp = degrees["fsdp"] * degrees["data"] * degrees["ep"]
        converted.put("training.global_batch_seqs", round(batch))
        converted.put("training.micro_batch_seqs", max(1, round(batch) // max(dp, 1)))
    return seen


def write_maxtext(plan: Plan) -> Written:
    """Return a plan as ``key=value`` words for MaxText's command line."""
    parallel, training = plan.parallel, plan.training
    unmapped = []
    if parallel.zero_stage in (1, 2):
        unmapped.append(f"parallel.zero_stage = {parallel.zero_stage}: MaxText shards all or none")
    if parallel.vpp > 1:
        unmapped.append(f"parallel.vpp = {parallel.vpp}: set num_pipeline_repeats by hand")
    if training.schedule not in ("1f1b", "gpipe"):
        unmapped.append(f"training.schedule = {training.schedule}")
    shard = (parallel.shard_size or parallel.dp) if parallel.zero_stage == 3 else 1
    policy = {"none": "minimal_with_context", "selective": "save_dot_except_mlp"}.get(
        training.recompute, training.recompute.replace("-", "_")
    )
    if training.recompute == "none":
        unmapped.append("training.recompute = none: minimal_with_context keeps nearly as much")
    steps = training.tokens / (training.global_batch_seqs * training.seq_len)
    words = [
        f"model_name={plan.model.name}",
        f"max_target_length={training.seq_len}",
        f"per_device_batch_size={training.global_batch_seqs / plan.cluster.count:g}",
        f"ici_fsdp_parallelism={shard}",
        f"ici_data_parallelism={parallel.dp // shard}",
        f"ici_tensor_parallelism={parallel.tp}",
        f"remat_policy={policy}",
        *([f"ici_pipeline_parallelism={parallel.pp}"] if parallel.pp > 1 else []),
        *([f"ici_context_parallelism={parallel.cp}"] if parallel.cp > 1 else []),
        *([f"ici_expert_parallelism={parallel.ep}"] if parallel.ep > 1 else []),
        *([f"steps={round(steps)}"] if steps else []),
        *(
            [f"quantization={_FORMATS[training.precision]}"]
            if training.precision in _FORMATS
            else []
        ),
    ]
    return Written(text=" ".join(words) + "\n", unmapped=tuple(unmapped))
