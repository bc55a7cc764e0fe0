"""Idealized runtime: what a request takes alone, so that models compare on uniform hardware.

Narayanan et al. 2023, "Cheaply Evaluating Inference Efficiency Metrics for Autoregressive
Transformer APIs" (arXiv 2305.02440): the time of a request on dedicated accelerators with one
software stack splits into a term for the prompt and one for each further token,

    runtime = prompt(input) + per_token (output - 1),

without queues, batches of others or the front end. Models are compared by serving each on the same
accelerators with the same engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.static import generation_seconds, prefill_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class IdealizedRuntime:
    """The two terms of a request's runtime."""

    prompt_s: float
    """Until the first token."""
    per_token_s: float
    """Each further one, the mean over the answer; 0 for answers of one token."""

    def seconds(self, output_len: float) -> float:
        """Return the runtime of an answer of so many tokens, at least 1."""
        return self.prompt_s + self.per_token_s * (output_len - 1.0)


def idealized_runtime(
    service: Service, input_len: int, output_len: int, *, prefill: Service | None = None
) -> IdealizedRuntime:
    """Return the idealized runtime of a request on one replica.

    Parameters
    ----------
    service
        What serves; its replicas and limits on sequences play no part.
    input_len, output_len
        Tokens of the prompt and of the answer, at least 1.
    prefill
        Where prompts are computed apart: by this one.

    Raises
    ------
    InputError
        Lengths below 1, or a service that cannot be.
    """
    prompt_s = prefill_seconds(prefill or service, 1, input_len)
    if output_len == 1:
        return IdealizedRuntime(prompt_s=prompt_s, per_token_s=0.0)
    whole = generation_seconds(service, 1, input_len, output_len)
    steps = whole - prefill_seconds(service, 1, input_len)
    return IdealizedRuntime(prompt_s=prompt_s, per_token_s=steps / (output_len - 1))
