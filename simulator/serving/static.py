"""A static batch: one prefill, one decode step, a whole generation, and the roofline under it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.identity import ByIdentity
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.serving.attention import cached
from ridgeline.simulator.serving.experts import distinct_experts, expert_bytes
from ridgeline.simulator.serving.inputs import answer_problem, cuts_prompts
from ridgeline.simulator.serving.iteration import (
    Pricer,
    decode_attention,
    decode_linear,
    image_seconds,
    launched,
    prefill_attention,
    pricer,
    prompt_linear,
    prompt_token_seconds,
    reader,
    tokens_per_step,
)
from ridgeline.simulator.serving.products import LINEAR, PLAIN
from ridgeline.simulator.serving.service import Service

Floats = NDArray[np.float64]

_CONTEXTS = 9
"""Contexts of a generation at which a step is priced; between them time is linear in context."""


def prefill_seconds(service: Service, batch: int, input_len: int) -> float:
    """Return the seconds until every prompt of a static batch has its first token.

    Prompts are spread over the data ranks and pipeline micro-batches; a rank runs them in
    iterations of at most the engine's token budget. Whole prompts that are longer than the budget
    are not cut unless the engine cuts them.

    Parameters
    ----------
    service
        What serves.
    batch, input_len
        Prompts, and tokens of each, at least 1.

    Raises
    ------
    InputError
        A number under 1, or what ``iteration_tables`` refuses.
    """
    _check(batch=batch, input_len=input_len)
    return _prefill(pricer(service), batch, input_len)


def _prefill(p: Pricer, batch: int, input_len: int) -> float:
    s, engine, service = p.shape, p.shape.engine, p.shape.service
    busy = min(batch, s.passes)
    prompts = math.ceil(batch / busy)
    budget = service.limits.max_tokens or engine.token_budget
    whole = engine.policy in ("whole-prompts", "static") or not cuts_prompts(service.model)
    if whole or service.limits.chunked_prefill is False:
        # a prompt is never cut: an iteration holds as many whole ones as fit
        budget = max(1, budget // input_len) * input_len
    full, rest = divmod(prompts * input_len, budget)
    sizes = np.array([float(budget)] * (full > 0) + [float(rest)] * (rest > 0))
    counts = np.array([full] * (full > 0) + [1] * (rest > 0), float)
    everyone = sizes * min(batch, service.dp)
    sampled = np.minimum(sizes, float(prompts))
    waves = min(service.pp, math.ceil(batch / service.dp))
    asked = np.full(len(sizes), float(prompts))
    linear = prompt_linear(p, sizes, everyone, sampled, asked, waves=waves)
    pieces = _pieces(input_len, budget)
    own = reader(p)
    read = float(prefill_attention(own, *pieces).sum())
    attention = prompts * (read + image_seconds(p))
    # each iteration holds its share of the attention and is no faster than its launches
    device = linear + attention * sizes / (prompts * input_len)
    device = np.maximum(device, own.eager_floor_s)
    host = float(counts.sum()) * (engine.host_s + engine.host_per_prefill_s)
    tokens = prompts * input_len * min(batch, service.pp)
    host += engine.host_per_sequence_s * batch / service.dp + prompt_token_seconds(s) * tokens
    return float(counts @ device) + host


def _pieces(input_len: int, budget: int) -> tuple[Floats, Floats]:
    """Return new and prior tokens of the chunks into which a prompt is cut."""
    starts = np.arange(0, input_len, budget, dtype=float)
    return np.minimum(float(budget), input_len - starts), starts


def decode_step_seconds(service: Service, batch: int, context: int) -> float:
    """Return the seconds of one iteration of ``batch`` decodes at a mean context.

    Parameters
    ----------
    service
        What serves.
    batch
        Running sequences of one replica, at least 1.
    context
        Tokens in the cache of each, the new one included, at least 1.

    Raises
    ------
    InputError
        A number under 1, or what ``iteration_tables`` refuses.
    """
    _check(batch=batch, context=context)
    return float(_steps(pricer(service), batch, np.array([float(context)]))[0])


def _steps(p: Pricer, batch: int, contexts: Floats) -> Floats:
    s, engine, service = p.shape, p.shape.engine, p.shape.service
    share = np.full(len(contexts), max(1.0, math.ceil(batch / s.passes)))
    device = _linear_step(p, batch) + decode_attention(p, share, contexts)
    waves = min(service.pp, math.ceil(batch / service.dp))
    host = engine.host_s * waves + engine.host_per_sequence_s * batch / service.dp
    seconds: Floats = launched(p, device, contexts) + host
    return seconds


_LINEAR_STEPS = ByIdentity[dict[int, Floats]](64)
"""Of a service: batch -> seconds of a step without attention, which all contexts share."""
_MOST_BATCHES = 1024


def _linear_step(p: Pricer, batch: int) -> Floats:
    known = _LINEAR_STEPS.of((p,), dict)
    if batch not in known:
        if len(known) >= _MOST_BATCHES:
            known.clear()
        known[batch] = decode_linear(p, np.array([float(batch)]))
    return known[batch]


def generation_seconds(service: Service, batch: int, input_len: int, output_len: int) -> float:
    """Return the seconds of a static batch from its prompts to its last token.

    The first token comes with the prefill; the others take (output - 1)/tokens-per-step
    iterations at contexts from input + 1 on.

    Parameters
    ----------
    service
        What serves.
    batch, input_len, output_len
        Sequences, prompt tokens and output tokens of each, at least 1.

    Raises
    ------
    InputError
        A number under 1, or what ``iteration_tables`` refuses.
    """
    _check(batch=batch, input_len=input_len, output_len=output_len)
    if problems := answer_problem(service.model, output_len):
        raise InputError(problems)
    p = pricer(service)
    first = _prefill(p, batch, input_len)
    if output_len == 1:
        return first
    contexts = np.linspace(input_len + 1.0, input_len + output_len - 1.0, _CONTEXTS)
    steps = _steps(p, batch, contexts)
    mean = float(np.mean(0.5 * (steps[1:] + steps[:-1])))
    return first + (output_len - 1) / tokens_per_step(p.shape) * mean


def roofline_bound(service: Service, batch: int, context: int) -> float:
    """Return the least seconds of one iteration of decodes that the datasheet allows.

    FLOPs of matrix products, experts and attention over the peak of their number format, or bytes
    of weights (of distinct experts) and cache over HBM bandwidth, whichever takes longer; no
    launch, no collective, no host.

    Parameters
    ----------
    service, batch, context
        As for ``decode_step_seconds``, which is never below this.
    """
    _check(batch=batch, context=context)
    p = pricer(service)
    share = max(1.0, batch / p.shape.passes)
    flop_s, byte_s = _products_bound(p, share)
    more_flop_s, more_byte_s = _experts_bound(p, batch)
    cache_flop_s, cache_byte_s = _cache_bound(p, share, context)
    return max(flop_s + more_flop_s + cache_flop_s, byte_s + more_byte_s + cache_byte_s)


def _products_bound(p: Pricer, share: float) -> tuple[float, float]:
    flop_s = byte_s = 0.0
    forms = {LINEAR: p.shape.scheme.linear, PLAIN: p.shape.scheme.plain}
    for product, times in (*p.decode.items(), *p.head.items()):
        row, form = p.table[product.form], forms[product.form]
        weights = times * product.n * product.k * product.batch
        flop_s += 2.0 * share * product.share * weights / row[layout.PEAK]
        byte_s += weights * form.weight_bytes / row[layout.HBM]
    return float(flop_s), float(byte_s)


def _experts_bound(p: Pricer, batch: int) -> tuple[float, float]:
    s, moe = p.shape, p.shape.model.moe
    layers = sum(kind.count for kind in p.kinds if kind.is_moe)
    if moe is None or not layers:
        return 0.0, 0.0
    tokens = np.array([max(1.0, batch / s.service.pp)])
    reached = float(distinct_experts(moe, tokens)[0]) / s.ep
    return 0.0, layers * reached * expert_bytes(s, moe) / s.accelerator.memory_bytes_per_s


def _cache_bound(p: Pricer, share: float, context: int) -> tuple[float, float]:
    s = p.shape
    c, index = cached(s), s.model.attention.index_top_k
    blocks = s.model.attention.blocks
    peak = p.table[PLAIN, layout.PEAK]
    flops = moved = 0.0
    for kind in p.kinds:
        if kind.form.mixer != "attention":
            continue
        taken, kept = share * kind.form.capacity, context * kind.form.capacity
        seen = min(kept, kind.window or kept, index or kept)
        seen = seen if blocks is None else blocks.keys_read(seen)
        flops += kind.count * 2.0 * taken * c.heads * seen * (c.qk_dim + c.v_dim)
        moved += kind.count * taken * c.kv_heads * seen * c.width * s.scheme.kv_bytes
    return float(flops / peak), float(moved / s.accelerator.memory_bytes_per_s)


def _check(**counts: int) -> None:
    problems = [
        f"{name} = {value!r}: must be a whole number of at least 1"
        for name, value in counts.items()
        if value < 1 or value != int(value)
    ]
    if problems:
        raise InputError(problems)
