"""The fleet file: read, checked and turned into a ``Fleet``, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.errors import InfeasibleError, InputError, nearest
from ridgeline.hardware.energy import average_power_w, host_power_w, pue_of
from ridgeline.hardware.prices import NoQuoteError, price
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.hardware.reliability import failures_per_node_day
from ridgeline.simulator.fleet.checkpoints import CheckpointPolicy, Tiers
from ridgeline.simulator.fleet.failures import REPAIR_S, FailureModel, spot_reclaims
from ridgeline.simulator.fleet.policies import make_policy
from ridgeline.simulator.fleet.schema import (
    ArrivalsTable,
    CheckpointTable,
    FleetFile,
    JobTable,
    PoolTable,
    ServiceTable,
    TraceTable,
    parse_fleet,
)
from ridgeline.simulator.fleet.spec import Fleet, Job, Pool, Rates, Service
from ridgeline.simulator.fleet.speeds import Ask, training_rates
from ridgeline.simulator.planfile import read_tables
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.jobs import read_jobs

HOUR_S = 3600.0


def read_fleet(path: str | Path, overrides: Mapping[str, object] | None = None) -> Fleet:
    """Read a fleet file.

    Parameters
    ----------
    path
        A TOML file; paths in it are relative to its folder.
    overrides
        Top-level key -> value, each in place of what the file says.

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
    file = parse_fleet({**read_tables(where), **(overrides or {})}, source, wrong)
    if file is None:
        raise InputError(wrong)
    builder = _Builder(file, where, wrong, source)
    fleet = builder.build()
    if wrong:
        raise InputError(wrong)
    return fleet


def mistakes(fleet: Fleet) -> list[str]:
    """Return what keeps a fleet from being played: too large gangs, circles, unknown pools."""
    wrong: list[str] = []
    room = {pool.name: pool.accelerators - _spares(pool) * pool.per_node for pool in fleet.pools}
    for job in [*fleet.jobs, *(service.replica for service in fleet.services)]:
        if not job.work > 0:
            wrong.append(f"job {job.name!r}: work = {job.work}: must be above 0")
        for name in job.rates:
            if name not in room:
                wrong.append(f"job {job.name!r}: no pool {name!r}; {nearest(name, room)}")
            elif job.asks(name) > room[name]:
                wrong.append(
                    f"job {job.name!r}: needs {job.asks(name):,} accelerators, and pool {name!r} "
                    f"has {room[name]:,} beside spares; shrink the job or name another pool"
                )
    circle = _circle(fleet.jobs)
    if circle:
        names = " -> ".join(fleet.jobs[place].name for place in (*circle, circle[0]))
        wrong.append(f"job {fleet.jobs[circle[0]].name!r}: waits for itself: {names}")
    return wrong


def _spares(pool: Pool) -> int:
    model = pool.failures
    if model is None:
        return 0
    return model.spare_nodes(int(pool.nodes / (1.0 + model.spare_fraction)))


def _circle(jobs: Sequence[Job]) -> list[int]:
    """Return places of jobs that wait for each other, empty when there are none."""
    left = {place: set(job.after) for place, job in enumerate(jobs) if job.after}
    free = [place for place, job in enumerate(jobs) if not job.after]
    children: dict[int, list[int]] = {}
    for place, parents in left.items():
        for parent in parents:
            children.setdefault(parent, []).append(place)
    while free:
        done = free.pop()
        for child in children.get(done, ()):
            left[child].discard(done)
            if not left[child]:
                del left[child]
                free.append(child)
    if not left:
        return []
    path = [min(left)]
    while True:
        following = min(parent for parent in left[path[-1]] if parent in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


class _Builder:
    """From the tables of a file to a fleet."""

    def __init__(self, file: FleetFile, where: Path, wrong: list[str], source: str) -> None:
        self.file = file
        self.where = where
        self.wrong = wrong
        self.source = source
        self.pools: dict[str, Pool] = {}
        self.rng = np.random.default_rng([file.seed, 0])
        self.rates: dict[tuple[Any, ...], dict[str, Rates]] = {}

    def build(self) -> Fleet:
        file = self.file
        for table in file.pool:
            if table.name in self.pools:
                self._say(f"pool {table.name!r}: named twice")
            pool = self._tried(f"pool {table.name!r}", partial(_pool, table))
            if pool is not None:
                self.pools[table.name] = pool
        self._tried("policy", partial(make_policy, file.policy, file.options))
        saved = self._tried("checkpoint", partial(_checkpoints, file.checkpoint))
        services: tuple[Service, ...] = ()
        jobs: tuple[Job, ...] = ()
        if not self.wrong:
            jobs = self._jobs()
            services = tuple(self._service(table) for table in file.service)
        if file.service and file.days is None:
            self._say("days: missing; services run for ever, so say how long to play")
        if not (file.job or file.arrivals or file.trace or file.service):
            self._say("nothing to run: add [[job]], [[arrivals]], [[trace]] or [[service]]")
        fleet = Fleet(
            name=file.name or self.where.stem,
            pools=tuple(self.pools.values()),
            jobs=jobs,
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

    def _say(self, line: str) -> None:
        self.wrong.append(self.source + line)

    def _tried(self, what: str, make: Any) -> Any:
        try:
            return make()
        except InputError as error:
            for line in error.problems:
                self._say(line if line.startswith(what) else f"{what}: {line}")
            return None

    def _jobs(self) -> tuple[Job, ...]:
        found: list[tuple[Job, list[str]]] = []
        for table in self.file.job:
            found += self._listed(table)
        for flow in self.file.arrivals:
            found += [(job, []) for job in self._random(flow)]
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
            rates = self._stated(pools, counts, nominal, table.serial_share, table.checkpoint_gb)
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
                stack=table.stack,
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
        serial_share: float,
        checkpoint_gb: float,
    ) -> dict[str, Rates]:
        """Return Amdahl's speed on each allocation, 1 on the nominal one (Amdahl 1967)."""
        key = (tuple(pools), counts, nominal, serial_share, checkpoint_gb)
        if key not in self.rates:
            rates = Rates(
                counts=counts,
                per_s=tuple(
                    1.0 / (serial_share + (1.0 - serial_share) * nominal / count)
                    for count in counts
                ),
                checkpoint_bytes=checkpoint_gb * 1e9,
            )
            self.rates[key] = dict.fromkeys(pools, rates)
        return self.rates[key]

    def _random(self, table: ArrivalsTable) -> list[Job]:
        what = f"arrivals {table.name!r}"
        pools, rng, n = self._named(table.pools, what), self.rng, table.jobs
        if table.weights is not None and (
            len(table.weights) != len(table.accelerators) or not sum(table.weights)
        ):
            self._say(f"{what}.weights: must be as many as accelerators, and not all 0")
            return []
        at = np.cumsum(rng.exponential(HOUR_S / table.rate_per_h, n))
        share = None if table.weights is None else np.array(table.weights) / sum(table.weights)
        size = rng.choice(table.accelerators, n, p=share)
        mean = table.mean_h * HOUR_S
        if table.law == "exponential":
            work = rng.exponential(mean, n)
        elif table.law == "lognormal":
            work = rng.lognormal(np.log(mean) - table.log_sd**2 / 2.0, table.log_sd, n)
        else:
            work = np.full(n, mean)
        user = rng.integers(0, table.users, n)
        named = table.user or table.name
        rows = zip(at.tolist(), size.tolist(), work.tolist(), user.tolist(), strict=True)
        return [
            self._one(
                table, pools, f"{table.name}/{number}", t, k, w,
                f"{named}/{u}" if table.users > 1 else named,
                table.deadline_slack,
            )
            for number, (t, k, w, u) in enumerate(rows)
        ]  # fmt: skip

    def _traced(self, table: TraceTable) -> list[Job]:
        pools = self._named(table.pools, f"trace {table.file!r}")
        file = self.where.parent / table.file
        jobs = self._tried(f"trace {table.file!r}", partial(read_jobs, file, table.format))
        return [
            self._one(
                table, pools, job.name, job.submitted_s * table.time_scale, job.accelerators,
                job.duration_s, job.user or table.user, table.deadline_slack,
            )
            for job in (jobs or ())[: table.first]
        ]  # fmt: skip

    def _one(
        self,
        table: ArrivalsTable | TraceTable,
        pools: list[str],
        name: str,
        submitted_s: float,
        accelerators: int,
        seconds: float,
        user: str,
        slack: float | None,
    ) -> Job:
        return Job(
            name=name,
            work=max(seconds, 1e-3),
            rates=self._stated(
                pools, (accelerators,), accelerators, table.serial_share, table.checkpoint_gb
            ),
            submitted_s=submitted_s,
            kind=table.kind,
            user=user,
            priority=table.priority,
            deadline_s=inf if slack is None else submitted_s + slack * seconds,
            budget_usd=inf if table.budget_usd is None else table.budget_usd,
            accelerators=accelerators,
            start_s=table.start_s,
        )

    def _service(self, table: ServiceTable) -> Service:
        pools = self._named(table.pools, f"service {table.name!r}")
        count = table.replica_accelerators
        replica = Job(
            name=table.name,
            work=inf,
            rates=self._stated(pools, (count,), count, 0.0, 0.0),
            kind="service",
            priority=table.priority,
            accelerators=count,
            start_s=table.start_s,
        )
        return Service(
            name=table.name,
            replica=replica,
            requests_per_s=table.requests_per_s,
            traffic=tuple(table.traffic),
            slot_s=table.slot_h * HOUR_S,
            headroom=table.headroom,
            least=table.least,
        )


def _sizes(least: int, most: int) -> tuple[int, ...]:
    """Return the allocations of an elastic job: doublings of the least up to the most."""
    sizes = [least]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


def _checkpoints(table: CheckpointTable) -> CheckpointPolicy:
    values = table.model_dump(exclude={"store_gb_per_s"})
    return CheckpointPolicy(**values, tiers=Tiers(store_bytes_per_s=table.store_gb_per_s * 1e9))


def _pool(table: PoolTable) -> Pool:
    profile = load_accelerator(table.accelerator)
    per_node = table.per_node or profile.per_node
    kind = table.price_kind or ("spot" if table.spot else "on-demand")
    usd = table.usd_per_accelerator_hour
    if usd is None:
        try:
            usd = price(profile.name, kind).usd_per_hour
        except NoQuoteError:
            if table.price_kind is not None:
                raise
            usd = 0.0
    pue = pue_of()
    host = host_power_w(profile)
    return Pool(
        name=table.name,
        accelerator=profile.name,
        nodes=table.nodes,
        per_node=per_node,
        nodes_per_rack=table.nodes_per_rack,
        racks_per_pod=table.racks_per_pod,
        rack_oversubscription=table.rack_oversubscription,
        pod_oversubscription=table.pod_oversubscription,
        spot=table.spot,
        usd_per_accelerator_hour=usd,
        pay=table.pay or ("used" if table.spot else "all"),
        busy_w=(average_power_w(profile, 1.0) + host) * pue,
        idle_w=(average_power_w(profile, 0.0) + host) * pue,
        peak_flops=profile.peak(table.precision),
        failures=_failures(table, per_node),
    )


def _failures(table: PoolTable, per_node: int) -> FailureModel | None:
    given = table.failures_per_1000_node_days
    if table.failures == "none" and given is None and not table.reclaims_per_1000_node_days:
        return None
    if table.failures == "none" and given is None:
        model = FailureModel(causes=())
    else:
        if table.failures != "none":
            failures_per_node_day(table.failures, per_node)
        model = FailureModel.published(
            **({} if table.failures == "none" else {"fleet": table.failures}),
            per_node=per_node,
            per_node_day=None if given is None else given / 1000.0,
            repair_s=REPAIR_S if table.repair_h is None else table.repair_h * HOUR_S,
            shape=table.weibull_shape,
            switch_share=table.switch_share,
            stragglers=table.stragglers,
        )
    if table.reclaims_per_1000_node_days:
        reclaims = spot_reclaims(
            table.reclaims_per_1000_node_days / 1000.0, table.reclaimed_h * HOUR_S
        )
        model = replace(model, causes=(*model.causes, reclaims))
    return replace(
        model,
        nodes_per_rack=table.nodes_per_rack,
        spare_fraction=table.spares,
        detect_s=table.detect_s,
        requeue_s=table.requeue_s,
    )
