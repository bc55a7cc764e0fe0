"""Processes that answer, each request within a bound of time and of memory.

A worker takes one job at a time. One that takes too long, or dies, is replaced, and whoever asked
is told; nobody else waits for it. What waits in line is bounded too.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ridgeline.errors import InfeasibleError, InputError

LOG = logging.getLogger("uvicorn.error")
PATIENCE_S = 10.0
"""From a request to its answer, waiting in line included."""
START_S = 300.0
"""Until a new worker must be ready; the first of all compiles kernels."""
RETRY_S = 5.0
"""Between attempts to start a worker."""
MOST_WAITING = 200
"""Requests in line; more are sent away at once."""
MEMORY_BYTES = 6 << 30
"""Of addresses that a worker may take, code of the compiler included."""

Job = Callable[..., Any]


class BusyError(Exception):
    """No worker came free in time, or too many wait already."""


class TooMuchError(Exception):
    """The answer takes more time or memory than a request may."""


class BrokenError(Exception):
    """A worker failed in a way that is no answer."""


@dataclass(slots=True)
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """A handful of processes behind a line.

    Parameters
    ----------
    count
        Of processes.
    warm
        Called by each when it starts; it answers once this returns.
    patience_s
        Bound of a request.
    """

    def __init__(self, count: int, warm: Job, patience_s: float = PATIENCE_S) -> None:
        self.count = count
        self.patience_s = patience_s
        self._warm = warm
        self._waiting = 0
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._all: list[_Worker] = []
        self._renewals: set[asyncio.Task[None]] = set()
        # A thread for each worker to wait for it, and one to start its successor.
        self._threads = ThreadPoolExecutor(2 * count, thread_name_prefix="wait")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.process.pid for worker in self._all if worker.process.pid is not None]

    async def start(self) -> None:
        """Start the workers: the first alone, because it compiles what the others load.

        Raises
        ------
        BrokenError
            One does not come up.
        """
        await self._add()
        await asyncio.gather(*(self._add() for _ in range(self.count - 1)))

    async def close(self) -> None:
        """Stop all workers."""
        for renewal in self._renewals:
            renewal.cancel()
        for worker in self._all:
            worker.stop()
        self._all.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, job: Job, *arguments: Any) -> Any:
        """Return what ``job(*arguments)`` returns in a worker.

        Raises
        ------
        InputError, InfeasibleError
            As the job does.
        BusyError, TooMuchError, BrokenError
            No answer.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError
        deadline = time.monotonic() + self.patience_s
        self._waiting += 1
        try:
            async with asyncio.timeout(self.patience_s):
                worker = await self._idle.get()
        except TimeoutError:
            raise BusyError from None
        finally:
            self._waiting -= 1
        # Shielded: a visitor who goes away leaves a worker that must still be taken back.
        return await asyncio.shield(
            asyncio.ensure_future(self._use(worker, deadline, job, arguments))
        )

    async def _use(
        self, worker: _Worker, deadline: float, job: Job, arguments: tuple[Any, ...]
    ) -> Any:
        loop = asyncio.get_running_loop()
        try:
            kind, value = await loop.run_in_executor(
                self._threads, _converse, worker.pipe, deadline, job, arguments
            )
        except (TooMuchError, BrokenError):
            self._renew(worker)
            raise
        self._idle.put_nowait(worker)
        if kind == "input":
            raise InputError(value)
        if kind == "infeasible":
            raise InfeasibleError(value)
        if kind == "large":
            raise TooMuchError
        if kind == "broken":
            LOG.error("a job failed\n%s", value)
            raise BrokenError
        return value

    def _renew(self, worker: _Worker) -> None:
        LOG.warning("worker %s is replaced", worker.process.pid)
        self._drop(worker)
        renewal = asyncio.ensure_future(self._replace())
        self._renewals.add(renewal)
        renewal.add_done_callback(self._renewals.discard)

    async def _replace(self) -> None:
        while True:
            try:
                return await self._add()
            except BrokenError:
                await asyncio.sleep(RETRY_S)

    def _drop(self, worker: _Worker) -> None:
        worker.stop()
        self._all.remove(worker)

    async def _add(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._warm), daemon=True)
        process.start()
        theirs.close()
        worker = _Worker(process=process, pipe=ours)
        self._all.append(worker)
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + START_S
        try:
            kind, value = await loop.run_in_executor(self._threads, _hear, ours, deadline)
        except (TooMuchError, BrokenError):
            kind, value = "broken", "it did not come up"
        if kind != "done":
            LOG.error("a worker failed to start\n%s", value)
            self._drop(worker)
            raise BrokenError("a worker failed to start")
        self._idle.put_nowait(worker)


def _converse(pipe: Connection, deadline: float, job: Job, arguments: tuple[Any, ...]) -> Any:
    try:
        pipe.send((job, arguments))
    except OSError:
        raise BrokenError from None
    return _hear(pipe, deadline)


def _hear(pipe: Connection, deadline: float) -> Any:
    try:
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            raise TooMuchError
        return pipe.recv()
    except (EOFError, OSError):
        raise BrokenError from None


def _work(pipe: Connection, warm: Job) -> None:
    """Live as a worker until the other end of the pipe is closed."""
    # Ctrl-C reaches every process of a terminal; the server stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(_outcome(warm, ()))
    _bound_memory(MEMORY_BYTES)
    while True:
        try:
            job, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(job, arguments))


def _outcome(job: Job, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", job(*arguments)
    except InputError as error:
        return "input", error.problems
    except InfeasibleError as error:
        return "infeasible", str(error)
    except MemoryError:
        return "large", None
    except Exception:  # noqa: BLE001  (the last line of defence: a bug must not end the worker)
        return "broken", traceback.format_exc()


def _bound_memory(most: int) -> None:
    """Let allocations fail beyond ``most`` bytes of addresses, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
