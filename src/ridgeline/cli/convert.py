"""``ridgeline convert``: settings of other programs to a plan file, and back."""

from __future__ import annotations

import json
from pathlib import Path

import click

PROGRAMS = ("megatron", "nemo", "torchtitan", "maxtext", "vllm", "skypilot")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--from", "source", metavar="PROGRAM", help="Whose settings FILE holds.")
@click.option("--to", "target", metavar="PROGRAM", help="Write the plan FILE as its settings.")
@click.option("--cluster", metavar="SPEC", help="With --from: the cluster, as 4x8xh100-sxm.")
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), metavar="OUT", help="Write there."
)
def convert(
    file: Path, source: str | None, target: str | None, cluster: str | None, path: Path | None
) -> None:
    """Read another program's settings as a plan file, or write a plan as its settings.

    \b
      ridgeline convert run.sh --from megatron --cluster 16x8xh100-sxm -o p.toml
      ridgeline convert plan.toml --to torchtitan

    PROGRAM is megatron (arguments in a script), nemo (YAML), torchtitan (TOML), maxtext (YAML or
    key=value), vllm (a `vllm serve` line); --to also skypilot (a task file). What has no
    counterpart is listed: as comments of the plan, or on standard error.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    from ridgeline.cli import output
    from ridgeline.errors import InputError

    if (source is None) == (target is None):
        raise InputError("give --from PROGRAM or --to PROGRAM, one of them")
    if source is not None:
        text = _from(file, source, cluster, path)
        unmapped: tuple[str, ...] = ()
    else:
        if cluster is not None:
            raise InputError("--cluster: goes with --from; a plan says its own")
        text, unmapped = _to(file, str(target))
    if path is None:
        output.emit(text)
    else:
        output.write_file(path, text, inputs=(file,))
    for line in unmapped:
        click.echo(f"not mapped: {line}", err=True)


def _from(file: Path, program: str, cluster: str | None, path: Path | None) -> str:
    """Return the text of a plan file; write the model's configuration beside it when needed."""
    from ridgeline.cli import output
    from ridgeline.errors import InputError
    from ridgeline.hardware.topology import make_cluster
    from ridgeline.simulator.launchers.convert import MAX_BYTES, read_launcher, tables_text

    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{file}: larger than {MAX_BYTES // 1024} KiB; no settings of a launcher")
    count = make_cluster(cluster).count if cluster else 0
    try:
        found = read_launcher(program, content.decode("utf-8-sig"), count)
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text") from None
    except InputError as error:
        raise InputError([f"{file}: {line}" for line in error.problems]) from None
    if cluster:
        found.tables["cluster"] = {"spec": cluster}
    elif "cluster" not in found.tables or "accelerator" not in found.tables["cluster"]:
        click.echo("not said: the accelerator; give --cluster, or name it in [cluster]", err=True)
    if found.model_config is not None:
        if path is None:
            raise InputError(
                f"{file}: its model is not in the catalogue; give -o PLAN.toml, and its "
                "configuration is written beside it"
            )
        config = path.with_suffix(".config.json")
        output.write_file(config, json.dumps(found.model_config, indent=2) + "\n", inputs=(file,))
        found.put("model.config", config.name)
    return tables_text(found.tables, found.unmapped, f"{file.name} ({program})")


def _to(file: Path, program: str) -> tuple[str, tuple[str, ...]]:
    """Return a plan as a program's settings, and what they cannot say."""
    from ridgeline.errors import InputError, nearest
    from ridgeline.simulator.launchers.convert import WRITERS, write_launcher
    from ridgeline.simulator.planfile import read_plan, read_tables

    if program == "vllm":
        from ridgeline.simulator.launchers.vllm import write_vllm
        from ridgeline.simulator.serving.servicefile import read_service

        written = write_vllm(read_service(file).deployed[0].service)
    elif program == "skypilot":
        from ridgeline.simulator.launchers.skypilot import write_skypilot
        from ridgeline.simulator.plan_lookup import find_cluster
        from ridgeline.simulator.plan_mistakes import Mistakes
        from ridgeline.simulator.plan_parse import parse_section
        from ridgeline.simulator.plan_schema import ClusterSection

        mistakes = Mistakes(f"{file}: ", {})
        section = parse_section(ClusterSection, read_tables(file).get("cluster", {}))
        cluster = None if section is None else find_cluster(section, file, mistakes)
        if cluster is None:
            raise InputError(mistakes.lines or [f"{file}: [cluster]: says no cluster"])
        written = write_skypilot(cluster, "bash start.sh", file.stem)
    elif program in WRITERS:
        written = write_launcher(program, read_plan(file))
    else:
        raise InputError(f"--to {program!r}: {nearest(program, PROGRAMS)}")
    return written.text, written.unmapped
