"""A job on several kinds of accelerators: read, and checked.

``cluster.spec = "2x8xa100-sxm-80gb + 2x8xh100-sxm"`` joins kinds. ``parallel.across`` says which
dimension runs across them: ``dp``, each kind having data-parallel ranks of its own with
``training.batch_shares`` sequences each, or ``pp``, each kind having consecutive stages with
``training.uneven_stages`` layers. What is not given is chosen (``split``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.legality import problems
from ridgeline.simulator.plan import Plan
from ridgeline.simulator.planfile import JOIN, joined_spec, read_plan, read_tables
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.weights import is_per_layer

MOST_KINDS = 8
ACROSS = ("dp", "pp")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan:
    """A plan for each kind of accelerator, as if all of the job were of that kind.

    The groups of such a plan are those of the whole job; its links are those of its own kind.
    """

    name: str
    across: str
    """dp or pp."""
    plans: tuple[Plan, ...]
    own: tuple[Cluster, ...]
    """Accelerators of each kind that there are."""
    shares: tuple[int, ...] = ()
    """Sequences of a data-parallel rank of each kind; empty where they are to be chosen."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Data-parallel ranks (across dp) or pipeline stages (across pp) of each kind."""
        p = self.plans[0].parallel
        group = p.tp * p.cp * (p.pp if self.across == "dp" else p.dp)
        return tuple(cluster.count // group for cluster in self.own)

    @property
    def in_step(self) -> bool:
        """Whether ranks meet in every micro-batch, so that all run equally many."""
        plan = self.plans[0]
        return self.across == "dp" and is_per_layer(plan, load_stack(plan.stack))

    def checked(self) -> tuple[Plan, ...]:
        """Return the plans with a split that every one of them could run alone."""
        made = []
        for plan in self.plans:
            t = plan.training
            if self.across == "dp":
                t = replace(t, global_batch_seqs=plan.parallel.dp * t.micro_batch_seqs * 2)
                if t.schedule in ("interleaved", "dualpipe"):
                    more = t.global_batch_seqs * plan.parallel.pp
                    t = replace(t, global_batch_seqs=more)
            elif not t.stage_layers:
                t = replace(t, uneven_stages=True)
            made.append(replace(plan, training=t))
        return tuple(made)


def read_mixed(
    path: Path | None,
    overrides: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> MixedPlan:
    """Read a job on several kinds of accelerators.

    Parameters
    ----------
    path, overrides, labels
        As :func:`ridgeline.simulator.planfile.read_plan` takes them.

    Raises
    ------
    InputError
        With what is wrong, one line each.
    """
    given = overrides or {}
    tables = read_tables(path, given)
    spec = joined_spec(tables)
    parts = [part.strip() for part in spec.split(JOIN)]
    if not 2 <= len(parts) <= MOST_KINDS:
        raise InputError(f"cluster.spec = {spec!r}: joins {len(parts)} kinds; 2 to {MOST_KINDS} do")
    across = _section(tables, "parallel").get("across") or "dp"
    shares = _section(tables, "training").get("batch_shares", [])
    wanted_dp = _section(tables, "parallel").get("dp")
    if across not in ACROSS:
        raise InputError(f"parallel.across = {across!r}: must be 'dp' or 'pp'")
    if wanted_dp is not None and type(wanted_dp) is not int:
        raise InputError(f"parallel.dp = {wanted_dp!r}: must be a whole number")
    facts = {f"cluster.{key}": value for key, value in _section(tables, "cluster").items()}
    lines: list[str] = []
    read: list[Plan] = []
    for part in parts:
        asked = {
            **given,
            **facts,
            "cluster.spec": part,
            "parallel.across": "",
            "training.batch_shares": [],
        }
        if across == "dp":
            asked["parallel.dp"] = 1  # counted below
        # the section is emptied for another spec, so that comes first
        ordered = {"cluster.spec": asked.pop("cluster.spec"), **asked}
        try:
            read.append(read_plan(path, ordered, labels, legal=False))
        except InputError as error:
            lines += error.problems
    if lines:
        raise InputError(list(dict.fromkeys(lines)))
    mixed = _joined(
        read, across, tuple(shares if isinstance(shares, list) else [shares]), wanted_dp
    )
    if found := mixed_problems(mixed):
        raise InputError(found)
    return mixed


def _section(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name, {})
    return dict(found) if isinstance(found, dict) else {}


def _joined(
    read: list[Plan], across: str, shares: tuple[int, ...], wanted_dp: int | None
) -> MixedPlan:
    own = tuple(plan.cluster for plan in read)
    total = sum(cluster.count for cluster in own)
    for cluster in own:
        if cluster.torus is not None:
            raise InputError(
                f"cluster {cluster.name!r}: a torus beside other accelerators is not modelled; "
                f"join switched clusters"
            )
    for plan in read:
        if plan.stack != read[0].stack:
            raise InputError(
                f"cluster {plan.cluster.name!r}: its usual stack is {plan.stack}, that of "
                f"{own[0].name!r} is {read[0].stack}, and a job is of one; give --stack"
            )
    p = read[0].parallel
    group = p.tp * p.pp * p.cp
    key = "dp" if across == "dp" else "pp"
    if across == "dp":
        for cluster in own:
            if cluster.count % group:
                raise InputError(
                    f"parallel: tp*pp*cp = {group} does not divide the {cluster.count} of "
                    f"{cluster.name}; every replica lies on one kind under across = 'dp'"
                )
        dp = total // group
    else:
        dp = p.dp if wanted_dp else max(1, total // group)
        stage = p.tp * p.cp * dp
        for cluster in own:
            if cluster.count % stage:
                raise InputError(
                    f"parallel: tp*cp*dp = {stage} does not divide the {cluster.count} of "
                    f"{cluster.name}; every stage lies on one kind under across = 'pp'"
                )
    if wanted_dp not in (None, dp) or group * dp != total:
        raise InputError(
            f"parallel.{key}: tp*pp*cp*dp = {group * (wanted_dp or dp):,} "
            f"and the kinds together have {total:,} accelerators; leave dp out"
        )
    plans = tuple(
        replace(
            plan,
            cluster=_alike(plan.cluster, total),
            parallel=replace(plan.parallel, dp=dp),
        )
        for plan in read
    )
    return MixedPlan(name=read[0].name, across=across, plans=plans, own=own, shares=shares)


def _alike(cluster: Cluster, total: int) -> Cluster:
    """Return the job's size in one kind, in nodes as large as it has them."""
    per_node = min(cluster.per_node, cluster.count)
    nodes = ceil(total / per_node)
    made = make_cluster(f"{nodes}x{per_node}x{cluster.accelerator.name}")
    if cluster.nodes > 1:
        # its own network, with what the plan says of it
        made = replace(made, tiers=(*made.tiers[:-1], cluster.tiers[-1]))
    last = replace(made.tiers[-1], size=max(total, made.tiers[-1].size))
    return replace(made, name=cluster.name, count=total, tiers=(*made.tiers[:-1], last))


def mixed_problems(mixed: MixedPlan) -> list[str]:
    """Return why a job on several kinds cannot be run, one line each; empty when it can."""
    first, t = mixed.plans[0], mixed.plans[0].training
    found: list[str] = []
    accelerators = {plan.cluster.accelerator.name for plan in mixed.plans}
    if len(accelerators) < len(mixed.plans):
        found.append(
            f"cluster.spec: names {', '.join(sorted(accelerators))} more than once; say the count "
            f"of a kind in one place"
        )
    if t.schedule == "dualpipe" and mixed.across == "pp":
        found.append(
            "training.schedule = 'dualpipe': holds every slice on two stages, and is not modelled "
            "across kinds; take another schedule"
        )
    if first.model.moe is not None and first.parallel.ep > 1 and mixed.across == "dp":
        found.append(
            f"parallel.ep = {first.parallel.ep}: experts of one layer on several kinds are not "
            f"modelled; take ep = 1 or across = 'pp'"
        )
    if mixed.across == "pp" and mixed.shares:
        found.append("training.batch_shares: are those of across = 'dp'; leave them out")
    elif mixed.shares:
        found += _share_problems(mixed)
    elif mixed.across == "dp" and t.stage_layers and first.parallel.pp == 1:
        found.append("training.uneven_stages: lists stages without a pipeline; leave it out")
    if not found:
        found = [line for plan in mixed.checked() for line in problems(plan)]
    return list(dict.fromkeys(found))


def _share_problems(mixed: MixedPlan) -> list[str]:
    t, shares, ranks = mixed.plans[0].training, mixed.shares, mixed.ranks
    if not all(type(share) is int and share >= 1 for share in shares) or len(shares) != len(ranks):
        line = (
            f"training.batch_shares = {list(shares)}: must be {len(ranks)} numbers of sequences, "
            f"those of a data-parallel rank of each kind"
        )
        return [line]
    total = sum(share * count for share, count in zip(shares, ranks, strict=True))
    if total != t.global_batch_seqs:
        line = (
            f"training.batch_shares = {list(shares)}: over {list(ranks)} ranks that is {total} "
            f"sequences, and global_batch_seqs = {t.global_batch_seqs}"
        )
        return [line]
    unit = micro_batches_in_step(mixed) if mixed.in_step else t.micro_batch_seqs
    what = "the micro-batches of a rank" if mixed.in_step else "micro_batch_seqs"
    return [
        f"training.batch_shares = {list(shares)}: {share} is not a multiple of {what} = {unit}"
        for share in shares
        if share % unit
    ]


def micro_batches_in_step(mixed: MixedPlan) -> int:
    """Return the micro-batches that every rank runs where they meet in each of them.

    Raises
    ------
    InputError
        The batch does not divide.
    """
    plan = mixed.plans[0]
    t, unit = plan.training, plan.parallel.dp * plan.training.micro_batch_seqs
    if t.global_batch_seqs % unit:
        raise InputError(
            f"training.global_batch_seqs = {t.global_batch_seqs}: not a multiple of "
            f"dp*micro_batch_seqs = {unit}, which sets how many micro-batches ranks run together"
        )
    return t.global_batch_seqs // unit
