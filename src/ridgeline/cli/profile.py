"""``ridgeline profile``: measure this machine into a profile, or train a transformer on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ridgeline.validation.profiling.run import Profile


@click.command()
@click.option("--minutes", type=float, default=1.0, show_default=True, help="To measure for.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="CUDA means ROCm too; auto takes it where PyTorch sees it.",
)
@click.option("--processes", type=int, default=1, help="Ranks side by side: gloo, NCCL on GPUs.")
@click.option("--threads", type=int, default=1, help="OpenMP threads of a rank.")
@click.option("--dtype", default="", metavar="NAME", help="Of a step: fp32 on CPUs, bf16 on GPUs.")
@click.option("--name", default="", help="Of the profile; the part's by default.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("profile.toml"),
    show_default=True,
    help="Profile; its stack and samples are written beside it.",
)
@click.option("--train", "size", default="", metavar="SIZE", help="Train a transformer instead.")
@click.option("--steps", type=int, default=5, show_default=True, help="Of --train.")
@click.option(
    "--manner",
    type=click.Choice(["ddp", "fsdp", "tp"]),
    default="ddp",
    show_default=True,
    help="How several processes share --train.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Profile --train into one trace a rank, beside the model's config.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def profile(
    minutes: float,
    device: str,
    processes: int,
    threads: int,
    dtype: str,
    name: str,
    out: Path,
    size: str,
    steps: int,
    manner: str,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine into an accelerator profile and a stack.

    \b
    Every command takes both by their paths:
      ridgeline profile --minutes 2 -o mine.toml
      ridgeline train --cluster 1x./mine.toml --stack mine.stack.toml ...

    An interrupted or too noisy profile goes on with the same command. --train SIZE (tiny, small,
    medium, large, or LAYERSxHIDDENxHEADSxVOCABxSEQxBATCH) trains a plain transformer instead and
    says how long a step takes. Needs the extra `profile`.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.errors import InputError

    for flag, value in (("minutes", minutes), ("processes", processes), ("threads", threads)):
        if not 0 < value < 10000:
            raise InputError(f"--{flag} {value:g}: must be above 0 and below 10000")
    if dtype not in ("", "fp32", "bf16", "fp16"):
        raise InputError(f"--dtype {dtype!r}: give fp32, bf16 or fp16")
    if trace is not None and not size:
        raise InputError("--trace: goes with --train SIZE")
    try:
        import torch
    except ImportError:
        raise InputError("profile: needs PyTorch; pip install 'ridgeline[profile]'") from None
    on_gpu = device != "cpu" and torch.cuda.is_available()
    dtype = dtype or ("bf16" if on_gpu else "fp32")
    where = {"device": device, "processes": processes, "threads": threads}
    if size:
        _train(size, dtype, steps, manner, trace, where, as_json=as_json)
    else:
        _profile(minutes, dtype, name, out, where, as_json=as_json)


def _say(line: str) -> None:
    from ridgeline.cli.output import note

    note(line)


def _profile(
    minutes: float, dtype: str, name: str, out: Path, where: dict[str, Any], *, as_json: bool
) -> None:
    from ridgeline.cli.numba_start import start_numba
    from ridgeline.cli.output import emit, to_json, write_file
    from ridgeline.errors import InputError

    if out.suffix != ".toml":
        raise InputError(f"-o {out}: a profile's name ends in .toml")
    if out.parent != Path() and not out.parent.is_dir():
        raise InputError(f"-o {out}: no such folder {out.parent}")
    start_numba()
    from ridgeline.validation.profiling.run import Settings, profile_machine

    others = ("fp32", "bf16")
    settings = Settings(
        dtypes=(dtype, *(other for other in others if other != dtype)),
        minutes=minutes,
        samples=out.with_suffix(".samples.json"),
        **where,
    )
    made = profile_machine(settings, name, _say)
    stack = out.with_suffix(".stack.toml")
    write_file(out, made.profile)
    write_file(stack, made.stack)
    if as_json:
        emit(to_json(_record(made, out, stack)))
        return
    fitted = made.fitted
    rates = ", ".join(f"{d} {peak / 1e9:,.1f}" for d, peak in fitted.peak_flops.items())
    emit(f"{made.name}: best matrix product {rates} GFLOP/s, copy {_gb(fitted.memory_bytes_per_s)}")
    if fitted.scaleup_bytes_per_s:
        emit(f"collectives: {_gb(fitted.scaleup_bytes_per_s)} a rank and direction")
    for key, block in fitted.blocks.items():
        emit(f"  {key:<28} {block.shapes:3d} shapes, mean error {block.error:.1%}")
    if fitted.refused:
        emit(f"left out, over 20% spread: {len(fitted.refused)} cases ({fitted.refused[0]}, ...)")
    emit(f"wrote {out} and {stack}; use --cluster 1x{_path(out)} --stack {stack}")


def _record(made: Profile, out: Path, stack: Path) -> dict[str, Any]:
    fitted = made.fitted
    return {
        "name": made.name,
        "profile": str(out),
        "stack": str(stack),
        "rounds": made.rounds,
        "peak_flops": fitted.peak_flops,
        "memory_gb_per_s": fitted.memory_bytes_per_s / 1e9,
        "scaleup_gb_per_s": fitted.scaleup_bytes_per_s / 1e9,
        "launch_us": {kind: 1e6 * value for kind, value in fitted.launch_s.items()},
        "efficiency": {
            key: {**block.values, "shapes": block.shapes, "error": block.error}
            for key, block in fitted.blocks.items()
        },
        "stack_fields": fitted.stack,
        "spread": fitted.spreads,
        "refused": fitted.refused,
    }


def _train(
    size: str,
    dtype: str,
    steps: int,
    manner: str,
    trace: Path | None,
    where: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    import statistics
    import tempfile

    from ridgeline.cli.output import emit, to_json, write_file
    from ridgeline.validation.profiling.run import Training, train_transformer
    from ridgeline.validation.profiling.transformer import parse_size

    shape = parse_size(size)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            size=shape,
            dtype=dtype,
            steps=max(1, steps),
            manner=manner,
            trace=trace,
            seconds=Path(folder) / "seconds.json",
        )
        seconds = train_transformer(training, **where)
    if trace is not None:
        write_file(trace / "config.json", to_json(shape.config()) + "\n")
    median = statistics.median(seconds)
    if as_json:
        emit(to_json({"model": shape.config(), "step_s": median, "steps_s": seconds}))
        return
    low, high = min(seconds), max(seconds)
    emit(f"step {median:.4g} s (median of {len(seconds)}, {low:.4g} to {high:.4g})")
    if trace is not None:
        emit(f"wrote {trace}; ridgeline validate --trace takes it with --model and --accelerator")


def _gb(value: float) -> str:
    return f"{value / 1e9:.3g} GB/s"


def _path(out: Path) -> str:
    return str(out) if out.is_absolute() else f"./{out}"
