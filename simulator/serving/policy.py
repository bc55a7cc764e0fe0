"""How a scheduler fills its iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.inputs import cuts_prompts
from ridgeline.simulator.serving.service import Service

KINDS = ("mixed", "prefill-first", "static")
PREEMPTIONS = ("recompute", "swap")
LEAST_BLOCK_TOKENS = 16
"""Engines whose blocks are smaller are played with this one, so that a sequence is looked at once
in 16 tokens; it takes up to 15 tokens of cache more than it fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Scheduler of a replica. Defaults are those of vLLM with chunked prefill."""

    kind: str = "mixed"
    """mixed: decodes and prompts share an iteration (vLLM V1, Sarathi, TensorRT-LLM);
    prefill-first: prompts go in iterations of their own, before decodes (SGLang, vLLM V0);
    static: a batch is prefilled and decoded until its last sequence ends."""
    chunked: bool = True
    """Prompts are cut where the token budget ends; else they go whole, one beyond the budget as
    the only prompt of its iteration."""
    max_tokens: int = 8192
    """Token budget of an iteration."""
    max_sequences: int = 1024
    """Running at once."""
    block_tokens: int = 0
    """Tokens of a block of KV cache; 0 takes that of the tables."""
    watermark: float = 0.0
    """Share of all blocks that admissions leave free (vLLM V0: 0.01)."""
    reserve_output: float = 0.0
    """Share of the output whose blocks are taken at admission: 0 takes blocks as tokens come, 1
    never preempts."""
    preemption: str = "recompute"
    """What a preempted sequence loses: its KV (recompute), or the time to move it (swap)."""
    admit_every: int = 1
    """Iterations between two looks at the line, while sequences decode (SGLang's
    scheduler-recv-interval, TensorRT-LLM's batch_wait_timeout_iters)."""
    prefix_caching: bool = False
    """Keep blocks of prompts for later ones that begin alike; least recently used go first."""
    host_cache_tokens: int = 0
    """Tokens of evicted blocks that host memory keeps; a hit there costs the transfer."""
    draft_tokens: int = 0
    """Tokens that a decoding sequence brings to an iteration beside its next one."""
    fair_every: int = 0
    """Decode steps between two looks at what each user got, after which those with less go first
    and others are preempted for them; 0 goes by arrival."""
    max_queue: int = 0
    """Longest line; further requests are rejected. 0 is without limit."""

    def problems(self) -> list[str]:
        """Return one line for each value that cannot be."""
        out = []
        if self.kind not in KINDS:
            out.append(f"policy.kind = {self.kind!r}: is not known; {nearest(self.kind, KINDS)}")
        if self.preemption not in PREEMPTIONS:
            out.append(
                f"policy.preemption = {self.preemption!r}: is not known; "
                f"{nearest(self.preemption, PREEMPTIONS)}"
            )
        for name, least in (
            ("max_tokens", 1),
            ("max_sequences", 1),
            ("block_tokens", 0),
            ("admit_every", 1),
            ("host_cache_tokens", 0),
            ("draft_tokens", 0),
            ("max_queue", 0),
            ("fair_every", 0),
        ):
            if getattr(self, name) < least:
                out.append(f"policy.{name} = {getattr(self, name)}: must be at least {least}")
        for name in ("watermark", "reserve_output"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                out.append(f"policy.{name} = {value}: must be a share from 0 to 1")
        if self.fair_every and self.kind == "static":
            out.append("policy.fair_every: a static batch is not interrupted; leave it out")
        if self.draft_tokens + 1 > self.max_tokens:
            out.append(
                f"policy.max_tokens = {self.max_tokens}: must hold one sequence with its "
                f"{self.draft_tokens} draft tokens"
            )
        return out


def policy_of(service: Service) -> Policy:
    """Return the scheduler of a service: its engine's, with the service's own limits.

    Data ranks and pipeline stages each have a budget of their own, and a replica all of these.

    Raises
    ------
    InputError
        Unknown engine, or a limit that cannot be.
    """
    engine, limits = load_engine(service.engine), service.limits
    kind = engine.policy
    chunked = kind in ("mixed", "prefill-first") and engine.token_budget > 0
    if limits.chunked_prefill is not None:
        chunked = limits.chunked_prefill
    chunked = chunked and cuts_prompts(service.model)
    static = kind == "static"
    kind = "mixed" if kind == "whole-prompts" else kind
    if service.kv_predictor and kind == "mixed":
        # another model reads the prompts, so that they share no pass with decodes
        kind = "prefill-first"
    policy = Policy(
        kind=kind,
        chunked=chunked,
        max_tokens=(limits.max_tokens or engine.token_budget) * service.dp * service.pp,
        max_sequences=(limits.max_sequences or engine.max_sequences) * service.dp,
        block_tokens=max(LEAST_BLOCK_TOKENS, limits.block_tokens or engine.block_tokens),
        reserve_output=1.0 if static else engine.reserve_output,
        preemption=limits.preemption or "recompute",
        prefix_caching=limits.prefix_caching,
        draft_tokens=service.speculation.tokens,
        fair_every=limits.fair_every,
    )
    problems = policy.problems()
    if problems:
        raise InputError(problems)
    return policy
