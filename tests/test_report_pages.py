"""Pages: whole, escaped, small, the same bytes again, and nothing fetched."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import run
from ridgeline.report.evidence import grade_title
from ridgeline.report.page import figures_of, plotly_script, render_page, render_sections
from ridgeline.report.records import Page, charts_of
from ridgeline.report.rerun import Rerun
from ridgeline.report.train import TrainingFacts, train_page, train_sections, training_facts
from ridgeline.simulator import read_plan, simulate_training
from ridgeline.simulator.uncertainty import GRADES

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_BYTES = 6_000_000
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
SMALL = ("--model", "llama3-8b", "--cluster", "8xh100-sxm", "--zero-stage", "3",
         "--seq-len", "8192", "--global-batch", "8", "--tokens", "1B")  # fmt: skip


class Outline(HTMLParser):
    """Elements of a page in order, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def facts() -> TrainingFacts:
    plan = read_plan(EXAMPLES / "llama3_8b_8xh100.toml")
    return training_facts(plan, simulate_training(plan))


@pytest.fixture(scope="module")
def page(facts: TrainingFacts) -> Page:
    return train_page(facts, Rerun(command="ridgeline train x.toml", plan_file="[model]\n"))


@pytest.fixture(scope="module")
def html(page: Page) -> str:
    return render_page(page)


def _own(html: str) -> str:
    """Return a page without the library of plots in it."""
    return html.replace(plotly_script(), "")


def test_headings_and_landmarks_are_in_order(html: str, page: Page) -> None:
    outline = Outline(_own(html))
    assert outline.all("html")[0]["lang"] == "en"
    assert [len(outline.all(tag)) for tag in ("header", "main", "nav", "footer", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for a in outline.all("a")}
    assert targets <= set(ids)
    assert {section.key for section in page.sections} <= targets


def test_every_plot_has_words_and_a_table(html: str, page: Page) -> None:
    outline = Outline(_own(html))
    plots = [a for a in outline.all("div") if a.get("class") == "plot"]
    assert len(plots) == len(charts_of(page.sections)) >= 7
    for plot in plots:
        assert plot["role"] == "img"
        assert plot["aria-label"]
        assert plot["aria-describedby"] == f"{plot['id']}-says"
    twins = [a for a in outline.all("details") if a.get("class") == "twin"]
    assert len(twins) == len(plots)
    assert all(a.get("scope") in ("col", "row") for a in outline.all("th"))
    own = _own(html)
    for chart in charts_of(page.sections):
        assert chart.title in own.replace("&#39;", "'").replace("&amp;", "&")


def test_a_name_is_never_markup(facts: TrainingFacts) -> None:
    result = replace(facts.result, model=HOSTILE, cluster=HOSTILE, warnings=(HOSTILE,))
    hostile = replace(facts, result=result)
    page = train_page(hostile, Rerun(command=HOSTILE, plan_file=HOSTILE))
    first = charts_of(page.sections)[0]
    bad = replace(first, key="bad", title=HOSTILE, summary=HOSTILE, figure={"data": [HOSTILE]})
    sections = (replace(page.sections[0], blocks=(bad,)), *page.sections[1:])
    own = _own(render_page(replace(page, sections=sections)))
    outline = Outline(own)
    assert len(outline.all("script")) == 3
    assert outline.all("img") == []
    assert "alert(1)</script>" not in own
    carried = re.search(r'id="ridgeline-figures">(.*?)</script>', own)
    assert carried is not None
    assert json.loads(carried[1])["bad"] == {"data": [HOSTILE]}


@pytest.mark.parametrize(
    "name", ["mtnlg_530b_3360_a100", "deepseek_v3_2048_h800", "llama3_405b_16k_h100"]
)
def test_pages_of_large_jobs_are_small(name: str) -> None:
    plan = read_plan(EXAMPLES / f"{name}.toml")
    html = render_page(train_page(training_facts(plan, simulate_training(plan)), Rerun()))
    assert len(html.encode()) < MOST_BYTES


def test_the_same_question_gives_the_same_bytes(html: str) -> None:
    plan = read_plan(EXAMPLES / "llama3_8b_8xh100.toml")
    rerun = Rerun(command="ridgeline train x.toml", plan_file="[model]\n")
    assert render_page(train_page(training_facts(plan, simulate_training(plan)), rerun)) == html


def test_nothing_is_fetched(html: str) -> None:
    own = _own(html)
    for tag, attributes in Outline(own).elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert not str(attributes.get(name, "#")).startswith(("http", "//")), (tag, attributes)
    assert "@import" not in own
    assert not re.search(r"url\(", own)
    assert "default-src 'none'" in own


def test_a_fragment_has_the_plots_that_its_figures_fill(facts: TrainingFacts) -> None:
    sections = train_sections(facts)
    fragment = render_sections(sections)
    assert "<html" not in fragment
    assert "<script" not in fragment
    for key in figures_of(sections):
        assert f'id="{key}"' in fragment


def test_data_sheet_only_never_looks_like_the_others(facts: TrainingFacts) -> None:
    looks = {}
    for grade in GRADES:
        result = replace(facts.result, evidence=grade)
        page = train_page(replace(facts, result=result), Rerun())
        own = _own(render_page(page))
        assert f'class="evidence {grade}"' in own
        assert grade_title(grade) in own
        looks[grade] = (page.tone, "about" in page.verdict, page.verdict)
    assert looks["datasheet"][:2] == ("warn", True)
    assert all(looks[grade][:2] == ("good", False) for grade in GRADES[:-1])


def test_out_of_memory_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "p.html"
    code = run(["train", "--model", "llama3-70b", "--cluster", "8xh100-sxm", "--zero-stage", "3",
                "--seq-len", "4096", "--global-batch", "8", "--html", str(target)])  # fmt: skip
    capsys.readouterr()
    assert code == 1
    own = _own(target.read_text(encoding="utf-8"))
    assert "Out of memory" in own
    assert "Cheapest changes that would fit" in own
    assert 'class="verdict bad"' in own


def test_the_command_on_the_page_gives_the_page_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    assert run(["train", *SMALL, "--html", str(first)]) == 0
    own = _own(first.read_text(encoding="utf-8"))
    listed = re.search(r'<pre id="command".*?<code class="sh">(.*?)</code>', own, re.DOTALL)
    assert listed is not None
    words = shlex.split(listed[1].replace("&#39;", "'").replace("&amp;", "&"))
    assert words[0] == "ridgeline"
    assert run([*words[1:], "--html", str(second)]) == 0
    capsys.readouterr()
    assert first.read_bytes() == second.read_bytes()


def test_the_plan_on_the_page_gives_the_answer_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "p.html"
    assert run(["train", *SMALL, "--json", "--html", str(target)]) == 0
    answer = json.loads(capsys.readouterr().out)
    own = _own(target.read_text(encoding="utf-8"))
    listed = re.search(r'<pre id="plan-file".*?<code class="toml">(.*?)</code>', own, re.DOTALL)
    assert listed is not None
    plan = tmp_path / "plan.toml"
    plan.write_text(listed[1].replace("&#34;", '"').replace("&#39;", "'"), encoding="utf-8")
    assert run(["train", str(plan), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    for key in ("step_time_s", "cost_usd", "wall_clock_s", "memory_gib"):
        assert again[key] == answer[key]


def _complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_where_no_page_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _complaint(["train", *SMALL, "--html", str(tmp_path / "no" / "p.html")], capsys)
    assert "no such folder" in line
    assert "is a folder" in _complaint(["train", *SMALL, "--html", str(tmp_path)], capsys)
    plan = tmp_path / "plan.toml"
    text = (EXAMPLES / "llama3_8b_8xh100.toml").read_text(encoding="utf-8")
    plan.write_text(text, encoding="utf-8")
    line = _complaint(["train", str(plan), "--html", str(plan)], capsys)
    assert "is the input of this command" in line
    assert plan.read_text(encoding="utf-8") == text


def test_without_plotly_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def hidden(name: str, package: str | None = None) -> Any:
        return None if name == "plotly" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    line = _complaint(["train", *SMALL, "--html", str(tmp_path / "p.html")], capsys)
    assert "pip install 'ridgeline[report]'" in line


def _written(arguments: list[str], target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([*arguments, "--html", str(target)]) == 0, capsys.readouterr().err
    assert f"wrote {target}" in capsys.readouterr().err
    content = target.read_text(encoding="utf-8")
    assert len(content.encode()) < MOST_BYTES
    own = _own(content)
    outline = Outline(own)
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids))
    return own


def test_the_page_of_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _written(
        ["infer", "--model", "llama3-8b", "--cluster", "1xh100-sxm", "--concurrency", "8",
         "--input-len", "256", "--output-len", "32", "--slo", "ttft=1s"],
        tmp_path / "p.html", capsys,
    )  # fmt: skip
    for key in ("ttft-percentiles", "kv", "replicas", "load-latency", "load-cost"):
        assert f'id="{key}"' in own
    assert "of requests keep the promise" in own


def test_the_page_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _written(
        ["plan", "--model", "llama3-8b", "--on", "8xh100-sxm,16xh100-sxm", "--seq-len", "8192",
         "--global-batch", "32", "--tokens", "10B", "--jobs", "1", "--tp", "1,2", "--pp", "1,2",
         "--zero-stage", "1,3", "--objective", "time"],
        tmp_path / "p.html", capsys,
    )  # fmt: skip
    for key in ("best", "front", "behind", "timeline", "roofline"):
        assert f'id="{key}"' in own
    # The point of a plot opens the plan of that place, and each plan reads as a plan file.
    anchors = set(re.findall(r"front-\d+-fold", own))
    assert all(f'id="{anchor}"' in own for anchor in anchors)
    listed = re.search(r'<pre id="front-0".*?<code class="toml">(.*?)</code>', own, re.DOTALL)
    assert listed is not None
    plan = tmp_path / "front.toml"
    plan.write_text(listed[1].replace("&#34;", '"'), encoding="utf-8")
    assert read_plan(plan).cluster.accelerator.name == "h100-sxm"


def test_the_page_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _written(
        ["compare", "--model", "llama3-8b", "--on", "h100-sxm,l40s", "--count", "8",
         "--seq-len", "8192", "--global-batch", "32", "--tokens", "10B", "--as-of", "2026-08-20"],
        tmp_path / "p.html", capsys,
    )  # fmt: skip
    for key in ("cost-ranges", "time-cost", "sure", "mfu"):
        assert f'id="{key}"' in own
    assert 'class="evidence datasheet"' in own


def test_the_page_of_a_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = str(EXAMPLES / "fleet_small.toml")
    own = _written(["cluster", fleet, "--days", "3"], tmp_path / "p.html", capsys)
    for key in ("uses", "gantt", "utilisation", "queue"):
        assert f'id="{key}"' in own
    own = _written(["cluster", fleet, "--days", "2", "--seeds", "2"], tmp_path / "q.html", capsys)
    assert 'id="intervals"' in own


def test_the_page_of_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _written(["validate", "--source", "torchtitan"], tmp_path / "p.html", capsys)
    for key in ("parity-step", "errors-step", "worst"):
        assert f'id="{key}"' in own


def test_the_pages_of_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "llama3-8b", "--input-len", "256", "--output-len", "32",
             "--slo", "ttft=500ms", "--requests", "200"]  # fmt: skip
    rate = ["--request-rate", "4", "--max-accelerators", "2"]
    own = _written(["plan", "--serve", "--on", "h100-sxm", *asked, *rate], tmp_path / "c.html",
                   capsys)  # fmt: skip
    assert 'id="promise"' in own
    own = _written(["compare", "--serve", "--on", "h100-sxm,a100", *asked, *rate],
                   tmp_path / "s.html", capsys)  # fmt: skip
    assert 'id="cost"' in own
    own = _written(["plan", "--serve", "--max-rate", "--on", "h100-sxm", *asked,
                    "--max-accelerators", "1"], tmp_path / "r.html", capsys)  # fmt: skip
    assert "keep the promise" in own
    own = _written(["plan", "--serve", "--front", "--on", "h100-sxm", *asked[:6],
                    "--concurrency", "1,8", "--max-accelerators", "1"], tmp_path / "f.html",
                   capsys)  # fmt: skip
    assert 'id="front"' in own


def test_an_answer_without_a_page_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "p.html")
    line = _complaint(["plan", "--on", "8xh100-sxm", "--budget", "1000", "--html", target], capsys)
    assert "--html" in line
    assert not Path(target).exists()
