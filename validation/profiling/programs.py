"""The programs behind the cases: plain eager PyTorch, as a training step runs it.

Outputs are allocated by every call and gradients go through autograd, because that is what a step
pays for. Operands are slices of one random pool: a fresh tensor a case would cost more than the
case itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own abbreviation)
from torch import Tensor

from ridgeline.validation.profiling import cases as c

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_POOL = 2**22
_SMALL = 2**17
"""Elements of a result below which several backward passes run as one."""
_TOGETHER = 8


class Program(NamedTuple):
    """What a sample repeats."""

    run: Callable[[], object]
    calls: int = 1
    """Cases that one run holds."""


class Programs:
    """Makes the program of a case on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.rand(_POOL, device=device)

    def _tensor(self, dtype: str, *shape: int, grad: bool = False) -> Tensor:
        """Return a random tensor of small numbers, a leaf when ``grad``."""
        count = 1
        for side in shape:
            count *= side
        times = -(-count // _POOL)
        flat = self._pool.repeat(times)[:count] if times > 1 else self._pool[:count]
        made = flat.to(DTYPES[dtype]).mul(0.1).reshape(shape)
        return made.requires_grad_() if grad else made

    def make(self, case: c.Case) -> Program:
        """Return what one call of the case runs."""
        if case.kind in c.COLLECTIVES:
            return self._collective(case)
        if case.kind in (c.GEMM, c.GEMM_BACKWARD):
            m, n, k = case.dims
            return self._run(case, F.linear, self._x(case, m, k), self._x(case, n, k))
        if case.kind in (c.ATTENTION, c.ATTENTION_BACKWARD):
            return self._attention(case)
        if case.kind == c.OPTIMIZER:
            return self._optimizer(case)
        if case.kind == c.COPY:
            source = self._tensor("fp32", case.dims[0] // 4)
            target = torch.empty_like(source)
            return Program(lambda: target.copy_(source))
        if case.kind in (c.LAUNCH, c.GRAPH_LAUNCH):
            one = self._tensor(case.dtype, 1)
            return Program(lambda: one + one)
        return self._elementwise(case)

    def _x(self, case: c.Case, *shape: int) -> Tensor:
        return self._tensor(case.dtype, *shape, grad=True)

    def _run(self, case: c.Case, forward: Callable[..., Tensor], *inputs: Tensor) -> Program:
        """Return the forward pass, or the backward pass behind one that is already done.

        A step enters autograd once; small cases do so for several passes together.
        """
        if not case.kind.endswith("backward"):
            return Program(lambda: forward(*inputs))
        out = forward(*inputs)
        calls = _TOGETHER if out.numel() <= _SMALL else 1
        leaves = [[x.detach().clone().requires_grad_() for x in inputs] for _ in range(calls)]
        outs = [forward(*one) for one in leaves]
        flat = [leaf for one in leaves for leaf in one]
        gradients = [torch.ones_like(out)] * calls
        return Program(lambda: torch.autograd.grad(outs, flat, gradients, retain_graph=True), calls)

    def _attention(self, case: c.Case) -> Program:
        batch, heads, seq, dim = case.dims
        # laid out as a fused qkv projection leaves them, split by views
        whole = self._x(case, batch, seq, 3, heads, dim)

        def forward(qkv: Tensor) -> Tensor:
            q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
            return _causal(q, k, v)

        if case.kind == c.ATTENTION:
            return Program(lambda: forward(whole))
        leaves = [p.transpose(1, 2).detach().requires_grad_() for p in whole.unbind(2)]
        return self._run(case, _causal, *leaves)

    def _elementwise(self, case: c.Case) -> Program:
        rows, width = case.dims
        x = self._x(case, rows, width)
        if case.kind in (c.NORM, c.NORM_BACKWARD):
            weight, bias = self._x(case, width), self._x(case, width)
            return self._run(
                case, lambda *a: F.layer_norm(a[0], (width,), a[1], a[2]), x, weight, bias
            )
        if case.kind in (c.ACTIVATION, c.ACTIVATION_BACKWARD):
            return self._run(case, lambda a: F.gelu(a, approximate="tanh"), x)
        if case.kind == c.LOSS:
            target = torch.zeros(rows, dtype=torch.int64, device=self.device)

            def loss() -> object:
                return torch.autograd.grad(F.cross_entropy(x, target), x)

            return Program(loss)
        plain = x.detach()
        if case.kind == c.STACK:
            return Program(lambda: torch.stack((plain, plain, plain), 1))
        return Program(lambda: plain + plain)

    def _optimizer(self, case: c.Case) -> Program:
        # tensors of a quarter of a million parameters: a layer's, not one flat buffer
        size = min(case.dims[0], 2**18)
        weights = [self._tensor("fp32", size, grad=True) for _ in range(case.dims[0] // size)]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        return Program(torch.optim.AdamW(weights, lr=1e-6, fused=True).step)

    def _collective(self, case: c.Case) -> Program:
        import torch.distributed as dist

        ranks = dist.get_world_size()
        count = max(ranks, case.dims[0] // 4 // ranks * ranks)
        whole = self._tensor("fp32", count)
        part = torch.empty(count // ranks, device=self.device)
        if case.kind == "all_reduce":
            return Program(lambda: dist.all_reduce(whole))
        if case.kind == "all_gather":
            gather = _named(dist, "all_gather_single", "all_gather_into_tensor")
            return Program(lambda: gather(whole, part))
        if case.kind == "reduce_scatter":
            scatter = _named(dist, "reduce_scatter_single", "reduce_scatter_tensor")
            return Program(lambda: scatter(part, whole))
        out = torch.empty_like(whole)
        return Program(lambda: dist.all_to_all_single(out, whole))


def _named(module: ModuleType, *names: str) -> Callable[..., object]:
    """Return the function by the first of its names, newest PyTorch first, that there is."""
    found: Callable[..., object] = next(getattr(module, n) for n in names if hasattr(module, n))
    return found


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
