"""Results in a notebook: HTML that holds the figures and escapes what users wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ridgeline.simulator import notebook, read_plan, simulate_training

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Reads a page and complains about tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert not page.seen & {"script", "link", "img", "iframe"}
    return page


def shown(result: Any) -> Page:
    return read(result._repr_html_())


def test_a_training_run_shows_its_figures() -> None:
    result = simulate_training(read_plan(EXAMPLES / "llama3_8b_8xh100.toml"))
    page = shown(result)
    for text in ("step_time_s", "mfu", f"{result.mfu:.4g}", "attention", "optimizer", result.model):
        assert text in page.text
    hostile = replace(result, model=HOSTILE, cluster=HOSTILE, warnings=(HOSTILE,))
    assert shown(hostile).text.count(HOSTILE) == 3


def test_a_service_shows_its_figures() -> None:
    from ridgeline.simulator.serving.serve import serve
    from ridgeline.simulator.serving.servicefile import make_question_traffic, read_service

    question = read_service(EXAMPLES / "serve_llama3_70b.toml")
    result = serve(question.deployed, make_question_traffic(question), slo=question.slo).result
    page = shown(result)
    assert "ttft_s" in page.text
    assert f"{result.tpot_s.p50:.4g}" in page.text
    assert HOSTILE in shown(replace(result, engine=HOSTILE)).text


def test_a_search_and_a_comparison_show_their_plans() -> None:
    from ridgeline.simulator.compare.compare import compare
    from ridgeline.simulator.compare.question import CompareQuestion, parse_contenders
    from ridgeline.simulator.search.search import search
    from ridgeline.simulator.search.space import Space

    plan = read_plan(EXAMPLES / "llama3_8b_8xh100.toml")
    space = Space(
        model=plan.model,
        clusters=(plan.cluster,),
        training=plan.training,
        stack=plan.stack,
        tp=(1, 2),
        cp=(1,),
        money=plan.money,
    )
    page = shown(search(space, runners_up=2))
    assert "best" in page.text
    assert "runner-up" in page.text
    question = CompareQuestion(
        model=plan.model,
        training=plan.training,
        contenders=parse_contenders("h100-sxm,l4"),
        count=1,
        money=replace(plan.money, as_of="2026-08-17"),
    )
    page = shown(compare(question))
    assert "l4" in page.text
    assert "cannot" in page.text  # one of these holds no Llama 3 8B with its optimizer


def test_services_show_what_keeps_the_limits() -> None:
    from ridgeline.cli.serve_flags import read_serve
    from ridgeline.simulator.compare.question import parse_contenders
    from ridgeline.simulator.compare.services import compare_services
    from ridgeline.simulator.serving.choice.search import choose

    flags = {"on": "h100-sxm", "mode": "aggregated", "max_accelerators": 2}
    asked = read_serve(EXAMPLES / "serve_choice.toml", flags)
    assert "reached_ttft_s" in shown(choose(asked.space, asked.demand)).text
    found = compare_services(asked.space, parse_contenders("h100-sxm"), asked.demand)
    assert "usd_per_hour" in shown(found).text


def test_a_fleet_shows_its_jobs() -> None:
    from ridgeline.simulator.fleet.fleetfile import read_fleet
    from ridgeline.simulator.fleet.results import play_fleet

    played = play_fleet(read_fleet(EXAMPLES / "fleet_small.toml", {"days": 2.0}))
    page = shown(played)
    assert "goodput" in page.text
    assert "base" in page.text
    more = len(played.jobs) - notebook.MOST_ROWS
    assert f"and {more:,} more" in page.text


@pytest.mark.slow
def test_a_proposal_shows_its_model() -> None:
    from ridgeline.cli.plan_model import answer_without_model
    from ridgeline.hardware import make_cluster
    from ridgeline.simulator.plan import Money, RunOptions

    found = answer_without_model(
        clusters=(make_cluster("8xh100-sxm"),),
        budget_usd=5e3,
        stack="megatron-core",
        money=Money(as_of="2026-08-17"),
        run=RunOptions(),
    )
    assert found.law in shown(found).text


def test_cells_have_four_figures_and_escape() -> None:
    page = read(
        notebook.facts_html({"a": 0.123456, "b": 1234567.8, "c": True, "d": float("nan"), "<e>": 1})
    )
    assert page.text.split() == ["a", "0.1235", "b", "1,234,568", "c", "yes", "d", "<e>", "1"]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
    assert set(document["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")
def test_notebooks_run(path: Path) -> None:
    """Every cell of a notebook runs, and the results are shown as tables and pictures."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    document = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        document, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}
    )
    client.execute()
    outputs = [output for cell in document.cells for output in cell.get("outputs", ())]
    assert not [one for one in outputs if one.output_type in ("error", "stream")]
    pages = [str(one.data.get("text/html", "")) for one in outputs if "data" in one]
    assert any("step_time_s" in page and "breakdown" in page for page in pages)
    assert sum("plotly" in page for page in pages) == 3
    assert any("ranked by" in page for page in pages)
