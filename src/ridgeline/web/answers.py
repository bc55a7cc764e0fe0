"""From a scenario to its answer. Runs in a worker: the scenario is all that it knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from ridgeline.cli.numba_start import start_numba
from ridgeline.cli.output import to_json
from ridgeline.errors import InfeasibleError
from ridgeline.report.page import figures_json, render_sections, render_verdict
from ridgeline.report.records import Chart, Code, Page, Section
from ridgeline.report.rerun import Rerun
from ridgeline.simulator.serving.serve import Serving
from ridgeline.simulator.serving.servicefile import ServiceQuestion
from ridgeline.web.fields import Kind
from ridgeline.web.measures import Measure, serving_measures, training_measures
from ridgeline.web.scenario import Scenario, first_scenario, labels_of, written

WAYS = ("tp", "pp", "vpp", "cp", "ep", "etp", "sp", "zero_stage")
VARIED = ("micro_batch_seqs", "recompute", "schedule", "uneven_stages")
"""What a search for the best split chooses, of ``parallel`` and of ``training``."""
SPLIT = (
    "parallel.dp",
    *(f"parallel.{name}" for name in WAYS),
    *(f"training.{name}" for name in VARIED[:3]),
)
"""What it forgets of a scenario first."""
ZERO_STAGES = (0, 1, 3)
LOG_LINES = 100_000
"""Iterations of a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a page shows of a scenario."""

    verdict: str
    """In words."""
    html: str
    figures: str
    """JSON: id of an element of ``html`` -> what plotly.js draws in it."""
    measures: tuple[Measure, ...]
    """Empty where the answer is that it cannot be."""
    record: str
    """JSON as the command line prints it; empty where there is none."""

    @property
    def size(self) -> int:
        """Characters, about what it takes to keep."""
        return len(self.html) + len(self.figures) + len(self.record)


def warm_up() -> None:
    """Compile or load every kernel that the pages need."""
    start_numba()
    kinds: tuple[Kind, ...] = ("train", "serve")
    for kind in kinds:
        answer(first_scenario(kind), "a")
        trace_text(first_scenario(kind))
    best_split(first_scenario("train"))


def answer(scenario: Scenario, side: str) -> Answer:
    """Return the answer to a scenario.

    Parameters
    ----------
    scenario
        The question.
    side
        In front of the ids of elements, so that two answers fit on one page.

    Raises
    ------
    InputError
        The plan file that the scenario stands for has mistakes.
    """
    try:
        made = _training(scenario) if scenario.kind == "train" else _serving(scenario)
    except InfeasibleError as error:
        said = f"This cannot be: {error}"
        return Answer(
            verdict=said, html=render_verdict(said, "bad"), figures="{}", measures=(), record=""
        )
    page, measures, record = made
    sections = [_renamed(section, side) for section in page.sections]
    return Answer(
        verdict=page.verdict,
        html=render_verdict(page.verdict, page.tone, page.evidence) + render_sections(sections),
        figures=figures_json(sections),
        measures=measures,
        record=record,
    )


def trace_text(scenario: Scenario) -> str:
    """Return the timeline that Perfetto opens, as JSON.

    Raises
    ------
    InputError
        The plan file that the scenario stands for has mistakes.
    InfeasibleError
        There is nothing to draw.
    """
    if scenario.kind == "train":
        from ridgeline.simulator import trace

        timeline = trace(scenario.plan(), "layer")
    else:
        from ridgeline.simulator.serving.trace import trace as trace_service

        timeline = trace_service(_serve(scenario.service(), log_lines=LOG_LINES).played)
    return json.dumps(timeline, separators=(",", ":"))


def best_split(scenario: Scenario) -> Scenario:
    """Return the scenario with the split of the fastest step.

    Raises
    ------
    InputError
        The plan file that the scenario stands for has mistakes.
    InfeasibleError
        No split fits.
    """
    from ridgeline.simulator.planfile import read_plan
    from ridgeline.simulator.search.search import search
    from ridgeline.simulator.search.space import Space, usual_space

    free = scenario.replaced(dict.fromkeys(SPLIT, ""))
    plan = read_plan(None, dict(free.values), labels_of(free.kind), legal=False)
    space = Space(
        model=plan.model,
        clusters=(plan.cluster,),
        training=plan.training,
        stack=plan.stack,
        parallel=plan.parallel,
        run=plan.run,
        money=plan.money,
        zero_stage=ZERO_STAGES,
        uneven_stages=plan.training.uneven_stages,
    )
    found = search(usual_space(space), runners_up=0).plan
    ways = {f"parallel.{name}": getattr(found.parallel, name) for name in WAYS}
    varied = {f"training.{name}": getattr(found.training, name) for name in VARIED}
    return free.replaced({key: written(value) for key, value in (ways | varied).items()})


def _renamed(section: Section, side: str) -> Section:
    """Return a section whose elements have ids of this side alone."""
    blocks = tuple(
        replace(block, key=f"{side}-{block.key}") if isinstance(block, Chart | Code) else block
        for block in section.blocks
    )
    return replace(section, key=f"{side}-{section.key}", blocks=blocks)


def _training(scenario: Scenario) -> tuple[Page, tuple[Measure, ...], str]:
    from ridgeline.report.train import train_page, training_facts
    from ridgeline.simulator import simulate_training
    from ridgeline.simulator.remedies import find_remedies

    plan = scenario.plan()
    result = simulate_training(plan, granularity="stage")
    remedies = []
    if not result.fits:
        found = find_remedies(plan, simulate_training, limit=result.memory_limit)
        remedies = [remedy.to_dict() for remedy in found]
    facts = training_facts(plan, result, remedies=remedies)
    record = result.to_dict() | ({"remedies": remedies} if remedies else {})
    page = train_page(facts, Rerun(command=scenario.command, plan_file=scenario.toml()))
    return page, training_measures(result), to_json(record)


def _serving(scenario: Scenario) -> tuple[Page, tuple[Measure, ...], str]:
    from ridgeline.report.infer import infer_page, serving_facts

    question = scenario.service()
    serving = _serve(question)
    facts = serving_facts(question, serving)
    page = infer_page(facts, Rerun(command=scenario.command, plan_file=scenario.toml()))
    return page, serving_measures(serving.result), to_json(serving.result.to_dict())


def _serve(question: ServiceQuestion, log_lines: int = 4096) -> Serving:
    from ridgeline.simulator.serving.serve import serve
    from ridgeline.simulator.serving.servicefile import make_question_traffic

    return serve(
        question.deployed,
        make_question_traffic(question),
        router=question.section.router,
        slo=question.slo,
        log_lines=log_lines,
    )
