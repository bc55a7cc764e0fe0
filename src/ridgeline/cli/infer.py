"""``ridgeline infer``: predict a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ridgeline.cli.flags import MONEY_FLAGS, Flag, flag_overrides, with_flags
from ridgeline.cli.html import html_flag, write_serving

if TYPE_CHECKING:
    from ridgeline.simulator.serving.serve import Serving
    from ridgeline.simulator.serving.servicefile import ServiceQuestion

FLAGS = (
    Flag("model", "model.name", str, "Catalogue name or a config.json.", "NAME"),
    Flag("cluster", "cluster.spec", str, "For example 8xh100-sxm or 4x8xb200-sxm.", "SPEC"),
    Flag("engine", "serving.engine", str, "vllm, sglang, trtllm, or one of an era.", "NAME"),
    Flag("tp", "parallel.tp", int, "Tensor parallel ways."),
    Flag("pp", "parallel.pp", int, "Pipeline stages."),
    Flag("dp", "parallel.dp", int, "Ranks with attention of their own in a replica."),
    Flag("ep", "parallel.ep", int, "Expert parallel ways."),
    Flag("replicas", "serving.replicas", int, "By default as many as the cluster holds."),
    Flag("prefill-replicas", "serving.prefill_replicas", int, "Separate ones for prefill."),
    Flag("router", "serving.router", str, "round-robin, least-loaded, prefix-aware.", "NAME"),
    Flag("precision", "serving.precision", str, "bf16, fp8, int8, w4a16, nvfp4, ...", "NAME"),
    Flag("kv-precision", "serving.kv_precision", str, "Of the KV cache.", "NAME"),
    Flag("batch", "serving.batch", int, "One static batch of so many sequences."),
    Flag("concurrency", "serving.concurrency", int, "Closed loop: requests in flight."),
    Flag("request-rate", "serving.request_rate", float, "Open loop: requests a second."),
    Flag("trace", "serving.trace", str, "Open loop: a trace file (docs/traffic.md).", "FILE"),
    Flag("input-len", "serving.input_len", int, "Prompt tokens (1024)."),
    Flag("output-len", "serving.output_len", int, "Tokens to generate (128)."),
    Flag("lengths", "serving.lengths", str, "fixed, uniform or log-normal.", "NAME"),
    Flag("burstiness", "serving.burstiness", float, "Variation of gaps; 1 is Poisson."),
    Flag("requests", "serving.requests", int, "How many; of a trace at most."),
    Flag("speed", "serving.speed", float, "Replay a trace so many times as fast."),
    Flag("turns", "serving.turns", int, "Of each conversation (open loop)."),
    Flag("system-tokens", "serving.system_tokens", int, "Prefix that all prompts share."),
    Flag("urgent-share", "serving.urgent_share", float, "Of requests, before all others in line."),
    Flag("seed", "serving.seed", int, "Of every draw (0)."),
    Flag("slo", "serving.slo", str, "For example ttft=500ms,tpot=50ms.", "LIMITS"),
    Flag("warm-up", "serving.warm_up", int, "First requests left out of the figures."),
    Flag("until", "serving.until_s", float, "Cut off after so many seconds."),
    Flag("max-sequences", "serving.max_sequences", int, "Running at once on a replica."),
    Flag("max-tokens", "serving.max_tokens", int, "Token budget of an iteration."),
    Flag("chunked-prefill", "serving.chunked_prefill", None, "Cut prompts at the budget."),
    Flag("prefix-caching", "serving.prefix_caching", None, "Keep blocks of shared prefixes."),
    Flag("memory-fraction", "serving.memory_fraction", float, "Of memory for the engine."),
    Flag("preemption", "serving.preemption", str, "recompute or swap.", "NAME"),
    Flag("draft-tokens", "serving.draft_tokens", int, "Speculation: drafts an iteration."),
    Flag("acceptance", "serving.acceptance", float, "Probability that a draft is taken."),
    *MONEY_FLAGS,
)


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    return with_flags(command, FLAGS)


@click.command(epilog="Flags override fields of PLAN; without PLAN they must say enough.")
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@_flags
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (docs/json.md).")
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as one row of CSV.")
@click.option(
    "--requests-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a CSV with a row for each request.",
)
@click.option(
    "--trace-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a timeline of iterations that Perfetto opens.",
)
@html_flag
@click.pass_context
def infer(
    ctx: click.Context,
    /,
    plan: Path | None,
    as_json: bool,
    as_csv: bool,
    requests_out: Path | None,
    trace_out: Path | None,
    **flags: Any,
) -> None:
    """Predict a service: time to first token, tokens a second, goodput, money, energy.

    \b
    A static batch, a closed loop, an open loop or a trace:
      ridgeline infer --model llama3-70b --cluster 8xh100-sxm --tp 8 \\
          --precision fp8 --concurrency 64 --input-len 1024 --output-len 256
      ridgeline infer --model llama3-70b --cluster 8xh100-sxm --tp 8 \\
          --request-rate 8 --lengths log-normal --slo ttft=500ms,tpot=50ms
    Names: ridgeline models list, ridgeline hardware list.

    PLAN is a TOML file that says the same and more (docs/serving-engine.md).
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    overrides, labels = flag_overrides(FLAGS, flags)
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    if plan is None and not overrides:
        raise InputError(
            "no plan: give a plan file, or at least --model, --cluster and one of --batch, "
            "--concurrency, --request-rate and --trace (ridgeline infer --help)"
        )
    from ridgeline.cli.numba_start import start_numba

    start_numba()
    from ridgeline.simulator.serving.servicefile import read_service

    question = read_service(plan, overrides, labels)
    serving = _predict(question, whole_log=trace_out is not None)
    _write(serving, requests_out, trace_out, (plan, question.trace))
    write_serving(question, serving, source=plan)
    _show(question, serving, as_json=as_json, as_csv=as_csv)
    if serving.result.finished == 0:
        ctx.exit(1)


def _predict(question: ServiceQuestion, *, whole_log: bool) -> Serving:
    from ridgeline.cli.numba_start import SERVING_S, said_while_compiling
    from ridgeline.simulator.serving.serve import serve
    from ridgeline.simulator.serving.servicefile import make_question_traffic

    section = question.section
    traffic = make_question_traffic(question)
    with said_while_compiling(SERVING_S):
        return serve(
            question.deployed,
            traffic,
            router=section.router,
            slo=question.slo,
            warm_up=section.warm_up,
            sampled_seed=section.seed if section.sampled_acceptance else None,
            seed=section.seed,
            until_s=question.until_s,
            log_lines=100_000 if whole_log else 4096,
        )


def _write(
    serving: Serving,
    requests_out: Path | None,
    trace_out: Path | None,
    sources: tuple[Path | None, ...],
) -> None:
    from ridgeline.cli.output import note, write_file

    if requests_out is not None:
        from ridgeline.simulator.serving.results import requests_csv

        write_file(requests_out, requests_csv(serving.played), inputs=sources)
        note(f"wrote {requests_out}")
    if trace_out is not None:
        import json

        from ridgeline.simulator.serving.trace import trace

        timeline = trace(serving.played)
        write_file(trace_out, json.dumps(timeline, separators=(",", ":")), inputs=sources)
        note(f"wrote {trace_out}; open it at https://ui.perfetto.dev")


def _show(question: ServiceQuestion, serving: Serving, *, as_json: bool, as_csv: bool) -> None:
    from ridgeline.cli import output

    record = serving.result.to_dict()
    if as_json:
        output.emit(output.to_json(record))
    elif as_csv:
        output.emit(output.to_csv([record]))
    else:
        from ridgeline.cli.infer_report import print_serving

        print_serving(output.console(), serving.result, question.asked)
