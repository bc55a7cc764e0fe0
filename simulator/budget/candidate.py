"""One shape on one cluster: its best plan, and the tokens that money and time buy at its speed.

The batch depends on the tokens, the utilisation on the batch and the tokens on the utilisation:
the three are repeated until the batch stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

from ridgeline.errors import InfeasibleError
from ridgeline.hardware.cluster import Cluster
from ridgeline.simulator.budget.batch import BatchChoice, choose_batch, odd_part
from ridgeline.simulator.budget.question import BudgetQuestion
from ridgeline.simulator.budget.serving import ServingCost, serving_cost
from ridgeline.simulator.cost import plan_price
from ridgeline.simulator.plan import Parallelism, Plan, Training
from ridgeline.simulator.results import TrainingResult
from ridgeline.simulator.run import whole_run
from ridgeline.simulator.search.answer import find_best
from ridgeline.simulator.search.enumerate import enumerate_plans
from ridgeline.simulator.search.evaluate import Evaluator, Question
from ridgeline.simulator.search.objective import Constraints, Objective
from ridgeline.simulator.search.results import Found
from ridgeline.simulator.search.space import Space, usual_space
from ridgeline.simulator.training import checkpoint_bytes, simulate_training
from ridgeline.workloads.flops import training_flops_per_token
from ridgeline.workloads.model import Model
from ridgeline.workloads.parameters import parameters
from ridgeline.workloads.scaling.allocation import FLOPS_PER_PARAM_TOKEN

GUESSED_MFU = 0.4
"""Where the fixed point begins; it does not depend on it but for ties of batches."""
MOST_ROUNDS = 6
TP = (1, 2, 4, 8, 16)
MICRO_BATCHES = (1, 2, 4, 8)
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A shape on a cluster with its best plan, trained for as long as it may be."""

    model: Model
    cluster: Cluster
    plan: Plan
    """With ``training.tokens`` set to what it affords."""
    batch: BatchChoice
    step_s: float
    mfu: float
    tokens: float
    """Whole steps within the time and the money that serving leaves."""
    serving: ServingCost | None

    @property
    def params(self) -> int:
        """All parameters."""
        return parameters(self.model).total

    @property
    def flops(self) -> float:
        """6 N D."""
        return FLOPS_PER_PARAM_TOKEN * self.params * self.tokens

    def result(self) -> TrainingResult:
        """Simulate the whole run."""
        return simulate_training(self.plan)


class Workshop:
    """Finds candidates of one question and remembers them."""

    def __init__(self, question: BudgetQuestion) -> None:
        self.question = question
        self._best: dict[tuple[Model, Cluster, int], tuple[Plan, float, float] | None] = {}
        self._too_slow: dict[tuple[Model, Cluster, int], float] = {}
        """Step times that no plan is under."""
        self._found: dict[tuple[Model, Cluster], Candidate | None] = {}
        self.searches = 0

    def price(self, cluster: Cluster) -> float:
        """Return the dollars of an accelerator-hour; infinite money needs none, then 0.

        Raises
        ------
        InputError
            When there is a budget and no price.
        """
        if self.question.budget_usd == inf:
            return 0.0
        return plan_price(self._plan(self.question.shapes[0], cluster, 1)).usd_per_hour

    def serving(self, model: Model) -> ServingCost | None:
        """Return what serving a model costs, None when none was asked for."""
        asked = self.question.serving
        return None if asked is None else serving_cost(model, asked)

    def seconds(self, model: Model, cluster: Cluster) -> float:
        """Return for how long a shape may train: the deadline, or what the money buys."""
        question = self.question
        money = question.budget_usd
        served = self.serving(model)
        if served is not None:
            money -= served.usd
        rate = self.price(cluster) * cluster.count / SECONDS_PER_HOUR
        return max(0.0, min(question.deadline_s, money / rate if rate else inf))

    def ceiling_tokens(self, model: Model, cluster: Cluster) -> float:
        """Return the tokens at the accelerators' full peak: more than any plan reaches."""
        peak = cluster.count * cluster.accelerator.peak(self.question.precision)
        flops = training_flops_per_token(model, self.question.seq_len).model
        return self.seconds(model, cluster) * peak / flops

    def candidate(
        self, model: Model, cluster: Cluster, least_tokens: float = 0.0
    ) -> Candidate | None:
        """Return a shape's best, None when it does not fit or falls short of ``least_tokens``."""
        key = (model, cluster)
        if key not in self._found:
            seconds = self.seconds(model, cluster)
            if not seconds:
                self._found[key] = None
                return None
            if least_tokens and not self._reaches(model, cluster, least_tokens, seconds):
                return None  # not remembered: another question may ask for less
            self._found[key] = self._fixed_point(model, cluster, seconds)
        return self._found[key]

    def _reaches(self, model: Model, cluster: Cluster, tokens: float, seconds: float) -> bool:
        """Whether a plan may be fast enough for ``tokens``, at any batch that more would bring.

        The batch grows with the tokens, so the batches from that of ``tokens`` to that of the
        ceiling are all that a candidate with at least so many can have; more where the batch is
        smaller than the cluster, because one without any plan doubles (``_at``).
        """
        seq_len = self.question.seq_len
        least = self._batch(model, cluster, tokens)
        most = self._batch(model, cluster, self.ceiling_tokens(model, cluster))
        top = most.sequences
        if self._may_double(top, most):
            top = max(top, min(cluster.count, int(most.critical_tokens) // seq_len))
        batches = {least.sequences, most.sequences}
        for unit in {1, odd_part(cluster.count)}:
            batches.update(unit * 2**power for power in range(top.bit_length()))
        return any(
            self._fastest(model, cluster, sequences, seconds * sequences * seq_len / tokens)
            for sequences in sorted(batches)
            if least.sequences <= sequences <= top
        )

    def _may_double(self, sequences: int, batch: BatchChoice) -> bool:
        given = self.question.global_batch_seqs > 0
        return not given and sequences * self.question.seq_len <= batch.critical_tokens

    def _fixed_point(self, model: Model, cluster: Cluster, seconds: float) -> Candidate | None:
        tokens = GUESSED_MFU * self.ceiling_tokens(model, cluster)
        tried: dict[int, Candidate | None] = {}
        for _ in range(MOST_ROUNDS):
            batch = self._batch(model, cluster, tokens)
            if batch.sequences in tried:
                break
            found = self._at(model, cluster, batch, seconds)
            tried[batch.sequences] = found
            if found is None:
                break
            tokens = found.tokens
        settled = tried.get(batch.sequences)
        if settled is None:
            return None
        # what the laws say of the batch depends on the tokens in the end
        return replace(
            settled,
            batch=replace(
                self._batch(model, cluster, settled.tokens),
                sequences=settled.batch.sequences,
                tokens=settled.batch.tokens,
            ),
        )

    def _batch(self, model: Model, cluster: Cluster, tokens: float) -> BatchChoice:
        return choose_batch(
            nonembedding_params=parameters(model).non_embedding,
            tokens=tokens,
            seq_len=self.question.seq_len,
            accelerators=cluster.count,
            sequences=self.question.global_batch_seqs,
        )

    def _at(
        self, model: Model, cluster: Cluster, batch: BatchChoice, seconds: float
    ) -> Candidate | None:
        """Return the best at a batch; twice and four times the batch where no plan has enough."""
        sequences = batch.sequences
        best = self._fastest(model, cluster, sequences, inf)
        while best is None and self._may_double(2 * sequences, batch):
            sequences *= 2
            best = self._fastest(model, cluster, sequences, inf)
        if best is None:
            return None
        plan, step_s, mfu = best
        per_step = sequences * self.question.seq_len
        tokens = float(affordable_steps(plan, step_s, per_step, seconds) * per_step)
        if not tokens:
            return None
        return Candidate(
            model=model,
            cluster=cluster,
            plan=replace(plan, training=replace(plan.training, tokens=tokens)),
            batch=replace(batch, sequences=sequences, tokens=per_step),
            step_s=step_s,
            mfu=mfu,
            tokens=tokens,
            serving=self.serving(model),
        )

    def _fastest(
        self, model: Model, cluster: Cluster, sequences: int, limit_s: float
    ) -> tuple[Plan, float, float] | None:
        """Return plan, step time and MFU of the fastest plan, None when none is under the limit."""
        key = (model, cluster, sequences)
        if key in self._best:
            known = self._best[key]
            return known if known is not None and known[1] <= limit_s else None
        if limit_s <= self._too_slow.get(key, 0.0):
            return None
        question = self.question
        space = Space(
            model=model,
            clusters=(cluster,),
            training=self._training(sequences),
            stack=question.stack,
            run=question.run,
            money=question.money,
            tp=TP,
            cp=(1,),
            micro_batch_seqs=MICRO_BATCHES,
            zero_stage=(1,),
            recompute=question.recompute,
            schedules=question.schedules,
        )
        self.searches += 1
        found = _fastest_of(usual_space(space), limit_s)
        if found is None:
            if limit_s == inf:
                self._best[key] = None
            self._too_slow[key] = limit_s
            return None
        best = (found.plan, found.result.step_time_s, found.result.mfu)
        self._best[key] = best
        return best

    def _training(self, sequences: int) -> Training:
        question = self.question
        return Training(
            seq_len=question.seq_len,
            global_batch_seqs=sequences,
            micro_batch_seqs=1,
            precision=question.precision,
            optimizer=question.optimizer,
        )

    def _plan(self, model: Model, cluster: Cluster, sequences: int) -> Plan:
        question = self.question
        return Plan(
            model=model,
            cluster=cluster,
            parallel=Parallelism(dp=cluster.count),
            training=self._training(sequences),
            stack=question.stack,
            run=question.run,
            money=question.money,
        )


def _fastest_of(space: Space, limit_s: float) -> Found | None:
    """Return the fastest plan of a small space, None when no step is under the limit.

    What ``search`` does, without runners-up, sensitivity and what would open an empty space.
    """
    question = Question(
        space=space,
        objective=Objective(),
        constraints=Constraints(deadline_s=limit_s),
        runners_up=0,
    )
    evaluator = Evaluator(question)
    candidates = enumerate_plans(space)
    order = np.arange(len(candidates), dtype=np.int64)
    kept, _ = evaluator.evaluate(candidates, order, evaluator.nothing())
    return find_best(evaluator, kept)


def affordable_steps(plan: Plan, step_s: float, tokens_per_step: int, seconds: float) -> int:
    """Return the most steps whose run, with checkpoints and failures, ends within ``seconds``."""
    size = checkpoint_bytes(plan)

    def ends(steps: int) -> bool:
        training = replace(plan.training, tokens=float(steps * tokens_per_step))
        try:
            run = whole_run(step_s, tokens_per_step, replace(plan, training=training), size)
        except InfeasibleError:
            return False
        return run.wall_clock_s <= seconds

    low, high = 0, int(seconds / step_s) + 1
    while low + 1 < high:
        middle = (low + high) // 2
        if ends(middle):
            low = middle
        else:
            high = middle
    return low
