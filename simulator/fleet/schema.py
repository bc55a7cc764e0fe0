"""What a fleet file may say: its tables, their keys, types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from ridgeline.errors import nearest
from ridgeline.simulator.fleet.failures import SLOW_NODE_SHARE
from ridgeline.simulator.fleet.spec import KINDS, PLACEMENTS
from ridgeline.simulator.plan_values import parse_count

Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Hours = Annotated[float, Field(ge=0, le=1e7)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, PlainValidator(parse_count)]
Rate = Annotated[float, Field(ge=0, le=1e12)]
Bandwidth = Annotated[float, Field(gt=0, le=1e9)]
MOST_JOBS = 2_000_000
"""Of a fleet: each takes some 4 kB while it plays."""


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PoolTable(_Table):
    """``[[pool]]``: accelerators of one kind."""

    name: Name
    accelerator: Name
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    per_node: Count | None = None
    nodes_per_rack: Count = 4
    racks_per_pod: Count = 8
    rack_oversubscription: Annotated[float, Field(ge=1, le=1000)] = 1.0
    pod_oversubscription: Annotated[float, Field(ge=1, le=1000)] = 1.0
    spot: bool = False
    price_kind: Name | None = None
    usd_per_accelerator_hour: Annotated[float, Field(ge=0, le=1e6)] | None = None
    pay: Literal["all", "used"] | None = None
    precision: Name = "bf16"
    failures: Name = "meta-llama3"
    failures_per_1000_node_days: Annotated[float, Field(ge=0, le=1e6)] | None = None
    weibull_shape: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    switch_share: Share = 0.0
    stragglers: Share = SLOW_NODE_SHARE
    slow_links_per_1000_node_days: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    new: bool = False
    repair_h: Hours | None = None
    spares: Annotated[float, Field(ge=0, le=1)] = 0.0
    detect_s: Annotated[float, Field(ge=0, le=1e7)] = 300.0
    requeue_s: Annotated[float, Field(ge=0, le=1e7)] = 600.0
    reclaims_per_1000_node_days: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    reclaimed_h: Hours = 1.0


class _Work(_Table):
    """What jobs of every origin have in common."""

    pools: Annotated[list[Name], Field(min_length=1)] | None = None
    kind: Literal["training", "fine-tuning"] = "training"
    user: Annotated[str, Field(max_length=200)] = ""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    start_s: Annotated[float, Field(ge=0, le=1e7)] = 60.0
    serial_share: Share = 0.0
    exposed_fraction: Share = 0.0
    checkpoint_gb: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    budget_usd: Annotated[float, Field(gt=0, le=1e12)] | None = None


class JobTable(_Work):
    """``[[job]]``: one job, or several alike."""

    name: Name
    count: Annotated[int, Field(ge=1, le=MOST_JOBS)] = 1
    accelerators: Count | None = None
    least: Count | None = None
    most: Count | None = None
    hours: Annotated[float, Field(gt=0, le=1e7)] | None = None
    model: Name | None = None
    seq_len: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    global_batch_seqs: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    tokens: Amount | None = None
    stack: Name | None = None
    precision: Name = "bf16"
    scaling: Literal["best", "data-parallel", "rule-of-thumb"] = "best"
    submit_h: Hours = 0.0
    deadline_h: Annotated[float, Field(gt=0, le=1e7)] | None = None
    after: list[Name] = []


class ArrivalsTable(_Work):
    """``[[arrivals]]``: jobs that come at random."""

    name: Name
    rate_per_h: Annotated[float, Field(gt=0, le=1e7)]
    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS)]
    accelerators: Annotated[list[Count], Field(min_length=1)]
    weights: list[Annotated[float, Field(ge=0, le=1e9)]] | None = None
    mean_h: Annotated[float, Field(gt=0, le=1e7)]
    law: Literal["exponential", "fixed", "lognormal"] = "exponential"
    log_sd: Annotated[float, Field(ge=0, le=10)] = 1.0
    users: Count = 1
    deadline_slack: Annotated[float, Field(gt=0, le=1e6)] | None = None


class TraceTable(_Work):
    """``[[trace]]``: jobs out of a cluster's log."""

    file: Annotated[str, Field(min_length=1, max_length=4000)]
    format: Literal["auto", "philly", "helios", "pai", "plain"] = "auto"
    first: Annotated[int, Field(ge=1, le=MOST_JOBS)] | None = None
    time_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    deadline_slack: Annotated[float, Field(gt=0, le=1e6)] | None = None


class ServiceTable(_Table):
    """``[[service]]``: replicas that follow traffic."""

    name: Name
    pools: Annotated[list[Name], Field(min_length=1)] | None = None
    replica_accelerators: Count
    requests_per_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    model: Name | None = None
    input_len: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    output_len: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    slo: Name | None = None
    engine: Annotated[str, Field(max_length=200)] = ""
    precision: Name = "bf16"
    traffic: Annotated[list[Rate], Field(min_length=1)] | None = None
    mean_requests_per_s: Rate | None = None
    swing: Share = 0.0
    peak_h: Annotated[float, Field(ge=0, lt=24)] = 14.0
    slot_h: Annotated[float, Field(gt=0, le=1e5)] = 1.0
    headroom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    least: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 100
    start_s: Annotated[float, Field(ge=0, le=1e7)] = 60.0


class CheckpointTable(_Table):
    """``[checkpoint]``: how jobs save themselves."""

    kind: Literal["synchronous", "asynchronous", "in-memory"] = "synchronous"
    interval: Annotated[float, Field(gt=0, le=1e9)] | Literal["young-daly", "optimised"] = (
        "young-daly"
    )
    copies: Annotated[int, Field(ge=2, le=100)] = 2
    data: Annotated[int, Field(ge=0, le=1000)] = 0
    parity: Annotated[int, Field(ge=0, le=1000)] = 0
    store_interval_s: Annotated[float, Field(gt=0, le=1e9)] = 10800.0
    gpu_to_host_gb_per_s: Bandwidth | None = None
    host_to_nvme_gb_per_s: Bandwidth | None = None
    peer_gb_per_s: Bandwidth | None = None
    store_gb_per_s: Bandwidth | None = None


class FleetFile(_Table):
    """The whole file."""

    name: Annotated[str, Field(max_length=200)] = ""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    days: Annotated[float, Field(gt=0, le=1e5)] | None = None
    policy: Name = "fifo"
    placement: Literal["packed", "spread"] = "packed"
    options: dict[str, Annotated[float, Field(strict=False)]] = {}
    checkpoint: CheckpointTable = Field(default_factory=CheckpointTable)
    pool: Annotated[list[PoolTable], Field(min_length=1)]
    job: list[JobTable] = []
    arrivals: list[ArrivalsTable] = []
    trace: list[TraceTable] = []
    service: list[ServiceTable] = []


assert set(get_args(FleetFile.model_fields["placement"].annotation)) == set(PLACEMENTS)
assert set(get_args(_Work.model_fields["kind"].annotation)) < set(KINDS)

_TABLES: dict[str, type[_Table]] = {
    "pool": PoolTable,
    "job": JobTable,
    "arrivals": ArrivalsTable,
    "trace": TraceTable,
    "service": ServiceTable,
    "checkpoint": CheckpointTable,
}
_RULES = {
    "missing": "missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} entry",
    "finite_number": "must be finite",
    "model_type": "must be a table of keys",
    "dict_type": "must be a table of keys",
    "literal_error": "must be {expected}",
}


def parse_fleet(tables: Mapping[str, Any], source: str, wrong: list[str]) -> FleetFile | None:
    """Return the tables as a fleet, or None with all that is wrong in ``wrong``."""
    try:
        return FleetFile.model_validate(dict(tables))
    except ValidationError as error:
        for detail in error.errors():
            line = _say(detail["loc"], detail, tables, source)
            if line not in wrong:
                wrong.append(line)
    return None


def _say(loc: tuple[int | str, ...], detail: Any, tables: Mapping[str, Any], source: str) -> str:
    """Turn a mistake that pydantic found into one line of ours."""
    table = str(loc[0])
    place, rest = table, loc[1:]
    if rest and isinstance(rest[0], int) and table in _TABLES:
        entry = tables[table][rest[0]]
        named = entry.get("name") if isinstance(entry, dict) else None
        place, rest = f"{table} {named!r}" if named else f"{table} {rest[0] + 1}", rest[1:]
    key = str(rest[0]) if rest else ""
    if detail["type"] == "extra_forbidden":
        kind = _TABLES[table] if key else FleetFile
        return f"{source}{place}{'.' + key if key else ''}: unknown; " + nearest(
            key or table, kind.model_fields
        )
    where = f"{source}{place}{'.' + key if key else ''}"
    value = detail["input"]
    shown = "" if isinstance(value, dict | list) else f" = {value!r:.60}"
    rule = _RULES.get(detail["type"])
    if rule is None:
        said = detail["msg"].removeprefix("Value error, ")
        rule = said[0].lower() + said[1:]
    else:
        rule = rule.format(**detail.get("ctx", {}))
    return f"{where}{shown}: {rule}"
