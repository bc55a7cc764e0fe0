"""``ridgeline profile`` as two functions: measure and fit a machine, train a transformer on it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ridgeline.validation.profiling import sampling
from ridgeline.validation.profiling.cases import case_of, collective_cases, device_cases
from ridgeline.validation.profiling.fitting import Fitted, Fitter
from ridgeline.validation.profiling.machine import Power, read_machine
from ridgeline.validation.profiling.programs import Programs
from ridgeline.validation.profiling.ranks import pick_device, start
from ridgeline.validation.profiling.samples import read_samples
from ridgeline.validation.profiling.sampling import Ranks
from ridgeline.validation.profiling.transformer import Size, step_seconds, traced, trainer
from ridgeline.validation.profiling.writing import Origin, clean_name, profile_text, stack_text

CASE_S = 0.04
"""Most that one call of a case takes in a profile of one minute; longer ones allow more."""
LONGEST_CASE_S = 0.5
Progress = Any
"""``Callable[[str], None]`` that survives being sent to another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure, and with how much of the machine."""

    device: str
    processes: int
    threads: int
    dtypes: tuple[str, ...]
    """The first is the one of whole training steps."""
    minutes: float
    samples: Path
    """Kept between runs: the same command goes on from it."""

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for samples to mix."""
        chosen = pick_device(self.device)
        return {
            "model": read_machine(chosen, self.threads, self.processes).model,
            "device": chosen.type,
            "torch": torch.__version__,
            "processes": self.processes,
            "threads": self.threads,
            "dtypes": list(self.dtypes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The texts of a measured machine and what stands behind them."""

    name: str
    profile: str
    stack: str
    fitted: Fitted
    rounds: int


def profile_machine(settings: Settings, name: str, progress: Progress) -> Profile:
    """Measure for some minutes, then fit everything that there are samples of.

    Raises
    ------
    InputError
        Samples of another machine or setting, or a device that is not there.
    InfeasibleError
        A needed figure's samples are too few or spread too much.
    """
    measure(settings, progress)
    return fit_machine(settings, name)


def measure(
    settings: Settings,
    progress: Progress,
    trainings: Sequence[Training] = (),
    slices: int = 1,
) -> list[list[float]]:
    """Take samples for some minutes, on top of those that there are.

    Parameters
    ----------
    settings, progress
        What to measure, and who is told how far it is.
    trainings
        Run by the same ranks behind every slice.
    slices
        Into so many equal ones the minutes are cut.

    Returns
    -------
    list[list[float]]
        Seconds of every step of each training, on the slowest rank.

    Raises
    ------
    InputError
        Samples of another machine or setting, or a device that is not there.
    """
    read_samples(settings.samples, settings.identity())
    work = (settings, progress, tuple(trainings), slices)
    start(_measure_slices, settings.processes, settings.device, settings.threads, *work)
    return [_taken(training) for training in trainings]


def fit_machine(settings: Settings, name: str = "") -> Profile:
    """Fit everything that there are samples of.

    Raises
    ------
    InputError
        Samples of another machine or setting.
    InfeasibleError
        A needed figure's samples are too few or spread too much.
    """
    samples = read_samples(settings.samples, settings.identity())
    device = pick_device(settings.device)
    machine = read_machine(device, settings.threads, settings.processes)
    cases = [case_of(key) for key in samples.seconds]
    fitted = Fitter(samples, cases, cores=machine.cores, side=machine.vector).fit()
    limit, idle, load = samples.watts
    rounds = max(len(values) for values in samples.seconds.values())
    origin = Origin(
        name=name or clean_name(f"{machine.model} {settings.processes}x{settings.threads}"),
        date=datetime.now(UTC).date().isoformat(),
        torch=torch.__version__,
        threads=settings.threads,
        processes=settings.processes,
        rounds=rounds,
        dtype=settings.dtypes[0],
        watts=(limit, idle, load),
    )
    return Profile(
        name=origin.name,
        profile=profile_text(machine, fitted, origin),
        stack=stack_text(machine, fitted, origin),
        fitted=fitted,
        rounds=rounds,
    )


def _measure_slices(
    ranks: Ranks,
    device: torch.device,
    settings: Settings,
    progress: Progress,
    trainings: Sequence[Training],
    slices: int,
) -> None:
    for _ in range(slices):
        _measure(ranks, device, settings, progress, 60.0 * settings.minutes / slices)
        for training in trainings:
            _train(ranks, device, training, settings.threads)


def _measure(
    ranks: Ranks, device: torch.device, settings: Settings, progress: Progress, seconds: float
) -> None:
    """Take rounds of samples on one rank; rank 0 keeps them."""
    begin = time.perf_counter()
    power = Power(device)
    programs = Programs(device)
    now = sampling.clock(device, settings.threads)
    rough = sampling.rough_flops(programs, settings.dtypes, now)
    flops = {dtype: 1.0 / ranks.slowest(1.0 / rate) for dtype, rate in rough.items()}
    most_s = min(LONGEST_CASE_S, CASE_S * max(1.0, settings.minutes))
    graphs = device.type == "cuda"
    cases = device_cases(settings.dtypes, flops, most_s, graphs=graphs)
    cases += collective_cases(ranks.size, most_s, graphs=graphs)
    samples = read_samples(settings.samples, settings.identity())
    # a round that was cut short goes on with what it lacks
    cases.sort(key=lambda case: len(samples.seconds.get(case.key, ())))
    seconds -= time.perf_counter() - begin

    def report(number: int, count: int, passed: float) -> None:
        power.note()
        if ranks.rank == 0:
            samples.watts = [power.limit_w, power.idle_w, power.load_w()]
            samples.save(settings.samples)
            progress(f"round {number}: {count} samples, {passed:.0f} of {seconds:.0f} s")

    sampling.run_rounds(
        programs,
        cases,
        ranks,
        threads=settings.threads,
        seconds=seconds,
        add=samples.add,
        report=report,
    )
    if ranks.rank == 0:
        samples.save(settings.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training to be measured."""

    size: Size
    dtype: str
    steps: int
    manner: str
    trace: Path | None
    """Folder of one trace a rank."""
    seconds: Path
    """Where rank 0 leaves the seconds of every step, JSON; those of a further run are added."""


def train_transformer(
    training: Training, *, device: str, processes: int, threads: int
) -> list[float]:
    """Train for some steps and return the seconds of each, on the slowest rank."""
    start(_train, processes, device, threads, training, threads)
    return _taken(training)


def _taken(training: Training) -> list[float]:
    found: Sequence[float] = json.loads(training.seconds.read_text(encoding="utf-8"))
    training.seconds.unlink()
    return list(found)


def _train(ranks: Ranks, device: torch.device, training: Training, threads: int) -> None:
    step = trainer(training.size, training.dtype, device, ranks, training.manner)
    seconds = step_seconds(step, training.steps, device, ranks, threads)
    if training.trace is not None:
        training.trace.mkdir(parents=True, exist_ok=True)
        with traced(training.trace / f"rank{ranks.rank}.json", device) as mark:
            for number in range(training.steps):
                with mark(number):
                    step()
    if ranks.rank == 0:
        known = json.loads(training.seconds.read_text("utf-8")) if training.seconds.exists() else []
        training.seconds.write_text(json.dumps([*known, *seconds]), encoding="utf-8")
