"""How a service departs from plain decoding: part of the cache, early exits, adapters, other KV.

Records that a ``Service`` holds, and what is wrong with them. Each is off by default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.simulator.serving.service import Service

EXIT_KV = ("computed", "copied")
TARGETS = ("attention", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvBudget:
    """What attention of a decode reads and the cache keeps, where that is less than everything."""

    tokens: int = 0
    """Of a sequence that a layer keeps, on average over layers; 0 keeps all."""
    layers: tuple[float, ...] = ()
    """Budgets of equal parts of the layers from first to last, relative to one another (ZigZagKV,
    arXiv 2412.09036); empty is even."""
    full_every: int = 0
    """The cache keeps everything, every so many-th step reads it and those between read ``tokens``
    (Recycled Attention, arXiv 2411.05787); 0 drops what is beyond the budget."""
    context: int = 0
    """Tokens of a typical sequence, over which the budget is spread; 0 takes the usual."""

    @property
    def drops(self) -> bool:
        """Whether the cache loses tokens."""
        return self.tokens > 0 and self.full_every == 0

    def parts(self) -> tuple[tuple[float, float], ...]:
        """Return share of the layers and tokens that these keep, for each part."""
        if not self.layers:
            return ((1.0, float(self.tokens)),)
        mean = sum(self.layers) / len(self.layers)
        return tuple((1.0 / len(self.layers), self.tokens * one / mean) for one in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """Output tokens that leave before the last layer (CALM, arXiv 2207.07061; LayerSkip)."""

    layers: tuple[int, ...] = ()
    """After which tokens may leave, ascending."""
    shares: tuple[float, ...] = ()
    """Of the output tokens, that leave there."""
    kv: str = "computed"
    """Of the layers that a token skips: computed from its last hidden state, or copied."""

    def segments(self, layers: int) -> tuple[tuple[float, float], ...]:
        """Return share of the layers, and of the tokens that still run them, from first to last."""
        edges = (0, *self.layers, layers)
        alive = [1.0]
        for share in self.shares:
            alive.append(max(0.0, alive[-1] - share))
        return tuple(
            ((high - low) / layers, left)
            for low, high, left in zip(edges[:-1], edges[1:], alive, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Low-rank adapters on one base (Punica, arXiv 2310.18547; S-LoRA, arXiv 2311.03285)."""

    count: int = 0
    """Adapters that are asked for; 0 serves the base alone."""
    rank: int = 16
    targets: str = "attention"
    """attention or all linear layers, as in training."""
    slots: int = 0
    """Adapters that the accelerators hold; the others come from the host when asked for. 0 is
    all of them."""
    skew: float = 0.0
    """Exponent of Zipf's law by which they are asked for; 0 is evenly."""

    @property
    def held(self) -> int:
        """Adapters in the accelerators' memory."""
        return min(self.slots or self.count, self.count)

    def popularity(self) -> tuple[float, ...]:
        """Return the share of the requests of each, descending."""
        return zipf(self.count, self.skew)


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """Low-rank fine-tuning that fills the iterations (FlexLLM, arXiv 2402.18789)."""

    rank: int = 0
    """0 turns it off."""
    targets: str = "attention"
    seq_len: int = 1024
    """Tokens of its sequences."""
    iteration_s: float = 0.05
    """Longest iteration that is filled; time per output token comes to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Whose the requests are."""

    count: int = 1
    skew: float = 0.0
    """Exponent of Zipf's law by which they ask; 0 is evenly."""


def zipf(count: int, skew: float) -> tuple[float, ...]:
    """Return shares of 1 that fall as place^-skew."""
    weights = [(place + 1.0) ** -skew for place in range(count)]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def variants_on(service: Service) -> dict[str, object]:
    """Return the variants that a service has on, by the name of their field."""
    found: dict[str, object] = {}
    if service.kv_budget.tokens:
        found["kv_budget"] = asdict(service.kv_budget)
    if service.exits.layers:
        found["exits"] = asdict(service.exits)
    if service.adapters.count:
        found["adapters"] = asdict(service.adapters)
    if service.kv_predictor:
        found["kv_predictor"] = service.kv_predictor
    if service.finetune.rank:
        found["finetune"] = asdict(service.finetune)
    if service.users.count > 1:
        found["users"] = asdict(service.users)
    return found


def variant_problems(service: Service) -> list[str]:
    """Return what is wrong with the variants of a service, one line each."""
    limits = service.limits
    lonely = []
    if limits.fair_every and service.users.count < 2:
        lonely.append(f"fair_every = {limits.fair_every}: needs users, between whom to be fair")
    parts = (_budget, _exits, _adapters, _finetune)
    return [*lonely, *(line for part in parts for line in part(service))]


def _budget(service: Service) -> list[str]:
    b, model = service.kv_budget, service.model
    out = []
    if not b.tokens and (b.layers or b.full_every):
        name = "kv_layer_budgets" if b.layers else "kv_full_every"
        out.append(f"{name}: needs kv_budget_tokens, the tokens that a layer keeps")
    if b.layers and (len(b.layers) > model.num_layers or min(b.layers) <= 0.0):
        out.append(
            f"kv_layer_budgets: at most {model.num_layers} numbers above 0, one for each equal "
            "part of the layers"
        )
    if b.tokens and model.attention.index_heads:
        out.append(
            f"kv_budget_tokens = {b.tokens}: attention of {model.name} chooses its keys by an "
            "index of its own; leave it out"
        )
    if b.drops and service.limits.prefix_caching:
        out.append(
            f"kv_budget_tokens = {b.tokens}: blocks with dropped tokens cannot be shared; leave "
            "prefix_caching out or keep everything with kv_full_every"
        )
    return out


def _exits(service: Service) -> list[str]:
    e, model = service.exits, service.model
    out = []
    if len(e.layers) != len(e.shares):
        out.append(
            f"exit_layers has {len(e.layers)} and exit_shares {len(e.shares)} entries: give a "
            "share for each layer"
        )
        return out
    ascending = all(a < b for a, b in zip(e.layers, e.layers[1:], strict=False))
    if e.layers and not (ascending and e.layers[0] >= 1 and e.layers[-1] < model.num_layers):
        out.append(
            f"exit_layers = {list(e.layers)}: must ascend from at least 1 to less than the "
            f"{model.num_layers} layers"
        )
    if e.shares and (min(e.shares) < 0.0 or sum(e.shares) > 1.0 + 1e-12):
        out.append(f"exit_shares = {list(e.shares)}: shares of all tokens, at most 1 together")
    if e.kv not in EXIT_KV:
        out.append(f"exit_kv = {e.kv!r}: must be one of {', '.join(EXIT_KV)}")
    if e.layers and service.speculation.tokens:
        out.append(
            "exit_layers: drafts are verified by all layers; leave draft_tokens or exit_layers out"
        )
    if e.layers and service.pp > 1:
        out.append(
            f"exit_layers: with pp = {service.pp} the stages after an exit idle in ways that are "
            "not modelled; take pp = 1"
        )
    return out


def _finetune(service: Service) -> list[str]:
    f = service.finetune
    if not f.rank:
        return []
    out = [
        f"finetune_rank: fine-tuning beside {what} is not modelled; leave one of them out"
        for what, on in (
            ("pipeline stages (pp)", service.pp > 1),
            ("speculation (draft_tokens)", service.speculation.tokens > 0),
            ("exit_layers", bool(service.exits.layers)),
            ("kv_predictor", bool(service.kv_predictor)),
            ("latent attention", service.model.attention.kind == "mla"),
            ("linear attention", service.model.linear is not None),
        )
        if on
    ]
    if f.targets not in TARGETS:
        out.append(f"finetune_targets = {f.targets!r}: must be one of {', '.join(TARGETS)}")
    if f.iteration_s <= 0.0 or f.seq_len < 1:
        out.append("finetune_iteration_s and finetune_seq_len: must be above 0")
    return out


def _adapters(service: Service) -> list[str]:
    a = service.adapters
    out = []
    if not a.count and a.slots:
        out.append(f"adapter_slots = {a.slots}: needs adapters, how many there are")
    if a.targets not in TARGETS:
        out.append(f"adapter_targets = {a.targets!r}: must be one of {', '.join(TARGETS)}")
    if a.count and service.kv_predictor:
        out.append(
            "adapters: the predictor of another model's KV knows none of them; leave one out"
        )
    if a.count and service.model.attention.kind == "mla":
        out.append(
            f"adapters: those of latent attention ({service.model.name}) are not modelled; take "
            "a model with keys and values by head"
        )
    if a.count and service.pp > 1:
        out.append(f"adapters: with pp = {service.pp} they are not modelled; take pp = 1")
    return out
