"""What serving a model costs, from the roofline of the accelerator it is served on.

A floor: replicas are always full and no latency is promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.quotes import current_price
from ridgeline.simulator.budget.question import Serving
from ridgeline.simulator.plan import Money
from ridgeline.workloads.flops import forward_flops, kv_bytes_per_token
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.scaling.bundle import load_bundle

WEIGHT_BYTES = 2.0
"""bf16."""
USABLE_MEMORY = 0.9
"""Of an accelerator, for weights and cache: vLLM's gpu_memory_utilization."""
MOST_SEQUENCES = 256
"""Decoded at once by a replica: vLLM's max_num_seqs."""
REQUEST_TOKENS = 1024
"""Keys that a token being decoded reads, on average."""
MOST_ACCELERATORS = 4096
"""Of one replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCost:
    """Lifetime serving of one model."""

    accelerators_per_replica: int
    sequences: int
    """Decoded at once by a replica."""
    prompt_accelerator_s: float
    """Seconds of one accelerator per prompt token."""
    output_accelerator_s: float
    """Seconds of one accelerator per output token."""
    prompt_mfu: float
    output_mfu: float
    accelerator_hours: float
    usd: float


def serving_of(
    *,
    tokens: float,
    output_share: float | None,
    accelerator: Accelerator,
    usd_per_accelerator_hour: float | None,
    money: Money,
) -> Serving:
    """Return what is to be served, with what was not given filled in and said.

    Parameters
    ----------
    tokens
        Prompts and answers, over the life of the model.
    output_share
        Of answers; None takes that of public chats, from memory.
    accelerator
        That serves.
    usd_per_accelerator_hour
        None takes the given price when there is one, else the list's.
    money
        Kind and provider of the price.

    Raises
    ------
    InputError
        When no price of this kind is known for the accelerator.
    """
    notes = []
    if output_share is None:
        split = load_bundle("sardana-2023")
        output_share = split["output_tokens"] / (split["output_tokens"] + split["prompt_tokens"])
        source = split.constant("output_tokens").source
        notes = [f"served: {output_share:.0%} answers, from memory ({source})"]
    if usd_per_accelerator_hour is None:
        usd_per_accelerator_hour = (
            money.usd_per_accelerator_hour
            or current_price(
                accelerator.name,
                money.kind,
                quotes=money.quotes,
                as_of=money.as_of,
                provider=money.provider,
                usd_per_kwh=money.usd_per_kwh,
                pue=money.pue,
            ).usd_per_hour
        )
    return Serving(
        prompt_tokens=(1.0 - output_share) * tokens,
        output_tokens=output_share * tokens,
        accelerator=accelerator,
        usd_per_accelerator_hour=usd_per_accelerator_hour,
        notes=tuple(notes),
    )


def serving_cost(model: Model, serving: Serving) -> ServingCost:
    """Price the tokens that a model will serve.

    A replica is the smallest power of two of accelerators whose memory holds the weights and at
    least one sequence. Prompts: 2N and attention over the peak that matrix products reach. Outputs:
    the longer of that time for the sequences decoded together and of reading weights and their
    cache at the bandwidth that they reach (Pope et al. 2022). Both rates are the
    profile's, the collectives between the replica's accelerators are left out.
    """
    accelerator = serving.accelerator
    gemm = accelerator.efficiency.gemm["bf16"]
    peak = accelerator.peak("bf16")
    rate = gemm.compute * accelerator.efficiency.sustained.get("bf16", 1.0)
    flops_per_s = peak * rate
    bytes_per_s = accelerator.memory_bytes_per_s * gemm.memory
    weights = WEIGHT_BYTES * parameters(model).total
    cache = kv_bytes_per_token(model, 2) * REQUEST_TOKENS
    size, room = 1, USABLE_MEMORY * accelerator.memory_bytes
    while size * room < weights + cache and size < MOST_ACCELERATORS:
        size *= 2
    sequences = max(1, min(MOST_SEQUENCES, int((size * room - weights) / cache)))
    flops = forward_flops(model, 2 * REQUEST_TOKENS).total
    prompt_s = flops / flops_per_s
    step_s = max(
        sequences * flops / (size * flops_per_s),
        (weights + sequences * cache) / (size * bytes_per_s),
    )
    output_s = size * step_s / sequences
    seconds = serving.prompt_tokens * prompt_s + serving.output_tokens * output_s
    hours = seconds / 3600.0
    return ServingCost(
        accelerators_per_replica=size,
        sequences=sequences,
        prompt_accelerator_s=prompt_s,
        output_accelerator_s=output_s,
        prompt_mfu=rate,
        output_mfu=flops / (output_s * peak),
        accelerator_hours=hours,
        usd=hours * serving.usd_per_accelerator_hour if hours < inf else inf,
    )
