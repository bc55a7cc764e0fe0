"""From medians to the efficiency parameters of a profile and the facts of its stack.

Every parameter is fitted on several shapes to the same formulas that price operators
(docs/roofline.md); a case whose samples spread over 20 % takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InfeasibleError
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import price_operators
from ridgeline.validation.fitting.fit import fit_set
from ridgeline.validation.profiling import cases as c
from ridgeline.validation.profiling.samples import MOST_SPREAD, Samples, spread_of

Floats = NDArray[np.float64]
Values = dict[str, float]
_Model = Callable[[Values], Floats]

FEWEST_SHAPES = 3
LAYER_KERNELS = 10
"""Element-wise kernels of a layer, forward and backward: two norms, two residual sums, one
activation each way."""
LAYER_PASSES = 42
"""Elements that they move a token and hidden unit, as ``simulator.operators.layer`` counts with an
MLP of four times the width: norms 2 x 2 and 2 x 3, residuals 4 x 3, GELU 4 x 2 and 4 x 3."""
_IN_LAYER = {
    c.NORM: 2,
    c.NORM_BACKWARD: 2,
    c.ADD: 4,
    c.ACTIVATION: 1,
    c.ACTIVATION_BACKWARD: 1,
    c.STACK: 1,
}
"""How often a layer runs each; gradients of q, k and v are stacked again in the backward pass."""
LOSS_BYTES = 28.0
"""A logit's traffic in fp32, forward and backward, as ``simulator.operators.ends`` counts."""
ADAMW_BYTES = 28.0
"""A parameter's traffic in fp32: reads weight, gradient and two moments, writes all but the
gradient."""

_COLUMNS = {
    "gemm": {
        "launch_us": (layout.GEMM_LAUNCH, 1e-6),
        "compute": (layout.GEMM_COMPUTE, 1.0),
        "memory": (layout.GEMM_MEMORY, 1.0),
        "l2_bytes_per_flop": (layout.GEMM_L2, 1.0),
        "tile_us": (layout.GEMM_TILE, 1e-6),
        "split_us": (layout.GEMM_SPLIT, 1e-6),
        "sharpness": (layout.GEMM_SHARPNESS, 1.0),
        "step_ns": (layout.GEMM_STEP, 1e-9),
        "wave_blend": (layout.WAVE_BLEND, 1.0),
    },
    "attention": {
        "launch_us": (layout.ATTENTION_LAUNCH, 1e-6),
        "compute": (layout.ATTENTION_COMPUTE, 1.0),
        "softmax_ps_per_score": (layout.ATTENTION_SOFTMAX, 1e-12),
        "block_us": (layout.ATTENTION_BLOCK, 1e-6),
        "tail": (layout.ATTENTION_TAIL, 1.0),
        "memory": (layout.ATTENTION_MEMORY, 1.0),
        "sharpness": (layout.ATTENTION_SHARPNESS, 1.0),
    },
}
_GEMM_BOUNDS = {
    "launch_us": (0.1, 200.0),
    "compute": (0.05, 1.0),
    "memory": (0.05, 1.0),
    "l2_bytes_per_flop": (0.002, 0.2),
    "tile_us": (0.001, 20.0),
    "split_us": (3.0, 3.0),
    "sharpness": (1.0, 8.0),
    "step_ns": (0.1, 300.0),
    "wave_blend": (0.0, 1.0),
}
_GEMM_START = {
    "launch_us": 3.0,
    "compute": 0.8,
    "memory": 0.8,
    "l2_bytes_per_flop": 0.02,
    "tile_us": 0.5,
    "split_us": 3.0,
    "sharpness": 2.0,
    "step_ns": 30.0,
    "wave_blend": 0.5,
}
# Without tiles (docs/roofline.md, systolic arrays) these have no meaning; a file needs them.
_UNTILED = {
    "l2_bytes_per_flop": 0.02,
    "tile_us": 0.0,
    "split_us": 0.0,
    "step_ns": 0.0,
    "wave_blend": 0.0,
}
_ATTENTION_BOUNDS = {
    "launch_us": (0.1, 500.0),
    "compute": (0.02, 1.0),
    "softmax_ps_per_score": (0.01, 10000.0),
    "block_us": (0.0, 0.0),
    "tail": (0.0, 1.0),
    "memory": (0.5, 0.5),
    "sharpness": (2.0, 2.0),
}
_ATTENTION_START = {
    "launch_us": 10.0,
    "compute": 0.5,
    "softmax_ps_per_score": 30.0,
    "tail": 0.2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Fitted parameters, how many shapes they stand on and how well they meet them."""

    values: Values
    shapes: int
    error: float
    """Mean absolute error on them."""


@dataclass(slots=True, kw_only=True)
class Fitted:
    """Everything that a profile and its stack publish."""

    peak_flops: Values
    """Best achieved by dtype, FLOP/s."""
    memory_bytes_per_s: float
    scaleup_bytes_per_s: float
    """0 for one rank."""
    blocks: dict[str, Block]
    """By dotted name of the profile's tables."""
    stack: Values
    """Fields of the stack."""
    launch_s: Values
    """Seconds of an empty kernel: eager, and under graph replay where there is one."""
    refused: list[str] = field(default_factory=list)
    """Cases whose spread was too wide, one line each."""
    spreads: Values = field(default_factory=dict)
    """Widest spread of the cases behind a published figure, by its name."""


class Fitter:
    """Fits one file of samples."""

    def __init__(self, samples: Samples, cases: Sequence[c.Case], *, cores: int, side: int) -> None:
        """Take the samples of ``cases`` on a device of ``cores`` with vectors of ``side``."""
        self._samples = samples
        self._cases = [case for case in cases if samples.steady(case.key)]
        self._refused = [
            f"{case.key}: {_percent(samples.spread(case.key))}"
            for case in cases
            if not samples.steady(case.key)
        ]
        self._cores, self._side = cores, side
        self._all = cases

    def fit(self) -> Fitted:
        """Return all that the steady cases allow.

        Raises
        ------
        InfeasibleError
            A needed figure has too few steady cases.
        """
        dtypes = tuple(dict.fromkeys(x.dtype for x in self._all if x.kind == c.GEMM))
        copied = self._needed((c.COPY,), least=1)[0]
        self._bandwidth = 2.0 * copied.dims[0] / self._samples.median(copied.key)
        peaks: Values = {}
        blocks: dict[str, Block] = {}
        stack: Values = {}
        for dtype in dtypes:
            products = self._of((c.GEMM, c.GEMM_BACKWARD), dtype)
            if dtype != dtypes[0] and len(products) < FEWEST_SHAPES:
                continue
            products = self._needed((c.GEMM, c.GEMM_BACKWARD), dtype)
            peaks[dtype] = max(x.flops / self._samples.median(x.key) for x in products)
            blocks[f"gemm.{dtype}"] = self._gemm(products, dtype, peaks[dtype])
        first = dtypes[0]
        blocks[f"attention.{first}"], rate = self._attention(first, peaks[first])
        stack["attention_backward"] = rate
        blocks["elementwise"], factor = self._elementwise(first)
        stack["elementwise_factor"] = factor
        stack["optimizer_bytes"] = self._optimizer(blocks["elementwise"].values["memory"])
        launches = {
            x.kind: self._samples.median(x.key) for x in self._of((c.LAUNCH, c.GRAPH_LAUNCH))
        }
        stack["launch_s"] = launches.get(c.LAUNCH, 0.0)
        scaleup = self._collectives(blocks)
        return Fitted(
            peak_flops=peaks,
            memory_bytes_per_s=self._bandwidth,
            scaleup_bytes_per_s=scaleup,
            blocks=blocks,
            stack=stack,
            launch_s=launches,
            refused=self._refused,
            spreads={
                kind: self._widest(kind) for kind in dict.fromkeys(x.kind for x in self._cases)
            },
        )

    def _of(self, kinds: tuple[str, ...], dtype: str = "") -> list[c.Case]:
        return [x for x in self._cases if x.kind in kinds and dtype in ("", x.dtype)]

    def _needed(
        self, kinds: tuple[str, ...], dtype: str = "", least: int = FEWEST_SHAPES
    ) -> list[c.Case]:
        found = self._of(kinds, dtype)
        if len(found) < least:
            of = [x for x in self._all if x.kind in kinds and dtype in ("", x.dtype)]
            taken = min((len(self._samples.seconds.get(x.key, ())) for x in of), default=0)
            raise InfeasibleError(
                f"profile: {kinds[0]} {dtype}: {len(found)} of {len(of)} cases spread at most "
                f"{_percent(MOST_SPREAD)} ({taken} samples each), {least} are needed: quieten the "
                f"machine or give more --minutes; the same command goes on from these samples"
            )
        return found

    def _widest(self, kind: str) -> float:
        return max(self._samples.spread(x.key) for x in self._cases if x.kind == kind)

    def _medians(self, cases: Sequence[c.Case]) -> Floats:
        return np.array([self._samples.median(x.key) for x in cases])

    def _table(self, dtype: str, peak: float) -> tuple[int, Floats]:
        """Return the row of ``dtype`` in a device table, and the table, neutral but for it."""
        index = layout.DTYPES.index(dtype)
        table = np.ones((len(layout.DTYPES), layout.PARAMETERS))
        table[:, layout.PEAK], table[:, layout.HBM] = peak, self._bandwidth
        table[:, layout.CORES], table[:, layout.SYSTOLIC] = self._cores, self._side
        table[:, layout.ELEMENT_BYTES] = table[:, layout.WEIGHT_BYTES] = layout.BYTES[index]
        table[:, layout.GEMM_LAUNCH] = table[:, layout.ATTENTION_LAUNCH] = 0.0
        table[:, layout.WARM_SHARE :] = 0.0
        return index, table

    def _gemm(self, cases: list[c.Case], dtype: str, peak: float) -> Block:
        """Fit one law to forward products and to the pairs of backward ones."""
        index, table = self._table(dtype, peak)
        shapes, owner = [], []
        for place, case in enumerate(cases):
            m, n, k = case.dims
            both = [(m, n, k)] if case.kind == c.GEMM else [(m, k, n), (n, k, m)]
            shapes += both
            owner += [place] * len(both)
        dims = np.zeros((len(shapes), layout.DIMS), np.int64)
        dims[:, :3], dims[:, 3] = shapes, 1
        bounds = dict(_GEMM_BOUNDS)
        if self._side:
            bounds |= {name: (value, value) for name, value in _UNTILED.items()}

        def seconds(values: Values) -> Floats:
            _put(table[index], "gemm", values)
            price = _price(layout.GEMM, index, dims, np.ones(len(dims)), table)
            return np.bincount(owner, price).astype(np.float64, copy=False)

        return self._block(seconds, cases, bounds, _GEMM_START)

    def _attention(self, dtype: str, peak: float) -> tuple[Block, float]:
        """Fit the forward kernel, and the rate of the backward one over it."""
        index, table = self._table(dtype, peak)
        forward = self._needed((c.ATTENTION,), dtype)
        backward = self._needed((c.ATTENTION_BACKWARD,), dtype)

        def dims(cases: list[c.Case]) -> NDArray[np.int64]:
            made = np.zeros((len(cases), layout.DIMS), np.int64)
            for row, case in zip(made, cases, strict=True):
                batch, heads, seq, dim = case.dims
                row[:] = (batch, heads, heads, seq, seq, dim, dim, 0, 1)
            return made

        there, back = dims(forward), dims(backward)

        def seconds(values: Values) -> Floats:
            _put(table[index], "attention", values)
            return _price(layout.ATTENTION_FORWARD, index, there, np.ones(len(there)), table)

        bounds = dict(_ATTENTION_BOUNDS)
        if self._side:
            bounds["tail"] = (0.0, 0.0)  # a core has no last wave of blocks
        block = self._block(seconds, forward, bounds, _ATTENTION_START)
        _put(table[index], "attention", block.values)

        def slower(values: Values) -> Floats:
            rates = np.full(len(back), values["rate"])
            return _price(layout.ATTENTION_BACKWARD, index, back, rates, table)

        rate = self._block(slower, backward, {"rate": (0.05, 3.0)}, {"rate": 0.8})
        return block, rate.values["rate"]

    def _elementwise(self, dtype: str) -> tuple[Block, float]:
        """Fit the rate of the loss, then what a layer's kernels take over it, and a launch."""
        losses = self._needed((c.LOSS,), dtype, least=1)
        size = c.ELEMENT_BYTES[dtype]
        per_logit = LOSS_BYTES - 2.0 * (4.0 - size)
        logits = [per_logit * x.dims[0] * x.dims[1] for x in losses]
        reached = float(np.median(np.array(logits) / self._medians(losses)))
        memory = min(1.0, reached / self._bandwidth)
        by_size: dict[tuple[int, int], dict[str, list[float]]] = {}
        for case in self._all:
            if case.kind in _IN_LAYER and case.key in self._samples.seconds:
                rows, width = case.dims
                place = (rows, width // 4 if "gelu" in case.kind else width)
                by_size.setdefault(place, {})[case.kind] = self._samples.seconds[case.key]
        # a layer's kernels are judged together: round by round, as a step would run them
        whole: dict[tuple[int, int], float] = {}
        for place, kinds in by_size.items():
            if len(kinds) == len(_IN_LAYER):
                rounds = zip(*(kinds[kind] for kind in _IN_LAYER), strict=False)
                sums = [
                    sum(t * x for t, x in zip(_IN_LAYER.values(), one, strict=True))
                    for one in rounds
                ]
                if spread_of(sums) <= MOST_SPREAD:
                    whole[place] = float(np.median(sums))
        if len(whole) < FEWEST_SHAPES:
            raise InfeasibleError(
                f"profile: element-wise kernels: {len(whole)} sizes are steady, {FEWEST_SHAPES} "
                f"are needed: quieten the machine or give more --minutes; the same command goes on"
            )
        moved = np.array([LAYER_PASSES * size * rows * width for rows, width in whole])
        measured = np.array(list(whole.values()))

        def seconds(values: Values) -> Floats:
            work: Floats = values["factor"] * moved / (memory * self._bandwidth)
            return work + LAYER_KERNELS * values["launch_us"] * 1e-6

        bounds = {"launch_us": (0.1, 200.0), "factor": (0.05, 50.0)}
        found = fit_set(seconds, measured, bounds, [{"launch_us": 5.0, "factor": 1.0}])
        error = float(np.abs(seconds(found) / measured - 1.0).mean())
        values = {"memory": memory, "launch_us": found["launch_us"]}
        return Block(values=values, shapes=len(whole), error=error), found["factor"]

    def _optimizer(self, memory: float) -> float:
        """Return the optimizer's traffic a parameter, at the rate of element-wise kernels."""
        steps = self._needed((c.OPTIMIZER,), least=1)
        largest = max(steps, key=lambda x: x.dims[0])
        return self._samples.median(largest.key) / largest.dims[0] * memory * self._bandwidth

    def _collectives(self, blocks: dict[str, Block]) -> float:
        """Fit every collective to base + w S / (B eff) and return the bandwidth B, bytes/s."""
        ranks = int(self._samples.machine["processes"])
        if ranks < 2:
            return 0.0
        share = dict.fromkeys(c.COLLECTIVES, (ranks - 1) / ranks)
        share["all_reduce"] *= 2.0
        found: dict[str, tuple[list[c.Case], Floats]] = {}
        for name in c.COLLECTIVES:
            cases = self._needed((name,))
            found[name] = (cases, np.array([share[name] * x.dims[0] for x in cases]))
        link = max(float((sent / self._medians(x)).max()) for x, sent in found.values())
        for name, (cases, sent) in found.items():

            def seconds(values: Values, sent: Floats = sent) -> Floats:
                wire: Floats = values["base_us"] * 1e-6 + sent / (values["bandwidth"] * link)
                return wire

            bounds = {
                "base_us": (0.1, 1e5),
                "per_rank_us": (0.0, 0.0),
                "bandwidth": (0.01, 1.0),
                "ramp_us": (0.0, 0.0),
                "gamma": (0.5, 0.5),
                "delta": (0.0, 0.0),
            }
            start = {"base_us": 100.0, "bandwidth": 0.8}
            blocks[f"collectives.{name}"] = self._block(seconds, cases, bounds, start)
        return link

    def _block(
        self,
        seconds: _Model,
        cases: list[c.Case],
        bounds: dict[str, tuple[float, float]],
        start: Values,
    ) -> Block:
        measured = self._medians(cases)
        values = fit_set(seconds, measured, bounds, [start])
        error = float(np.abs(seconds(values) / measured - 1.0).mean())
        return Block(values=values, shapes=len(cases), error=error)


def _put(row: Floats, kind: str, values: Values) -> None:
    for name, (column, scale) in _COLUMNS[kind].items():
        row[column] = values[name] * scale


def _price(kind: int, dtype: int, dims: NDArray[np.int64], rates: Floats, table: Floats) -> Floats:
    count = len(dims)
    extra = np.ones((count, layout.EXTRAS))
    extra[:, layout.BYTES_MOVED], extra[:, layout.RATE] = 0.0, rates
    kinds, dtypes = np.full(count, kind, np.int8), np.full(count, dtype, np.int8)
    return price_operators(kinds, dtypes, dims, extra, table)


def _percent(share: float) -> str:
    return "fewer than 3 samples" if share == float("inf") else f"{share:.0%}"
