"""Serving engines: scheduler policy, KV-cache rule, kernels and host cost by version era.

An engine is a TOML file in ``data/engines``; every value has a source there. Few parameters, each
with a physical meaning, none by model or measured row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ridgeline.simulator.profile_file import (
    ProfileKind,
    load_profile,
    profile_aliases,
    profile_names,
)

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
    """total: KV cache = fraction of memory - weights - reserve; free: fraction of what is free;
    headroom: as total, and where a service states no fraction it leaves what prompts of a full
    iteration and graphs need (``capacity.headroom_bytes``)."""
    memory_fraction: float = 0.9
    reserve_bytes: float = 3e9
    """Runtime context, communicators, CUDA graphs and activation workspace of an accelerator."""
    expert_workspace: float = 0.0
    """Share of the buffers that all pairs of token and expert of a full iteration would take, which
    the engine sets aside beside ``reserve_bytes`` when it measures what is free."""
    reserve_output: float = 0.0
    """Share of the output whose cache an admission takes at once: 1 where the scheduler never
    evicts, 0 where blocks are taken as tokens come."""
    frees_windows: bool = True
    """Whether a layer with a sliding window gives back the cache behind it; else it keeps all."""
    kv_precision: dict[str, str] = field(default_factory=dict)
    """Precision of the service -> number format of the cache; others keep 16 bits."""
    latent_precision: dict[str, str] = field(default_factory=dict)
    """Accelerator family (default for others, 16 bits without) -> number format in which latent
    attention (MLA) multiplies over a cache of 8 bits."""
    quantise_fused: float = 0.0
    """Share of the launch cost of quantising activations that fusion into other kernels removes."""
    fuses_blocks: bool = True
    """Whether that goes for activations with a scale for each 128 values too; else a kernel of its
    own finds them."""
    small_kernel_s: float = 2e-6
    """Time of one small kernel (norm, rotation, activation) beside its memory traffic, s."""
    host_s: float = 0.0
    """Host time of every iteration that nothing hides, s."""
    host_per_sequence_s: float = 0.0
    """The same for each running sequence of a data rank, which has a scheduler of its own, s."""
    host_per_prefill_s: float = 0.0
    """The same, more, when an iteration holds prompts, s."""
    prefill_token_s: float = 0.0
    """Time of each prompt token of an iteration beside its kernels, s."""
    eager_layer_s: dict[str, float] = field(default_factory=dict)
    """Attention kind (gqa, mla; linear for models that have linear layers, else as gqa) -> launch
    time of a layer where prompts run eagerly between graphs, s: an iteration that holds prompts
    takes at least that for every layer."""
    eager_kernel_s: dict[str, float] = field(default_factory=dict)
    """Accelerator family (default for others) -> launch time of one kernel where nothing hides it,
    s: iterations that no graph replays take at least that for every kernel of every layer."""
    slot_tokens: float = 0.0
    """Tokens of cache that each sequence has set aside and that every decode step reads whole
    (static shapes), 0 where it reads what is filled."""
    prompt_launches: float = 0.0
    """Launches of a layer more where an eager iteration holds prompts: copies of keys and values
    for each query head, and the dispatch of attention over prompts in Python."""
    graph_context: float = 2.0**40
    """Longest context up to which graphs replay decodes, tokens; 0 where all run eagerly."""
    graph_doubling: float = 2.0**40
    """Sequences of a data rank from which on graphs are captured at doublings alone, so that
    decodes are padded to the next (and at most to ``max_sequences``)."""
    prompt_attention_rate: dict[str, float] = field(default_factory=dict)
    """Accelerator family (default for others, 1 without) -> rate of attention over prompts, over
    the measured kernels of the device (FlashAttention 2 and 3)."""
    biased_attention_rate: float = 1.0
    """Rate of attention over prompts whose scores take a bias by distance (ALiBi), over that of
    scores without. Below 1 kernels read the bias as a tensor and take one prompt at a time; 1 where
    they make it of the heads' slopes (FlashAttention from 2.4 on)."""
    front_s: float = 0.0
    """Tokenise, route and detokenise a request, beside the engine, s."""
    front_serial_s: float = 0.0
    """Part of it that requests wait for in a queue, s."""
    custom_all_reduce_bytes: float = 8388608.0
    """Largest all-reduce that the library's own kernel takes, bytes; larger ones go to NCCL."""
    expert_kernels: tuple[str, ...] = ()
    """Texts in the names or dtypes of the expert kernels that this era prefers, where a library
    has several, first found first."""
    gather_quantised: bool = False
    """Whether tokens are quantised to the experts' format before ranks gather them (formats with a
    scale for blocks of weights are not: their experts quantise what they have gathered)."""
    expert_dispatch: str = "gather"
    """gather (all-gather and reduce-scatter), all-to-all, or fastest (whichever takes less time),
    where attention is data parallel."""
    sources: dict[str, str] = field(default_factory=dict)
    """Field -> where the value comes from."""


_KIND = ProfileKind(
    noun="engine",
    make=Engine,
    package="ridgeline.simulator.serving",
    folder="data/engines",
    texts={
        "library": ("sglang", "trtllm", "vllm"),
        "policy": POLICIES,
        "memory_rule": ("total", "free", "headroom"),
        "expert_dispatch": ("gather", "all-to-all", "fastest"),
    },
    shares=("memory_fraction", "quantise_fused", "reserve_output", "expert_workspace"),
    counts=("token_budget", "max_sequences", "block_tokens"),
)


def engine_names() -> tuple[str, ...]:
    """Return the names of the shipped engines."""
    return profile_names(_KIND)


def engine_aliases() -> dict[str, str]:
    """Return the other names of engines, with the name that each stands for."""
    return profile_aliases(_KIND)


@lru_cache(maxsize=64)
def load_engine(name: str) -> Engine:
    """Load a shipped engine by name or alias, or a user's own from a path that ends in ``.toml``.

    Raises
    ------
    InputError
        Unknown name (with the nearest one), unknown key, or a value of the wrong kind.
    """
    return load_profile(_KIND, name)
