"""Results as a notebook shows them: HTML tables with the names and units of the JSON contract.

Everything is escaped: names come from files of users. Nothing is computed here but the length of a
bar, and no style is needed but what stands in the elements, so that a saved notebook, a page made
of it and a paper print show the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ridgeline.simulator.budget.results import Proposal
    from ridgeline.simulator.compare.records import Comparison
    from ridgeline.simulator.compare.services import ServiceComparison
    from ridgeline.simulator.fleet.results import Played
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.search.results import SearchResult
    from ridgeline.simulator.serving.choice.records import Choice
    from ridgeline.simulator.serving.results import ServingResult

MOST_ROWS = 60
"""Of a table; what is beyond is counted."""
_BAR = "display:inline-block;height:0.8em;background:#3b6fb5;margin-right:0.5em"


def training_html(result: TrainingResult) -> str:
    """Return a predicted training run: the figures, where a step goes, where memory goes."""
    record = result.to_dict()
    keys = (
        *("step_time_s", "step_time_low_s", "step_time_high_s", "evidence", "mfu", "hfu"),
        *("tokens_per_s", "bubble_fraction", "exposed_communication_fraction", "fits", "steps"),
        *("wall_clock_s", "goodput", "accelerator_hours", "cost_usd", "energy_kwh", "co2_kg"),
    )
    memory = record["memory_gib"]
    causes = ("weights", "gradients", "optimizer", "activations", "buffers", "framework")
    return _page(
        f"{result.model} on {result.cluster}, {result.stack}",
        facts_html({key: record[key] for key in keys}),
        bars_html(
            "breakdown, seconds of a step",
            [(share.group, share.seconds) for share in result.breakdown],
        ),
        bars_html(
            f"memory_gib of stage {memory['worst_stage']}, limit {_cell(memory['limit'])}",
            [(cause, memory[cause]) for cause in causes],
        ),
        _lines("warnings", result.warnings),
    )


def serving_html(result: ServingResult) -> str:
    """Return a predicted service: latencies by percentile, and the figures."""
    spreads = [
        {
            "figure": name,
            **{share: getattr(spread, share) for share in ("p50", "p90", "p95", "p99")},
        }
        for name, spread in (
            ("ttft_s", result.ttft_s),
            ("tpot_s", result.tpot_s),
            ("latency_s", result.latency_s),
        )
    ]
    keys = (
        *("requests", "finished", "requests_per_s", "output_tokens_per_s"),
        *("output_tokens_per_s_per_accelerator", "output_tokens_per_s_per_user"),
        *("goodput_fraction", "utilisation", "kv_peak_fraction"),
    )
    money = ("usd_per_million_output_tokens", "kwh_per_million_tokens")
    return _page(
        f"{result.model} on {result.accelerators} of {result.cluster}, {result.engine}",
        rows_html(spreads),
        facts_html(
            {key: getattr(result, key) for key in keys}
            | {f"bill.{key}": getattr(result.bill, key) for key in money}
        ),
        _lines("warnings", result.warnings),
    )


def search_html(found: SearchResult) -> str:
    """Return the best plan of a search, what came next, and the front."""
    keys = (
        *("cluster", "tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch_seqs", "zero_stage"),
        *("recompute", "step_time_s", "wall_clock_s", "mfu", "cost_usd"),
    )
    rows = [
        {"part": row["part"], **{key: row[key] for key in keys if key in row}}
        for row in found.rows()
    ]
    return _page(
        f"{found.plan.model.name}: the best of {found.counts.seen:,} plans",
        rows_html(rows),
    )


def comparison_html(found: Comparison) -> str:
    """Return a comparison, best first."""
    keys = (
        *("name", "status", "accelerators", "wall_clock_s", "cost_usd", "energy_kwh"),
        *("mfu", "memory_headroom", "evidence", "tp", "pp", "dp", "reason"),
    )
    rows = [{key: row.to_record()[key] for key in keys} for row in found.rows]
    return _page(
        f"{found.model}, ranked by {found.by}", rows_html(rows), _lines("warnings", found.warnings)
    )


def services_html(found: ServiceComparison) -> str:
    """Return a comparison of services, cheapest first."""
    keys = (
        *("name", "status", "accelerators", "engine", "usd_per_hour"),
        *("usd_per_million_tokens", "reached_ttft_s", "reached_tpot_s", "reason"),
    )
    rows = [{key: record.get(key) for key in keys} for record in found.records()]
    return _page(f"{found.model}: {found.asked}", rows_html(rows))


def choice_html(found: Choice) -> str:
    """Return the service to deploy, and the cheapest of each other way."""
    keys = (
        *("accelerators", "accelerator", "mode", "engine", "replicas", "tp", "pp", "dp", "ep"),
        *("usd_per_hour", "usd_per_million_tokens", "reached_ttft_s", "reached_tpot_s"),
    )
    rows = [{key: row.get(key) for key in keys} for row in found.rows()]
    return _page(f"{found.best.result.model}: {found.asked}", rows_html(rows))


def fleet_html(played: Played) -> str:
    """Return what came of a fleet: the figures, where accelerator time went, the jobs."""
    record = played.result.to_dict()
    keys = (
        *("accelerators", "span_s", "policy", "goodput", "ettr", "utilisation", "mean_wait_s"),
        *("mean_jct_s", "makespan_s", "deadlines", "deadlines_met", "interruptions", "cost_usd"),
    )
    jobs = ("name", "state", "accelerators", "waited_s", "accelerator_hours", "ettr", "usd")
    return _page(
        f"{played.result.name}: {len(played.jobs):,} jobs",
        facts_html({key: record[key] for key in keys}),
        bars_html("uses, share of accelerator time", list(played.result.uses.items())),
        rows_html([{key: getattr(job, key) for key in jobs} for job in played.jobs]),
    )


def proposal_html(found: Proposal) -> str:
    """Return the model to train for a budget, and what is predicted of its training."""
    keys = ("law", "cluster", "accelerators", "tokens", "tokens_per_param", "loss", "total_usd")
    facts = {key: getattr(found, key) for key in keys}
    return _page(
        f"{found.shape.name}: the model for the budget",
        facts_html(facts),
        training_html(found.result),
    )


def facts_html(facts: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:right">{_cell(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def rows_html(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table of records; columns are those of the first one, empty ones left out."""
    if not rows:
        return ""
    names = [name for name in rows[0] if any(row.get(name) not in (None, "") for row in rows)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = len(rows) - MOST_ROWS
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def bars_html(title: str, parts: Sequence[tuple[str, float]]) -> str:
    """Return a table whose second column draws its figures; parts of nothing are left out."""
    parts = [(name, value) for name, value in parts if value > 0]
    most = max((value for _, value in parts), default=1.0)
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left;min-width:16em">'
        f'<span style="{_BAR};width:{10 * value / most:.2f}em"></span>{_cell(value)}</td></tr>'
        for name, value in parts
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def _page(title: str, *parts: str) -> str:
    return f"<div><p><b>{escape(title)}</b></p>{''.join(parts)}</div>"


def _lines(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p>{escape(title)}</p><ul>{items}</ul>" if items else ""


def _cell(value: Any) -> str:
    """Return a value with four significant figures, escaped."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return escape(str(value))
