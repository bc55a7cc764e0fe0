"""A SkyPilot task for the hardware of a plan."""

from __future__ import annotations

from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.launchers.records import Written

_NAMES = {
    "a100-sxm-80gb": "A100-80GB",
    "a100-sxm-40gb": "A100",
    "h100-sxm": "H100",
    "h200-sxm": "H200",
    "b200-sxm": "B200",
    "gb200": "GB200",
    "l4": "L4",
    "l40s": "L40S",
    "a10": "A10G",
    "v100-sxm-16gb": "V100",
    "v100-sxm-32gb": "V100-32GB",
    "mi300x": "MI300X",
    "rtx-4090": "RTX4090",
    "tpu-v4": "tpu-v4",
    "tpu-v5e": "tpu-v5litepod",
    "tpu-v5p": "tpu-v5p",
    "tpu-v6e": "tpu-v6e",
}
"""Profile -> name in SkyPilot's catalogue (docs.skypilot.co, accelerators)."""


def write_skypilot(cluster: Cluster, command: str, name: str = "ridgeline") -> Written:
    """Return a SkyPilot task that asks for a cluster and runs a command on every node.

    Parameters
    ----------
    cluster
        What to ask for.
    command
        What each node runs.
    name
        Of the task.
    """
    import yaml

    accelerator = cluster.accelerator
    per_node = min(accelerator.per_node, cluster.count)
    unmapped = []
    kind = _NAMES.get(accelerator.name)
    if kind is None:
        kind = accelerator.name.upper()
        unmapped.append(f"cluster.accelerator = {accelerator.name}: check SkyPilot's name of it")
    task = {
        "name": name,
        "num_nodes": max(1, cluster.count // per_node),
        "resources": {"accelerators": f"{kind}:{per_node}"},
        "run": command,
    }
    return Written(text=yaml.safe_dump(task, sort_keys=False), unmapped=tuple(unmapped))
