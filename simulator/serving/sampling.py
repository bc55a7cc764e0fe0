"""Test-time compute in dollars: many samples or long reasoning, of a small model or a large one.

A problem is solved when one of k samples solves it, and somebody can tell which (unit tests, a
verifier): coverage. What k samples cost grows with k; what they solve grows ever more slowly.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.errors import InfeasibleError, InputError
from ridgeline.workloads.scaling.sampling import Coverage, coverage_through

MOST_SAMPLES = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Share of problems that an effort solves: samples, or tokens of reasoning.

    Between two points a power law of -ln(share), c = exp(a x^b) (Brown et al. 2024, arXiv
    2407.21787, eq 3), which one pair of points fixes; beyond the ends the nearest pair goes on.
    """

    points: tuple[tuple[float, float], ...]
    """(effort, share), both ascending."""

    def __post_init__(self) -> None:
        """Refuse points through which there is no such law."""
        if not self.points:
            raise InputError("coverage: give at least one point, for example 1:0.16,250:0.56")
        for effort, share in self.points:
            if not (math.isfinite(effort) and effort > 0.0):
                raise InputError(f"coverage {effort:g}:{share:g}: the effort must be above 0")
            if not 0.0 < share < 1.0:
                raise InputError(
                    f"coverage {effort:g}:{share:g}: the share must be above 0 and below 1"
                )
        for (less, low), (more, high) in zip(self.points, self.points[1:], strict=False):
            if not (less < more and low < high):
                raise InputError(
                    f"coverage {less:g}:{low:g},{more:g}:{high:g}: effort and share must ascend"
                )

    def share(self, effort: float) -> float:
        """Return the share that an effort solves, 0 to 1."""
        if len(self.points) == 1:
            only, share = self.points[0]
            if effort != only:
                raise InputError(
                    f"coverage {only:g}:{share:g}: one point says nothing of {effort:g}; "
                    "give a second one"
                )
            return share
        place = bisect_right([x for x, _ in self.points], effort) - 1
        base, law = self._law(place)
        return law.share(effort / base)

    def effort_for(self, share: float) -> float:
        """Return the effort that solves a share.

        Raises
        ------
        InputError
            No share between 0 and 1, or another than that of the only point.
        """
        if not 0.0 < share < 1.0:
            raise InputError(f"share {share:g}: must be above 0 and below 1")
        if len(self.points) == 1:
            only, known = self.points[0]
            if share > known:
                raise InputError(
                    f"coverage {only:g}:{known:g}: one point says nothing of a share of {share:g}; "
                    "give a second one"
                )
            return only
        place = bisect_right([c for _, c in self.points], share) - 1
        base, law = self._law(place)
        return base * law.samples_for(share)

    def _law(self, place: int) -> tuple[float, Coverage]:
        """Return the law between two points, in efforts over that of the first."""
        place = min(max(place, 0), len(self.points) - 2)
        (less, low), (more, high) = self.points[place : place + 2]
        return less, coverage_through(low, high, more / less)


def parse_curve(text: str) -> Curve:
    """Return the curve of ``1:0.159,250:0.56`` (shares also as 15.9%).

    Raises
    ------
    InputError
        Anything else.
    """
    points = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        match = re.fullmatch(r"([0-9.e+]+)(k?):([0-9.]+)(%?)", word)
        try:
            if match is None:
                raise ValueError
            effort = float(match[1]) * (1e3 if match[2] else 1.0)
            share = float(match[3]) / (100.0 if match[4] else 1.0)
        except ValueError:
            raise InputError(
                f"coverage {word}: must be EFFORT:SHARE, for example 1:0.159 or 1:15.9%"
            ) from None
        points.append((effort, share))
    return Curve(points=tuple(points))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What one problem costs on a service."""

    usd_per_prompt: float
    """Once a problem: samples of one prompt share its prefix."""
    usd_per_sample: float
    """Each answer."""
    usd_per_token: float = 0.0
    """Of an answer, for those whose length is the effort."""

    @classmethod
    def of_tokens(
        cls,
        usd_per_million_input: float,
        usd_per_million_output: float,
        input_len: float,
        output_len: float,
        *,
        shared: bool = True,
    ) -> Tariff:
        """Return the tariff of prices per token.

        Parameters
        ----------
        usd_per_million_input, usd_per_million_output
            Prices.
        input_len, output_len
            Tokens of the prompt, and of one answer.
        shared
            Whether the prompt is paid for once (prefix caching, one request for n answers) or with
            each sample.
        """
        prompt = usd_per_million_input * input_len / 1e6
        answer = usd_per_million_output * output_len / 1e6
        return cls(
            usd_per_prompt=prompt if shared else 0.0,
            usd_per_sample=answer if shared else prompt + answer,
            usd_per_token=usd_per_million_output / 1e6,
        )

    def samples_usd(self, samples: float) -> float:
        """Return what so many samples of one problem cost."""
        return self.usd_per_prompt + samples * self.usd_per_sample

    def reasoning_usd(self, tokens: float) -> float:
        """Return what one answer of so many tokens costs."""
        return self.usd_per_prompt + tokens * self.usd_per_token


EFFORTS = ("samples", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """A model on a service, with what its effort solves."""

    name: str
    tariff: Tariff
    curve: Curve
    effort: str = "samples"
    """samples, or tokens of reasoning in one answer."""

    def usd(self, effort: float) -> float:
        """Return what an effort costs on one problem."""
        priced = {"samples": self.tariff.samples_usd, "tokens": self.tariff.reasoning_usd}
        return priced[self.effort](effort)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What an effort of a solver costs and solves."""

    name: str
    effort: str
    amount: float
    """Samples of a problem, or tokens of its answer."""
    share: float
    """Of the problems, solved."""
    usd_per_problem: float
    usd_per_solved: float
    """Over the problems that are solved: cost of pass."""
    usd: float
    """Of all problems."""


def solve(solver: Solver, amount: float, problems: int = 1) -> Solved:
    """Return what an effort on each of so many problems costs and solves.

    Raises
    ------
    InputError
        No effort, or one that the curve says nothing of.
    """
    if not (math.isfinite(amount) and 0.0 < amount <= MOST_SAMPLES):
        raise InputError(
            f"{solver.effort} = {amount:g}: must be above 0 and at most {MOST_SAMPLES:g}"
        )
    if problems < 1:
        raise InputError(f"problems = {problems}: must be at least 1")
    share, usd = solver.curve.share(amount), solver.usd(amount)
    return Solved(
        name=solver.name,
        effort=solver.effort,
        amount=amount,
        share=share,
        usd_per_problem=usd,
        usd_per_solved=usd / share if share > 0.0 else math.inf,
        usd=problems * usd,
    )


def solve_share(solver: Solver, share: float, problems: int = 1) -> Solved:
    """Return the least effort that solves a share of the problems: whole samples.

    Raises
    ------
    InputError
        No share between 0 and 1.
    InfeasibleError
        More samples than anybody draws.
    """
    amount = solver.curve.effort_for(share)
    if solver.effort == "samples":
        amount = float(max(1, math.ceil(amount - 1e-9)))
    if amount > MOST_SAMPLES:
        raise InfeasibleError(
            f"{solver.name}: a share of {share:g} takes {amount:.2g} {solver.effort}; ask for less"
        )
    return solve(solver, amount, problems)


def cheapest_to_solve(
    solvers: Sequence[Solver], share: float, problems: int = 1
) -> tuple[Solved, ...]:
    """Return the solvers that reach a share of the problems, the cheapest first.

    Raises
    ------
    InfeasibleError
        None of them reaches it.
    """
    found, reasons = [], []
    for solver in solvers:
        try:
            found.append(solve_share(solver, share, problems))
        except (InputError, InfeasibleError) as error:
            reasons.append(str(error))
    if not found:
        raise InfeasibleError(f"nobody solves a share of {share:g}: " + "; ".join(reasons))
    return tuple(sorted(found, key=lambda one: (one.usd, one.name)))


def at_budget(solver: Solver, usd_per_problem: float, problems: int = 1) -> Solved:
    """Return what a solver does with so much money for each problem: whole samples.

    Raises
    ------
    InfeasibleError
        It does not pay for one sample.
    """
    tariff = solver.tariff
    each = tariff.usd_per_sample if solver.effort == "samples" else tariff.usd_per_token
    amount = (usd_per_problem - tariff.usd_per_prompt) / each if each > 0.0 else math.inf
    amount = math.floor(amount + 1e-9) if math.isfinite(amount) else float(MOST_SAMPLES)
    if amount < 1:
        raise InfeasibleError(
            f"{solver.name}: ${usd_per_problem:.2g} a problem pays for no answer; "
            f"one costs ${solver.usd(1.0):.2g}"
        )
    return solve(solver, float(min(amount, MOST_SAMPLES)), problems)


def equal_flop_samples(small: float, large: float) -> float:
    """Return how many samples of a small model take the FLOPs of one of a large one.

    2 N FLOPs a token each: the ratio of their (active) parameters (Bansal et al. 2024, "Smaller,
    Weaker, Yet Better", arXiv 2408.16737, section 3: P_SE / P_WC).

    Parameters
    ----------
    small, large
        Parameters that are active for a token.
    """
    if not (small > 0.0 and large > 0.0):
        raise InputError(f"parameters {small:g} and {large:g}: must be above 0")
    return large / small


def sampling_flops(params: float, input_len: float, output_len: float, samples: float) -> float:
    """Return the FLOPs of k samples of one problem: the prompt once, each answer's tokens.

    2 N (prompt + k answer) (Brown et al. 2024, arXiv 2407.21787, section 3), attention left out.
    """
    return 2.0 * params * (input_len + samples * output_len)
