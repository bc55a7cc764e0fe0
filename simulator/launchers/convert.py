"""Between the settings of a program and a plan file, by the program's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.launchers.maxtext import read_maxtext, write_maxtext
from ridgeline.simulator.launchers.megatron import read_megatron, write_megatron
from ridgeline.simulator.launchers.nemo import read_nemo, write_nemo
from ridgeline.simulator.launchers.records import Converted, Written
from ridgeline.simulator.launchers.torchtitan import read_torchtitan, write_torchtitan
from ridgeline.simulator.launchers.vllm import read_vllm
from ridgeline.simulator.plan import Plan, Training, Tuning
from ridgeline.workloads.model import Model

READERS: dict[str, Callable[[str, int], Converted]] = {
    "megatron": lambda text, _: read_megatron(text),
    "nemo": lambda text, _: read_nemo(text),
    "torchtitan": read_torchtitan,
    "maxtext": read_maxtext,
    "vllm": lambda text, _: read_vllm(text),
}
WRITERS: dict[str, Callable[[Plan], Written]] = {
    "megatron": write_megatron,
    "nemo": write_nemo,
    "torchtitan": write_torchtitan,
    "maxtext": write_maxtext,
}
"""Of training plans; a service is written by ``vllm.write_vllm``."""
MAX_BYTES = 1 << 20


def read_launcher(program: str, text: str, accelerators: int = 0) -> Converted:
    """Return a program's settings as tables of a plan file.

    Parameters
    ----------
    program
        A key of ``READERS``.
    text
        The file, script or command line.
    accelerators
        Of the cluster, where the program derives its batch or sharding from it; 0 if unknown.

    Raises
    ------
    InputError
        An unknown program, or settings that are not its own.
    """
    if program not in READERS:
        raise InputError(f"program {program!r}: {nearest(program, READERS)}")
    return READERS[program](text, accelerators)


def write_launcher(program: str, plan: Plan) -> Written:
    """Return a plan of training as the settings of ``program``, a key of ``WRITERS``.

    What is trained and on what, and memory tricks, are not among them: they are listed where they
    are not the usual ones.
    """
    written, training = WRITERS[program](plan), plan.training
    usual = Training(seq_len=1, global_batch_seqs=1, micro_batch_seqs=1)
    unsaid = [f"training.lora_rank = {training.lora_rank}"] if training.lora_rank else []
    for field in fields(Tuning):
        value = getattr(training.tuning, field.name)
        if value != getattr(Tuning(), field.name):
            shown = value.name if isinstance(value, Model) else value
            unsaid.append(f"training.{field.name} = {shown}")
    if plan.rollout is not None:
        unsaid.append("rollout: what generates the samples")
    unsaid += [
        f"training.{key} = {str(getattr(training, key)).lower()}"
        for key in _TRICKS
        if getattr(training, key) != getattr(usual, key)
    ]
    if training.optimizer not in ("adam", "adamw"):
        unsaid.append(f"training.optimizer = {training.optimizer}")
    if plan.cluster.host is not None:
        unsaid.append(f"cluster.host = {plan.cluster.host.name}")
    return replace(written, unmapped=(*written.unmapped, *unsaid))


_TRICKS = (
    "optimizer_rank",
    "master_weights",
    "int8_weights",
    "layerwise_update",
    "offload_to",
    "host_update",
)


def tables_text(tables: dict[str, dict[str, Any]], unmapped: tuple[str, ...], origin: str) -> str:
    """Return tables as the text of a plan file, what could not be mapped as comments above."""
    from ridgeline.simulator.plan_text import toml_value

    lines = [f"# Read from {origin}."]
    if unmapped:
        lines += ["# Not mapped:", *(f"#   {' '.join(line.split())[:160]}" for line in unmapped)]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(table[key])}" for key in table)]
    return "\n".join(lines) + "\n"
