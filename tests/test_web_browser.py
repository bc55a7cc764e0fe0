"""The web application as a visitor drives it. Needs the extra "browser" and Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("RIDGELINE_SCREENSHOTS", "")
"""A folder for pictures of the pages; empty takes none."""
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    code = "from ridgeline.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "web", "--port", "0", "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    found = None
    for line in server.stderr:
        if found := re.search(r"ready: (http://\S+)", line):
            break
    assert found is not None
    yield found[1]
    server.send_signal(signal.SIGINT)
    _, rest = server.communicate(timeout=20)
    # Whatever it said after it was ready would be a warning or a traceback.
    assert (server.returncode, rest) == (0, "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=DESK, base_url=address, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    yield page
    # Chromium reports the refusal of a bad scenario, which a test asks for, as an error.
    bad = [line for line in said if "status of 400 (Bad Request)" not in line]
    assert bad == []


def drawn(page: Page) -> None:
    page.wait_for_selector("html[data-drawn=yes]")


def verdict(page: Page, side: str = "a") -> str:
    return page.locator(f"#{side}-answer .verdict .answer").inner_text()


def picture(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(300)
        page.screenshot(path=Path(SHOTS) / f"web-{name}.png")


def test_a_visitor_chooses_compares_shares_reloads_and_downloads(
    page: Page, context: BrowserContext
) -> None:
    page.goto("/")
    drawn(page)
    first = verdict(page)
    picture(page, "train-1280")

    # Choose: the answer and the link change without a click.
    page.get_by_label("How many", exact=True).fill("128")
    expect(page).to_have_url(re.compile(r"cluster\.count=128"))
    drawn(page)
    assert verdict(page) != first
    page.get_by_label("Accelerator", exact=True).select_option("b200-sxm")
    expect(page).to_have_url(re.compile(r"cluster\.accelerator=b200-sxm"))
    drawn(page)
    alone = verdict(page)
    assert page.locator(".plot.js-plotly-plot").count() >= 4
    assert page.locator("#said").inner_text().startswith(alone.removeprefix("✔ "))

    # Share: the link opened anew shows the same.
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    other = context.new_page()
    other.goto(link)
    drawn(other)
    assert verdict(other) == alone
    assert other.get_by_label("How many", exact=True).input_value() == "128"
    other.close()
    page.reload()
    drawn(page)
    assert verdict(page) == alone

    # Back: the question before.
    page.go_back()
    expect(page.get_by_label("Accelerator", exact=True)).to_have_value("h100-sxm")
    page.go_forward()
    expect(page.get_by_label("Accelerator", exact=True)).to_have_value("b200-sxm")
    drawn(page)

    # Download all three.
    texts = {}
    for name in ("plan (TOML)", "answer (JSON)", "trace (Perfetto)"):
        with page.expect_download() as caught:
            page.get_by_role("link", name=name).click()
        texts[name] = Path(caught.value.path()).read_text(encoding="utf-8")
    assert tomllib.loads(texts["plan (TOML)"])["cluster"]["count"] == 128
    answer = json.loads(texts["answer (JSON)"])
    assert answer["accelerators"] == 128
    assert json.loads(texts["trace (Perfetto)"])["traceEvents"]

    # Compare.
    page.get_by_role("link", name="Compare with another").click()
    drawn(page)
    assert verdict(page, "b") == alone
    second = page.get_by_role("group", name="Scenario B")
    second.get_by_label("Accelerator", exact=True).select_option("h100-sxm")
    expect(page.get_by_role("heading", name="A and B side by side")).to_be_visible()
    expect(page.locator(".contrast")).to_contain_text("b200-sxm")
    drawn(page)
    assert verdict(page, "b") != alone
    assert verdict(page, "a") == alone
    picture(page, "compare-1280")
    page.get_by_role("link", name="Keep only B").click()
    expect(page.get_by_label("Accelerator", exact=True)).to_have_value("h100-sxm")


def test_a_service_answers_as_the_load_changes(page: Page) -> None:
    page.goto("/train")
    drawn(page)
    page.get_by_role("link", name="Serving").click()
    drawn(page)
    quiet = verdict(page)
    picture(page, "serve-1280")
    # One kind of traffic takes the place of another.
    page.get_by_label("or kept in flight", exact=True).fill("16")
    expect(page).to_have_url(re.compile(r"serving\.concurrency=16"))
    assert "request_rate" not in page.url
    drawn(page)
    assert verdict(page) != quiet
    assert page.get_by_label("Requests a second", exact=True).input_value() == ""


def test_the_fastest_split_is_found(page: Page) -> None:
    page.goto("/train")
    drawn(page)
    slow = verdict(page)
    page.get_by_role("button", name="Find the fastest split").click()
    page.wait_for_url(re.compile(r"training\.micro_batch_seqs=|parallel\.cp=|parallel\.tp="))
    drawn(page)
    assert verdict(page) != slow


def test_bad_input_is_told_beside_the_form(page: Page) -> None:
    page.goto("/train")
    drawn(page)
    box = page.get_by_label("How many", exact=True)
    box.fill("1e9")
    flaw = page.locator("[id='a-cluster.count-flaw']")
    expect(flaw).to_have_text("How many '1e9': must be a whole number")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert")).to_contain_text("must be a whole number")
    picture(page, "bad-1280")
    box.fill("63")
    expect(page.get_by_role("alert")).to_contain_text("63")
    box.fill("64")
    expect(page.locator("#a-answer .verdict")).to_be_visible()
    expect(flaw).to_have_text("")
    assert box.get_attribute("aria-invalid") is None
    page.goto("/train?model.name=<script>alert(1)</script>")
    expect(page.get_by_role("alert")).to_contain_text("is not on the list")


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("/train")
    drawn(page)
    before = verdict(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_label("How many", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("32")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"cluster\.count=32"))
    drawn(page)
    assert verdict(page) != before


def test_it_works_without_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, base_url=address)
    page = context.new_page()
    page.goto("/train")
    before = verdict(page)
    page.get_by_label("How many", exact=True).fill("32")
    page.get_by_role("button", name="Answer").click()
    assert "cluster.count=32" in page.url
    assert verdict(page) != before
    context.close()


def violations(page: Page) -> list[tuple[Any, ...]]:
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], one["impact"], [node["html"][:120] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("kind", "size", "scheme"),
    [
        ("train", PHONE, "dark"),
        ("train", DESK, "light"),
        ("serve", PHONE, "light"),
        ("serve", DESK, "dark"),
        ("compare", PHONE, "dark"),
        ("compare", DESK, "light"),
        ("bad", PHONE, "light"),
        ("bad", DESK, "dark"),
    ],
)
def test_pages_are_accessible_and_fit_the_window(
    page: Page, kind: str, size: dict[str, int], scheme: str
) -> None:
    page.set_viewport_size(size)  # type: ignore[arg-type]  # two numbers
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two words
    page.goto({"serve": "/serve", "bad": "/train?cluster.count=x"}.get(kind, "/train"))
    drawn(page)
    if kind == "compare":
        page.get_by_role("link", name="Compare with another").click()
        page.wait_for_url(re.compile(r"b\.model"))
        drawn(page)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    picture(page, f"{kind}-{size['width']}-{scheme}")
    assert violations(page) == []
