"""The TOML plan file: read, checked and turned into a ``Plan``, all mistakes reported together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator import legality
from ridgeline.simulator.plan import (
    SCHEDULE_SUFFIX,
    Money,
    Parallelism,
    Plan,
    RunOptions,
    Training,
    Tuning,
)
from ridgeline.simulator.plan_lookup import (
    check_provider,
    find_cluster,
    find_model,
    find_money,
)
from ridgeline.simulator.plan_mistakes import Mistakes
from ridgeline.simulator.plan_parse import AVERAGING, PEER, STAGE, P, parse_plan, parse_section
from ridgeline.simulator.plan_schema import ClusterSection, ModelSection, MoneySection, PlanFile
from ridgeline.simulator.plan_tuning import TUNING_KEYS, find_rollout, find_tuning
from ridgeline.simulator.plan_values import BALANCED
from ridgeline.simulator.stacks import usual_stack
from ridgeline.simulator.stages import balanced_layers
from ridgeline.workloads.inputs import masked
from ridgeline.workloads.model import Model

MAX_FILE_BYTES = 1 << 20
MAX_KEY_PARTS = 100
JOIN = "+"
"""Between the kinds of a cluster's short name (``mixed``)."""


def read_plan(
    path: str | Path | None,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    legal: bool = True,
    stage: int = 0,
    peer: int = 0,
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
    legal
        Refuse a plan that cannot run as it is split; False where the split is yet to be found.
    stage
        Which ``[[stage]]`` of the file, counted from 1; 0 for a file without any.
    peer
        Which ``[[peer]]``, alike.

    Raises
    ------
    InputError
        With all mistakes of the input, one line each.
    """
    where = None if path is None else Path(path)
    parsed, model, cluster, money, mistakes = read_file(
        where, overrides, labels, PlanFile, stage, peer
    )
    tuning = find_tuning(parsed.training, where, mistakes)
    rollout = find_rollout(parsed, mistakes)
    if mistakes.lines:
        raise InputError(mistakes.lines)
    for key, value in (
        ("parallel.across", parsed.parallel.across),
        ("training.batch_shares", parsed.training.batch_shares),
    ):
        if value:
            rule = (
                "is for a cluster of several kinds, as 8xa100-sxm-80gb + 8xh100-sxm; leave it out"
            )
            mistakes.add(key, value, rule)
    plan = _assemble(parsed, model, cluster, money, tuning, where)
    plan = _masked(replace(plan, rollout=rollout), parsed.model.masked, mistakes)
    check_provider(plan.money, cluster.accelerator, mistakes)
    for line in legality.problems(plan) if legal else ():
        mistakes.add_line(line)
    if mistakes.lines:
        raise InputError(mistakes.lines)
    return plan


def read_file(
    where: Path | None,
    overrides: Mapping[str, object] | None,
    labels: Mapping[str, str] | None,
    kind: type[P],
    stage: int = 0,
    peer: int = 0,
) -> tuple[P, Model, Cluster, Money, Mistakes]:
    """Return a file's sections, the model, cluster and prices they name, a list for mistakes.

    Raises
    ------
    InputError
        With all mistakes found, one line each.
    """
    overrides = overrides or {}
    labels = {key: (labels or {}).get(key, f"override {key}") for key in overrides}
    mistakes = Mistakes("" if where is None else f"{where}: ", labels)
    raw = read_tables(where)
    for name, number in ((STAGE, stage), (PEER, peer)):
        if number:
            mistakes.source += f"{name} {number}: "
            _merge(raw, raw.pop(name)[number - 1])
        elif name in raw:
            raise InputError(
                f"{where}: [[{name}]]: only ridgeline train answers a run in stages or among "
                f"peers; give a file without them"
            )
    if peer:
        raw.pop(AVERAGING, None)
    _override(raw, overrides)

    parsed = parse_plan(raw, mistakes, kind)
    # The names are looked up even when something else is wrong, so that all mistakes come at once.
    named = parse_section(ModelSection, raw.get("model", {}))
    model = None if named is None else find_model(named, where, mistakes)
    spread = parse_section(ClusterSection, raw.get("cluster", {}))
    cluster = None if spread is None else find_cluster(spread, where, mistakes)
    priced = parse_section(MoneySection, raw.get("money", {}))
    money = None if priced is None else find_money(priced, where, mistakes)
    if parsed is None or model is None or cluster is None or money is None or mistakes.lines:
        raise InputError(mistakes.lines)
    return parsed, model, cluster, money, mistakes


def read_tables(
    path: str | Path | None, overrides: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the tables of a plan file with the overrides in them, unchecked.

    Raises
    ------
    InputError
        The file cannot be read, or is not TOML.
    """
    tables = {} if path is None else _read_toml(Path(path))
    _override(tables, overrides or {})
    return tables


def joined_spec(tables: Mapping[str, Any]) -> str:
    """Return the short name of a cluster of several kinds, an empty text for any other."""
    cluster = tables.get("cluster")
    spec = cluster.get("spec") if isinstance(cluster, dict) else None
    return spec if isinstance(spec, str) and JOIN in spec else ""


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


def _merge(raw: dict[str, Any], table: object) -> None:
    """Write what a stage or peer says over what all of them share, a key at a time."""
    if not isinstance(table, dict):
        raise InputError("stages and peers must be tables, each [[stage]] or [[peer]]")
    said = {
        f"{section}.{key}": value
        for section, entries in table.items()
        if isinstance(entries, dict)
        for key, value in entries.items()
    }
    _override(raw, said | ({"name": table["name"]} if "name" in table else {}))


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


def _masked(plan: Plan, share: float, mistakes: Mistakes) -> Plan:
    """Return the plan with the sequences that are left where patches of images are masked.

    Tokens of the run, of the warm-up and of a sequence are those of whole images before.
    """
    training, run = plan.training, plan.run
    try:
        model, seq_len = masked(plan.model, training.seq_len, share)
    except InputError as error:
        for line in error.problems:
            key, _, rule = line.partition(": ")
            where = "model.masked" if key.startswith("masked") else "training.seq_len"
            mistakes.add(where, share if where == "model.masked" else training.seq_len, rule)
        return plan
    if model is plan.model:
        return plan
    left = seq_len / training.seq_len
    warm_up = run.batch_warmup_tokens * left
    return replace(
        plan,
        model=model,
        training=replace(training, seq_len=seq_len, tokens=training.tokens * left),
        run=replace(run, batch_warmup_tokens=warm_up),
    )


_NOT_COPIED = {
    "batch_shares",
    "schedule",
    "uneven_stages",
    "offload",
    "task",
    "lora_rank",
    *TUNING_KEYS,
}
"""Keys of the section that the plan says in another way."""


def _assemble(
    parsed: PlanFile,
    model: Model,
    cluster: Cluster,
    money: Money,
    tuning: Tuning,
    path: Path | None,
) -> Plan:
    parallel, training, run = parsed.parallel, parsed.training, parsed.run
    dp = parallel.dp
    if dp is None:
        dp = max(1, cluster.count // (parallel.tp * parallel.pp * parallel.cp))
    uneven = training.uneven_stages
    stage_layers: tuple[int, ...] = ()
    if uneven == BALANCED:
        parts = parallel.pp * parallel.vpp
        stage_layers = balanced_layers(model, training.seq_len, parts)
    elif isinstance(uneven, list):
        stage_layers = tuple(uneven)
    schedule = training.schedule or ("interleaved" if parallel.vpp > 1 else "1f1b")
    if schedule.endswith(SCHEDULE_SUFFIX) and path is not None:
        schedule = str(path.parent / Path(schedule).expanduser())
    interval, rate = run.checkpoint_interval_s, run.failures_per_1000_node_days
    return Plan(
        name=parsed.name or (path.stem if path is not None else ""),
        model=model,
        cluster=cluster,
        stack=parsed.stack.name or usual_stack(cluster.accelerator),
        parallel=Parallelism(
            **parallel.model_dump(exclude={"dp", "placement", "across"}),
            dp=dp,
            placement=tuple(parallel.placement),
        ),
        training=Training(
            **training.model_dump(exclude=_NOT_COPIED),
            lora_rank=training.lora_rank if training.task in ("lora", "qlora") else 0,
            tuning=tuning,
            schedule=schedule,
            uneven_stages=bool(uneven),
            stage_layers=stage_layers,
            offload=tuple(training.offload),
        ),
        run=RunOptions(
            **run.model_dump(exclude={"checkpoint_interval_s", "failures_per_1000_node_days"}),
            checkpoint_interval_s=-1.0 if interval == "auto" else interval,
            failures_per_1000_node_days=-1.0 if rate == "auto" else rate,
        ),
        money=money,
    )
