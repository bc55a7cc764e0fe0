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
    "qkv": Recompute(qkv=True),
    "mlp": Recompute(mlp=True, activation=True),
}
"""Single modules, joined by ``+`` (Megatron-Core's --recompute-modules)."""

OPTIMAL = "optimal"
"""The least recomputation that the memory of the accelerators allows (``recompute_choice``)."""

_SHARE = re.compile(r"([1-9][0-9]{0,6})\*([a-z+-]{1,200})")
_SCOPE = re.compile(r"(every|full)-([1-9][0-9]{0,6})")


@dataclass(frozen=True, slots=True)
class Scope:
    """In which layers the policy applies."""

    mode: str
    """none, all, every (each ``number``-th layer), first (``number`` layers of a stage), mix
    (``shares``) or optimal (not chosen yet)."""
    number: int = 1
    shares: tuple[tuple[int, str], ...] = ()
    """(layers, policy) in model order."""

    def covers(self, index: int, position: int) -> bool:
        """Whether layer ``index`` of the model, ``position`` in its stage, is recomputed."""
        if self.mode == "every":
            return index % self.number == 0
        if self.mode == "first":
            return position < self.number
        return self.mode == "all"

    def policy_at(self, index: int) -> str:
        """Return the policy of layer ``index`` of the model under a mix."""
        at = 0
        for count, policy in self.shares:
            at += count
            if index < at:
                return policy
        return self.shares[-1][1]


@lru_cache(maxsize=256)
def parse_recompute(name: str) -> tuple[Recompute, Scope] | None:
    """Return what ``name`` means, None when it means nothing.

    ``name`` is one of POLICIES, ``every-N`` (each N-th layer in full), ``full-K`` (K layers of each
    stage in full), or modules joined by ``+`` such as ``norms+mla-up+activation``; or a mix of
    these by layer, ``8*full,24*norms+activation``; or ``optimal``.
    """
    if name == OPTIMAL:
        return Recompute(), Scope(OPTIMAL)
    if "*" in name:
        return _parse_mix(name)
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


def _parse_mix(name: str) -> tuple[Recompute, Scope] | None:
    """Return a mix, whose policy is what any of its layers computes again."""
    shares: list[tuple[int, str]] = []
    for piece in name.split(","):
        match = _SHARE.fullmatch(piece)
        parsed = parse_recompute(match[2]) if match else None
        if match is None or parsed is None or parsed[1].mode not in ("none", "all"):
            return None
        shares.append((int(match[1]), match[2]))
    chosen = {
        f.name: any(getattr(known_recompute(policy)[0], f.name) for _, policy in shares)
        for f in fields(Recompute)
    }
    return Recompute(**chosen), Scope("mix", shares=tuple(shares))


def policies_of(name: str) -> tuple[str, ...]:
    """Return the distinct policies that the layers of a checked name can have, none first."""
    _, scope = known_recompute(name)
    if scope.mode == "mix":
        return tuple(dict.fromkeys(policy for _, policy in scope.shares))
    return ("none", "full") if scope.mode in ("every", "first") else (name,)


def known_recompute(name: str) -> tuple[Recompute, Scope]:
    """Return what a checked name means."""
    parsed = parse_recompute(name)
    assert parsed is not None, name
    return parsed
