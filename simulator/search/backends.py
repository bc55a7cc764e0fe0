"""Where blocks are evaluated: here, on all cores, or on the workers of a cluster."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from ridgeline.errors import InputError
from ridgeline.simulator.search.evaluate import Evaluator, Incumbent, Kept, Places, Question
from ridgeline.simulator.search.results import Counts
from ridgeline.simulator.search.space import Candidates

BACKENDS = ("local", "dask", "ray")

Block = tuple[int, Candidates, Places]
"""Place of its first plan, its plans, their places."""
Outcome = tuple[int, Kept, Counts]


def evaluate_blocks(
    question: Question,
    blocks: Iterator[Block],
    known: Callable[[], Incumbent],
    *,
    jobs: int = 1,
    backend: str = "local",
    address: str = "",
) -> Iterator[Outcome]:
    """Evaluate blocks and yield what is left of each as it is done, in any order.

    Parameters
    ----------
    question
        What is asked of every block.
    blocks
        Taken as workers become free.
    known
        Returns what is known when a block is given away.
    jobs
        Processes, -1 for one on every core; ignored by the workers of a cluster.
    backend
        ``local``, ``dask`` or ``ray``.
    address
        Of the scheduler, ``tcp://host:port``; empty for one on this machine.

    Raises
    ------
    InputError
        The backend is unknown, not installed, or nobody answers at the address.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: must be one of {', '.join(BACKENDS)}")
    if backend == "local" and jobs == 1:
        evaluator = Evaluator(question)
        for first, candidates, order in blocks:
            yield first, *evaluator.evaluate(candidates, order, known())
        return
    import joblib

    payload = pickle.dumps(question)
    with ExitStack() as stack:
        name = stack.enter_context(_cluster(backend, address))
        stack.enter_context(joblib.parallel_config(backend=name, n_jobs=_workers(backend, jobs)))
        tasks = (
            joblib.delayed(_evaluate)(payload, first, candidates, order, known())
            for first, candidates, order in blocks
        )
        if backend == "ray":  # its pool hands results back only all at once
            workers = joblib.effective_n_jobs()
            while wave := list(islice(tasks, 2 * workers)):
                yield from cast("list[Outcome]", joblib.Parallel()(wave))
            return
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        yield from cast("Iterator[Outcome]", parallel(tasks))


def _workers(backend: str, jobs: int) -> int:
    return jobs if backend == "local" else -1


def _cluster(backend: str, address: str) -> AbstractContextManager[str]:
    """Connect to the cluster; the context gives joblib's name of the backend."""
    if backend == "local":
        return nullcontext("loky")
    return _dask(address) if backend == "dask" else _ray(address)


def _dask(address: str) -> AbstractContextManager[str]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(_missing("dask")) from None
    stack = ExitStack()
    try:
        connect: Any = Client  # untyped
        stack.enter_context(connect(address or None, set_as_default=True))
    except (OSError, ValueError) as error:
        raise InputError(f"--address {address}: no dask scheduler answers: {error}") from None
    return _closing(stack, "dask")


def _ray(address: str) -> AbstractContextManager[str]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise InputError(_missing("ray")) from None
    stack = ExitStack()
    if not ray.is_initialized():
        try:
            ray.init(address=address or None, include_dashboard=False, log_to_driver=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--address {address}: no ray cluster answers: {error}") from None
        stack.callback(ray.shutdown)
    register_ray()
    return _closing(stack, "ray")


class _closing(AbstractContextManager[str]):  # noqa: N801  (read as a verb)
    """Give a name while a connection is open."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self._stack = stack
        self._name = name

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _missing(backend: str) -> str:
    return f"--backend {backend}: is not installed; pip install 'ridgeline[{backend}]'"


@lru_cache(maxsize=2)
def _evaluator(payload: bytes) -> Evaluator:
    """Return a worker's evaluator of a question: it learns from block to block."""
    question = pickle.loads(payload)  # made by this module, in another process
    assert isinstance(question, Question)
    return Evaluator(question)


def _evaluate(
    payload: bytes, first: int, candidates: Candidates, order: Places, known: Incumbent
) -> Outcome:
    if threading.current_thread() is threading.main_thread():
        # an interrupt is for whoever asked the question, who lets the workers go
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return first, *_evaluator(payload).evaluate(candidates, order, known)
