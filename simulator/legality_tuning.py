"""Whether what is trained, and what a step runs beside, can be priced as a plan says it."""

from __future__ import annotations

from collections.abc import Iterator

from ridgeline.errors import nearest
from ridgeline.simulator.legality_split import batch_holds, closest, divisors
from ridgeline.simulator.plan import OBJECTIVES, REFERENCES, TRAINED, Plan
from ridgeline.simulator.tuning import adds_parameters


def tuning_problems(plan: Plan) -> Iterator[str]:
    """Yield why a plan's tuning or objective cannot be priced, one line each."""
    for check in _CHECKS:
        yield from check(plan)


def _names(plan: Plan) -> Iterator[str]:
    tuning = plan.training.tuning
    for key, value, known in (
        ("trained", tuning.trained, TRAINED),
        ("objective", tuning.objective, OBJECTIVES),
        ("reference", tuning.reference, REFERENCES),
    ):
        if value not in known:
            yield f"training.{key} = {value!r}: is not known; {nearest(value, known)}"


def _frozen(plan: Plan) -> Iterator[str]:
    frozen, layers = plan.training.tuning.frozen_layers, plan.model.num_layers
    if frozen >= layers:
        yield (
            f"training.frozen_layers = {frozen}: {plan.model.name} has {layers} layers and one at "
            f"least must be trained; at most {layers - 1} can be frozen"
        )


def _quantised(plan: Plan) -> Iterator[str]:
    training, model = plan.training, plan.model
    if not training.tuning.quantised_bits:
        return
    if training.precision not in ("bf16", "fp16", "fp32", "tf32"):
        yield (
            f"training.precision = {training.precision!r}: 4-bit weights are made wide for "
            f"products in 16 or 32 bits; precision = 'bf16' is priced with task = 'qlora'"
        )
    if model.moe is not None:
        yield (
            f"training.task = 'qlora': {model.name} routes to experts, whose 4-bit kernels are "
            f"not priced; take a dense model, or task = 'lora'"
        )
    if model.num_mtp_layers:
        yield (
            f"training.task = 'qlora': {model.name} has multi-token-prediction modules, which are "
            f"not priced in 4 bits; task = 'lora' is"
        )


def _ladder(plan: Plan) -> Iterator[str]:
    tuning, model, parallel = plan.training.tuning, plan.model, plan.parallel
    reduction = tuning.side_reduction
    if not reduction:
        return
    for name in ("tp", "pp", "cp", "ep"):
        if getattr(parallel, name) > 1:
            yield (
                f"parallel.{name} = {getattr(parallel, name)}: a ladder's side network is priced "
                f"whole on every accelerator; {name} = 1 with task = 'ladder' (dp and zero_stage "
                f"are free)"
            )
    if model.moe is not None or model.attention.kind != "gqa" or model.num_mtp_layers:
        yield (
            f"training.task = 'ladder': {model.name} has experts, latent attention or prediction "
            f"modules, of which no side network is priced; take a dense model"
        )
        return
    attention = model.attention
    for what, size in (
        ("hidden size", model.hidden),
        ("MLP width", model.ffn_hidden),
        ("head dimension", attention.head_dim),
    ):
        if size % reduction:
            yield (
                f"training.side_reduction = {reduction}: does not divide the {what} {size}; "
                f"{closest(reduction, divisors(size))} does"
            )
    if plan.training.recompute != "none":
        yield (
            f"training.recompute = {plan.training.recompute!r}: the frozen model of a ladder keeps "
            f"nothing to recompute; recompute = 'none' with task = 'ladder'"
        )
    if tuning.frozen_layers:
        yield (
            f"training.frozen_layers = {tuning.frozen_layers}: a ladder freezes the whole model; "
            f"leave it out with task = 'ladder'"
        )


def _embeddings(plan: Plan) -> Iterator[str]:
    training, model = plan.training, plan.model
    if training.tuning.trained != "embeddings":
        return
    if training.tuning.frozen_layers or adds_parameters(training):
        yield (
            "training.trained = 'embeddings': freezes every layer but lets gradients through; "
            "leave out frozen_layers, and take task = 'sft'"
        )
    if model.num_mtp_layers:
        yield (
            f"training.trained = 'embeddings': {model.name} has multi-token-prediction modules, "
            f"which are priced with all weights trained alone; trained = 'all'"
        )


def _offload(plan: Plan) -> Iterator[str]:
    tuning, offload = plan.training.tuning, plan.training.offload
    if "activations" in offload and (
        tuning.adapter_width or tuning.side_reduction or tuning.trained == "embeddings"
    ):
        yield (
            "training.offload = 'activations': is priced where all weights of a layer are trained, "
            "or with lora; leave it out"
        )
    if "optimizer" in offload and tuning.paged_optimizer:
        yield (
            "training.paged_optimizer = true: the optimizer is in the host's memory already; "
            "leave out one of it and offload = ['optimizer']"
        )


def _objective(plan: Plan) -> Iterator[str]:
    training = plan.training
    tuning = training.tuning
    if tuning.objective == "dpo":
        for key in ("global_batch_seqs", "micro_batch_seqs"):
            value = getattr(training, key)
            if value % 2:
                yield (
                    f"training.{key} = {value}: a preference is two sequences, the chosen and the "
                    f"rejected one; {value + 1} is even"
                )
        if tuning.reference == "none":
            yield (
                "training.reference = 'none': dpo compares with a reference; 'model' or "
                "'precomputed' is one"
            )
    teacher = tuning.teacher
    if tuning.objective == "distill":
        if (teacher is None) == (tuning.stored_logits == 0):
            yield (
                "training.objective = 'distill': give one of teacher (a model that runs beside) "
                "and stored_logits (logits of a token kept from an earlier pass)"
            )
        if teacher is not None and teacher.vocab != plan.model.vocab:
            yield (
                f"training.teacher = {teacher.name!r}: has a vocabulary of {teacher.vocab:,}, the "
                f"student one of {plan.model.vocab:,}; logits need the same"
            )
        if tuning.stored_logits > plan.model.vocab:
            yield (
                f"training.stored_logits = {tuning.stored_logits}: more than the vocabulary of "
                f"{plan.model.vocab:,}; {plan.model.vocab} is all of it"
            )


def _rollout(plan: Plan) -> Iterator[str]:
    asked, training = plan.rollout, plan.training
    if asked is None:
        return
    tuning = training.tuning
    if tuning.adapter_width or tuning.side_reduction:
        yield (
            "training.objective = 'grpo': no engine is priced with bottlenecks or a ladder beside "
            "the model; take task = 'sft', 'lora' or 'qlora'"
        )
    if tuning.reference == "precomputed":
        yield (
            "training.reference = 'precomputed': samples are new in every step; 'model' scores "
            "them, 'none' goes without"
        )
    ground, ranks = asked.cluster or plan.cluster, asked.tp * asked.pp
    room = ground.count // ranks
    if room < 1 or asked.replicas > room:
        yield (
            f"rollout.replicas = {asked.replicas}: each takes tp x pp = {ranks} accelerators, and "
            f"{ground.name} has room for {room}"
        )
    if asked.overlap == "one-step" and asked.cluster is None:
        yield (
            "rollout.overlap = 'one-step': sampling runs beside training on accelerators of its "
            "own; give rollout.cluster, or overlap = 'sync'"
        )
    longest = asked.longest or training.seq_len - asked.prompt_len
    if longest < 1 or asked.prompt_len + longest > training.seq_len:
        yield (
            f"rollout.longest = {asked.longest}: with a prompt of {asked.prompt_len} tokens it "
            f"does not fit training.seq_len = {training.seq_len}; "
            f"{max(1, training.seq_len - asked.prompt_len)} is the most"
        )
    elif asked.output_len > longest:
        yield (
            f"rollout.output_len = {asked.output_len}: the mean is over the longest sample of "
            f"{longest} tokens"
        )
    if plan.run.batch_warmup_tokens:
        yield "run.batch_warmup_tokens: no growing batch is priced with objective = 'grpo'; 0 is"
    unit = plan.parallel.dp * training.micro_batch_seqs
    tokens = asked.prompts * asked.samples * (asked.prompt_len + asked.output_len)
    need = -(-tokens // (asked.updates * training.seq_len))
    if batch_holds(plan) and training.global_batch_seqs < need:
        yield (
            f"training.global_batch_seqs = {training.global_batch_seqs}: a step's samples of "
            f"{tokens:,.0f} tokens fill {need} sequences of {training.seq_len} in each of "
            f"{asked.updates} updates; {-(-need // unit) * unit} holds them"
        )


_CHECKS = (
    _names,
    _frozen,
    _quantised,
    _ladder,
    _embeddings,
    _offload,
    _objective,
    _rollout,
)
