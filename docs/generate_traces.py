"""Write the table of predicted traces into ``docs/traces-validation.md``.

``python docs/generate_traces.py FOLDER`` reads the published traces from a folder of the reader's
own; they do not ship.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ridgeline.validation.traces.compare import Comparison, compare
from ridgeline.validation.traces.phase_table import PhaseComparison, compare_phases
from ridgeline.validation.traces.reading import read_ranks

PAGE = Path(__file__).resolve().parent / "traces-validation.md"
BEGIN, END = "<!-- traces: generated -->", "<!-- traces: end -->"
FORWARD = ("sglang_qwen3_8b_prefill_mi300x.json.gz", "qwen1.5_0.5b_prefill_h100.json.gz")
PHASES = "dsv3_train_phases.csv"
PHASE_PLAN: dict[str, object] = {
    "model.name": "deepseek-v3",
    "cluster.spec": "8x8xh800-sxm",
    "parallel.ep": 64,
    "training.seq_len": 4096,
    "training.global_batch_seqs": 64,
    "training.micro_batch_seqs": 1,
    "training.precision": "fp8",
    "training.recompute": "norms+mla-up+activation",
    "stack.name": "hai-llm",
}
PHASE_SMS = 112
"""Of 132: the grid of that trace's persistent products; the others exchange experts."""


def table(folder: Path) -> str:
    """Return measured beside predicted, as Markdown."""
    lines = ["| trace | what | measured | predicted | error |", "|---|---|--:|--:|--:|"]
    for file in FORWARD:
        lines += _forward(compare(read_ranks(folder / file), {}))
    lines += _phases(compare_phases(folder / PHASES, PHASE_PLAN, PHASE_SMS))
    return "\n".join(lines)


def _forward(found: Comparison) -> Iterator[str]:
    plan = found.plan
    batch = f"{plan.training.micro_batch_seqs} x {plan.training.seq_len}"
    name = f"{plan.model.name} on {plan.cluster.accelerator.name}, prefill of {batch}"
    yield _line(name, "step", found.measured.window_s, found.simulated.total_s)
    for row in found.categories:
        if row.measured_s > 0.01 * found.measured.window_s:
            yield _line("", row.category, row.measured_s, row.predicted_s)


def _phases(found: PhaseComparison) -> Iterator[str]:
    plan = found.plan
    name = f"{plan.model.name} on {plan.cluster.accelerator.name}, a routed layer of training"
    for row in (found.compute, *found.rows):
        yield _line(name, row.phase, row.measured_s, row.predicted_s)
        name = ""


def _line(name: str, what: str, measured: float, predicted: float) -> str:
    error = f"{100 * (predicted / measured - 1.0):+.1f}%"
    return f"| {name} | {what} | {1e3 * measured:.2f} ms | {1e3 * predicted:.2f} ms | {error} |"


def rewritten(page: str, body: str) -> str:
    """Return the page with a new table between its marks."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


def main() -> None:
    """Rewrite the page."""
    if len(sys.argv) != 2:
        raise SystemExit("python docs/generate_traces.py FOLDER (of the published traces)")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rewritten(page, table(Path(sys.argv[1]))), encoding="utf-8")


if __name__ == "__main__":
    main()
