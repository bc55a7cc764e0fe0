"""Activation recomputation: what a policy computes again, and in which layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """What the backward pass of a layer computes again instead of keeping."""

    core: bool = False
    """Attention core: scores, softmax, weighted sum."""
    norms: bool = False
    """Outputs of the norms."""
    activation: bool = False
    """Output of the MLP's (or the experts') activation function."""
    latent: bool = False
    """Up-projections from the latents of MLA."""
    qkv: bool = False
    """Query, key and value projections with their collectives."""
    output: bool = False
    """Attention output projection with its collective."""
    mlp: bool = False
    """Matrix products of the MLP or the experts with their collectives."""

    @property
    def anything(self) -> bool:
        """Whether anything is recomputed at all."""
        return any(getattr(self, f.name) for f in fields(self))

    @property
    def everything(self) -> bool:
        """Whether only the layer's input is kept."""
        return all(getattr(self, f.name) for f in fields(self))


POLICIES = {
    "none": Recompute(),
    # Korthikanti et al. 2022, arXiv 2205.05198, section 5
    "selective": Recompute(core=True),
    "full": Recompute(
        core=True, norms=True, activation=True, latent=True, qkv=True, output=True, mlp=True
    ),
    # MaxText's remat_policy of the same names: matrix products are saved
    "minimal": Recompute(core=True, norms=True, activation=True),
    "minimal-with-context": Recompute(norms=True, activation=True),
    "save-qkv-proj": Recompute(core=True, norms=True, activation=True, output=True, mlp=True),
}
"""Policies by name; their union with ``+``-joined MODULES and the scopes below is all there is."""

MODULES = {
    "core-attn": Recompute(core=True),
    "norms": Recompute(norms=True),
    "activation": Recompute(activation=True),
    "mla-up": Recompute(latent=True),
}
"""Single modules, joined by ``+`` (Megatron-Core's --recompute-modules)."""

_SCOPE = re.compile(r"(every|full)-([1-9][0-9]{0,6})")


@dataclass(frozen=True, slots=True)
class Scope:
    """In which layers the policy applies."""

    mode: str
    """none, all, every (each ``number``-th layer) or first (``number`` layers of a stage)."""
    number: int = 1

    def covers(self, index: int, position: int) -> bool:
        """Whether layer ``index`` of the model, ``position`` in its stage, is recomputed."""
        if self.mode == "every":
            return index % self.number == 0
        if self.mode == "first":
            return position < self.number
        return self.mode == "all"


@lru_cache(maxsize=256)
def parse_recompute(name: str) -> tuple[Recompute, Scope] | None:
    """Return what ``name`` means, None when it means nothing.

    ``name`` is one of POLICIES, ``every-N`` (each N-th layer in full), ``full-K`` (K layers of each
    stage in full), or modules joined by ``+`` such as ``norms+mla-up+activation``.
    """
    if name in POLICIES:
        policy = POLICIES[name]
        return policy, Scope("all" if policy.anything else "none")
    match = _SCOPE.fullmatch(name)
    if match:
        mode = "every" if match[1] == "every" else "first"
        return POLICIES["full"], Scope(mode, int(match[2]))
    modules = name.split("+")
    if all(module in MODULES for module in modules) and len(set(modules)) == len(modules):
        chosen = {
            f.name: any(getattr(MODULES[module], f.name) for module in modules)
            for f in fields(Recompute)
        }
        return Recompute(**chosen), Scope("all")
    return None


def known_recompute(name: str) -> tuple[Recompute, Scope]:
    """Return what a checked name means."""
    parsed = parse_recompute(name)
    assert parsed is not None, name
    return parsed
