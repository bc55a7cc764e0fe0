from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import web_jobs as jobs
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.web import workers as under_test
from ridgeline.web.answers import Answer
from ridgeline.web.memory import Memory
from ridgeline.web.workers import BrokenError, BusyError, TooMuchError, Workers

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@asynccontextmanager
async def crew(count: int = 1, patience_s: float = 20.0) -> AsyncIterator[Workers]:
    workers = Workers(count, jobs.nothing, patience_s)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.close()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scene()

    asyncio.run(whole())


def test_answers_and_refusals_come_back() -> None:
    async def scene() -> None:
        async with crew() as workers:
            assert await workers.ask(jobs.twice, 21) == 42
            with pytest.raises(InputError) as caught:
                await workers.ask(jobs.refuse)
            assert caught.value.problems == ("first: wrong", "second: wrong")
            with pytest.raises(InfeasibleError, match="does not fit"):
                await workers.ask(jobs.cannot)
            with pytest.raises(BrokenError):
                await workers.ask(jobs.fail)
            assert await workers.ask(jobs.twice, 1) == 2

    play(scene)


def test_a_worker_that_takes_too_long_is_replaced() -> None:
    async def scene() -> None:
        async with crew(patience_s=1.0) as workers:
            (before,) = workers.pids
            with pytest.raises(TooMuchError):
                await workers.ask(jobs.sleep, 60.0)
            workers.patience_s = 20.0
            assert await workers.ask(jobs.twice, 4) == 8
            assert workers.pids != [before]
            with pytest.raises(ProcessLookupError):
                os.kill(before, 0)

    play(scene)


def test_a_worker_that_dies_is_replaced() -> None:
    async def scene() -> None:
        async with crew() as workers:
            with pytest.raises(BrokenError):
                await workers.ask(jobs.die)
            assert await workers.ask(jobs.twice, 4) == 8

    play(scene)


def test_one_slow_question_holds_up_nobody_else() -> None:
    async def scene() -> None:
        async with crew(2) as workers:
            slow = asyncio.ensure_future(workers.ask(jobs.sleep, 5.0))
            await asyncio.sleep(0.1)
            assert [await workers.ask(jobs.twice, n) for n in range(20)] == [*range(0, 40, 2)]
            assert not slow.done()
            slow.cancel()

    play(scene)


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with crew(patience_s=1.5) as workers:
            slow = asyncio.ensure_future(workers.ask(jobs.sleep, 1.4))
            await asyncio.sleep(0.1)
            monkeypatch.setattr(under_test, "MOST_WAITING", 0)
            with pytest.raises(BusyError):
                await workers.ask(jobs.twice, 1)
            monkeypatch.setattr(under_test, "MOST_WAITING", 10)
            workers.patience_s = 0.2
            with pytest.raises(BusyError):
                await workers.ask(jobs.twice, 1)
            assert await slow == "slept"

    play(scene)


def test_a_visitor_who_leaves_takes_no_worker_along() -> None:
    async def scene() -> None:
        async with crew() as workers:
            asked = asyncio.ensure_future(workers.ask(jobs.sleep, 0.5))
            await asyncio.sleep(0.1)
            asked.cancel()
            assert await workers.ask(jobs.twice, 5) == 10

    play(scene)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound addresses")
def test_memory_is_bounded() -> None:
    async def scene() -> None:
        async with crew() as workers:
            with pytest.raises(TooMuchError):
                await workers.ask(jobs.eat, 64)
            assert await workers.ask(jobs.twice, 5) == 10

    play(scene)


def some_answer(text: str) -> Answer:
    return Answer(verdict="", html=text, figures="", measures=(), record="")


def remember(most: int = 1000) -> Memory[Answer]:
    return Memory(most, lambda answer: answer.size)


def test_an_answer_is_made_once_however_many_ask() -> None:
    made: list[str] = []

    async def make() -> Answer:
        made.append("made")
        await asyncio.sleep(0.01)
        return some_answer("x")

    async def scene() -> None:
        memory = remember()
        found = await asyncio.gather(*(memory.get("key", make) for _ in range(50)))
        assert len(made) == 1
        assert all(one is found[0] for one in found)
        assert await memory.get("key", make) is found[0]

    play(scene)


def test_a_failure_is_told_to_all_who_asked_and_not_kept() -> None:
    async def fail() -> Answer:
        await asyncio.sleep(0.01)
        raise BusyError

    async def make() -> Answer:
        return some_answer("x")

    async def scene() -> None:
        memory = remember()
        told = await asyncio.gather(
            *(memory.get("key", fail) for _ in range(3)), return_exceptions=True
        )
        assert [type(one) for one in told] == [BusyError] * 3
        assert (await memory.get("key", make)).html == "x"

    play(scene)


def test_memory_forgets_what_was_asked_longest_ago() -> None:
    async def scene() -> None:
        memory = remember(100)

        async def make() -> Answer:
            return some_answer("x" * 40)

        for key in ("a", "b"):
            await memory.get(key, make)
        await memory.get("a", make)
        await memory.get("c", make)
        assert len(memory) == 2
        assert memory.size == 80
        kept = await memory.get("a", make)
        assert await memory.get("a", make) is kept

    play(scene)


def test_helpers_are_where_workers_find_them() -> None:
    assert Path(jobs.__file__).parent == Path(__file__).parent
