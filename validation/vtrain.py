"""Tables of measured iterations as vTrain publishes them (``data/ground_truth_multi.csv``).

They hold the model's and the plan's sizes and milliseconds. The rest is what the authors say of
their runs (Bang et al., "vTrain", MICRO 2024, and ``config/validation`` of its repository): GPT
with MLPs of four hidden sizes, fp16, 1F1B, activations recomputed in full, on DGX A100 with four
200 Gb/s ports a node.
"""

from __future__ import annotations

_COLUMNS = {
    "# GPUs": "num_accel",
    "global batch": "global_batch_seqs",
    "micro batch": "micro_batch_seqs",
    "hidden size": "hidden",
    "attention heads": "heads",
    "# layers": "layers",
    "sequence length": "seq_len",
    "tensor parallelism": "tp",
    "data parallelism": "dp",
    "pipeline parallelism": "pp",
}
_PARAMETERS, _TIME = "Parameters (billion)", "iteration time (ms)"
_FACTS = {
    "tier": "A-",
    "source": "vtrain",
    "accelerator": "A100",
    "accel_per_node": "8",
    "interconnect": "NVLink 150 GB/s (config value); inter-node 800 Gb/s",
    "vocab": "50257",
    "cp": "1",
    "vpp": "1",
    "seq_parallel": "0",
    "recompute": "full",
    "precision": "fp16",
    "task": "pretrain",
    "framework": "Megatron-DeepSpeed",
    "notes": "measured by vTrain's authors; mlp=non-gated; what the table lacks is assumed "
    "(docs/validation.md)",
}


def is_vtrain(header: list[str]) -> bool:
    """Say whether a table has these columns."""
    return {*_COLUMNS, _TIME}.issubset(header)


def as_measured(given: dict[str, str], line: int, columns: tuple[str, ...]) -> dict[str, str]:
    """Return the cells of one line under the columns of measured steps."""
    cells = dict.fromkeys(columns, "") | _FACTS
    cells |= {ours: given[theirs] for theirs, ours in _COLUMNS.items()}
    cells["id"] = f"vtrain-{line - 2:04d}"
    cells["params_b"] = given.get(_PARAMETERS, "")
    cells["model"] = f"GPT {cells['layers']}x{cells['hidden']}"
    cells["kv_heads"] = cells["heads"]
    cells["iter_time_s"] = _scaled(given[_TIME], 1e-3)
    cells["ffn_hidden"] = _scaled(given["hidden size"], 4)
    cells["head_dim"] = _divided(given["hidden size"], given["attention heads"])
    cells["schedule"] = "none" if cells["pp"] == "1" else "1f1b"
    return cells


def _scaled(cell: str, by: float) -> str:
    """Return a multiple; text that is no number stays, to be refused with its line."""
    try:
        return repr(float(cell) * by)
    except ValueError:
        return cell


def _divided(cell: str, by: str) -> str:
    try:
        return repr(float(cell) / float(by))
    except (ValueError, ZeroDivisionError):
        return ""
