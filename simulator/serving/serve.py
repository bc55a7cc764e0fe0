"""Services and traffic -> what users see and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.serving.adapted import adapter_bytes, adapter_loads
from ridgeline.simulator.serving.billing import bill_of
from ridgeline.simulator.serving.coserve import FineTuning, fine_tuning, finetune_bytes
from ridgeline.simulator.serving.deployment import Deployment, default_router, make_pools
from ridgeline.simulator.serving.engines import load_engine
from ridgeline.simulator.serving.idealized import idealized_runtime
from ridgeline.simulator.serving.inputs import answer_problem, prompt_problem
from ridgeline.simulator.serving.play import (
    FINISHED,
    NOT_ARRIVED,
    REASONS,
    REJECTED,
    ROLES,
    RUNNING,
    Played,
    Pool,
    play_pools,
)
from ridgeline.simulator.serving.policy import Policy
from ridgeline.simulator.serving.ranges import GRADES, ServiceRange, service_range
from ridgeline.simulator.serving.results import (
    KvUse,
    ServingResult,
    Slo,
    Spread,
    check_conservation,
    gaps,
    user_uses,
)
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import make_shape
from ridgeline.simulator.serving.tables import IterationTables
from ridgeline.simulator.serving.variants import variants_on, zipf
from ridgeline.workloads.traffic.traffic import Traffic

MOST_KV_LINES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A prediction and the play behind it."""

    result: ServingResult
    played: Played


def serve(
    deployed: Service | Sequence[Deployment],
    traffic: Traffic,
    *,
    router: str = "",
    slo: Slo | None = None,
    warm_up: int = 0,
    sampled_seed: int | None = None,
    seed: int = 0,
    until_s: float = math.inf,
    log_lines: int = 4096,
) -> Serving:
    """Predict how a service answers a traffic.

    Parameters
    ----------
    deployed
        One service, or several pools behind a router.
    traffic
        What is asked.
    router
        round-robin, least-loaded or prefix-aware; by default prefix-aware where a pool caches
        prefixes, else least-loaded.
    slo
        Limits that goodput counts.
    warm_up
        First requests that percentiles, goodput and throughput leave out.
    sampled_seed
        Draw the tokens that every verification of drafts accepts from this seed; None takes the
        expected number.
    seed
        Of the adapters that requests ask for, and of whose they are.
    until_s
        Cut off here.
    log_lines
        Iterations kept for a timeline and the use of the cache over time.

    Raises
    ------
    InputError
        What cannot be: replicas that do not fit the cluster, engines, limits, traffic.
    InfeasibleError
        Weights or cache that do not fit.
    """
    single = (Deployment(service=deployed),) if isinstance(deployed, Service) else tuple(deployed)
    _check(single, warm_up, traffic)
    pools = make_pools(single)
    router = router or default_router(pools)
    steps = None
    if sampled_seed is not None:
        speculation = single[-1].service.speculation
        steps = sampled_steps(
            traffic.output_tokens, speculation.tokens, speculation.acceptance, sampled_seed
        )
    loads_s, adapters = _adapters(single, traffic, seed)
    users = _users(single, traffic, seed)
    played = play_pools(
        pools,
        traffic,
        router=router,
        steps=steps,
        loads_s=loads_s,
        users=users,
        until_s=until_s,
        log_lines=log_lines,
    )
    check_conservation(played)
    closed = traffic.concurrency > 0
    result = summarise(single, pools, played, router, slo or Slo(), warm_up, closed=closed)
    departs = variants_on(single[-1].service)
    if departs:
        caution = f"no measured service had {', '.join(departs)}: the range does not cover it"
        result = replace(
            result,
            provenance=(*result.provenance, *adapters),
            warnings=(*result.warnings, caution),
            finetuning=_finetuning(single, pools, played),
            users=() if users is None else user_uses(played, users),
        )
    return Serving(result=result, played=played)


def _users(deployed: Sequence[Deployment], traffic: Traffic, seed: int) -> NDArray[np.int64] | None:
    """Draw whose each request is; later turns are those of the first one's user."""
    users = deployed[0].service.users
    if users.count < 2:
        return None
    rng = np.random.default_rng([seed, 7])
    drawn = rng.choice(users.count, len(traffic), p=np.array(zipf(users.count, users.skew)))
    for turn in np.flatnonzero(traffic.after >= 0).tolist():
        drawn[turn] = drawn[traffic.after[turn]]
    return drawn.astype(np.int64)


def _finetuning(
    deployed: Sequence[Deployment], pools: Sequence[Pool], played: Played
) -> FineTuning | None:
    """Return what fine-tuning gets beside the requests, None where there is none."""
    service = deployed[0].service
    if not service.finetune.rank:
        return None
    return fine_tuning(service, pools[0].tables, played, finetune_bytes(make_shape(service)))


def _adapters(
    deployed: Sequence[Deployment], traffic: Traffic, seed: int
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return what each request waits for its adapter, and a line about it."""
    one = next(one for one in deployed if one.role != "decode").service
    if not one.adapters.count:
        return None, ()
    replicas = sum(other.service.replicas for other in deployed if other.role != "decode")
    shape = make_shape(one)
    _, waits = adapter_loads(shape, len(traffic), replicas, seed)
    a, late = one.adapters, waits > 0.0
    words = f"adapters: {a.count:,} of rank {a.rank}, {a.held:,} held, "
    words += f"{adapter_bytes(shape) / 1e6:.1f} MB each on an accelerator; "
    words += f"{late.mean():.1%} of requests wait {1e3 * float(waits.max()):.1f} ms for theirs"
    return waits, (words,)


def _check(deployed: Sequence[Deployment], warm_up: int, traffic: Traffic) -> None:
    problems = []
    if not deployed:
        problems.append("service: nothing is deployed; give at least one")
    for one in deployed:
        service = one.service
        need = service.replicas * service.replica_accelerators
        if service.replicas < 1 or need > service.cluster.count:
            problems.append(
                f"replicas = {service.replicas}: each takes {service.replica_accelerators} "
                f"accelerators, and {service.cluster.name} has {service.cluster.count}"
            )
        if one.role not in ROLES:
            problems.append(f"role = {one.role!r}: must be one of {', '.join(ROLES)}")
    most = int(traffic.output_tokens.max(initial=0))
    for one in deployed:
        problems += answer_problem(one.service.model, most)
        problems += prompt_problem(one.service.model, int(traffic.input_tokens.max(initial=0)))
    if not 0 <= warm_up < len(traffic):
        problems.append(
            f"warm_up = {warm_up}: must be from 0 to less than the {len(traffic):,} requests"
        )
    if len(deployed) > 1 and any(one.service.finetune.rank for one in deployed):
        problems.append("finetune_rank: one pool is filled, and several are deployed; give one")
    if problems:
        raise InputError(problems)


def sampled_steps(
    output_tokens: NDArray[np.int64], drafts: int, acceptance: float, seed: int
) -> NDArray[np.int64]:
    """Draw the decode iterations that each request takes under speculation, int64[n].

    An iteration gains one token and as many drafts as are accepted in a row, each with probability
    ``acceptance`` (Leviathan et al. 2023, arXiv 2211.17192).

    Parameters
    ----------
    output_tokens
        int64[n].
    drafts
        Draft tokens of an iteration.
    acceptance
        0 to 1.
    seed
        The same seed gives the same bytes.
    """
    left = np.maximum(output_tokens - 1, 0)
    steps = np.zeros(left.size, np.int64)
    rng = np.random.default_rng([seed, 4])
    open_ = np.flatnonzero(left)
    while open_.size:
        gained = np.full(open_.size, drafts + 1)
        if acceptance < 1.0:
            gained = np.minimum(rng.geometric(1.0 - acceptance, open_.size), drafts + 1)
        left[open_] -= gained
        steps[open_] += 1
        open_ = open_[left[open_] > 0]
    return steps


def summarise(
    deployed: Sequence[Deployment],
    pools: Sequence[Pool],
    played: Played,
    router: str,
    slo: Slo,
    warm_up: int = 0,
    *,
    closed: bool = False,
) -> ServingResult:
    """Return the result of a play; see ``serve``.

    ``closed`` says that the service sets the pace, so that its throughput has a range.
    """
    counted = np.zeros(len(played), np.bool_)
    by_arrival = np.argsort(played.arrival_s, kind="stable")
    counted[by_arrival[warm_up:]] = True
    counted &= ~np.isnan(played.arrival_s)
    done = played.finished & counted
    begin = float(played.arrival_s[counted].min()) if warm_up and counted.any() else 0.0
    end = float(np.nanmax(played.end_s[done])) if done.any() else played.end_time_s
    span = max(end - begin, 1e-12)
    inputs = int(played.input_tokens[done].sum())
    outputs = int(played.output_tokens[done].sum())
    accelerators = sum(one.service.replicas * one.service.replica_accelerators for one in deployed)
    ttft, tpot = Spread.of(played.ttft_s[counted]), Spread.of(played.tpot_s[counted])
    good = slo.kept(played) & counted
    busy, on = float(played.busy_s.sum()), float(played.on_s.sum())
    blocks = played.blocks.astype(np.float64)
    bill, uses, provenance, warnings = bill_of(deployed, played)
    likely = _range(deployed)
    slow, fast = likely.throughput
    first = deployed[0].service
    states = [int(np.sum(played.state == s)) for s in (FINISHED, REJECTED, RUNNING, NOT_ARRIVED)]
    reasons = np.bincount(played.reason, minlength=len(REASONS))
    result = ServingResult(
        name=first.name,
        model=first.model.name,
        cluster=_names(one.service.cluster.name for one in deployed),
        accelerators=accelerators,
        engine=_names(one.service.engine for one in deployed),
        plan={
            "router": router,
            "warm_up": warm_up,
            "pools": [_settings(one, pool) for one, pool in zip(deployed, pools, strict=True)],
        },
        requests=len(played),
        finished=states[0],
        rejected=states[1],
        running=states[2],
        not_arrived=states[3],
        rejections={REASONS[r]: int(n) for r, n in enumerate(reasons) if r and n},
        duration_s=played.end_time_s,
        ttft_s=ttft,
        ttft_low_s=ttft.p50 * likely.ttft[0],
        ttft_high_s=ttft.p50 * likely.ttft[1],
        tpot_s=tpot,
        tpot_low_s=tpot.p50 * likely.tpot[0],
        tpot_high_s=tpot.p50 * likely.tpot[1],
        itl_s=gaps(played),
        latency_s=Spread.of(played.latency_s[counted]),
        queue_s=Spread.of((played.admitted_s - played.arrival_s)[counted]),
        idealized_runtime_s=_alone(deployed, played, done),
        requests_per_s=int(done.sum()) / span,
        input_tokens_per_s=inputs / span,
        output_tokens_per_s=outputs / span,
        output_tokens_per_s_low=outputs / span * slow if closed else None,
        output_tokens_per_s_high=outputs / span * fast if closed else None,
        tokens_per_s_per_accelerator=(inputs + outputs) / span / accelerators,
        output_tokens_per_s_per_accelerator=outputs / span / accelerators,
        output_tokens_per_s_per_user=1.0 / tpot.p50 if tpot.p50 > 0 else math.nan,
        slo=slo,
        goodput_fraction=float(good.sum()) / max(1, int(counted.sum())),
        goodput_requests_per_s=float(good.sum()) / span,
        utilisation=busy / on if on > 0 else 0.0,
        prefill_share=float(played.prefill_s.sum()) / busy if busy > 0 else 0.0,
        iterations=int(played.iterations.sum()),
        mean_in_system=played.in_system_s / max(played.end_time_s, 1e-12),
        preemptions=int(played.preemptions.sum()),
        cached_fraction=float(played.cached_tokens.sum())
        / max(1, int(played.input_tokens[~np.isnan(played.admitted_s)].sum())),
        kv_tokens=pools[-1].tables.kv_tokens,
        kv_peak_fraction=float((played.most_blocks / blocks).max()),
        kv_mean_fraction=float((played.block_s / blocks).sum()) / busy if busy > 0 else 0.0,
        kv_use=_kv_use(played),
        bill=bill,
        usd_per_million_tokens_low=bill.usd_per_million_tokens / fast if closed else None,
        usd_per_million_tokens_high=bill.usd_per_million_tokens / slow if closed else None,
        pools=uses,
        evidence=likely.grade,
        provenance=(f"range: {_evidence(likely)}", *provenance),
        warnings=warnings,
    )
    return replace(result, warnings=(*warnings, *_cautions(result, closed=closed)))


def _alone(deployed: Sequence[Deployment], played: Played, done: NDArray[np.bool_]) -> float:
    """Return the idealized runtime of a request of mean lengths."""
    answered = done & (played.output_tokens > 0)
    if not answered.any():
        return math.nan
    prompt = round(float(played.input_tokens[answered].mean()))
    answer = max(1, round(float(played.output_tokens[answered].mean())))
    first = next(one.service for one in deployed if one.role != "decode")
    last = next(one.service for one in deployed if one.role != "prefill")
    return idealized_runtime(last, prompt, answer, prefill=first).seconds(answer)


def _range(deployed: Sequence[Deployment]) -> ServiceRange:
    """Return the range of the pool of which least was measured."""
    found = [
        service_range(
            one.service.engine
            if one.service.engine.endswith(".toml")
            else load_engine(one.service.engine).name,
            one.service.cluster.accelerator.name,
        )
        for one in deployed
    ]
    return max(found, key=lambda one: GRADES.index(one.grade))


def _evidence(likely: ServiceRange) -> str:
    """Say what stands behind the range, in words."""
    count = f"{likely.count:,} " if likely.count else ""
    rule = "it holds four in five of those left out of the fit"
    return f"measured: {count}{likely.text}; {rule}"


def _names(names: Iterable[str]) -> str:
    """Return distinct names in their order, joined."""
    return " + ".join(dict.fromkeys(names))


def _settings(one: Deployment, pool: Pool) -> dict[str, object]:
    service, tables = one.service, pool.tables
    return {
        "role": one.role,
        "engine": service.engine,
        "cluster": service.cluster.name,
        "precision": service.precision,
        "kv_precision": service.kv_precision,
        "tp": service.tp,
        "pp": service.pp,
        "dp": service.dp,
        "ep": service.ep,
        "replicas": service.replicas,
        "speculation": asdict(service.speculation),
        "policy": _policy(pool.policy, tables),
        "kv_tokens": tables.kv_tokens,
        "transfer_s_per_token": pool.transfer_s_per_token if one.role == "prefill" else 0.0,
        "autoscaler": asdict(one.autoscaler),
        **variants_on(service),
    }


def _policy(policy: Policy, tables: IterationTables) -> dict[str, object]:
    found = asdict(policy) | {"block_tokens": policy.block_tokens or tables.block_tokens}
    if not policy.fair_every:
        del found["fair_every"]
    return found


def _kv_use(played: Played) -> tuple[KvUse, ...]:
    log = played.log
    lines = len(log.start_s)
    picked = np.arange(0, lines, max(1, -(-lines // MOST_KV_LINES)))
    return tuple(
        KvUse(
            time_s=float(log.start_s[i]),
            replica=int(log.replica[i]),
            fraction=float(log.blocks[i] / played.blocks[log.replica[i]]),
        )
        for i in picked
    )


def _cautions(result: ServingResult, *, closed: bool) -> tuple[str, ...]:
    """Say what a reader of the figures would otherwise find out late."""
    out = []
    for reason, count in result.rejections.items():
        out.append(f"{count:,} of {result.requests:,} requests rejected: {reason}")
    if result.running:
        out.append(f"cut off with {result.running:,} requests still running")
    waits = result.finished and result.queue_s.p50 > result.latency_s.p50 / 2.0
    if waits and not closed:
        out.append(
            "overload: half of all requests wait longer in line than they are served; "
            "percentiles grow with the length of the traffic"
        )
    # where users take turns, preemptions are what was asked for
    fair = any("fair_every" in pool["policy"] for pool in result.plan["pools"])
    if result.preemptions > result.requests / 10 and not fair:
        out.append(
            f"{result.preemptions:,} preemptions: the KV cache is too small for the load; "
            "limit max_sequences or add memory"
        )
    return tuple(out)
