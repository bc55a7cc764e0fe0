"""A played service as a Chrome trace: replicas are processes, iterations and requests their bars.

Format: Trace Event Format (Google), which Perfetto and chrome://tracing open.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from ridgeline.simulator.serving.play import Played

MAX_REQUESTS = 5_000
"""Requests drawn as bars of their own; the iterations show the others."""


def trace(played: Played, name: str = "replica") -> dict[str, Any]:
    """Return the logged iterations and the first requests as a JSON-ready object, in microseconds.

    Where the log keeps only every n-th iteration, ``otherData`` says so.
    """
    events: list[dict[str, Any]] = []
    for replica in range(len(played.busy_s)):
        for thread, title in ((0, f"{name} {replica}"), (1, "iterations")):
            kind = "process_name" if thread == 0 else "thread_name"
            events.append(
                {"ph": "M", "name": kind, "pid": replica, "tid": thread, "args": {"name": title}}
            )
    log = played.log
    for i in range(len(log.start_s)):
        prompts, decoding = int(log.prompts[i]), int(log.decoding[i])
        kind = "mixed" if prompts and decoding else "prefill" if prompts else "decode"
        start, pid = round(float(log.start_s[i]) * 1e6, 3), int(log.replica[i])
        events.append(
            {
                "ph": "X",
                "pid": pid,
                "tid": 1,
                "ts": start,
                "dur": round(float(log.seconds[i]) * 1e6, 3),
                "name": kind,
                "args": {
                    "decoding": decoding,
                    "prompts": prompts,
                    "prompt_tokens": int(log.prompt_tokens[i]),
                    "context_tokens": int(log.context_tokens[i]),
                },
            }
        )
        for counter, value in (
            ("sequences", decoding + prompts),
            ("KV blocks", int(log.blocks[i])),
        ):
            events.append(
                {"ph": "C", "pid": pid, "ts": start, "name": counter, "args": {counter: value}}
            )
    events += _requests(played)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"iterations_kept": f"every {log.stride}", "requests": len(played)},
    }


def _requests(played: Played) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for i in range(min(len(played), MAX_REQUESTS)):
        replica = int(played.replica[i])
        times = [
            float(column[i])
            for column in (played.arrival_s, played.admitted_s, played.first_token_s, played.end_s)
        ]
        for phase, (start, end) in zip(
            ("queue", "prefill", "decode"), pairwise(times), strict=True
        ):
            if replica < 0 or math.isnan(start) or math.isnan(end):
                continue
            common = {"pid": replica, "cat": "request", "id": i, "name": f"{phase} {i}"}
            events.append({**common, "ph": "b", "ts": round(start * 1e6, 3)})
            events.append({**common, "ph": "e", "ts": round(end * 1e6, 3)})
    return events
