from __future__ import annotations

import asyncio
import json
import os
import re
import site
import sys
import sysconfig
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from click.testing import CliRunner

import ridgeline
from ridgeline.cli import app as command_line
from ridgeline.errors import InputError
from ridgeline.web import server
from ridgeline.web.answers import warm_up
from ridgeline.web.app import Application
from ridgeline.web.guard import HEADERS, LONGEST_LINK
from ridgeline.web.scenario import Scenario, first_scenario, make_scenario
from ridgeline.web.workers import BrokenError, BusyError, Job, TooMuchError, Workers

LARGE = {"model.name": "llama3.1-405b", "cluster.accelerator": "h100-sxm", "cluster.count": "16"}
SMALL = first_scenario("train").replaced({"cluster.count": "8"})
SERVICE = first_scenario("serve").replaced({"serving.requests": "50"})
TOO_LARGE = make_scenario("serve", {**LARGE, "cluster.count": "1", "serving.batch": "1"})
HOSTILE = (
    "model.name=../../../../etc/passwd",
    "model.name=/etc/config.json",
    "model.name=%3Cscript%3Ealert(1)%3C/script%3E",
    "model.name=llama3.1-8b&model.layers=1000000000",
    "model.config=/etc/passwd",
    "cluster.graph=/etc/passwd",
    "cluster.spec=8x/tmp/mine.toml",
    "cluster.spec=" + "9" * 90 + "xh100",
    "stack.name=/tmp/mine.toml",
    "money.prices=/etc/passwd",
    "serving.trace=/dev/zero",
    "model.expert_load=/dev/zero",
    "cluster.count=1000000000",
    "cluster.count=nan",
    "money.pue=inf",
    "training.tokens=__import__('os')",
    "model.name[]=a",
    "%00=%00",
    "%ff=%fe",
    "a=b&a=c",
    "&".join(f"b.k{n}=1" for n in range(500)),
)


class Here(Workers):
    """Answers in this process, at once."""

    def __init__(self) -> None:
        super().__init__(1, warm_up)
        self.asked: list[str] = []
        self.failure: Exception | None = None

    async def start(self) -> None:
        pass

    async def ask(self, job: Job, *arguments: Any) -> Any:
        self.asked.append(job.__name__)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return job(*arguments)


class Client:
    """Asks the application as a browser does, without a socket."""

    def __init__(self, application: Application) -> None:
        self._transport = httpx.ASGITransport(application.guarded)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://localhost"
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)


@pytest.fixture(scope="module")
def workers() -> Here:
    return Here()


@pytest.fixture(scope="module")
def client(workers: Here) -> Client:
    return Client(Application(workers, ("localhost",)))


def link(scenario: Scenario, tail: str = "") -> str:
    return f"/{scenario.kind}{tail}?{scenario.query}"


class Boxes(HTMLParser):
    """What a form would send, and the labels of its boxes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.labelled: set[str] = set()
        self.boxes: dict[str, dict[str, str | None]] = {}
        self.ids: list[str] = []
        self._select: str | None = None
        self._first = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "label" and given.get("for"):
            self.labelled.add(str(given["for"]))
        if tag in ("input", "select") and given.get("name"):
            self.boxes[str(given["id"])] = given
        if tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.sent[str(given["name"])] = given.get("value") or ""
        if tag == "select":
            self._select, self._first = str(given["name"]), True
        if tag == "option" and self._select and (self._first or "selected" in given):
            self.sent[self._select] = given.get("value") or ""
            self._first = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None


@pytest.mark.parametrize("kind", ["train", "serve"])
def test_a_visitor_sees_an_answer_and_the_form_that_asks_for_it(client: Client, kind: str) -> None:
    response = client.get(f"/{kind}")
    assert response.status_code == 200
    boxes = Boxes(response.text)
    assert len(set(boxes.ids)) == len(boxes.ids)
    for name, given in boxes.boxes.items():
        assert given.get("type") == "checkbox" or name in boxes.labelled
    # Sent as it stands, the form asks the same question.
    again = client.get(f"/{kind}?{urlencode(boxes.sent)}")
    assert again.text == response.text
    assert 'class="verdict' in response.text


def test_the_front_leads_to_a_page(client: Client) -> None:
    assert client.get("/").headers["location"] == "/train"


def test_the_fragment_is_part_of_the_page(client: Client) -> None:
    page, fragment = client.get(link(SMALL)), client.get(link(SMALL, "/answer"))
    assert fragment.text.strip() in page.text
    figures = re.search(r'class="figures">(.*?)</script>', fragment.text, re.DOTALL)
    assert figures is not None
    drawn = json.loads(figures[1])
    assert drawn
    for key in drawn:
        assert f'id="{key}"' in fragment.text


def test_two_scenarios_side_by_side(client: Client) -> None:
    other = SMALL.replaced({"cluster.accelerator": "h200-sxm"})
    pairs = [*SMALL.pairs(), *other.pairs("b.")]
    response = client.get(f"/train?{urlencode(pairs)}")
    assert response.status_code == 200
    boxes = Boxes(response.text)
    assert len(set(boxes.ids)) == len(boxes.ids)
    assert boxes.sent["cluster.accelerator"] == "h100-sxm"
    assert boxes.sent["b.cluster.accelerator"] == "h200-sxm"
    assert "B against A" in response.text
    assert "What differs between the scenarios" in response.text


def test_one_wrong_side_leaves_the_other_its_answer(client: Client) -> None:
    pairs = [*SMALL.pairs(), *SMALL.pairs("b."), ("b.parallel.tp", "3")]
    response = client.get(f"/train?{urlencode(pairs)}")
    assert response.status_code == 400
    assert response.text.count('class="verdict') == 1
    assert "wrong with scenario B" in response.text


def test_files_say_what_the_command_line_says(client: Client, tmp_path: Path) -> None:
    for scenario, command in ((SMALL, "train"), (SERVICE, "infer")):
        plan = tmp_path / f"{command}.toml"
        response = client.get(link(scenario, "/plan.toml"))
        assert "attachment" in response.headers["content-disposition"]
        plan.write_text('name = ""\n' + response.text, encoding="utf-8")
        done = CliRunner().invoke(command_line, [command, str(plan), "--json"])
        mine = client.get(link(scenario, "/answer.json")).json()
        theirs = json.loads(done.stdout)
        assert mine | {"name": theirs["name"]} == theirs


def test_the_trace_opens(client: Client) -> None:
    for scenario in (SMALL, SERVICE):
        events = client.get(link(scenario, "/trace.json")).json()["traceEvents"]
        assert any(event["ph"] == "X" for event in events)


def test_the_best_split_is_a_page_of_its_own(client: Client) -> None:
    crowded = make_scenario(
        "train",
        {
            **SMALL.replaced({"parallel.zero_stage": "", "training.global_batch_seqs": "64"}).texts,
        },
    )
    before = client.get(link(crowded, "/answer.json")).json()
    response = client.get(link(crowded, "/best/a"))
    assert response.status_code == 303
    after = client.get(response.headers["location"].replace("?", "/answer.json?")).json()
    assert not before["fits"]
    assert after["fits"]
    assert after["plan"]["training"]["global_batch_seqs"] == 64
    assert client.get(f"/serve/best/a?{SERVICE.query}").status_code == 404


def test_what_cannot_be_is_an_answer(client: Client) -> None:
    response = client.get(link(TOO_LARGE))
    assert response.status_code == 200
    assert "This cannot be" in response.text
    refused = client.get(link(TOO_LARGE, "/answer.json"))
    assert refused.status_code == 422
    assert refused.text.startswith("error: ")
    assert client.get(link(TOO_LARGE, "/trace.json")).status_code == 422


@pytest.mark.parametrize("query", HOSTILE)
@pytest.mark.parametrize("kind", ["train", "serve"])
@pytest.mark.parametrize("tail", ["", "/answer", "/plan.toml", "/answer.json", "/trace.json"])
def test_hostile_links_get_a_line(client: Client, kind: str, tail: str, query: str) -> None:
    response = client.get(f"/{kind}{tail}?{query}")
    assert response.status_code == 400
    if tail.endswith((".toml", ".json")):
        assert response.headers["content-type"].startswith("text/plain")
        assert all(line.startswith("error: ") for line in response.text.splitlines())
    else:
        assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/../app.py", 404),
        ("/static/..%2f..%2fapp.py", 404),
        ("/static/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/..%2f..%2fetc/passwd", 404),
        ("/static/app.py", 404),
        ("/etc/answer", 404),
        ("/train/best/c", 404),
        ("/train?x=" + "a" * LONGEST_LINK, 414),
        ("/" + "a" * LONGEST_LINK, 414),
    ],
)
def test_paths_that_lead_nowhere(client: Client, path: str, status: int) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert "error: " in response.text


def test_a_request_carries_no_body_and_no_other_method(client: Client) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    assert client.request("POST", "/train", content="x" * 10).status_code == 413
    assert client.request("GET", "/train", content="x" * 10_000_000).status_code == 413
    assert client.request("GET", "/train", content=parts()).status_code == 413
    assert client.request("DELETE", "/train").status_code == 405
    assert client.request("OPTIONS", "/train").headers["allow"] == "GET, HEAD"
    assert client.request("HEAD", "/train").status_code == 200


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8700", True),
        ("127.0.0.1:8700", True),
        ("[::1]:8700", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("[evil]", False),
        ("", False),
    ],
)
def test_only_names_of_this_server_are_answered(client: Client, host: str, known: bool) -> None:
    response = client.get("/static/icon.svg", headers={"host": host})
    assert response.status_code == (200 if known else 400)


def test_every_response_is_safe_to_show(client: Client) -> None:
    for path in ("/train", "/nothing", "/static/app.js", "/train?x=1", "/" + "a" * LONGEST_LINK):
        headers = client.get(path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value
    assert "script-src 'self';" in HEADERS["Content-Security-Policy"]


def test_pages_carry_no_script_of_their_own(client: Client) -> None:
    html = client.get("/train").text
    for attributes in re.findall(r"<script([^>]*)>", html):
        assert 'src="/static/' in attributes or 'type="application/json"' in attributes
    assert not re.search(r"\son[a-z]+=", html)
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_scripts_and_styles_are_sent_once(client: Client) -> None:
    for name in ("app.js", "app.css", "report.js", "report.css", "plotly.min.js"):
        first = client.get(f"/static/{name}")
        assert first.status_code == 200
        assert len(first.content) > 500
        tag = first.headers["etag"]
        assert client.get(f"/static/{name}", headers={"if-none-match": tag}).status_code == 304


def test_what_a_visitor_wrote_is_escaped_and_marked(client: Client) -> None:
    texts = {**SMALL.texts, "training.seq_len": '"><script>alert(1)</script>'}
    response = client.get(f"/train?{urlencode(texts)}")
    assert response.status_code == 400
    boxes = Boxes(response.text)
    assert boxes.sent["training.seq_len"] == texts["training.seq_len"]
    assert boxes.boxes["a-training.seq_len"]["aria-invalid"] == "true"
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    ("failure", "status"), [(BusyError(), 503), (TooMuchError(), 503), (BrokenError(), 500)]
)
def test_no_answer_is_a_line_too(
    client: Client, workers: Here, failure: Exception, status: int
) -> None:
    workers.failure = failure
    try:
        price = f"1.{len(type(failure).__name__)}"
        fresh = SMALL.replaced({"money.usd_per_accelerator_hour": price})
        for tail in ("", "/answer", "/answer.json", "/trace.json", "/best/a"):
            response = client.get(link(fresh, tail))
            assert response.status_code == status
            assert ("retry-after" in response.headers) == (status == 503)
    finally:
        workers.failure = None
    assert client.get(link(fresh)).status_code == 200


def test_an_answer_is_asked_for_once(client: Client, workers: Here) -> None:
    client.get(link(SMALL))
    before = list(workers.asked)
    client.get(link(SMALL))
    client.get(link(SMALL, "/answer"))
    client.get(link(SMALL, "/answer.json"))
    assert workers.asked == before


def test_a_visitor_takes_model_and_hardware_along(client: Client) -> None:
    changed = SMALL.replaced({"model.name": "qwen3-8b", "cluster.accelerator": "h200-sxm"})
    html = client.get(link(changed)).text
    found = re.search(r'href="(/serve\?[^"]*)"', html)
    assert found is not None
    sent = Boxes(client.get(found[1].replace("&amp;", "&")).text).sent
    assert sent["model.name"] == "qwen3-8b"
    assert sent["cluster.accelerator"] == "h200-sxm"


_WATCHED: list[tuple[str, Any]] = []
_WATCHING = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING and event.startswith(("open", "os.", "subprocess.", "socket.", "shutil.")):
        _WATCHED.append((event, arguments[0] if arguments else ""))


def _belongs(path: object) -> bool:
    """Whether a path is of this package or of Python's libraries."""
    if not isinstance(path, str | bytes | os.PathLike):
        return isinstance(path, int)
    roots = {
        *(Path(folder).resolve() for folder in ridgeline.__path__),
        *(
            Path(spec.origin).parent.resolve()
            for name in ("hardware", "workloads", "simulator", "validation")
            if (spec := find_spec(f"ridgeline.{name}")) and spec.origin
        ),
        *map(Path, (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())),
        *map(Path, site.getsitepackages()),
        *([Path(os.environ["NUMBA_CACHE_DIR"])] if "NUMBA_CACHE_DIR" in os.environ else []),
    }
    real = Path(os.fsdecode(path)).resolve()
    return any(real.is_relative_to(root) for root in roots)


def test_a_request_reads_and_starts_nothing_of_the_machine(client: Client) -> None:
    global _WATCHING
    sys.addaudithook(_watch)
    _WATCHING = True
    try:
        for query in HOSTILE:
            for kind in ("train", "serve"):
                client.get(f"/{kind}/answer?{query}")
        client.get("/static/..%2f..%2fetc%2fpasswd")
        for scenario in (SMALL, SERVICE, TOO_LARGE):
            for tail in ("", "/plan.toml", "/answer.json", "/trace.json"):
                client.get(link(scenario, tail))
    finally:
        _WATCHING = False
    assert not [entry for entry in _WATCHED if entry[0].startswith(("subprocess.", "os.exec"))]
    assert not [entry for entry in _WATCHED if entry[0] == "socket.connect"]
    opened = [entry for entry in _WATCHED if entry[0] in ("open", "os.listdir", "os.scandir")]
    assert [entry for entry in opened if not _belongs(entry[1])] == []


def test_the_command_says_where_it_listens_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(server, "serve", lambda *arguments: served.append(arguments))
    done = CliRunner().invoke(command_line, ["web", "--port", "0", "--workers", "3"])
    assert done.exit_code == 0
    assert done.stderr == ""
    assert served == [("127.0.0.1", 0, ("127.0.0.1", "localhost"), 3)]
    done = CliRunner().invoke(
        command_line, ["web", "--host", "0.0.0.0", "--allow-host", "plans.example"]
    )
    assert done.stderr.startswith("warning: 0.0.0.0 is not loopback: ")
    assert done.stderr.count("\n") == 1
    assert served[1][2] == ("0.0.0.0", "localhost", "plans.example")


def test_an_address_that_is_taken_is_a_line() -> None:
    with pytest.raises(InputError, match="cannot be listened on"):
        server.serve("192.0.2.1", 1, (), 1)
