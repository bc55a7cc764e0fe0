"""``--html FILE``: the answer of a command as one self-contained page.

A command takes the flag by ``html_flag`` and calls one of the writers here with its answer; without
the flag a writer does nothing. What a page says is in ``ridgeline.report``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ridgeline.cli.plan_space import Asked
    from ridgeline.report.records import Page
    from ridgeline.report.rerun import Rerun
    from ridgeline.simulator.compare.records import Comparison
    from ridgeline.simulator.compare.services import ServiceComparison
    from ridgeline.simulator.fleet.many import ManyResult
    from ridgeline.simulator.fleet.results import Played
    from ridgeline.simulator.fleet.spec import Fleet
    from ridgeline.simulator.plan import Plan
    from ridgeline.simulator.results import TrainingResult
    from ridgeline.simulator.roofline.rungs import Kernels
    from ridgeline.simulator.search.results import SearchResult
    from ridgeline.simulator.serving.choice.front import Front
    from ridgeline.simulator.serving.choice.rate import HighestRate
    from ridgeline.simulator.serving.choice.records import Choice
    from ridgeline.simulator.serving.choice.solving import Solving
    from ridgeline.simulator.serving.serve import Serving
    from ridgeline.simulator.serving.servicefile import ServiceQuestion
    from ridgeline.validation.kernels.report import KernelReport
    from ridgeline.validation.serving.report import ServingReport
    from ridgeline.validation.traces.compare import Comparison as TraceComparison
    from ridgeline.validation.training import Report

_KEY = "ridgeline.html"
_OUTPUTS = ("html", "as_json", "as_csv", "explain")
"""Parameters that say how an answer is shown, not what it is."""


def html_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--html FILE``; the command itself does not see it."""
    return click.option(
        "--html",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="Write a page with plots (docs/reports.md).",
    )(command)


def _remember(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Keep the path for the writer; say at once what would be said after a long simulation."""
    if path is None:
        return
    from importlib.util import find_spec

    from ridgeline.errors import InputError

    missing = [name for name in ("jinja2", "plotly") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"--html: needs {' and '.join(missing)}; install with: pip install 'ridgeline[report]'"
        )
    if path.is_dir():
        raise InputError(f"--html {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"--html {path}: cannot be written: no such folder {path.parent}")
    ctx.meta[_KEY] = path


def html_path() -> Path | None:
    """Return where the page of the running command goes, None when none was asked for."""
    path = click.get_current_context().meta.get(_KEY)
    assert path is None or isinstance(path, Path)
    return path


def refuse_html(why: str) -> None:
    """Refuse ``--html`` where an answer has no page.

    Raises
    ------
    InputError
        It was given.
    """
    from ridgeline.errors import InputError

    if html_path() is not None:
        raise InputError(f"--html: {why}")


def write_page(make: Callable[[], Page], inputs: Sequence[Path | None]) -> None:
    """Write the page that ``make`` returns, where one was asked for.

    Raises
    ------
    InputError
        The file cannot be written, or is one of the inputs.
    """
    path = html_path()
    if path is None:
        return
    from ridgeline.cli.output import note, write_file
    from ridgeline.report.page import render_page

    write_file(path, render_page(make()), inputs=tuple(inputs))
    note(f"wrote {path}")


def rerun_command() -> str:
    """Return the command line of the running command, as it was given, for a shell."""
    from click.core import ParameterSource

    ctx = click.get_current_context()
    words = ["ridgeline", ctx.info_name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in _OUTPUTS or name not in ctx.params:
            continue
        value = ctx.params[name]
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(parameter, click.Argument):
            words += [str(one) for one in values]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            names = parameter.opts if value else parameter.secondary_opts
            words.append(names[0])
        else:
            for one in values:
                words += [parameter.opts[0], str(one)]
    return shlex.join(words)


def _file_text(path: Path | None) -> str:
    return "" if path is None else path.read_text(encoding="utf-8-sig")


def write_training(
    plan: Plan,
    result: TrainingResult,
    kernels: Kernels | None,
    remedies: Sequence[Mapping[str, Any]],
    *,
    source: Path | None,
    overrides: Mapping[str, object],
    inputs: Sequence[Path] = (),
) -> None:
    """Write the page of ``ridgeline train``."""

    def make() -> Page:
        from ridgeline.report.rerun import Rerun
        from ridgeline.report.train import train_page, training_facts
        from ridgeline.simulator.plan_text import plan_text
        from ridgeline.simulator.planfile import read_tables

        text = _file_text(source) or plan_text(plan, read_tables(None, overrides), None)
        facts = training_facts(plan, result, kernels, remedies)
        return train_page(facts, Rerun(command=rerun_command(), plan_file=text))

    write_page(make, (source, *inputs))


def write_serving(question: ServiceQuestion, serving: Serving, *, source: Path | None) -> None:
    """Write the page of ``ridgeline infer``."""

    def make() -> Page:
        from ridgeline.report.infer import infer_page, serving_facts
        from ridgeline.report.rerun import Rerun

        rerun = Rerun(command=rerun_command(), plan_file=_file_text(source))
        return infer_page(serving_facts(question, serving), rerun)

    write_page(make, (source, question.trace))


def write_search(found: SearchResult, asked: Asked, *, source: Path | None) -> None:
    """Write the page of ``ridgeline plan``."""

    def make() -> Page:
        from ridgeline.report.plan import SearchFacts, plan_page
        from ridgeline.report.rerun import Rerun
        from ridgeline.report.train import training_facts
        from ridgeline.simulator.plan_text import plan_text

        def text(plan: Plan) -> str:
            spec = asked.specs[asked.space.clusters.index(plan.cluster)]
            return plan_text(plan, asked.tables, source, spec)

        best = training_facts(found.best.plan, found.best.result)
        facts = SearchFacts(found=found, best=best, text=text)
        return plan_page(facts, Rerun(command=rerun_command(), plan_file=_file_text(source)))

    write_page(make, (source,))


def write_comparison(found: Comparison, *, source: Path | None) -> None:
    """Write the page of ``ridgeline compare``."""

    def make() -> Page:
        from ridgeline.report.compare import compare_page
        from ridgeline.report.rerun import Rerun

        return compare_page(found, Rerun(command=rerun_command(), plan_file=_file_text(source)))

    write_page(make, (source,))


def write_fleet(played: Played, *, source: Path) -> None:
    """Write the page of ``ridgeline cluster``."""

    def make() -> Page:
        from ridgeline.report.cluster import cluster_page

        return cluster_page(played, _fleet_rerun(source))

    write_page(make, (source,))


def write_many(many: ManyResult, fleet: Fleet, *, source: Path) -> None:
    """Write the page of ``ridgeline cluster --seeds``."""

    def make() -> Page:
        from ridgeline.report.cluster import many_page

        return many_page(many, fleet, _fleet_rerun(source))

    write_page(make, (source,))


def _fleet_rerun(source: Path) -> Rerun:
    from ridgeline.report.rerun import Rerun

    return Rerun(command=rerun_command(), plan_file=_file_text(source), title="Fleet file")


def write_measured(
    report: Report | KernelReport | ServingReport, inputs: Sequence[Path | None]
) -> None:
    """Write the page of ``ridgeline validate`` on a table of measurements."""

    def make() -> Page:
        from ridgeline.report import validate
        from ridgeline.report.rerun import Rerun
        from ridgeline.validation.kernels.report import KernelReport
        from ridgeline.validation.training import Report

        if isinstance(report, Report):
            measured = validate.measured_steps(report)
        elif isinstance(report, KernelReport):
            measured = validate.measured_kernels(report)
        else:
            measured = validate.measured_services(report)
        return validate.validate_page(measured, Rerun(command=rerun_command()))

    write_page(make, inputs)


def write_service_choice(
    found: Choice | HighestRate | Front | Solving, *, source: Path | None
) -> None:
    """Write the page of ``ridgeline plan --serve``.

    Raises
    ------
    InputError
        The page of what solves problems was asked for: there is none.
    """
    from ridgeline.simulator.serving.choice.solving import Solving

    if isinstance(found, Solving):
        refuse_html("--solve has no page; take --json")
        return

    def make() -> Page:
        from ridgeline.report import services
        from ridgeline.report.rerun import Rerun
        from ridgeline.simulator.serving.choice.rate import HighestRate
        from ridgeline.simulator.serving.choice.records import Choice

        rerun = Rerun(command=rerun_command(), plan_file=_file_text(source))
        if isinstance(found, Choice):
            return services.choice_page(found, rerun)
        if isinstance(found, HighestRate):
            return services.rate_page(found, rerun)
        return services.front_page(found, rerun)

    write_page(make, (source,))


def write_services(found: ServiceComparison, *, source: Path | None) -> None:
    """Write the page of ``ridgeline compare --serve``."""

    def make() -> Page:
        from ridgeline.report.rerun import Rerun
        from ridgeline.report.services import services_page

        return services_page(found, Rerun(command=rerun_command(), plan_file=_file_text(source)))

    write_page(make, (source,))


def write_trace(found: TraceComparison, path: Path) -> None:
    """Write the page of ``ridgeline validate --trace``."""

    def make() -> Page:
        from ridgeline.report.rerun import Rerun
        from ridgeline.report.trace import trace_page

        return trace_page(found, path.name, Rerun(command=rerun_command()))

    write_page(make, (path,) if path.is_file() else ())
