"""Predict every row of a kernel table by the best rung that the device has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.hardware.accelerator import Accelerator
from ridgeline.hardware.kernels import KernelSet, load_kernel_sets
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.validation.kernels.rung import TableRung
from ridgeline.validation.kernels.spelling import GEMM_FORMATS, plain_dtype
from ridgeline.validation.kernels.table import KernelTable

Floats: TypeAlias = NDArray[np.float64]
Key: TypeAlias = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted for the N rows of a table."""

    seconds: Floats
    """float64[N]; NaN where skipped."""
    rung: NDArray[Any]
    """Text[N]: table, corrected, fitted or universal; empty where skipped."""
    reason: NDArray[Any]
    """Text[N]: why skipped, what stood in; empty for nothing."""


def predict_table(
    table: KernelTable,
    accelerator: Accelerator,
    *,
    rung: TableRung | None = None,
    sets: Iterable[KernelSet] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict the rows of a table at burst clock, each by the best rung there is.

    Parameters
    ----------
    table
        Measured kernels; their latencies are not looked at.
    accelerator
        The device.
    rung
        Other measured tables, the top rung.
    sets
        Fitted kernel sets; those that ship for the accelerator by default.
    progress
        Called with (rows done, rows in all).
    """
    known = tuple(load_kernel_sets(accelerator.name) if sets is None else sets)
    seconds = np.full(len(table), np.nan)
    rungs = np.full(len(table), "", dtype=object)
    reasons = np.full(len(table), "", dtype=object)
    done = 0
    for key, rows in table.sets():
        part = table.take(rows)
        try:
            seconds[rows], rungs[rows], reasons[rows] = _one_set(part, key, accelerator, known)
        except InputError as error:
            reasons[rows] = error.problems[0]
        if rung is not None:
            measured = rung.seconds(part, key)
            hit = np.isfinite(measured)
            seconds[rows[hit]] = measured[hit]
            rungs[rows[hit]] = "table"
            reasons[rows[hit]] = ""
        done += len(rows)
        if progress is not None:
            progress(done, len(table))
    return Prediction(seconds, rungs, reasons)


def find_set(sets: Iterable[KernelSet], key: Key) -> tuple[KernelSet | None, str]:
    """Return the set for (op, library, version, dtype, kernel), and what stood in for it.

    Another version of the same library, dtype and kernel stands in: the newest below, else the
    oldest above. Another kernel never does: two kernels of one library differ by up to 34 times.
    """
    op, library, version, dtype, kernel = key
    if set_op(op) == "collective":
        kernel = _OPERATIONS.get(op, op)
    found = {
        one.version: one
        for one in sets
        if (one.op, one.library, one.kernel) == (set_op(op), library, kernel)
        and plain_dtype(one.dtype) in (plain_dtype(dtype), ANY)
    }
    if not found:
        return None, ""
    if version in found:
        return found[version], ""
    order = sorted(found, key=version_order)
    below = [one for one in order if version_order(one) <= version_order(version)]
    near = below[-1] if below else order[0]
    return found[near], f"priced as {library} {near}: no set for {version}"


ANY = "any"
"""Number format of sets whose seconds depend on bytes alone."""


def version_order(text: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts 0.9 under 0.14, and release candidates by their number."""
    spaced = "".join(c if c.isdigit() else f" {c} " if c.isalpha() else " " for c in text)
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in spaced.split())


def set_op(op: str) -> str:
    """Return the operator of kernel sets that covers ``op`` of a table."""
    if op in ("gemm", "prefill", "decode", "moe", "custom_all_reduce"):
        return op
    return "collective"


_FACES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "gemm": ("simulator.roofline.gemm", "predict_gemm", ("m", "n", "k")),
    "prefill": (
        "simulator.roofline.prefill",
        "predict_prefill",
        ("batch", "seq_len", "heads", "kv_heads", "head_dim", "window"),
    ),
    "decode": (
        "simulator.roofline.decode.pricing",
        "predict_decode",
        ("batch", "kv_len", "heads", "kv_heads", "head_dim", "window"),
    ),
    "moe": (
        "simulator.roofline.moe",
        "predict_moe",
        ("tokens", "hidden", "ffn", "top_k", "experts", "tp", "ep", "exponent"),
    ),
    "collective": ("simulator.collectives.measured", "predict_collective", ("bytes", "num_gpus")),
    "custom_all_reduce": (
        "simulator.collectives.measured",
        "predict_custom_all_reduce",
        ("bytes", "num_gpus"),
    ),
}
"""Operator -> module, function, columns that it takes in this order."""


def _column(part: KernelTable, name: str) -> NDArray[Any]:
    if name == "exponent":
        from ridgeline.simulator.roofline.moe import exponent_of

        return np.asarray(exponent_of(part["distribution"].tolist()))
    return part[name]


def _one_set(
    part: KernelTable, key: Key, accelerator: Accelerator, sets: tuple[KernelSet, ...]
) -> tuple[Floats, str, str]:
    found, reason = find_set(sets, key)
    if found is not None and "groups" not in part.columns:
        module, name, columns = _FACES[found.op]
        face = getattr(import_module(f"ridgeline.{module}"), name)
        arrays = [_column(part, column) for column in columns]
        seconds = face(*arrays, kernel_set=found, accelerator=accelerator)
        return seconds, "fitted" if found.correction is None else "corrected", reason
    seconds, reason = _BY_PROFILE[part.kind](part, key, accelerator)
    return seconds, accelerator.efficiency.rung, reason


def _gemm(part: KernelTable, key: Key, accelerator: Accelerator) -> tuple[Floats, str]:
    form = GEMM_FORMATS.get(plain_dtype(key[3]))
    if form is None:
        raise InputError(f"dtype {key[3]!r} is not known to the model of {accelerator.name}")
    if form.weight_bytes != form.activation_bytes:
        raise InputError(
            f"{accelerator.name} has no kernel set for {key[3]} of {key[1]}, and weights narrower "
            "than activations have no model without one"
        )
    groups = part.columns.get("groups", np.ones(len(part), np.int64))
    kind = np.where(groups > 1, layout.GROUPED_GEMM, layout.GEMM)
    quantised = part.columns.get("quantised", np.full(len(part), int(form.quantised)))
    columns = (part["m"], part["n"], part["k"], groups, quantised)
    return _operators(kind, form.compute, columns, accelerator), ""


def _attention(part: KernelTable, key: Key, accelerator: Accelerator) -> tuple[Floats, str]:
    compute = plain_dtype(key[3]).partition("/")[0]
    keys = part["seq_len"] if part.kind == "prefill" else part["kv_len"]
    queries = keys if part.kind == "prefill" else np.ones_like(keys)
    width = part["head_dim"]
    columns = (
        *(part["batch"], part["heads"], part["kv_heads"], queries, keys, width, width),
        *(part["window"], np.ones_like(keys)),
    )
    kind = np.full(len(part), layout.ATTENTION_FORWARD)
    return _operators(kind, compute, columns, accelerator), ""


def _moe(part: KernelTable, key: Key, accelerator: Accelerator) -> tuple[Floats, str]:
    form = GEMM_FORMATS.get(plain_dtype(key[3]))
    if form is None or form.weight_bytes != form.activation_bytes:
        raise InputError(f"{accelerator.name} has no kernel set for {key[3]} experts of {key[1]}")
    pairs = np.maximum(1, part["tokens"] * part["top_k"] // part["ep"])
    experts = np.maximum(1, part["experts"] // part["ep"])
    inner = np.maximum(1, part["ffn"] // part["tp"])
    kind = np.full(len(part), layout.GROUPED_GEMM)
    quantised = np.full(len(part), int(form.quantised))
    up = (pairs, 2 * inner, part["hidden"], experts, quantised)
    down = (pairs, part["hidden"], inner, experts, quantised)
    seconds = _operators(kind, form.compute, up, accelerator)
    seconds += _operators(kind, form.compute, down, accelerator)
    even = "two grouped GEMM, routing taken as balanced" if part.kind == "moe" else ""
    return seconds, even


def _operators(
    kind: NDArray[Any], dtype: str, columns: tuple[NDArray[Any], ...], accelerator: Accelerator
) -> Floats:
    accelerator.peak(dtype)
    if dtype not in layout.DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; known: {', '.join(layout.DTYPES)}")
    if dtype not in accelerator.peak_flops:
        dtype = {"bf16": "fp16", "fp16": "bf16", "tf32": "fp32"}[dtype]
    dims = np.zeros((len(kind), layout.DIMS), np.int64)
    for index, column in enumerate(columns):
        dims[:, index] = column
    extra = np.zeros((len(kind), layout.EXTRAS))
    extra[:, layout.RATE] = extra[:, layout.SKEW] = 1.0
    return price_operators(
        kind.astype(np.int8),
        np.full(len(kind), layout.DTYPES.index(dtype), np.int8),
        dims,
        extra,
        device_parameters(accelerator, sustained=False),
    )


_OPERATIONS = {"alltoall": "all_to_all", "custom_all_reduce": "all_reduce"}


def _collective(part: KernelTable, key: Key, accelerator: Accelerator) -> tuple[Floats, str]:
    from ridgeline.hardware.topology import make_cluster
    from ridgeline.simulator.collectives import layout as names
    from ridgeline.simulator.collectives.network import network, price_collectives

    operation = _OPERATIONS.get(key[0], key[0])
    if operation not in names.NAMES:
        raise InputError(f"op {key[0]!r} is not known; known: {', '.join(names.NAMES)}")
    seconds = np.empty(len(part))
    for ranks in np.unique(part["num_gpus"]):
        rows = np.flatnonzero(part["num_gpus"] == ranks)
        if ranks > accelerator.scaleup_domain:
            raise InputError(
                f"num_gpus = {ranks}: {accelerator.name} joins {accelerator.scaleup_domain}, and "
                "the table does not say what network joins nodes"
            )
        cluster = make_cluster(f"1x{accelerator.per_node}x{accelerator.name}")
        seconds[rows] = price_collectives(
            network(cluster),
            np.full(len(rows), names.NAMES.index(operation)),
            part["bytes"][rows],
            np.full(len(rows), ranks),
            np.ones(len(rows)),
        )
    stood_in = "priced as the library's all-reduce" if key[0] == "custom_all_reduce" else ""
    return seconds, stood_in


_BY_PROFILE: dict[str, Callable[[KernelTable, Key, Accelerator], tuple[Floats, str]]] = {
    "gemm": _gemm,
    "prefill": _attention,
    "decode": _attention,
    "moe": _moe,
    "collective": _collective,
}
"""Kind of table -> price by the device's profile: no kernel set of the library is needed."""
