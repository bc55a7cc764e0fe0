"""A ``vllm serve`` command line."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ridgeline.errors import InputError
from ridgeline.simulator.launchers.megatron import arguments
from ridgeline.simulator.launchers.models import named_model
from ridgeline.simulator.launchers.records import Converted, Key, Written, read_keys
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.variants import variants_on

_PRECISIONS = {
    "fp8": "fp8",
    "awq": "w4a16",
    "awq-marlin": "w4a16",
    "gptq": "w4a16",
    "gptq-marlin": "w4a16",
    "modelopt-fp4": "nvfp4",
    "mxfp4": "mxfp4",
}
_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size"}
_SHORT |= {"-dp": "data-parallel-size", "-q": "quantization"}

KEYS = (
    Key(theirs="tensor-parallel-size", ours="parallel.tp", read=int),
    Key(theirs="pipeline-parallel-size", ours="parallel.pp", read=int),
    Key(theirs="data-parallel-size", ours="parallel.dp", read=int),
    Key(theirs="max-num-seqs", ours="serving.max_sequences", read=int),
    Key(theirs="max-num-batched-tokens", ours="serving.max_tokens", read=int),
    Key(theirs="gpu-memory-utilization", ours="serving.memory_fraction", read=float),
    Key(theirs="block-size", ours="serving.block_tokens", read=int),
    Key(
        theirs="kv-cache-dtype",
        ours="serving.kv_precision",
        read=lambda name: "fp8" if str(name).startswith("fp8") else None,
    ),
    Key(
        theirs="quantization",
        ours="serving.precision",
        read=lambda name: _PRECISIONS.get(str(name).replace("_", "-")),
    ),
    Key(theirs="enable-prefix-caching", ours="serving.prefix_caching", read=lambda _: True),
    Key(theirs="no-enable-prefix-caching", ours="serving.prefix_caching", read=lambda _: False),
    Key(theirs="enable-chunked-prefill", ours="serving.chunked_prefill", read=lambda _: True),
    Key(theirs="no-enable-chunked-prefill", ours="serving.chunked_prefill", read=lambda _: False),
)


def read_vllm(text: str) -> Converted:
    """Return a ``vllm serve`` command line as tables of a plan file.

    Raises
    ------
    InputError
        No ``vllm serve MODEL`` in it, a model that is not known, or a number that is none.
    """
    try:
        words = [_long(word) for word in shlex.split(text.replace("\\\n", " "), comments=True)]
    except ValueError as error:
        raise InputError(f"launcher: {str(error).lower()}; close the quotation") from None
    given: dict[str, Any] = arguments(shlex.join(words))
    served = words[words.index("serve") + 1] if "serve" in words[:-1] else given.get("model")
    if not isinstance(served, str) or served.startswith("--"):
        raise InputError("launcher: no 'vllm serve MODEL' found")
    converted = Converted(tables={"serving": {"engine": "vllm"}})
    name = named_model(served)
    if name is None:
        raise InputError(f"launcher: model {served!r}: not in the catalogue; ridgeline models list")
    converted.put("model.name", name)
    unmapped = []
    try:
        seen = read_keys(given, KEYS, converted)
        draft = json.loads(str(given.get("speculative-config", "{}")))
        if draft.get("num_speculative_tokens"):
            converted.put("serving.draft_tokens", int(draft["num_speculative_tokens"]))
    except (ValueError, AttributeError) as error:
        raise InputError(f"launcher: {error}") from None
    ways = {way: int(converted.get(f"parallel.{way}", 1)) for way in ("tp", "pp", "dp")}
    converted.put("cluster.count", ways["tp"] * ways["pp"] * ways["dp"])
    if "enable-expert-parallel" in given:
        converted.put("parallel.ep", ways["tp"] * ways["dp"])
    if served.rsplit("/", 1)[-1].lower().endswith("fp8"):
        converted.put("serving.precision", "fp8")
    if "quantization" in given and not converted.get("serving.precision"):
        unmapped.append(f"--quantization {given['quantization']}: precision taken as bf16")
    known = {*seen, "enable-expert-parallel", "speculative-config", "model"}
    unmapped += [
        f"--{key}{'' if value is True else f' {value}'}"
        for key, value in given.items()
        if key not in known
    ]
    return Converted(tables=converted.tables, unmapped=tuple(unmapped))


def _long(word: str) -> str:
    return f"--{_SHORT[word]}" if word in _SHORT else word


def write_vllm(service: Service) -> Written:
    """Return a service as a ``vllm serve`` command line, for one replica."""
    quantised = {"fp8": "fp8", "w4a16": "awq_marlin", "nvfp4": "modelopt_fp4", "mxfp4": "mxfp4"}
    limits, unmapped = service.limits, []
    words = ["vllm", "serve", service.model.name]
    words += ["--tensor-parallel-size", str(service.tp)]
    if service.pp > 1:
        words += ["--pipeline-parallel-size", str(service.pp)]
    if service.dp > 1:
        words += ["--data-parallel-size", str(service.dp)]
    if service.ep > 1:
        words.append("--enable-expert-parallel")
        if service.ep != service.tp * service.dp:
            unmapped.append(f"parallel.ep = {service.ep}: vLLM spreads experts over tp x dp ranks")
    if service.precision in quantised:
        words += ["--quantization", quantised[service.precision]]
    elif service.precision not in ("bf16", "fp16"):
        unmapped.append(f"serving.precision = {service.precision}: take a checkpoint made so")
    if service.kv_precision == "fp8":
        words += ["--kv-cache-dtype", "fp8"]
    elif service.kv_precision in ("int8", "int4"):
        unmapped.append(f"serving.kv_precision = {service.kv_precision}")
    for flag, value in (
        ("--max-num-seqs", limits.max_sequences),
        ("--max-num-batched-tokens", limits.max_tokens),
        ("--gpu-memory-utilization", limits.memory_fraction),
        ("--block-size", limits.block_tokens),
    ):
        if value:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    if limits.prefix_caching:
        words.append("--enable-prefix-caching")
    if limits.chunked_prefill is False:
        words.append("--no-enable-chunked-prefill")
    if service.speculation.tokens:
        draft = json.dumps({"num_speculative_tokens": service.speculation.tokens})
        words += ["--speculative-config", draft]
    adapters = service.adapters
    if adapters.count:
        words += ["--enable-lora", "--max-loras", str(adapters.held)]
        words += ["--max-cpu-loras", str(adapters.count), "--max-lora-rank", str(adapters.rank)]
    unmapped += [f"serving: {name}" for name in variants_on(service) if name != "adapters"]
    if service.replicas > 1:
        unmapped.append(f"serving.replicas = {service.replicas}: start as many behind a router")
    return Written(text=shlex.join(words) + "\n", unmapped=tuple(unmapped))
