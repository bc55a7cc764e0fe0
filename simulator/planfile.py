"""The TOML plan file: read, checked and turned into a ``Plan``, all mistakes reported together.

This is the only module that knows pydantic; what passes it is a frozen dataclass.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import ErrorDetails

from ridgeline.errors import InputError, nearest
from ridgeline.hardware import load_accelerator, make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.hardware.energy import carbon_kg_per_kwh
from ridgeline.simulator import legality
from ridgeline.simulator.plan import (
    OPTIMIZERS,
    PLACEMENT,
    PRECISIONS,
    SCHEDULES,
    Money,
    Parallelism,
    Plan,
    RunOptions,
    Training,
)
from ridgeline.simulator.recompute import MODULES, POLICIES
from ridgeline.simulator.stacks import load_stack
from ridgeline.workloads import load_model, model_from_config
from ridgeline.workloads.expert_load import load_problems, read_expert_load, with_routing
from ridgeline.workloads.model import Model

MAX_FILE_BYTES = 1 << 20
MAX_KEY_PARTS = 100
MAX_MISTAKES = 100
"""A file with more is no plan file, and nobody reads on."""
MAX_ACCELERATORS = 10_000_000
"""A hundred times the largest cluster built; beyond it a number is taken for a slip."""
MAX_SEQ_LEN = 100_000_000
MAX_BATCH = 100_000_000
MAX_TOKENS = 1e17
DEFAULT_STACK = "megatron-core"
MONEY_KINDS = ("on-demand", "reserved", "spot", "owned")
FUTURE_SECTIONS = {"serving": "predicting a service (ridgeline infer) is not there yet"}

_SYNONYMS = {
    "tensor_parallel": "tp",
    "pipeline_parallel": "pp",
    "data_parallel": "dp",
    "context_parallel": "cp",
    "expert_parallel": "ep",
    "sequence_parallel": "sp",
    "seq_parallel": "sp",
    "virtual_pipeline": "vpp",
    "zero": "zero_stage",
    "global_batch": "global_batch_seqs",
    "micro_batch": "micro_batch_seqs",
    "batch_size": "global_batch_seqs",
    "sequence_length": "seq_len",
    "num_accel": "count",
    "price": "usd_per_accelerator_hour",
}
"""What other tools call a key."""
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_COUNT_PATTERN = re.compile(
    r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([KMBGT]?)", re.IGNORECASE
)

_SUBJECT = re.compile(r"^(?:model|cluster|stack|region) '[^']*': ")


def parse_count(value: object) -> float:
    """Return a count given as a number or as text with K, M, B or T behind it.

    Parameters
    ----------
    value
        ``15e12``, ``15_000_000``, ``"15T"``, ``"2.4B"``.

    Raises
    ------
    ValueError
        Neither, or not finite.
    """
    if isinstance(value, str):
        match = _COUNT_PATTERN.fullmatch(value.strip())
        if match is None:
            raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
        value = float(match[1].replace("_", "")) * _SUFFIXES[match[2].upper()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a count such as 15e12, '15T' or '2.4B'")
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return float(value)


def _tokens(value: object) -> float:
    count = parse_count(value)
    if count < 0:
        raise ValueError("must be at least 0")
    if count > MAX_TOKENS:
        raise ValueError(f"must be at most {MAX_TOKENS:g}")
    return count


def _one_of(*known: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"is not known; {nearest(value, known)}")
        return value

    return AfterValidator(check)


def _known_recompute(value: str) -> str:
    if not legality.is_recompute(value):
        raise ValueError(
            f"is not known; {nearest(value, (*POLICIES, *MODULES, 'every-2', 'full-1'))}"
        )
    return value


def _known_region(value: str) -> str:
    try:
        carbon_kg_per_kwh(value)
    except InputError as error:
        raise ValueError("; ".join(_without_subject(line) for line in error.problems)) from None
    return value


def _known_stack(value: str) -> str:
    try:
        return load_stack(value).name
    except InputError as error:
        raise ValueError("; ".join(_without_subject(line) for line in error.problems)) from None


def _without_subject(line: str) -> str:
    """Return a complaint without the leading ``model 'x': ``, which our own place replaces."""
    return re.sub(
        r"^(?:model|cluster|stack|accelerator|config|region)\b[^:]{0,200}?'[^']*': ", "", line
    )


def _uneven(value: object) -> bool | list[int]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    raise ValueError("must be true, false or a list of layers for each virtual stage")


def _expert_load(value: object) -> str | list[float]:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of numbers, one per expert, or the path of a file")
    if problems := load_problems(value):
        raise ValueError(problems[0])
    return value


def _auto_or_number(value: object) -> float | str:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError("must be 'auto' or a number from 0 to 1e9")
    return float(value)


Name = Annotated[str, Field(max_length=200)]
FilePath = Annotated[str, Field(max_length=4000)]
Ways = Annotated[int, Field(ge=1, le=MAX_ACCELERATORS)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Tokens = Annotated[float, PlainValidator(_tokens)]
AutoNumber = Annotated[float | Literal["auto"], PlainValidator(_auto_or_number)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelSection(_Section):
    """Which model: a name of the catalogue or a Hugging Face ``config.json``."""

    name: Name | None = None
    config: FilePath | None = None
    capacity_factor: Annotated[float, Field(ge=0, le=1000)] | None = None
    expert_load: Annotated[str | list[float] | None, PlainValidator(_expert_load)] = None


class ClusterSection(_Section):
    """Which cluster: one line, the parts of it, or a graph of its links."""

    spec: Name | None = None
    graph: FilePath | None = None
    accelerator: Name | None = None
    count: Ways | None = None
    accel_per_node: Annotated[int, Field(ge=1, le=100_000)] | None = None
    fabric: Name | None = None
    scaleout_gb_per_s: Annotated[float, Field(ge=0.001, le=1e6)] | None = None
    oversubscription: Annotated[float, Field(ge=1, le=1000)] | None = None
    rails: Annotated[int, Field(ge=1, le=1000)] | None = None
    nic_efficiency: Annotated[float, Field(ge=0.001, le=1)] | None = None


class ParallelSection(_Section):
    """How the model and the batch are split."""

    tp: Ways = 1
    pp: Ways = 1
    vpp: Ways = 1
    dp: Ways | None = None
    cp: Ways = 1
    cp_kind: Annotated[str, _one_of(*legality.CP_KINDS)] = "ring"
    ep: Ways = 1
    etp: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    sp: bool = False
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    shard_size: Annotated[int, Field(ge=0, le=MAX_ACCELERATORS)] = 0
    placement: list[Annotated[str, _one_of(*PLACEMENT)]] = list(PLACEMENT)


class TrainingSection(_Section):
    """What is trained, how much, in which numbers."""

    tokens: Tokens = 0.0
    seq_len: Annotated[int, Field(ge=1, le=MAX_SEQ_LEN)]
    global_batch_seqs: Batch
    micro_batch_seqs: Batch = 1
    precision: Annotated[str, _one_of(*PRECISIONS)] = "bf16"
    optimizer: Annotated[str, _one_of(*OPTIMIZERS)] = "adamw"
    recompute: Annotated[str, AfterValidator(_known_recompute)] = "none"
    schedule: Annotated[str, _one_of(*SCHEDULES)] | None = None
    uneven_stages: Annotated[bool | list[int], PlainValidator(_uneven)] = False
    flop_convention: Annotated[str, _one_of(*legality.FLOP_CONVENTIONS)] = "causal"
    offload: list[Annotated[str, _one_of(*legality.OFFLOADS)]] = []
    task: Annotated[str, _one_of("pretrain")] = "pretrain"


class RunSection(_Section):
    """What surrounds the steps of a whole run."""

    batch_warmup_tokens: Tokens = 0.0
    batch_warmup_start_seqs: Annotated[int, Field(ge=0, le=MAX_BATCH)] = 0
    eval_interval_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    eval_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    checkpoint_interval_s: AutoNumber = "auto"
    checkpoint_bytes_per_s: Annotated[float, Field(gt=0, le=1e18)] = 2e12
    failures: bool = True
    restart_s: Seconds = 900.0
    failures_per_1000_node_days: AutoNumber = "auto"


class MoneySection(_Section):
    """Prices and what energy costs the planet."""

    kind: Annotated[str, _one_of(*MONEY_KINDS)] = "on-demand"
    usd_per_accelerator_hour: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    region: Annotated[str, AfterValidator(_known_region)] = ""
    pue: Annotated[float, Field(ge=1, le=10)] | None = None
    usd_per_kwh: Annotated[float, Field(ge=0, le=1000)] = 0.0


class StackSection(_Section):
    """The software stack."""

    name: Annotated[str, AfterValidator(_known_stack)] = DEFAULT_STACK


class PlanFile(_Section):
    """The whole file."""

    name: Name = ""
    model: ModelSection
    cluster: ClusterSection
    parallel: ParallelSection = Field(default_factory=ParallelSection)
    training: TrainingSection
    stack: StackSection = Field(default_factory=StackSection)
    run: RunSection = Field(default_factory=RunSection)
    money: MoneySection = Field(default_factory=MoneySection)


S = TypeVar("S", bound=_Section)
T = TypeVar("T")

SECTIONS: dict[str, type[_Section]] = {
    "model": ModelSection,
    "cluster": ClusterSection,
    "parallel": ParallelSection,
    "training": TrainingSection,
    "stack": StackSection,
    "run": RunSection,
    "money": MoneySection,
}


@dataclass(slots=True)
class _Report:
    """Collects mistakes and says each in the words of whoever gave the value."""

    source: str
    labels: Mapping[str, str]
    lines: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, rule: str) -> None:
        """Add one mistake; ``value`` is left out when it is None."""
        shown = "" if value is None else _show(value)
        if key in self.labels:
            place = f"{self.labels[key]} {shown}".rstrip()
        else:
            place = f"{self.source}{key} = {shown}" if shown else f"{self.source}{key}"
        self.lines.append(f"{place}: {rule}")

    def add_line(self, line: str) -> None:
        """Add a line of ``legality``, which begins with its key."""
        match = re.match(r"([a-z_]+\.[a-z_]+)( = )?", line)
        if match is not None and match[1] in self.labels:
            self.lines.append(
                self.labels[match[1]] + (" " if match[2] else "") + line[match.end() :]
            )
        else:
            self.lines.append(self.source + line)


def read_plan(
    path: Path | None,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Plan:
    """Read a plan file and return the plan that it and the overrides describe.

    Parameters
    ----------
    path
        A TOML file; None when the overrides say everything.
    overrides
        Dotted key -> value, for example ``{"parallel.tp": 8}``; each replaces what the file says.
    labels
        Dotted key -> what to call an override in a complaint, for example ``--tp``.

    Raises
    ------
    InputError
        With all mistakes of the input, one line each.
    """
    overrides = overrides or {}
    labels = {key: (labels or {}).get(key, f"override {key}") for key in overrides}
    report = _Report("" if path is None else f"{path}: ", labels)
    raw = {} if path is None else _read_toml(path)
    _override(raw, overrides)

    parsed = _validate(raw, report)
    # The names are looked up even when something else is wrong, so that all mistakes come at once.
    model = _resolve(ModelSection, "model", raw, lambda s: _model(s, path, report))
    cluster = _resolve(ClusterSection, "cluster", raw, lambda s: _cluster(s, path, report))
    if parsed is None or model is None or cluster is None or report.lines:
        raise InputError(report.lines)
    plan = _assemble(parsed, model, cluster, path)
    for line in legality.problems(plan):
        report.add_line(line)
    if report.lines:
        raise InputError(report.lines)
    return plan


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a TOML file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        beside = path.parent if path.parent.is_dir() else Path()
        found = [str(other) for other in sorted(beside.glob("*.toml"))]
        hint = f"; {nearest(str(path), found)}" if found else ""
        raise InputError(f"{path}: no such file{hint}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_FILE_BYTES // 1024} KiB; this is no plan file")
    _check_keys(path, content)
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {str(error).splitlines()[0]}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{path}: not TOML: a number too long or nested too deep") from None


def _check_keys(path: Path, content: bytes) -> None:
    """Refuse keys of a hundred dotted parts, on which ``tomllib`` spends quadratic memory."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        *keys, last = line.split(b"=")
        heading = [last] if line.lstrip().startswith(b"[") else []
        if any(key.count(b".") > MAX_KEY_PARTS for key in (*keys, *heading)):
            raise InputError(f"{path}: line {number}: a key nested too deep; this is no plan file")


def _override(raw: dict[str, Any], overrides: Mapping[str, object]) -> None:
    """Write the overrides into the tables of a file; one way to name a thing ousts the others."""
    for key in ("model.name", "model.config", "cluster.spec", "cluster.graph"):
        table = raw.get(key.partition(".")[0])
        if key in overrides and isinstance(table, dict):
            table.clear()
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        table = raw.setdefault(section, {}) if section else raw
        if isinstance(table, dict):
            table[name] = value


def _validate(raw: dict[str, Any], report: _Report) -> PlanFile | None:
    tables = dict(raw)
    for section, why in FUTURE_SECTIONS.items():
        if tables.pop(section, None) is not None:
            report.lines.append(f"{report.source}[{section}]: {why}")
    for section in ("model", "cluster", "training"):
        tables.setdefault(section, {})
    try:
        return PlanFile.model_validate(tables)
    except ValidationError as error:
        details = error.errors()
        for detail in details[:MAX_MISTAKES]:
            _explain(detail, report)
        if len(details) > MAX_MISTAKES:
            report.lines.append(f"{report.source}and {len(details) - MAX_MISTAKES:,} more mistakes")
    return None


def _explain(detail: ErrorDetails, report: _Report) -> None:
    """Turn a mistake that pydantic found into one line of ours."""
    path = [str(part) for part in detail["loc"] if isinstance(part, str)]
    # Alternatives of a union append their own names to the path.
    path = path[:2]
    key = ".".join(path)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(path[0]) if len(path) > 1 else (*PlanFile.model_fields,)
        if len(path) == 1:
            what = f"{report.source}[{key}]" if isinstance(value, dict) else report.source + key
            report.lines.append(f"{what}: unknown section; {nearest(key, known)}")
        else:
            synonym = _SYNONYMS.get(path[1])
            hint = f"did you mean {synonym!r}?" if synonym in known else nearest(path[1], known)
            report.add(key, None, f"unknown key; {hint}")
        return
    if kind == "missing":
        report.lines.append(f"{report.source}{key}: missing; {_EXPECTED.get(key, 'give a value')}")
        return
    rule = _rule(kind, context)
    if rule is None:
        rule = detail["msg"].removeprefix("Value error, ").rstrip(".")
        rule = rule[0].lower() + rule[1:]
    line_count = len(report.lines)
    report.add(key, value, rule)
    if report.lines[-1] in report.lines[:line_count]:
        report.lines.pop()


_EXPECTED = {
    "training.seq_len": "tokens in a sequence, for example 8192 (--seq-len)",
    "training.global_batch_seqs": "sequences in a step, for example 1024 (--global-batch)",
}
_TYPES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "finite_number": "must be finite",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "dict_type": "must be a section of keys",
}


def _rule(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind == "greater_than_equal":
        return f"must be at least {_limit(context['ge'])}"
    if kind == "less_than_equal":
        return f"must be at most {_limit(context['le'])}"
    if kind == "greater_than":
        return f"must be more than {_limit(context['gt'])}"
    if kind == "string_too_long":
        return f"must be at most {_limit(context['max_length'])} characters"
    return _TYPES.get(kind)


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(section: str) -> tuple[str, ...]:
    return tuple(SECTIONS[section].model_fields) if section in SECTIONS else ()


def _resolve(
    kind: type[S], name: str, raw: Mapping[str, Any], look_up: Callable[[S], T | None]
) -> T | None:
    try:
        return look_up(kind.model_validate(raw.get(name, {})))
    except ValidationError:
        return None


def _beside(path: Path | None, name: str) -> Path:
    """Return a path that a plan file gives relative to itself."""
    given = Path(name).expanduser()
    return given if path is None else path.parent / given


def _model(section: ModelSection, path: Path | None, report: _Report) -> Model | None:
    if (section.name is None) == (section.config is None):
        rule = "give one of name (see: ridgeline models list) and config (a config.json)"
        report.add("model", None, rule)
        return None
    try:
        if section.name is not None:
            model = load_model(section.name)
        else:
            assert section.config is not None
            model = model_from_config(_beside(path, section.config))
    except InputError as error:
        key = "model.name" if section.config is None else "model.config"
        file = "" if section.config is None else f"{_beside(path, section.config)}: "
        for line in error.problems:
            rule = _without_subject(line.removeprefix(file))
            report.add(key, section.name or section.config, rule)
        return None
    return _routed(model, section, path, report)


def _routed(model: Model, section: ModelSection, path: Path | None, report: _Report) -> Model:
    """Return the model with the capacity and the load of experts that the section gives."""
    if section.capacity_factor is not None:
        try:
            model = with_routing(model, capacity_factor=section.capacity_factor)
        except InputError as error:
            for line in error.problems:
                report.add("model.capacity_factor", section.capacity_factor, line)
    load = section.expert_load
    if load is not None:
        try:
            values = read_expert_load(_beside(path, load)) if isinstance(load, str) else load
            model = with_routing(model, load=values)
        except InputError as error:
            for line in error.problems:
                report.add("model.expert_load", load, line)
    return model


_PARTS = (
    "accel_per_node",
    "fabric",
    "scaleout_gb_per_s",
    "oversubscription",
    "rails",
    "nic_efficiency",
)
"""Facts of a cluster made from a short name, which a graph states link by link."""


def _cluster(section: ClusterSection, path: Path | None, report: _Report) -> Cluster | None:
    if section.graph is not None:
        return _graph_cluster(section, path, report)
    if section.spec is None and not (section.accelerator and section.count):
        rule = "give spec, for example '128x8xh100-sxm', or accelerator and count (--cluster)"
        report.add("cluster", None, rule)
        return None
    if section.spec is None:
        key, spec = "cluster.accelerator", f"{section.count}x{section.accelerator}"
    else:
        key, spec = "cluster.spec", section.spec
        for part in ("accelerator", "count"):
            if getattr(section, part) is not None:
                rule = "spec says it too; keep one of them"
                report.add(f"cluster.{part}", getattr(section, part), rule)
    gb_per_s = section.scaleout_gb_per_s
    try:
        return make_cluster(
            spec,
            per_node=section.accel_per_node,
            fabric=section.fabric,
            scaleout_bytes_per_s=None if gb_per_s is None else gb_per_s * 1e9,
            oversubscription=section.oversubscription,
            rails=section.rails,
            nic_efficiency=section.nic_efficiency,
        )
    except InputError as error:
        shown = section.accelerator if section.spec is None else spec
        for line in error.problems:
            rule = re.sub(r"^per_node\b", "accel_per_node", _without_subject(line))
            report.add(key, shown, rule)
    return None


def _graph_cluster(section: ClusterSection, path: Path | None, report: _Report) -> Cluster | None:
    for part in ("spec", "count", *_PARTS):
        if getattr(section, part) is not None:
            report.add(f"cluster.{part}", getattr(section, part), "the graph says it; leave it out")
    if section.accelerator is None:
        rule = "a graph needs it, for example 'h100-sxm' (ridgeline hardware list)"
        report.add("cluster.accelerator", None, rule)
        return None
    assert section.graph is not None
    try:
        accelerator = load_accelerator(section.accelerator)
    except InputError as error:
        for line in error.problems:
            report.add("cluster.accelerator", section.accelerator, _without_subject(line))
        return None
    from ridgeline.hardware.graph import cluster_from_graph, read_graph

    where = _beside(path, section.graph)
    try:
        return cluster_from_graph(read_graph(where), accelerator, name=where.stem)
    except InputError as error:
        for line in error.problems:
            report.add("cluster.graph", section.graph, re.sub(r"^cluster graph .*?: ", "", line))
    return None


def _assemble(parsed: PlanFile, model: Model, cluster: Cluster, path: Path | None) -> Plan:
    parallel, training, run, money = parsed.parallel, parsed.training, parsed.run, parsed.money
    dp = parallel.dp
    if dp is None:
        dp = max(1, cluster.count // (parallel.tp * parallel.pp * parallel.cp))
    uneven = training.uneven_stages
    schedule = training.schedule or ("interleaved" if parallel.vpp > 1 else "1f1b")
    interval, rate = run.checkpoint_interval_s, run.failures_per_1000_node_days
    return Plan(
        name=parsed.name or (path.stem if path is not None else ""),
        model=model,
        cluster=cluster,
        stack=parsed.stack.name,
        parallel=Parallelism(
            **parallel.model_dump(exclude={"dp", "placement"}),
            dp=dp,
            placement=tuple(parallel.placement),
        ),
        training=Training(
            **training.model_dump(exclude={"schedule", "uneven_stages", "offload", "task"}),
            schedule=schedule,
            uneven_stages=bool(uneven),
            stage_layers=() if isinstance(uneven, bool) else tuple(uneven),
            offload=tuple(training.offload),
        ),
        run=RunOptions(
            **run.model_dump(exclude={"checkpoint_interval_s", "failures_per_1000_node_days"}),
            checkpoint_interval_s=-1.0 if interval == "auto" else interval,
            failures_per_1000_node_days=-1.0 if rate == "auto" else rate,
        ),
        money=Money(**money.model_dump(exclude={"pue"}), pue=money.pue or 0.0),
    )
