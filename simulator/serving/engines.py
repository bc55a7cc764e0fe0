"""Serving engines: scheduler policy, KV-cache rule, kernels and host cost by version era.

An engine is a TOML file in ``data/engines``; every value has a source there. Few parameters, each
with a physical meaning, none by model or measured row.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest

POLICIES = ("mixed", "prefill-first", "whole-prompts", "static")
"""mixed: decodes and chunks of prompts share an iteration (Sarathi); prefill-first: iterations hold
prompts or decodes, prompts first, in chunks; whole-prompts: decodes and unchunked prompts share an
iteration; static: a batch is prefilled, then decoded to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A serving stack of one version era. Defaults are those of a current well-tuned one."""

    name: str
    description: str
    library: str = "vllm"
    """Library whose kernel sets price its kernels (trtllm, vllm, sglang)."""
    policy: str = "mixed"
    """One of ``POLICIES``."""
    token_budget: int = 8192
    """Tokens of an iteration at most."""
    max_sequences: int = 256
    """Sequences that run at once at most."""
    block_tokens: int = 16
    """Tokens of one block of the KV cache."""
    memory_rule: str = "total"
    """total: KV cache = fraction of memory - weights - reserve; free: fraction of what is free."""
    memory_fraction: float = 0.9
    reserve_bytes: float = 3e9
    """Runtime context, communicators, CUDA graphs and activation workspace of an accelerator."""
    kv_precision: dict[str, str] = field(default_factory=dict)
    """Precision of the service -> number format of the cache; others keep 16 bits."""
    quantise_fused: float = 0.0
    """Share of the launch cost of quantising activations that fusion into other kernels removes."""
    small_kernel_s: float = 2e-6
    """Time of one small kernel (norm, rotation, activation) beside its memory traffic, s."""
    host_s: float = 0.0
    """Host time of every iteration that nothing hides, s."""
    host_per_sequence_s: float = 0.0
    """The same for each running sequence of a data rank, which has a scheduler of its own, s."""
    host_per_prefill_s: float = 0.0
    """The same, more, when an iteration holds prompts, s."""
    prefill_token_s: float = 0.0
    """Host time for each prompt token of an iteration, s."""
    eager_layer_s: dict[str, float] = field(default_factory=dict)
    """Attention kind (gqa, mla) -> launch time of a layer where prompts run eagerly between
    graphs, s: an iteration that holds prompts takes at least that for every layer."""
    eager_kernel_s: dict[str, float] = field(default_factory=dict)
    """Accelerator family (default for others) -> launch time of one kernel where nothing hides it,
    s: iterations that no graph replays take at least that for every kernel of every layer."""
    graph_context: float = 2.0**40
    """Longest context up to which graphs replay decodes, tokens; 0 where all run eagerly."""
    prompt_attention_rate: dict[str, float] = field(default_factory=dict)
    """Accelerator family (default for others, 1 without) -> rate of attention over prompts, over
    the measured kernels of the device (FlashAttention 2 and 3)."""
    front_s: float = 0.0
    """Tokenise, route and detokenise a request, beside the engine, s."""
    front_serial_s: float = 0.0
    """Part of it that requests wait for in a queue, s."""
    custom_all_reduce_bytes: float = 8388608.0
    """Largest all-reduce that the library's own kernel takes, bytes; larger ones go to NCCL."""
    expert_kernels: tuple[str, ...] = ()
    """Texts in the names or dtypes of the expert kernels that this era prefers, where a library
    has several, first found first."""
    expert_dispatch: str = "gather"
    """gather (all-gather and reduce-scatter), all-to-all, or fastest (whichever takes less time),
    where attention is data parallel."""
    sources: dict[str, str] = field(default_factory=dict)
    """Field -> where the value comes from."""


_FOLDER = "data/engines"
_TEXTS = {
    "library": ("sglang", "trtllm", "vllm"),
    "policy": POLICIES,
    "memory_rule": ("total", "free"),
    "expert_dispatch": ("gather", "all-to-all", "fastest"),
}
_SHARES = ("memory_fraction", "quantise_fused")
_COUNTS = ("token_budget", "max_sequences", "block_tokens")
_MAKE: dict[str, Callable[[Any], Any]] = {"float": float, "tuple[str, ...]": tuple}
_PLAIN = ("description", "aliases")


@lru_cache(maxsize=1)
def engine_names() -> tuple[str, ...]:
    """Return the names of the shipped engines."""
    folder = files("ridgeline.simulator.serving").joinpath(_FOLDER)
    return tuple(
        sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith("toml"))
    )


@lru_cache(maxsize=1)
def engine_aliases() -> dict[str, str]:
    """Return the other names of engines, with the name that each stands for."""
    found: dict[str, str] = {}
    for name in engine_names():
        raw = _document(name, _shipped(name))
        found.update(dict.fromkeys(raw.get("aliases", []), name))
    return found


@lru_cache(maxsize=64)
def load_engine(name: str) -> Engine:
    """Load a shipped engine by name or alias, or a user's own from a path that ends in ``.toml``.

    Raises
    ------
    InputError
        Unknown name (with the nearest one), unknown key, or a value of the wrong kind.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"engine {name[:200]}: no such file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not text in UTF-8"
            raise InputError(f"engine {name[:200]}: cannot be read: {reason.lower()}") from None
        return _parse(path.stem, _document(name, text))
    stem = name.lower()
    stem = engine_aliases().get(stem, stem)
    if stem not in engine_names():
        known = (*engine_names(), *engine_aliases())
        raise InputError(f"engine {name[:200]!r}: unknown; {nearest(stem[:200], known)}")
    return _parse(stem, _document(stem, _shipped(stem)))


def _shipped(name: str) -> str:
    resource = files("ridgeline.simulator.serving").joinpath(_FOLDER, f"{name}.toml")
    return resource.read_text(encoding="utf-8")


def _document(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"engine {name}: not TOML: {error}") from None


def _parse(name: str, raw: dict[str, Any]) -> Engine:
    known = {f.name: f for f in fields(Engine)}
    values: dict[str, Any] = {"name": name}
    sources: dict[str, str] = {}
    problems: list[str] = []
    description = raw.get("description")
    if not isinstance(description, str) or not description:
        problems.append(f"engine {name}: description = {description!r}: must be a text")
    values["description"] = description
    for key, entry in raw.items():
        if key in _PLAIN:
            continue
        if key not in known or key in ("name", "sources"):
            problems.append(f"engine {name}: {key}: unknown key; {nearest(key, known)}")
        elif not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            problems.append(f'engine {name}: {key}: write {{ value = ..., source = "..." }}')
        else:
            problem = _wrong(key, entry["value"], str(known[key].type))
            if problem:
                problems.append(f"engine {name}: {key} = {entry['value']!r}: {problem}")
            if not isinstance(entry["source"], str) or not entry["source"]:
                problems.append(f"engine {name}: {key}: source must be a text that says where from")
            make = _MAKE.get(str(known[key].type), lambda value: value)
            values[key] = entry["value"] if problem else make(entry["value"])
            sources[key] = entry["source"]
    problems += [
        f"engine {name}: {f.name}: missing"
        for f in fields(Engine)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if problems:
        raise InputError(problems)
    return Engine(**values, sources=sources)


def _wrong(key: str, value: object, kind: str) -> str:
    if key in _TEXTS:
        return "" if value in _TEXTS[key] else f"must be one of {', '.join(_TEXTS[key])}"
    if kind == "tuple[str, ...]":
        texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
        return "" if texts else "must be a list of texts"
    if kind == "dict[str, str]":
        formats = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        return "" if formats else "must be a table: precision = number format"
    if isinstance(value, dict) != kind.startswith("dict"):
        return "must be a number" if isinstance(value, dict) else "must be a table: name = number"
    for number in value.values() if isinstance(value, dict) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            return "must be a number"
        if not math.isfinite(number) or number < 0:
            return "must be a finite number of at least 0"
        if key in _SHARES and number > 1:
            return "must be a share from 0 to 1"
        if key in _COUNTS and (number < 1 or number != int(number)):
            return "must be a whole number of at least 1"
    return ""
