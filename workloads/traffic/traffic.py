"""Requests as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """n requests, by arrival. Builders and trace readers make it; the engine plays it."""

    arrival_s: NDArray[np.float64]
    """[n] ascending from 0; of a closed loop all 0."""
    input_tokens: NDArray[np.int64]
    """[n] prompt, at least 1."""
    output_tokens: NDArray[np.int64]
    """[n] tokens to generate, 0 for a prompt that is only scored."""
    after: NDArray[np.int64]
    """[n] request whose end this one waits for (a later turn of a session), -1 for none."""
    pause_s: NDArray[np.float64]
    """[n] time between that end and this arrival (user or tool)."""
    priority: NDArray[np.int64]
    """[n] lower goes first."""
    block_start: NDArray[np.int64]
    """[n + 1] where a request's prefix blocks begin in ``block_ids``."""
    block_ids: NDArray[np.int64]
    """Identities of leading blocks of the prompts, equal where prompts share them; may be empty."""
    block_tokens: int = 16
    """Prompt tokens that one identity stands for."""
    concurrency: int = 0
    """Requests kept in flight by a closed loop; 0 is open loop."""

    def __len__(self) -> int:
        return len(self.arrival_s)
