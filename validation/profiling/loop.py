"""The loop closed: transformers that a profile was not fitted on, predicted and then measured.

``python -m ridgeline.validation.profiling.loop OUT.toml [PROCESSES [ddp|fsdp|tp]]`` profiles this
CPU into ``OUT.toml``, goes on from samples beside it, and prints a line a transformer.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import simulate_step
from ridgeline.validation.profiling.run import (
    Settings,
    Training,
    fit_machine,
    measure,
)
from ridgeline.validation.profiling.transformer import Size

UNSEEN = (
    Size(layers=8, hidden=192, heads=3, vocab=2000, seq_len=192, batch=2),
    Size(layers=4, hidden=384, heads=6, vocab=3000, seq_len=384, batch=1),
    Size(layers=2, hidden=640, heads=10, vocab=6000, seq_len=160, batch=2),
    Size(layers=6, hidden=320, heads=5, vocab=1500, seq_len=448, batch=1),
)
"""Widths, depths and lengths of which none is in the grids of ``cases``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One transformer."""

    size: Size
    predicted_s: float
    measured_s: float
    """Median of all steps."""
    low_s: float
    high_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_s / self.measured_s - 1.0


def predict(size: Size, profile: Path, *, ranks: int = 1, manner: str = "ddp") -> float:
    """Return the predicted seconds of a step; the stack lies beside the profile."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(size.config()), encoding="utf-8")
        split = ranks if manner == "tp" else 1
        plan = read_plan(
            None,
            {
                "model.config": str(config),
                "cluster.spec": f"{ranks}x{profile.absolute()}",
                "parallel.tp": split,
                "parallel.sp": False,
                "parallel.zero_stage": 3 if manner == "fsdp" and ranks > 1 else 0,
                "training.seq_len": size.seq_len,
                "training.global_batch_seqs": size.batch * ranks // split,
                "training.micro_batch_seqs": size.batch,
                "training.precision": "fp32",
                "training.optimizer": "adamw",
                "stack.name": str(profile.with_suffix(".stack.toml").absolute()),
            },
            {},
        )
    return simulate_step(plan, load_stack(plan.stack)).seconds


def close_loop(
    sizes: Sequence[Size],
    out: Path,
    *,
    ranks: int = 1,
    manner: str = "ddp",
    minutes: float = 1.0,
    slices: int = 4,
    steps: int = 3,
) -> list[Checked]:
    """Profile this CPU, a thread a rank, and predict and measure ``sizes`` on it.

    The profile takes its samples in ``slices`` with training steps in between, because a
    shared machine is another one a minute later: what is asked here is whether the prediction
    follows from the profile. It is fitted on its own cases alone, before any step is looked at.

    Parameters
    ----------
    sizes
        What to train.
    out
        Where the profile goes; its stack and samples lie beside it.
    ranks, manner
        Processes, and how they share a model.
    minutes
        Of profiling; once more when the samples do not allow a fit.
    slices, steps
        Of profiling, and of training each size behind each.
    """
    settings = Settings(
        device="cpu",
        processes=ranks,
        threads=1,
        dtypes=("fp32", "bf16"),
        minutes=minutes,
        samples=out.with_suffix(".samples.json"),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainings = [
            Training(
                size=size,
                dtype="fp32",
                steps=steps,
                manner=manner,
                trace=None,
                seconds=Path(folder) / f"{place}.json",
            )
            for place, size in enumerate(sizes)
        ]
        taken = measure(settings, _quiet, trainings, slices)
        try:
            made = fit_machine(settings)
        except InfeasibleError:
            more = measure(settings, _quiet, trainings, slices)
            taken = [one + other for one, other in zip(taken, more, strict=True)]
            made = fit_machine(settings)
    out.write_text(made.profile, encoding="utf-8")
    out.with_suffix(".stack.toml").write_text(made.stack, encoding="utf-8")
    return [
        Checked(
            size=size,
            predicted_s=predict(size, out, ranks=ranks, manner=manner),
            measured_s=statistics.median(seconds),
            low_s=min(seconds),
            high_s=max(seconds),
        )
        for size, seconds in zip(sizes, taken, strict=True)
    ]


def _quiet(line: str) -> None:
    """Drop a line of progress."""


def lines(checked: Sequence[Checked]) -> list[str]:
    """Return a line a transformer, for people."""
    return [
        f"{x.size.layers} layers, h {x.size.hidden}, s {x.size.seq_len}, b {x.size.batch}: "
        f"predicted {1e3 * x.predicted_s:.1f} ms, measured {1e3 * x.measured_s:.1f} "
        f"({1e3 * x.low_s:.1f} to {1e3 * x.high_s:.1f}), error {x.error:+.1%}"
        for x in checked
    ]


if __name__ == "__main__":
    given = Path(sys.argv[1])
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    how = sys.argv[3] if len(sys.argv) > 3 else "ddp"
    try:
        found = close_loop(UNSEEN, given, ranks=processes, manner=how)
    except (InputError, InfeasibleError) as error:
        sys.exit(str(error))
    sys.stdout.write("\n".join(lines(found)) + "\n")
