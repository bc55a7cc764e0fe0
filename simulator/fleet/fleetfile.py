"""The fleet file: read, checked and turned into a ``Fleet``, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from ridgeline.errors import InfeasibleError, InputError, nearest
from ridgeline.hardware import load_accelerator
from ridgeline.simulator.fleet.arrivals import job_of
from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy
from ridgeline.simulator.fleet.checks import mistakes, too_many
from ridgeline.simulator.fleet.policies import make_policy
from ridgeline.simulator.fleet.pools import HOUR_S, make_checkpoints, make_pool, traffic_of
from ridgeline.simulator.fleet.replicas import ReplicaAsk, ReplicaRate, replica_rate
from ridgeline.simulator.fleet.schema import (
    ArrivalsTable,
    FleetFile,
    JobTable,
    PoolTable,
    ServiceTable,
    TraceTable,
    parse_fleet,
)
from ridgeline.simulator.fleet.spec import Arrivals, Fleet, Job, Pool, Rates, Service
from ridgeline.simulator.fleet.speeds import Ask, training_rates
from ridgeline.simulator.planfile import read_tables
from ridgeline.simulator.stacks import usual_stack
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.jobs import read_jobs


def read_fleet(path: str | Path, overrides: Mapping[str, object] | None = None) -> Fleet:
    """Read a fleet file.

    Parameters
    ----------
    path
        A TOML file; paths in it are relative to its folder.
    overrides
        Key -> value, each in place of what the file says: a key of the top level, ``pool.KEY`` of
        every pool, or ``checkpoint.KEY``.

    Raises
    ------
    InputError
        With all mistakes of the file, one line each.
    InfeasibleError
        A job's model fits on no allocation of a pool that it names.
    """
    where = Path(path)
    source = f"{where}: "
    wrong: list[str] = []
    file = parse_fleet(_overridden(read_tables(where), overrides or {}), source, wrong)
    if file is None:
        raise InputError(wrong)
    builder = _Builder(file, where, wrong, source)
    fleet = builder.build()
    if wrong:
        raise InputError(wrong)
    return fleet


def _overridden(tables: Mapping[str, Any], overrides: Mapping[str, object]) -> dict[str, Any]:
    found = dict(tables)
    for key, value in overrides.items():
        table, dot, name = key.partition(".")
        given = found.get(table, {} if table == "checkpoint" else [])
        if not dot:
            found[key] = value
        elif isinstance(given, dict):
            found[table] = {**given, name: value}
        elif isinstance(given, list):
            found[table] = [{**one, name: value} if isinstance(one, dict) else one for one in given]
    return found


class _Builder:
    """From the tables of a file to a fleet."""

    def __init__(self, file: FleetFile, where: Path, wrong: list[str], source: str) -> None:
        self.file = file
        self.where = where
        self.wrong = wrong
        self.source = source
        self.pools: dict[str, Pool] = {}
        self.rates: dict[tuple[Any, ...], dict[str, Rates]] = {}

    def build(self) -> Fleet:
        file = self.file
        for tables in (file.pool, file.job, file.arrivals, file.service):
            self._distinct(tables)
        for table in file.pool:
            pool = self._tried(f"pool {table.name!r}", partial(make_pool, table))
            if pool is not None:
                self.pools[table.name] = pool
        self._tried("policy", partial(make_policy, file.policy, file.options))
        saved = self._tried("checkpoint", partial(make_checkpoints, file.checkpoint))
        services: tuple[Service, ...] = ()
        jobs: tuple[Job, ...] = ()
        streams: tuple[Arrivals, ...] = ()
        said = sum(table.count for table in file.job) + sum(flow.jobs for flow in file.arrivals)
        for line in too_many(said):
            self._say(line)
        if not self.wrong:
            jobs = self._jobs()
            streams = tuple(filter(None, map(self._stream, file.arrivals)))
            services = tuple(filter(None, map(self._service, file.service)))
        if file.service and file.days is None:
            self._say("days: missing; services run for ever, so say how long to play")
        if not (file.job or file.arrivals or file.trace or file.service):
            self._say("nothing to run: add [[job]], [[arrivals]], [[trace]] or [[service]]")
        fleet = Fleet(
            name=file.name or self.where.stem,
            pools=tuple(self.pools.values()),
            jobs=jobs,
            arrivals=streams,
            services=services,
            policy=file.policy,
            options=file.options,
            placement=file.placement,
            checkpoints=saved or CheckpointPolicy(),
            horizon_s=inf if file.days is None else file.days * 86400.0,
            seed=file.seed,
        )
        if not self.wrong:
            self.wrong += [self.source + line for line in mistakes(fleet)]
        return fleet

    def _distinct(
        self, tables: Sequence[PoolTable | JobTable | ArrivalsTable | ServiceTable]
    ) -> None:
        seen: set[str] = set()
        for table in tables:
            kind = type(table).__name__.removesuffix("Table").lower()
            if table.name in seen:
                self._say(f"{kind} {table.name!r}: named twice; names must differ")
            seen.add(table.name)

    def _say(self, line: str) -> None:
        self.wrong.append(self.source + line)

    def _tried(self, what: str, make: Any) -> Any:
        try:
            return make()
        except InputError as error:
            for problem in error.problems:
                line = problem.removeprefix("--")
                self._say(line if line.startswith(what) else f"{what}: {line}")
            return None

    def _jobs(self) -> tuple[Job, ...]:
        found: list[tuple[Job, list[str]]] = []
        for table in self.file.job:
            found += self._listed(table)
        for trace in self.file.trace:
            found += [(job, []) for job in self._traced(trace)]
        found.sort(key=lambda item: item[0].submitted_s)
        names: dict[str, list[int]] = {}
        for place, (job, _) in enumerate(found):
            names.setdefault(job.name, []).append(place)
            names.setdefault(job.name.partition("#")[0], []).append(place)
        jobs = []
        for job, after in found:
            for name in after:
                if name not in names:
                    self._say(
                        f"job {job.name!r}: after {name!r}: no such job; " + nearest(name, names)
                    )
            parents = {place for name in after for place in names.get(name, ())}
            jobs.append(replace(job, after=tuple(sorted(parents))))
        return tuple(jobs)

    def _named(self, pools: list[str] | None, what: str) -> list[str]:
        for name in pools or ():
            if name not in self.pools:
                self._say(f"{what}: no pool {name!r}; {nearest(name, self.pools)}")
        return [name for name in pools or self.pools if name in self.pools]

    def _listed(self, table: JobTable) -> list[tuple[Job, list[str]]]:
        what = f"job {table.name!r}"
        pools = self._named(table.pools, what)
        if (table.hours is None) == (table.model is None):
            self._say(f"{what}: give hours (and accelerators), or a model with its tokens")
            return []
        least = table.least or table.accelerators
        most = table.most or table.accelerators or least
        if least is None or most is None or most < least:
            self._say(f"{what}: give accelerators, or least and most of them, most at least least")
            return []
        counts = _sizes(least, most)
        nominal = table.accelerators or least
        if table.model is not None:
            rates, work = self._simulated(table, pools, counts), float(table.tokens or 0.0)
        else:
            assert table.hours is not None
            rates = self._stated(pools, counts, nominal, table)
            work = table.hours * HOUR_S
        if not rates:
            return []
        submitted = table.submit_h * HOUR_S
        job = Job(
            name=table.name,
            work=work,
            rates=rates,
            submitted_s=submitted,
            kind=table.kind,
            user=table.user,
            priority=table.priority,
            deadline_s=inf if table.deadline_h is None else submitted + table.deadline_h * HOUR_S,
            budget_usd=inf if table.budget_usd is None else table.budget_usd,
            accelerators=nominal,
            start_s=table.start_s,
        )
        if table.count == 1:
            return [(job, table.after)]
        return [
            (replace(job, name=f"{job.name}#{number}"), table.after)
            for number in range(1, table.count + 1)
        ]

    def _simulated(
        self, table: JobTable, pools: list[str], counts: tuple[int, ...]
    ) -> dict[str, Rates]:
        needed = ("seq_len", "global_batch_seqs", "tokens")
        missing = [key for key in needed if not getattr(table, key)]
        if missing:
            self._say(f"job {table.name!r}: missing {', '.join(missing)}, which a model needs")
            return {}
        if not float(table.tokens or 0.0) > 0.0:
            self._say(f"job {table.name!r}: tokens = {table.tokens:g}: must be above 0")
            return {}
        assert table.model is not None
        if self._tried(f"job {table.name!r}", partial(load_model, table.model)) is None:
            return {}
        assert table.seq_len is not None
        assert table.global_batch_seqs is not None
        rates, reasons = {}, []
        for name in pools:
            pool = self.pools[name]
            ask = Ask(
                model=table.model,
                accelerator=pool.accelerator,
                per_node=pool.per_node,
                counts=tuple(count for count in counts if count <= pool.accelerators),
                seq_len=table.seq_len,
                global_batch_seqs=table.global_batch_seqs,
                stack=table.stack or usual_stack(load_accelerator(pool.accelerator)),
                precision=table.precision,
                scaling=table.scaling,
            )
            if not ask.counts:
                self._say(
                    f"job {table.name!r}: needs {counts[0]:,} accelerators, and pool {name!r} has "
                    f"{pool.accelerators:,}; shrink the job or name another pool"
                )
                continue
            try:
                found = self._tried(f"job {table.name!r}", partial(training_rates, ask))
            except InfeasibleError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                rates[name] = found
        if not rates and reasons:
            raise InfeasibleError(f"job {table.name!r}: {reasons[0]}")
        return rates

    def _stated(
        self,
        pools: list[str],
        counts: tuple[int, ...],
        nominal: int,
        table: JobTable | ArrivalsTable | TraceTable,
    ) -> dict[str, Rates]:
        """Return Amdahl's speed on each allocation, 1 on the nominal one (Amdahl 1967)."""
        share = table.serial_share
        rates = Rates(
            counts=counts,
            per_s=tuple(1.0 / (share + (1.0 - share) * nominal / count) for count in counts),
            exposed_fraction=table.exposed_fraction,
            checkpoint_bytes=table.checkpoint_gb * 1e9,
        )
        # jobs alike share one object, by which their checkpoint costs are kept
        key = (tuple(pools), nominal, rates)
        return self.rates.setdefault(key, dict.fromkeys(pools, rates))

    def _stream(self, table: ArrivalsTable) -> Arrivals | None:
        what = f"arrivals {table.name!r}"
        pools = self._named(table.pools, what)
        weights = table.weights
        if weights is not None and (len(weights) != len(table.accelerators) or not sum(weights)):
            self._say(f"{what}.weights: must be as many as accelerators, and not all 0")
            return None
        return Arrivals(
            name=table.name,
            rate_per_s=table.rate_per_h / HOUR_S,
            jobs=table.jobs,
            sizes=tuple(table.accelerators),
            shares=() if weights is None else tuple(weight / sum(weights) for weight in weights),
            rates={size: self._stated(pools, (size,), size, table) for size in table.accelerators},
            mean_s=table.mean_h * HOUR_S,
            law=table.law,
            log_sd=table.log_sd,
            users=table.users,
            deadline_slack=table.deadline_slack,
            like=_like(table, table.name, table.user or table.name),
        )

    def _traced(self, table: TraceTable) -> list[Job]:
        pools = self._named(table.pools, f"trace {table.file!r}")
        file = self.where.parent / table.file
        jobs = self._tried(f"trace {table.file!r}", partial(read_jobs, file, table.format))
        like = _like(table, table.file, table.user)
        return [
            job_of(
                like,
                name=job.name,
                rates=self._stated(pools, (job.accelerators,), job.accelerators, table),
                submitted_s=job.submitted_s * table.time_scale,
                accelerators=job.accelerators,
                seconds=job.duration_s,
                user=job.user or table.user,
                slack=table.deadline_slack,
            )
            for job in (jobs or ())[: table.first]
        ]

    def _service(self, table: ServiceTable) -> Service | None:
        what = f"service {table.name!r}"
        traffic = self._tried(what, partial(traffic_of, table))
        rates = self._replica_rates(table, what)
        if traffic is None or not rates:
            return None
        replica = Job(
            name=table.name,
            work=inf,
            rates=rates,
            kind="service",
            priority=table.priority,
            accelerators=table.replica_accelerators,
            start_s=table.start_s,
        )
        return Service(
            name=table.name,
            replica=replica,
            traffic=traffic,
            slot_s=table.slot_h * HOUR_S,
            headroom=table.headroom,
            least=table.least,
        )

    def _replica_rates(self, table: ServiceTable, what: str) -> dict[str, Rates]:
        """Return the requests per second of a replica on each pool: stated, or simulated."""
        pools, count = self._named(table.pools, what), (table.replica_accelerators,)
        if table.requests_per_s is not None:
            stated = Rates(counts=count, per_s=(table.requests_per_s,))
            return dict.fromkeys(pools, stated)
        needed = ("model", "input_len", "output_len", "slo")
        missing = [key for key in needed if getattr(table, key) is None]
        if missing:
            self._say(
                f"{what}: missing {', '.join(missing)}, of which the rate of a replica follows; "
                "or state requests_per_s"
            )
            return {}
        rates: dict[str, Rates] = {}
        reasons = []
        for name in pools:
            try:
                found = self._tried(what, partial(_asked_rate, table, self.pools[name]))
            except InfeasibleError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                rates[name] = Rates(
                    counts=count, per_s=(found.requests_per_s,), plans=(found.plan,)
                )
        if not rates and reasons:
            raise InfeasibleError(f"{what}: {reasons[0]}")
        return rates


def _like(table: ArrivalsTable | TraceTable, name: str, user: str) -> Job:
    """Return what all jobs of a table have in common."""
    return Job(
        name=name,
        work=0.0,
        rates={},
        kind=table.kind,
        user=user,
        priority=table.priority,
        budget_usd=inf if table.budget_usd is None else table.budget_usd,
        start_s=table.start_s,
    )


def _asked_rate(table: ServiceTable, pool: Pool) -> ReplicaRate:
    assert table.model is not None
    assert table.input_len is not None
    assert table.output_len is not None
    assert table.slo is not None
    return replica_rate(
        ReplicaAsk(
            model=table.model,
            accelerator=pool.accelerator,
            accelerators=table.replica_accelerators,
            input_len=table.input_len,
            output_len=table.output_len,
            slo=table.slo,
            precision=table.precision,
            engine=table.engine,
        )
    )


def _sizes(least: int, most: int) -> tuple[int, ...]:
    """Return the allocations of an elastic job: doublings of the least up to the most."""
    sizes = [least]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)
