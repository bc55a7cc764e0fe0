"""The routes. A request becomes scenarios, scenarios become answers, answers become a page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.web.answers import Answer, answer, best_split, trace_text
from ridgeline.web.assets import ASSETS, asset
from ridgeline.web.fields import GROUPS, Kind
from ridgeline.web.guard import Guard
from ridgeline.web.memory import Memory
from ridgeline.web.page import Page, Side, render_answer, render_error, render_page
from ridgeline.web.scenario import Scenario, first_scenario, make_scenario, read_query
from ridgeline.web.workers import BrokenError, BusyError, TooMuchError, Workers

RETRY_AFTER_S = 5
MOST_KEPT = 16 << 20
"""Characters of answers, and bytes of pages."""
KINDS: dict[str, Kind] = {kind: kind for kind in GROUPS}
FAILURES = (InputError, InfeasibleError, BusyError, TooMuchError, BrokenError)
"""What asking a worker can come to, beside an answer."""


class Application:
    """The pages of a server.

    Parameters
    ----------
    workers
        Who answers.
    hosts
        Names under which the server may be asked for.
    """

    def __init__(self, workers: Workers, hosts: Iterable[str]) -> None:
        self.workers = workers
        self.memory: Memory[Answer] = Memory(MOST_KEPT, lambda answer: answer.size)
        self.shown: Memory[bytes] = Memory(MOST_KEPT, len)
        inner = Starlette(
            routes=[
                Route("/", self.front),
                Route("/static/{name}", self.static),
                Route("/{kind}", self.page),
                Route("/{kind}/answer", self.fragment),
                Route("/{kind}/best/{letter}", self.best),
                Route("/{kind}/plan.toml", self.plan),
                Route("/{kind}/answer.json", self.record),
                Route("/{kind}/trace.json", self.trace),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _not_found, **dict.fromkeys(FAILURES, _failed)},
        )
        self.guarded = Guard(inner, hosts)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.workers.start()
        yield
        await self.workers.close()

    async def front(self, _: Request) -> Response:
        """Show the way to the first page."""
        return RedirectResponse("/train", 307)

    async def static(self, request: Request) -> Response:
        """Return one of our own scripts and styles, by a name from a list."""
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        found = asset(name)
        headers = {"ETag": found.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type=found.media_type, headers=headers)

    async def page(self, request: Request) -> Response:
        """Return the page of a link."""
        return await self._shown(_asked(request), render_page)

    async def fragment(self, request: Request) -> Response:
        """Return the part of a page that changes with its form."""
        return await self._shown(_asked(request), render_answer)

    async def best(self, request: Request) -> Response:
        """Send to the page on which one scenario has its best split."""
        letter = request.path_params["letter"]
        if letter not in ("a", "b") or _kind(request) != "train":
            raise HTTPException(404)
        page = _asked(request)
        status, sides = 400, []
        for side in page.sides:
            if side.letter == letter and side.scenario is not None:
                try:
                    found = await self.workers.ask(best_split, side.scenario)
                    sides.append(replace(side, texts=found.texts, scenario=found))
                except FAILURES as error:
                    status, lines = failure(error)
                    sides.append(replace(side, problems=lines))
            else:
                sides.append(side)
        page = replace(page, sides=tuple(sides))
        if page.flawed:
            return HTMLResponse(render_page(page), status, headers=_headers(status))
        return RedirectResponse(page.link, 303)

    async def plan(self, request: Request) -> Response:
        """Return the plan file."""
        scenario = _one(request)
        await self._answer(scenario, "a")
        return _file(scenario.toml(), "application/toml", f"ridgeline-{scenario.kind}.toml")

    async def record(self, request: Request) -> Response:
        """Return the answer as the command line's JSON."""
        scenario = _one(request)
        found = await self._answer(scenario, "a")
        if not found.record:
            raise InfeasibleError(found.verdict)
        return _file(found.record, "application/json", f"ridgeline-{scenario.kind}.json")

    async def trace(self, request: Request) -> Response:
        """Return the timeline that Perfetto opens."""
        scenario = _one(request)
        text = await self.workers.ask(trace_text, scenario)
        return _file(text, "application/json", f"ridgeline-{scenario.kind}-trace.json")

    async def _shown(self, page: Page, render: Callable[[Page], str]) -> Response:
        """Return a page or a part of it; what went well is kept."""
        key = (render.__name__, page.link)
        kept = self.shown.find(key) if page.link else None
        if kept is not None:
            return HTMLResponse(kept)
        page, status = await self._answered(page)
        html = render(page).encode()
        if status == 200:
            self.shown.keep(key, html)
        return HTMLResponse(html, status, headers=_headers(status))

    async def _answer(self, scenario: Scenario, letter: str) -> Answer:
        async def make() -> Answer:
            found = await self.workers.ask(answer, scenario, letter)
            assert isinstance(found, Answer)
            return found

        return await self.memory.get((scenario, letter), make)

    async def _answered(self, page: Page) -> tuple[Page, int]:
        """Return a page with the answers to its scenarios, and the status of the response."""
        found = await asyncio.gather(*map(self._side_answered, page.sides))
        worst = max((status for _, status in found), default=200)
        sides = tuple(side for side, _ in found)
        return replace(page, sides=sides), max(worst, 400 if page.flawed else 200)

    async def _side_answered(self, side: Side) -> tuple[Side, int]:
        if side.scenario is None:
            return side, 200
        try:
            found = await self._answer(side.scenario, side.letter)
        except FAILURES as error:
            status, lines = failure(error)
            return replace(side, problems=lines), status
        return replace(side, answer=found), 200


def failure(error: Exception) -> tuple[int, tuple[str, ...]]:
    """Return the status and the lines that say why there is no answer."""
    if isinstance(error, InputError):
        return 400, error.problems
    if isinstance(error, InfeasibleError):
        return 422, (str(error),)
    if isinstance(error, BusyError):
        return 503, ("all workers are busy; ask again in a moment",)
    if isinstance(error, TooMuchError):
        return 503, (
            "takes more time or memory than a page may; ask for less, or use the command line",
        )
    return 500, ("this is a bug in ridgeline; please report it together with the link",)


def _asked(request: Request) -> Page:
    """Return the page that a link asks for, without answers."""
    kind = _kind(request)
    try:
        first, second = read_query(request.url.query)
    except InputError as error:
        return Page(kind=kind, problems=error.problems, sides=(Side(letter="a", texts={}),))
    if not first and not second:
        first = first_scenario(kind).texts
    letters = {"a": first, **({"b": second} if second else {})}
    return Page(
        kind=kind, sides=tuple(_side(kind, letter, texts) for letter, texts in letters.items())
    )


def _side(kind: Kind, letter: str, texts: dict[str, str]) -> Side:
    try:
        scenario = make_scenario(kind, texts)
    except InputError as error:
        return Side(letter=letter, texts=texts, problems=error.problems)
    return Side(letter=letter, texts=scenario.texts, scenario=scenario)


def _one(request: Request) -> Scenario:
    """Return the scenario of a link that holds one."""
    kind = _kind(request)
    first, second = read_query(request.url.query)
    if second:
        raise InputError("link: holds two scenarios; a file is of one")
    return make_scenario(kind, first) if first else first_scenario(kind)


def _kind(request: Request) -> Kind:
    kind = KINDS.get(request.path_params["kind"])
    if kind is None:
        raise HTTPException(404)
    return kind


def _headers(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}


def _file(text: str, media_type: str, name: str) -> Response:
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=media_type, headers=disposition)


async def _failed(_: Request, error: Exception) -> Response:
    """Answer in lines where no page is asked for."""
    status, lines = failure(error)
    text = "".join(f"error: {line}\n" for line in lines)
    return PlainTextResponse(text, status, headers=_headers(status))


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    line = "there is no such page" if error.status_code == 404 else error.detail.lower()
    return HTMLResponse(render_error(error.status_code, line), error.status_code)
