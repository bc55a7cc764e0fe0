"""From the keys of a plan file that say what is trained, and on what, to a plan's own records."""

from __future__ import annotations

from pathlib import Path

from ridgeline.errors import InputError
from ridgeline.hardware import make_cluster
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.plan import Rollout, Tuning
from ridgeline.simulator.plan_lookup import find_model
from ridgeline.simulator.plan_mistakes import Mistakes, without_subject
from ridgeline.simulator.plan_schema import ModelSection, PlanFile, TrainingSection
from ridgeline.simulator.tuning import nf4_bits

TUNING_KEYS = (
    "double_quantised",
    "paged_optimizer",
    "frozen_layers",
    "trained",
    "adapter_width",
    "side_reduction",
    "objective",
    "reference",
    "teacher",
    "stored_logits",
)
"""Of [training], kept in a plan's ``Tuning``."""
_OF_TASK = {
    "double_quantised": ("qlora",),
    "adapter_width": ("adapters",),
    "side_reduction": ("ladder",),
}
_OF_OBJECTIVE = {
    "reference": ("dpo", "grpo"),
    "teacher": ("distill",),
    "stored_logits": ("distill",),
}
"""Key -> tasks, or objectives, to which it means something."""


def find_tuning(section: TrainingSection, path: Path | None, mistakes: Mistakes) -> Tuning:
    """Return what [training] says of what is trained; keys that mean nothing are mistakes.

    A teacher is a name of the catalogue or the path of a ``config.json`` beside ``path``.
    """
    given = section.model_fields_set
    for known, choice, name in (
        (_OF_TASK, section.task, "task"),
        (_OF_OBJECTIVE, section.objective, "objective"),
    ):
        for key, owners in known.items():
            if key in given and choice not in owners:
                wanted = " or ".join(f"{name} = {owner!r}" for owner in owners)
                mistakes.add(f"training.{key}", getattr(section, key), f"goes with {wanted} only")
    teacher = None
    if section.teacher and section.objective == "distill":
        name = section.teacher
        config = name.endswith(".json")
        named = ModelSection(config=name) if config else ModelSection(name=name)
        found = Mistakes(mistakes.source, {})
        teacher = find_model(named, path, found)
        for line in found.lines:
            rule = line.removeprefix(mistakes.source).partition(": ")[2]
            mistakes.add("training.teacher", section.teacher, rule)
    bits = nf4_bits(double_quantised=section.double_quantised) if section.task == "qlora" else 0.0
    return Tuning(
        frozen_layers=section.frozen_layers,
        trained=section.trained,
        quantised_bits=bits,
        adapter_width=section.adapter_width if section.task == "adapters" else 0,
        side_reduction=section.side_reduction if section.task == "ladder" else 0,
        paged_optimizer=section.paged_optimizer,
        objective=section.objective,
        reference=section.reference,
        teacher=teacher,
        stored_logits=section.stored_logits,
    )


def find_rollout(parsed: PlanFile, mistakes: Mistakes) -> Rollout | None:
    """Return what [rollout] says, None without it; it and the objective grpo go together."""
    section, objective = parsed.rollout, parsed.training.objective
    if section is None:
        if objective == "grpo":
            rule = "needs [rollout] with prompts, samples and output_len"
            mistakes.add("training.objective", objective, rule)
        return None
    if objective != "grpo":
        mistakes.add("rollout", None, "goes with training.objective = 'grpo' only; leave it out")
        return None
    cluster: Cluster | None = None
    if section.cluster:
        try:
            cluster = make_cluster(section.cluster)
        except InputError as error:
            for line in error.problems:
                mistakes.add("rollout.cluster", section.cluster, without_subject(line))
            return None
    return Rollout(**section.model_dump(exclude={"cluster"}), cluster=cluster)
