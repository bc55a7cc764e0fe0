"""Pages in a real browser. Needs the extra "browser" and Chromium.

``RIDGELINE_SCREENSHOTS`` names a folder for pictures of the pages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

pytest.importorskip("playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from ridgeline.cli import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("RIDGELINE_SCREENSHOTS", "")
EXAMPLES = Path(__file__).parent.parent / "examples"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SERIOUS = ("serious", "critical")
QUESTIONS = {
    "train": ["train", str(EXAMPLES / "llama3_405b_16k_h100.toml")],
    "infer": ["infer", str(EXAMPLES / "serve_llama3_70b.toml")],
    "plan": ["plan", "--model", "llama3-8b", "--on", "64xh100-sxm,128xh100-sxm",
             "--seq-len", "8192", "--global-batch", "256", "--tokens", "100B",
             "--objective", "time", "--jobs", "1", "--tp", "1,2,4", "--pp", "1,2"],
    "compare": ["compare", "--model", "llama3-8b", "--on", "h100-sxm,b200,mi300x", "--count",
                "64", "--seq-len", "8192", "--global-batch", "256", "--tokens", "100B",
                "--as-of", "2026-08-20"],
    "cluster": ["cluster", str(EXAMPLES / "fleet_small.toml")],
    "validate": ["validate"],
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {name: folder / f"{name}.html" for name in QUESTIONS}
    for name, question in QUESTIONS.items():
        assert run([*question, "--html", str(made[name])]) == 0
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that was opened, with all that it said and asked for."""

    def __init__(
        self, browser: Browser, path: Path, size: dict[str, int], scheme: str = "light"
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": size["width"], "height": size["height"]},
            color_scheme="dark" if scheme == "dark" else "light",
            has_touch=size == PHONE,
            bypass_csp=False,
        )
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_page_draws_everything_and_is_quiet(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    for size, scheme in ((PHONE, "light"), (DESK, "light"), (DESK, "dark")):
        with Visit(browser, pages[name], size, scheme) as visit:
            assert visit.said == []
            # What else was asked for is carried in the page itself.
            assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []
            plots = visit.page.locator(".plot")
            assert plots.count() > 0
            assert visit.page.locator(".plot .main-svg").count() >= plots.count()
            wide = visit.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"]
            if SHOTS:
                kind = "dark" if scheme == "dark" else "phone" if size == PHONE else "desktop"
                visit.page.screenshot(path=f"{SHOTS}/report-{name}-{kind}.png", full_page=True)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_page_has_no_serious_accessibility_violation(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    # Both schemes take part; what differs between pages is the same in each.
    dark = name in ("train", "compare")
    context = browser.new_context(
        viewport={"width": 1280, "height": 900} if dark else {"width": 390, "height": 844},
        color_scheme="dark" if dark else "light",
        bypass_csp=True,  # axe is injected; the page itself lets nothing in
    )
    page = context.new_page()
    page.goto(pages[name].as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    for fold in page.locator("details").all():
        fold.evaluate("element => { element.open = true; }")
    found = [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in Axe().run(page).response["violations"]
        if one["impact"] in SERIOUS
    ]
    context.close()
    assert found == []


def test_a_point_of_the_front_opens_its_plan(pages: dict[str, Path], browser: Browser) -> None:
    with Visit(browser, pages["plan"], DESK) as visit:
        page = visit.page
        assert page.locator("#front-0-fold").get_attribute("open") is None
        page.locator("#front").scroll_into_view_if_needed()
        point = page.locator("#front .scatterlayer .trace.scatter path.point").first
        box = point.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.locator("#front .hoverlayer .hovertext").first.wait_for()
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector("#front-0-fold[open]")
        assert "[parallel]" in page.locator("#front-0").inner_text()
        assert visit.said == []


def test_light_follows_dark_and_paper(pages: dict[str, Path], browser: Browser) -> None:
    with Visit(browser, pages["train"], DESK, "dark") as visit:
        page = visit.page
        ink = "element => getComputedStyle(element).fill"
        label = page.locator("#time .ytick text").first
        dark = label.evaluate(ink)
        page.emulate_media(color_scheme="light")
        page.wait_for_timeout(500)
        light = page.locator("#time .ytick text").first.evaluate(ink)
        assert dark != light
        page.emulate_media(color_scheme="dark", media="print")
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        assert page.locator("main > nav").is_hidden()
        if SHOTS:
            page.pdf(path=f"{SHOTS}/report-train.pdf")
        assert visit.said == []


def test_the_plan_can_be_copied(pages: dict[str, Path], browser: Browser) -> None:
    with Visit(browser, pages["train"], DESK) as visit:
        visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.page.locator('[data-copy="plan-file"]').click()
        visit.page.locator('[data-copy="plan-file"]', has_text="Copied").wait_for()
        copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied == (EXAMPLES / "llama3_405b_16k_h100.toml").read_text(encoding="utf-8")
