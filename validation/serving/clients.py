"""How a source's client drives a service and how it was started: data by source."""

from __future__ import annotations

import ast
import operator
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ridgeline.validation.serving.measured import ServingRow

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {
    "max": max,
    "min": min,
    "doubling": lambda number: 1 << max(0, number.bit_length() - 1),
}
"""``doubling``: the largest power of two that is no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a benchmark's client does, beside concurrency and lengths."""

    prompts_per_concurrency: int
    """Prompts of a run for each request in flight."""
    length_low: float
    """Lengths are uniform between this share of the stated length and the length itself."""
    statistic: str
    """mean or median over the requests of the run, the initial burst included."""
    prompts: int = 0
    """Prompts of a run whatever the concurrency, 0 where it goes by concurrency."""
    concurrency: int = 0
    """In flight where a row states none."""
    mean_input: int = 0
    """Mean prompt where a row states only a maximum."""
    mean_output: int = 0
    scaled: dict[str, Any] = field(default_factory=dict)
    """Rows that the source scaled from others instead of measuring them: ``accelerator`` that they
    name, the one ``of`` which they are scaled, and by how much ``ttft`` is."""
    citation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a source's scripts set when they start a server; 0 and "" leave the default."""

    kv_precision: str = ""
    memory_fraction: float = 0.0
    max_tokens: int = 0
    max_sequences: int = 0
    attention_data_parallel: bool = False
    expert_kernels: str = ""
    pool_tokens: int = 0
    """Token budget of an iteration where prompts have a pool of their own; ``max_tokens`` is that
    of servers that also decode."""
    pool_sequences: int = 0
    """Sequences that run at once on a rank of such a pool at most."""
    router: str = "least-loaded"
    """Which worker of a pool takes the next request (``play.ROUTERS``)."""
    decode_speaks: bool = False
    """Whether the client gets the first token from the pool that decodes."""
    expert_slots: int = 0
    """Of a load balancer of experts."""
    admit_every: int = 0
    """Decode iterations between two looks at the line (SGLang's scheduler-recv-interval)."""
    scheduler: str = ""
    """Kind of ``Policy`` where the server was told another than its engine's default."""
    draft_tokens: int = 0
    """Of multi-token prediction or another draft, 0 for none."""
    acceptance: float = 0.7
    citations: tuple[str, ...] = ()


@lru_cache(maxsize=8)
def serving_data(name: str) -> dict[str, Any]:
    """Return a data file of ``validation``."""
    text = files("ridgeline.validation").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def matches(entry: dict[str, Any], row: ServingRow, columns: tuple[str, ...]) -> bool:
    """Whether every pattern that an entry has for a column is found in the row's cell."""
    return all(
        re.search(entry[column], str(getattr(row, name)), re.IGNORECASE)
        for column in columns
        if column in entry
        for name in (_ATTRIBUTES.get(column, column),)
    )


def client_of(row: ServingRow) -> Client:
    """Return the client of a row's source (``data/serving_clients.toml``)."""
    entries = serving_data("serving_clients.toml")["client"]
    entry = dict(next(one for one in entries if matches(one, row, ("source", "detail"))))
    for pattern in ("source", "detail"):
        entry.pop(pattern, None)
    lengths = entry.pop("prompts_by_length", {})
    prompts = lengths.get(f"{row.input_len}/{row.output_len}", entry.pop("prompts", 0))
    stated = re.search(r"num_prompts=(\d+)|\b(\d+) prompts|prompts \((\d+)\)", row.notes)
    if stated:
        prompts = int(next(group for group in stated.groups() if group))
    elif "num_prompts=max_num_seqs" in row.notes:
        prompts = row.batch_or_concurrency or 0
    return Client(**entry, prompts=prompts)


def launch_of(row: ServingRow, ranks: int, pool: str = "", workers: int = 1) -> Launch:
    """Return how the source started the server of a row (``data/serving_launches.toml``).

    ``ranks`` are those with attention of their own; ``pool`` is prefill or decode where these are
    apart, and ``workers`` are those of the pool.
    """
    values: dict[str, Any] = {}
    citations: list[str] = []
    names = {
        "isl": row.input_len or 0,
        "osl": row.output_len or 0,
        "conc": row.batch_or_concurrency or 0,
        "ranks": ranks,
        "share": (row.batch_or_concurrency or 0) // (ranks * workers),
    }
    columns = _LAUNCH_COLUMNS
    cells = tuple(str(getattr(row, _ATTRIBUTES.get(name, name))) for name in columns)
    for entry in _launches(cells):
        if not _applies(entry, row, ranks, pool, workers):
            continue
        for key, value in entry.items():
            if key in _FORMULAS:
                values[key] = formula(value, names)
            elif key == "citation":
                citations.append(value)
            elif key not in (*columns, *_CONDITIONS):
                values[key] = value
    return Launch(**values, citations=tuple(citations))


_FORMULAS = ("max_tokens", "pool_tokens", "max_sequences", "pool_sequences", "draft_tokens")
_LAUNCH_COLUMNS = ("source", "detail", "engine", "version", "model", "accelerator", "precision")
_ATTRIBUTES = {"version": "engine_version", "detail": "source_detail"}


@lru_cache(maxsize=4096)
def _launches(cells: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Return the launches whose patterns are all found in cells, those of ``_LAUNCH_COLUMNS``."""
    named = dict(zip(_LAUNCH_COLUMNS, cells, strict=True))
    return tuple(
        entry
        for entry in serving_data("serving_launches.toml")["launch"]
        if all(
            re.search(entry[name], cell, re.IGNORECASE)
            for name, cell in named.items()
            if name in entry
        )
    )


_CONDITIONS = (
    "least_concurrency",
    "least_tp",
    "most_tp",
    "lengths",
    "attention_ranks",
    "least_ranks",
    "pool",
    "workers",
)


def _applies(entry: dict[str, Any], row: ServingRow, ranks: int, pool: str, workers: int) -> bool:
    return (
        (row.batch_or_concurrency or 0) >= entry.get("least_concurrency", 0)
        and (row.tp or 1) >= entry.get("least_tp", 1)
        and (row.tp or 1) <= entry.get("most_tp", row.tp or 1)
        and entry.get("lengths", f"{row.input_len}/{row.output_len}")
        == f"{row.input_len}/{row.output_len}"
        and (ranks > 1 or not entry.get("attention_ranks", False))
        and ranks >= entry.get("least_ranks", 1)
        and entry.get("pool", pool) == pool
        and entry.get("workers", workers) == workers
    )


def formula(text: str, names: dict[str, int]) -> int:
    """Evaluate sums, products, floors, ``max`` and ``min`` of whole numbers and named ones."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return names[node.id]
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _FUNCTIONS[node.func.id](*(value(argument) for argument in node.args))
        raise ValueError(f"formula {text!r}: only + - * // max min of whole numbers and names")

    return value(ast.parse(text, mode="eval").body)
