"""What a form asks: for each key of the plan file its words, its kind and its limits.

Defaults and ranges are those of the plan file (``simulator.plan_schema``). Names are chosen from
closed lists, so that nothing in a link can name a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from ridgeline.hardware import accelerator_names
from ridgeline.simulator import stack_names
from ridgeline.simulator.plan import OPTIMIZERS, PRECISIONS, SCHEDULES
from ridgeline.simulator.plan_schema import LENGTH_KINDS, MONEY_KINDS, SECTIONS
from ridgeline.simulator.serving.engines import engine_aliases, engine_names
from ridgeline.simulator.serving.service import KV_PRECISIONS
from ridgeline.simulator.serving.service import PRECISIONS as SERVING_PRECISIONS
from ridgeline.workloads import model_names
from ridgeline.workloads.catalogue import model_aliases

Kind: TypeAlias = Literal["train", "serve"]
Shape: TypeAlias = Literal["whole", "number", "text", "choice", "switch"]
Names: TypeAlias = Callable[[], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One question of a form."""

    key: str
    """Of the plan file, dotted."""
    label: str
    shape: Shape
    hint: str = ""
    start: str = ""
    """On the page that a visitor opens first."""
    names: Names | None = None
    """What may be chosen, as a form lists it."""
    aliases: Callable[[], Mapping[str, str]] | None = None
    """Other names that a link may use for one of ``names``."""
    most: float = 0.0
    """Above it a question takes longer than a page should; 0 leaves it to the plan file."""
    advanced: bool = False
    """Shown only when asked for."""
    wide: bool = False
    """Has long names."""

    @property
    def default(self) -> object:
        """What the plan file takes when nothing is said."""
        section, _, name = self.key.partition(".")
        field = SECTIONS[section].model_fields[name]
        if field.is_required():
            return None
        aliases = self.aliases() if self.aliases else {}
        return aliases.get(str(field.default), field.default)

    @property
    def placeholder(self) -> str:
        """The default in words, for an empty box."""
        return str(self.default) if self.default not in (None, "", 0, 0.0) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Questions that belong together."""

    title: str
    fields: tuple[Field, ...]
    hint: str = ""


def _listed(*names: str) -> Names:
    return lambda: names


MODEL = Group(
    title="Model",
    fields=(
        Field(
            key="model.name",
            label="Model",
            shape="choice",
            wide=True,
            names=model_names,
            aliases=model_aliases,
            start="llama3.1-8b",
        ),
    ),
)
_FABRICS = ("infiniband", "roce", "efa", "efa-v1", "omni-path", "slingshot", "tcp")


def _hardware(start: str, count: str, most: float = 0.0) -> Group:
    return Group(
        title="Hardware",
        fields=(
            Field(
                key="cluster.accelerator",
                label="Accelerator",
                shape="choice",
                wide=True,
                names=accelerator_names,
                start=start,
            ),
            Field(key="cluster.count", label="How many", shape="whole", start=count, most=most),
            Field(
                key="cluster.spec",
                label="Cluster, short name",
                shape="text",
                hint="In place of the two above: tpu-v5p:8x8x16, aws-p5:16.",
                advanced=True,
            ),
            Field(
                key="cluster.accel_per_node",
                label="Per node",
                shape="whole",
                hint="The usual node by default.",
                advanced=True,
            ),
            Field(
                key="cluster.fabric",
                label="Network",
                shape="choice",
                names=_listed(*_FABRICS),
                advanced=True,
            ),
            Field(
                key="cluster.oversubscription",
                label="Oversubscription",
                shape="number",
                hint="Of the outermost tier; 1 is none.",
                advanced=True,
            ),
        ),
    )


MONEY = Group(
    title="Money and carbon",
    fields=(
        Field(
            key="money.usd_per_accelerator_hour",
            label="Price, $ an hour",
            shape="number",
            hint="Of an accelerator; by default that of the price list.",
        ),
        Field(
            key="money.kind",
            label="Kind of price",
            shape="choice",
            names=_listed(*(kind for kind in MONEY_KINDS if kind != "negotiated")),
            advanced=True,
        ),
        Field(
            key="money.region",
            label="Electricity of",
            shape="text",
            hint="For example france; the world by default.",
            advanced=True,
        ),
        Field(key="money.pue", label="PUE", shape="number", advanced=True),
    ),
)

_TRAIN = (
    MODEL,
    _hardware("h100-sxm", "64"),
    Group(
        title="Training run",
        fields=(
            Field(key="training.seq_len", label="Sequence, tokens", shape="whole", start="8192"),
            Field(
                key="training.global_batch_seqs",
                label="Batch, sequences",
                shape="whole",
                start="256",
            ),
            Field(
                key="training.tokens",
                label="Tokens in all",
                shape="text",
                hint="15T, 2.4B or 1e12; empty asks for one step.",
                start="1T",
            ),
            Field(
                key="training.precision",
                label="Precision",
                shape="choice",
                names=_listed(*PRECISIONS),
            ),
            Field(
                key="training.recompute",
                label="Recomputation",
                shape="text",
                hint="none, selective, full, every-2 or full-4.",
                advanced=True,
            ),
            Field(
                key="training.optimizer",
                label="Optimizer",
                shape="choice",
                names=_listed(*OPTIMIZERS),
                advanced=True,
            ),
            Field(
                key="stack.name",
                label="Software stack",
                shape="choice",
                names=stack_names,
                advanced=True,
            ),
        ),
    ),
    Group(
        title="Split",
        hint="Data parallel ways follow from the others.",
        fields=(
            Field(key="parallel.tp", label="Tensor parallel (tp)", shape="whole"),
            Field(key="parallel.pp", label="Pipeline stages (pp)", shape="whole"),
            Field(key="training.micro_batch_seqs", label="Micro-batch", shape="whole"),
            Field(
                key="parallel.zero_stage",
                label="ZeRO stage",
                shape="whole",
                hint="0 to 3; 3 is FSDP.",
                start="3",
            ),
            Field(key="parallel.sp", label="Sequence parallelism", shape="switch"),
            Field(key="parallel.vpp", label="Chunks per stage (vpp)", shape="whole", advanced=True),
            Field(key="parallel.dp", label="Data parallel (dp)", shape="whole", advanced=True),
            Field(key="parallel.cp", label="Context parallel (cp)", shape="whole", advanced=True),
            Field(key="parallel.ep", label="Expert parallel (ep)", shape="whole", advanced=True),
            Field(
                key="parallel.etp",
                label="Of the experts (etp)",
                shape="whole",
                advanced=True,
            ),
            Field(
                key="training.schedule",
                label="Pipeline schedule",
                shape="choice",
                names=_listed(*SCHEDULES),
                advanced=True,
            ),
            Field(
                key="training.uneven_stages",
                label="Uneven stages",
                shape="switch",
                advanced=True,
            ),
        ),
    ),
    MONEY,
)

_SERVE = (
    MODEL,
    _hardware("h100-sxm", "1", most=10_000),
    Group(
        title="Traffic",
        hint="Give one of the first three.",
        fields=(
            Field(
                key="serving.request_rate",
                label="Requests a second",
                shape="number",
                start="4",
                most=10_000,
            ),
            Field(
                key="serving.concurrency",
                label="or kept in flight",
                shape="whole",
                most=2_048,
            ),
            Field(key="serving.batch", label="or one static batch", shape="whole", most=2_048),
            Field(key="serving.input_len", label="Prompt, tokens", shape="whole"),
            Field(key="serving.output_len", label="Answer, tokens", shape="whole"),
            Field(
                key="serving.lengths",
                label="Lengths",
                shape="choice",
                names=_listed(*LENGTH_KINDS),
            ),
            Field(
                key="serving.slo",
                label="Promise",
                shape="text",
                wide=True,
                hint="For example ttft=500ms,tpot=50ms.",
                start="ttft=500ms,tpot=50ms",
            ),
            Field(
                key="serving.requests",
                label="Requests played",
                shape="whole",
                hint="1,000 by default, in a closed loop 10 for each in flight.",
                most=20_000,
                advanced=True,
            ),
            Field(
                key="serving.burstiness",
                label="Burstiness",
                shape="number",
                hint="Variation of the gaps; 1 is Poisson.",
                advanced=True,
            ),
            Field(
                key="serving.turns",
                label="Conversation, turns",
                shape="whole",
                most=100,
                advanced=True,
            ),
            Field(
                key="serving.system_tokens",
                label="Shared prefix, tokens",
                shape="whole",
                advanced=True,
            ),
            Field(key="serving.seed", label="Seed", shape="whole", advanced=True),
        ),
    ),
    Group(
        title="Deployment",
        fields=(
            Field(
                key="serving.engine",
                label="Engine",
                shape="choice",
                names=engine_names,
                aliases=engine_aliases,
            ),
            Field(
                key="serving.precision",
                label="Precision",
                shape="choice",
                names=_listed(*SERVING_PRECISIONS),
            ),
            Field(key="parallel.tp", label="Tensor parallel (tp)", shape="whole"),
            Field(
                key="serving.replicas",
                label="Replicas",
                shape="whole",
                hint="As many as fit by default.",
            ),
            Field(key="parallel.pp", label="Pipeline stages (pp)", shape="whole", advanced=True),
            Field(
                key="parallel.dp",
                label="Attention ranks (dp)",
                shape="whole",
                advanced=True,
            ),
            Field(key="parallel.ep", label="Expert parallel (ep)", shape="whole", advanced=True),
            Field(
                key="serving.prefill_replicas",
                label="Replicas for prompts",
                shape="whole",
                advanced=True,
            ),
            Field(
                key="serving.kv_precision",
                label="KV cache precision",
                shape="choice",
                names=_listed(*KV_PRECISIONS),
                advanced=True,
            ),
            Field(
                key="serving.max_sequences",
                label="Sequences at once",
                shape="whole",
                advanced=True,
            ),
            Field(
                key="serving.max_tokens",
                label="Tokens an iteration",
                shape="whole",
                advanced=True,
            ),
            Field(
                key="serving.memory_fraction",
                label="Share of memory",
                shape="number",
                advanced=True,
            ),
            Field(
                key="serving.prefix_caching",
                label="Prefix caching",
                shape="switch",
                advanced=True,
            ),
            Field(
                key="serving.draft_tokens",
                label="Draft tokens",
                shape="whole",
                advanced=True,
            ),
            Field(
                key="serving.acceptance",
                label="Drafts accepted",
                shape="number",
                advanced=True,
            ),
        ),
    ),
    MONEY,
)

GROUPS: dict[Kind, tuple[Group, ...]] = {"train": _TRAIN, "serve": _SERVE}


@cache
def fields_of(kind: Kind) -> dict[str, Field]:
    """Return the questions of a form by key, in its order."""
    return {field.key: field for group in GROUPS[kind] for field in group.fields}
