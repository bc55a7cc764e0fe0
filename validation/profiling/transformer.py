"""A plain GPT in eager PyTorch, and its training for some steps: what a profile is tested on.

Shapes: b sequences, s positions, h hidden units, a heads, v vocabulary. Layers are pre-norm with
learned positions, a fused qkv projection, GELU and untied ends (Radford et al. 2019, GPT-2); linear
layers have no biases, the optimizer is fused AdamW. Nothing is compiled and nothing is special: a
step is the sum of the kernels that a profile measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own abbreviation)
from torch import Tensor, nn

from ridgeline.errors import InputError, nearest
from ridgeline.validation.profiling.programs import DTYPES
from ridgeline.validation.profiling.sampling import Ranks, clock

WARM_STEPS = 2
HEAD_DIM = 64
MANNERS = ("ddp", "fsdp", "tp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A transformer and the batch of one rank."""

    layers: int
    hidden: int
    heads: int
    vocab: int
    seq_len: int
    batch: int

    def config(self) -> dict[str, Any]:
        """Return the model as a Hugging Face configuration, which ``--model`` takes."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_layer": self.layers,
            "n_embd": self.hidden,
            "n_inner": 4 * self.hidden,
            "n_head": self.heads,
            "n_positions": self.seq_len,
            "vocab_size": self.vocab,
            "activation_function": "gelu_new",
            "tie_word_embeddings": False,
        }


SIZES = {
    "tiny": Size(layers=2, hidden=128, heads=2, vocab=1024, seq_len=128, batch=2),
    "small": Size(layers=4, hidden=384, heads=6, vocab=4096, seq_len=256, batch=4),
    "medium": Size(layers=12, hidden=768, heads=12, vocab=32768, seq_len=1024, batch=8),
    "large": Size(layers=24, hidden=2048, heads=16, vocab=32768, seq_len=2048, batch=4),
}


def parse_size(text: str) -> Size:
    """Return a size by name, or from ``LAYERSxHIDDENxHEADSxVOCABxSEQxBATCH``.

    Raises
    ------
    InputError
        Neither.
    """
    if text in SIZES:
        return SIZES[text]
    parts = text.split("x")
    if len(parts) != 6 or not all(part.isdigit() and int(part) > 0 for part in parts):
        hint = nearest(text, SIZES)
        raise InputError(
            f"--train {text!r}: give a size ({hint}), or six whole numbers "
            f"LAYERSxHIDDENxHEADSxVOCABxSEQxBATCH"
        )
    layers, hidden, heads, vocab, seq_len, batch = map(int, parts)
    if hidden % heads:
        raise InputError(f"--train {text!r}: {heads} heads must divide the width {hidden}")
    return Size(
        layers=layers, hidden=hidden, heads=heads, vocab=vocab, seq_len=seq_len, batch=batch
    )


class Attention(nn.Module):
    """Causal self-attention over ``heads`` of this rank, [b, s, h] to [b, s, h]."""

    def __init__(self, size: Size, ranks: int) -> None:
        super().__init__()
        self.heads = size.heads // ranks
        width = size.hidden // ranks
        self.qkv = nn.Linear(size.hidden, 3 * width, bias=False)
        self.output = nn.Linear(width, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, -1).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(out.transpose(1, 2).reshape(b, s, -1))


class Layer(nn.Module):
    """Attention and MLP with their norms; ``ranks`` split both by columns, then by rows."""

    def __init__(self, size: Size, ranks: int = 1) -> None:
        super().__init__()
        h = size.hidden
        self.ranks = ranks
        self.attention_norm, self.mlp_norm = nn.LayerNorm(h), nn.LayerNorm(h)
        self.attention = Attention(size, ranks)
        self.up = nn.Linear(h, 4 * h // ranks, bias=False)
        self.down = nn.Linear(4 * h // ranks, h, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, [b, s, h]."""
        x = x + self._joined(self.attention, self.attention_norm(x))
        return x + self._joined(self._mlp, self.mlp_norm(x))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def _joined(self, body: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run a half that each rank holds a part of (Shoeybi et al. 2019, section 3)."""
        if self.ranks == 1:
            return body(x)
        joined: Tensor = _Sum.apply(body(_Split.apply(x)))
        return joined


class _Split(torch.autograd.Function):
    """The same input on every rank; its gradients are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004  (autograd's signature)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        summed = gradient.contiguous()
        torch.distributed.all_reduce(summed)
        return summed


class _Sum(torch.autograd.Function):
    """Partial outputs of all ranks added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


class Transformer(nn.Module):
    """The model, [b, s] tokens to the mean cross-entropy of [b, s] targets."""

    def __init__(self, size: Size, ranks: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocab, size.hidden)
        self.positions = nn.Embedding(size.seq_len, size.hidden)
        self.layers = nn.ModuleList(Layer(size, ranks) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.hidden)
        self.head = nn.Linear(size.hidden, size.vocab, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        x = self.tokens(tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def trainer(
    size: Size, dtype: str, device: torch.device, ranks: Ranks, manner: str
) -> Callable[[], None]:
    """Return one training step: forward, backward, optimizer.

    Parameters
    ----------
    size
        The model and the batch of a data-parallel rank.
    dtype
        Of weights and activations.
    device, ranks
        Where it runs.
    manner
        How several ranks share it: ``ddp``, ``fsdp`` or ``tp``.

    Raises
    ------
    InputError
        Heads that do not divide over tensor-parallel ranks.
    """
    ways = ranks.size if manner == "tp" else 1
    if size.heads % ways:
        raise InputError(f"--manner tp: {size.heads} heads must divide over {ways} ranks")
    torch.manual_seed(0)
    model: nn.Module = Transformer(size, ways).to(device, DTYPES[dtype])
    if ranks.size > 1 and manner == "ddp":
        model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if ranks.size > 1 and manner == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for layer in model.get_submodule("layers").children():
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(size.vocab, (size.batch, size.seq_len + 1), device=device)

    def step() -> None:
        loss = model(tokens[:, :-1], tokens[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def step_seconds(
    step: Callable[[], None], steps: int, device: torch.device, ranks: Ranks, threads: int
) -> list[float]:
    """Return the seconds of ``steps`` steps on the slowest rank, warmed up (``sampling.clock``)."""
    now = clock(device, threads)
    found = []
    for number in range(WARM_STEPS + steps):
        ranks.barrier()
        start = now()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken = ranks.slowest(now() - start)
        if number >= WARM_STEPS:
            found.append(taken)
    return found


@contextmanager
def traced(path: Path, device: torch.device) -> Iterator[Callable[[int], Any]]:
    """Record what runs inside to a Chrome trace with shapes; yields what marks a step."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        yield lambda number: record_function(f"ProfilerStep#{number}")
    profiler.export_chrome_trace(str(path))
