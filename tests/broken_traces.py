"""Traces as profilers break them, made from one small sound trace (docs/traces.md, defects)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

STEPS = 2
KERNELS = 6


def events() -> list[dict[str, Any]]:
    """Return the events of two profiler steps: operators, launches, kernels, one all-reduce."""
    made: list[dict[str, Any]] = []
    correlation = 100
    for step in range(STEPS):
        at = 1_000.0 + 500.0 * step
        made.append(_span("user_annotation", f"ProfilerStep#{step + 3}", at, 480.0, 1, 1, {}))
        for k in range(KERNELS):
            begin = at + 60.0 * k
            correlation += 1
            if k == KERNELS - 1:
                name = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
                more = {
                    "Collective name": "allreduce",
                    "In msg nelems": 1024,
                    "Out msg nelems": 1024,
                    "Group size": 8,
                    "dtype": "BFloat16",
                }
            else:
                name, more = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", {}
            shapes = {"Input Dims": [[64, 128], [128, 256]], "Input type": ["c10::BFloat16"] * 2}
            made += [
                _span("cpu_op", "aten::mm", begin, 20.0, 1, 1, shapes),
                _span(
                    "cuda_runtime",
                    "cudaLaunchKernel",
                    begin + 5.0,
                    3.0,
                    1,
                    1,
                    {"correlation": correlation},
                ),
                _span(
                    "kernel",
                    name,
                    begin + 30.0,
                    25.0,
                    0,
                    7,
                    {"device": 0, "stream": 7, "correlation": correlation} | more,
                ),
            ]
    return made


def _span(
    cat: str, name: str, ts: float, dur: float, pid: int, tid: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def document(some: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a whole trace."""
    return {
        "schemaVersion": 1,
        "deviceProperties": [
            {"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85018279936}
        ],
        "distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8},
        "hostname": "secret-host",
        "traceEvents": events() if some is None else some,
        "traceName": "/home/secret-user/trace.json",
        "displayTimeUnit": "ns",
    }


def sound() -> bytes:
    """Return the sound trace as a file's content."""
    return json.dumps(document()).encode()


def _changed(change: Callable[[list[dict[str, Any]]], Any]) -> bytes:
    made = events()
    change(made)
    return json.dumps(document(made)).encode()


def _text(old: str, new: str, count: int = 1) -> bytes:
    text = sound().decode()
    assert old in text
    return text.replace(old, new, count).encode()


def _kernel_keys(*keys: str) -> bytes:
    def drop(made: list[dict[str, Any]]) -> None:
        for event in made:
            if event["cat"] == "kernel":
                for key in keys:
                    event.pop(key, None)

    return _changed(drop)


def _without(cats: tuple[str, ...]) -> bytes:
    return json.dumps(document([e for e in events() if e["cat"] not in cats])).encode()


def _renamed() -> bytes:
    old = {"kernel": "Kernel", "cuda_runtime": "Runtime", "cpu_op": "Operator"}
    return json.dumps(
        document([e | {"cat": old.get(e["cat"], e["cat"])} for e in events()])
    ).encode()


def _top(**changes: Any) -> bytes:
    made = {k: v for k, v in (document() | changes).items() if v is not None}
    return json.dumps(made).encode()


GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64"
SALVAGED: dict[str, bytes] = {
    "bare list": json.dumps(events()).encode(),
    "events before metadata": json.dumps(
        {"traceEvents": events()} | {k: v for k, v in document().items() if k != "traceEvents"}
    ).encode(),
    "gzip": gzip.compress(sound()),
    "two gzip members": gzip.compress(sound()[:500]) + gzip.compress(sound()[500:]),
    "truncated text": sound()[: len(sound()) * 3 // 4],
    "truncated within a name": sound()[: sound().rindex(b"xmma_gemm")],
    "truncated gzip": gzip.compress(sound())[:-20],
    "damaged gzip checksum": gzip.compress(sound())[:-8] + b"\0" * 8,
    "unescaped backslash": _text(f'"{GEMM}"', '"C:\\work\\kernel_gemm"'),
    "unescaped quote in a name": _text(f'"{GEMM}"', '"gemm<"tn">"'),
    "control character in a name": _text(f'"{GEMM}"', '"gemm\x01\ttn"'),
    "invalid UTF-8": sound().replace(GEMM.encode(), b"gemm\xff\xfe", 1),
    "decimal comma": _text('"ts": 1030.0', '"ts": 1030,25'),
    "NaN duration": _text('"dur": 25.0', '"dur": NaN'),
    "infinite time": _text('"ts": 1030.0', '"ts": Infinity'),
    "byte order mark": b"\xef\xbb\xbf" + sound(),
    "number beyond 64 bits": _text('"correlation": 101', f'"correlation": {10**30}', 2),
    "empty last event": _changed(lambda made: made.append({})),
    "events that are no objects": _changed(lambda made: made.extend([None, 7, "text", [1]])),
    "no device properties": _top(deviceProperties=[]),
    "device without a name": _top(deviceProperties=[{"id": 0, "name": ""}]),
    "properties that are no list": _top(deviceProperties={"name": 3}),
    "no distributed info": _top(distributedInfo=None),
    "only a rank": _top(distributedInfo={"rank": "3"}),
    "missing durations": _changed(lambda made: made[3].pop("dur")),
    "missing arguments": _kernel_keys("args"),
    "missing categories of some": _changed(lambda made: made[3].pop("cat")),
    "thread as text": _changed(lambda made: [e.update(tid="stream 7") for e in made]),
    "thread -1": _changed(lambda made: [e.update(tid=-1) for e in made]),
    "stream only in the thread": _kernel_keys("args"),
    "old spellings": _renamed(),
    "no launches": _without(("cuda_runtime",)),
    "no operators": _without(("cpu_op",)),
    "no steps": _without(("user_annotation",)),
    "a step of no length": _text('"dur": 480.0', '"dur": 0.05'),
    "steps doubled": _changed(lambda made: made.extend([made[0], dict(made[0])])),
    "negative duration": _text('"dur": 25.0', '"dur": -25.0'),
    "kernel before its launch": _text('"ts": 1030.0', '"ts": 990.0'),
    "deep arguments": _text('"Group size": 8', '"Group size": ' + "[" * 900 + "]" * 900),
    "damaged metadata": _text('"schemaVersion": 1', '"schemaVersion": 1,,: {'),
}
"""Files that still say something."""
REFUSED: dict[str, bytes] = {
    "empty": b"",
    "white space": b"  \n\n ",
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "no events": json.dumps({"schemaVersion": 1, "traceEvents": []}).encode(),
    "not a trace": b'{"hello": [1, 2, 3]}',
    "plain text": b"hello, world\n" * 20,
    "host only": _without(("kernel",)),
    "unfinished object": b'{"traceEvents"',
    "gzip of nothing": gzip.compress(b""),
    "gzip of text": gzip.compress(b"hello " * 100),
    "gzip cut in its head": gzip.compress(sound())[:12],
    "sqlite that is damaged": b"SQLite format 3\0" + b"\x07" * 4096,
    "protobuf that is cut off": b"\n\x80\x80\x80\x08" + b"\x12" * 50,
    "deep nesting": b"[" * 100_000,
    "cupti without kernels": b"1,2,RUNTIME,211,1,1,7\n" * 5,
    "random bytes": bytes(range(256)) * 8,
}
"""Files that say nothing: one clear line each."""
