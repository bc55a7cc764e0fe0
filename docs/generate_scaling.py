"""Write the tables of ``docs/scaling-laws.md``: ``python docs/generate_scaling.py``.

``tests/test_scaling_laws.py`` fails when those of the laws are stale, ``tests/test_budget.py`` when
that of vTrain's case is.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from math import isnan, log10
from pathlib import Path

from ridgeline.workloads.scaling.bundle import (
    Bundle,
    Published,
    bundle_names,
    load_bundle,
    published,
)
from ridgeline.workloads.scaling.inference import cheapest_over_lifetime
from ridgeline.workloads.scaling.laws import law_names, load_law, load_loss_surface
from ridgeline.workloads.scaling.moe import EfficiencyLeverage, JointMoE
from ridgeline.workloads.scaling.repetition import DataConstrained
from ridgeline.workloads.scaling.sampling import Coverage
from ridgeline.workloads.scaling.vocabulary import VocabularyLaw

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scaling-laws.md"


def laws() -> str:
    """Return what each bundle is, as Markdown."""
    lines = ["| law | formula | counts | fitted to |", "|---|---|---|---|"]
    for name in bundle_names():
        bundle = load_bundle(name)
        lines.append(
            f"| `{name}`: {bundle.title} ({bundle.citation}) | `{bundle.formula}` | "
            f"{bundle.counts} | {_range(bundle)} |"
        )
    return "\n".join(lines)


def _range(bundle: Bundle) -> str:
    known = [
        f"{what} {low:.3g} to {high:.3g}"
        for what, bounds in (
            ("N", bundle.fitted.params),
            ("D", bundle.fitted.tokens),
            ("C", bundle.fitted.flops),
        )
        if bounds is not None
        for low, high in (bounds,)
    ]
    mark = " (from memory)" if bundle.fitted.status == "memory" else ""
    return ", ".join(known) + mark if known else "not recovered"


def constants() -> str:
    """Return every constant with unit, status and source, as Markdown."""
    lines = ["| law | constant | value | unit | status | source |", "|---|---|--:|---|---|---|"]
    for name in bundle_names():
        for one in load_bundle(name).constants:
            error = f" ± {one.standard_error:g}" if one.standard_error else ""
            status = "**memory**" if one.status == "memory" else one.status
            lines.append(
                f"| `{name}` | `{one.name}` | {one.value:.7g}{error} | {one.unit} | {status} | "
                f"{one.source} |"
            )
    return "\n".join(lines)


def examples() -> str:
    """Return the worked examples of the papers beside what the laws give here, as Markdown."""
    lines = [
        "| law | case | what | stated | status | here | off |",
        "|---|---|---|--:|---|--:|--:|",
    ]
    for name in (*law_names(), "sardana-2023", *MORE):
        for case in published(name):
            for what, expected, found in _compared(case):
                off = f"{100 * (found / expected - 1):+.1f}%"
                lines.append(
                    f"| `{name}` | {case.case} | {what} | {expected:.4g} | {case.status} | "
                    f"{found:.4g} | {off} |"
                )
    return "\n".join(lines)


def _compared(case: Published) -> Iterator[tuple[str, float, float]]:
    """Yield (what, published, here) for each figure of an example."""
    if case.quantity in ("optimum", "params", "tokens per parameter") and (
        case.law != "sardana-2023"
    ):
        best = load_law(case.law).optimal(case.flops)
        for what, expected, found in (
            ("N", case.params, best.params),
            ("D", case.tokens, best.tokens),
            ("D/N", case.value, best.tokens_per_param),
        ):
            if not isnan(expected):
                yield what, expected, found
    elif case.law == "sardana-2023":
        size, served = float(case.case.split("B")[0]) * 1e9, case.value
        law = load_loss_surface("hoffmann-2022-a3")
        one, two = law.optimal(1e20), law.optimal(1e24)
        share = (two.params / one.params) ** (1.0 / 4.0)
        flops = 1e20 * 10.0 ** (log10(size / one.params) / log10(share))
        loss = law.optimal(flops).loss
        assert loss is not None
        found = cheapest_over_lifetime(law, loss=loss, served_tokens=served)
        if case.quantity == "params":
            yield "N", case.params, found.params
        else:
            yield "D", case.tokens, found.tokens
    elif case.law in MORE or case.law in ("muennighoff-2023", "dey-2023"):
        yield case.quantity, case.value, OTHER[case.law](case)


def _repetition(case: Published) -> float:
    epochs = float(case.case.split()[0])
    law = load_law("muennighoff-2023")
    assert isinstance(law, DataConstrained)
    return law.effective_tokens(epochs, 1.0) / epochs


def _cerebras(case: Published) -> float:
    loss = load_law("dey-2023").optimal(case.flops).loss
    assert loss is not None
    return loss


def _joint(case: Published) -> float:
    law = JointMoE(bundle=load_bundle("ludziejewski-2025"))
    return law.loss(case.params, case.tokens, float(case.case.split()[0]))


def _leverage(case: Published) -> float:
    law = EfficiencyLeverage(bundle=load_bundle("tian-2025"))
    return law.leverage(activation=0.031, granularity=12.0, flops=case.flops)


def _vocabulary(case: Published) -> float:
    law = VocabularyLaw(bundle=load_bundle("tao-2024"))
    return law.params_of_compute(law.compute_of(case.params))[1] / 8192


def _coverage(case: Published) -> float:
    bundle = load_bundle("brown-2024")
    return Coverage(a=bundle["a"], b=bundle["b"]).share(float(case.case.split()[0]))


MORE = ("ludziejewski-2025", "tian-2025", "tao-2024", "brown-2024")
OTHER: dict[str, Callable[[Published], float]] = {
    "muennighoff-2023": _repetition,
    "dey-2023": _cerebras,
    "ludziejewski-2025": _joint,
    "tian-2025": _leverage,
    "tao-2024": _vocabulary,
    "brown-2024": _coverage,
}


def vtrain() -> str:
    """Return vTrain's case beside ours, as Markdown."""
    case = runpy.run_path(str(ROOT / "examples" / "vtrain_chinchilla.py"))
    return "\n".join(case["lines"](case["solve"]()))


PARTS: dict[str, Callable[[], str]] = {
    "laws": laws,
    "constants": constants,
    "examples": examples,
    "vtrain": vtrain,
}


def replaced(text: str, part: str) -> str:
    """Return the page with one part as it should be."""
    begin, end = f"<!-- {part}: generated -->", f"<!-- {part}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    assert found, begin
    assert closed, end
    return f"{head}{begin}\n{PARTS[part]()}\n{end}{tail}"


def main() -> None:
    """Rewrite the generated parts."""
    text = PAGE.read_text(encoding="utf-8")
    for part in PARTS:
        text = replaced(text, part)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
