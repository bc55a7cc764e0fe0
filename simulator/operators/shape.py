"""What every operator needs to know about its plan: local sizes on one rank.

b micro-batch, s sequence, T = b s / cp tokens of a rank, t tensor ranks, e bytes per element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ridgeline.hardware.cluster import ranks_per_tier
from ridgeline.simulator.adapters import TARGETS
from ridgeline.simulator.groups import Groups, make_groups
from ridgeline.simulator.plan import FP4_BYTES, QUANTISED, Plan, Tuning
from ridgeline.simulator.roofline import layout as rl
from ridgeline.simulator.stacks import Stack
from ridgeline.simulator.tuning import freezes_layers, trains_embedding, trains_head
from ridgeline.workloads.model import Model
from ridgeline.workloads.towers import Tower

DTYPES = {
    "fp32": rl.FP32,
    "tf32": rl.TF32,
    "fp16": rl.FP16,
    "bf16": rl.BF16,
    "fp8": rl.FP8,
    "fp4": rl.FP4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Local sizes of a plan."""

    model: Model
    stack: Stack
    groups: Groups
    sequences: int
    """b, sequences of a micro-batch."""
    seq_len: int
    """s, whole sequence."""
    local_seq: int
    """s / cp."""
    sample_len: int
    """Mean tokens of the samples that are packed into a sequence; 0 for one sample each."""
    tokens: int
    """T."""
    region_tokens: int
    """Tokens in norm and residual regions: T / t under sequence parallelism."""
    tp: int
    cp: int
    cp_kind: str
    ep: int
    ep_inner: int
    """Expert ranks that the fast links of a node join."""
    ep_slow_links: float
    """Bandwidth inside a node over bandwidth between nodes, both per accelerator."""
    etp: int
    sp: bool
    element: float
    """e, bytes of an activation element."""
    dtype: int
    """Of attention, router, head."""
    linear_dtype: int
    """Of the layers' GEMMs; FP8 under fp8 training, FP4 under fp4."""
    fused_accumulation_bytes: float
    """Read and written per weight by the product that computes its gradient."""
    accumulation_bytes: float
    """Moved per weight by kernels of their own that add its gradient to the accumulator."""
    int8_weights: bool
    """The weights of the layers are widened from int8 before each use."""
    lora_rank: int
    """r of the adapters on frozen weights; 0 trains every weight."""
    lora_targets: tuple[str, ...]
    """Products that have adapters."""
    tuning: Tuning
    frozen: bool
    """The weights of layers have no gradients."""
    trains_embedding: bool
    trains_head: bool
    attention_forward: float
    """Rate of the attention kernel over the device's fit."""
    attention_backward: float

    def cast_bytes(self, kind: int) -> float:
        """Return the bytes moved per element to quantise an operand of a product, in one pass.

        An operand is read in 16 bits, and written by rows and, for the gradient of the weights, by
        columns: no such copy where the weights are frozen (Transformer Engine asks its quantisers
        for columns only when the weight requires a gradient). Two-level scales (NVFP4) take the
        largest value of the whole tensor first, which is one more pass over it; what is written is
        half a byte and the share of a scale.
        """
        if kind not in (rl.FP8, rl.FP4):
            return 0.0
        copies = 1.0 if self.frozen else 2.0
        once = 0.5 * self.stack.fp8_cast_bytes * (2.0 + copies) / 4.0
        return once if kind == rl.FP8 else once + self.element - copies * (1.0 - FP4_BYTES)

    @property
    def attended(self) -> int:
        """Tokens that attend to each other: s, or the mean sample where samples are packed."""
        return min(self.sample_len, self.seq_len) or self.seq_len


def make_shape(plan: Plan, stack: Stack) -> Shape:
    """Derive the local sizes of ``plan`` under ``stack``."""
    p, t = plan.parallel, plan.training
    precision = t.precision
    linear = DTYPES[precision]
    local_seq = t.seq_len // p.cp
    tokens = t.micro_batch_seqs * local_seq
    sp = p.sp and p.tp > 1
    groups, tiers = make_groups(p), plan.cluster.tiers
    inner = p.ep
    if p.ep > 1 and len(tiers) > 1:
        inner = math.prod(ranks_per_tier(plan.cluster, p.ep, groups.ep.stride)[:-1])
    forward = stack.attention_compute(plan.cluster.accelerator.family)
    fused = stack.fused_accumulation
    element = 4.0 if precision in ("fp32", "tf32") else 2.0
    return Shape(
        model=plan.model,
        stack=stack,
        groups=groups,
        sequences=t.micro_batch_seqs,
        seq_len=t.seq_len,
        local_seq=local_seq,
        sample_len=t.sample_len,
        tokens=tokens,
        region_tokens=max(1, tokens // p.tp) if sp else tokens,
        tp=p.tp,
        cp=p.cp,
        cp_kind=p.cp_kind,
        ep=p.ep,
        ep_inner=inner,
        ep_slow_links=tiers[0].bytes_per_s / tiers[-1].bytes_per_s if tiers else 1.0,
        etp=p.expert_tp,
        sp=sp,
        element=element,
        dtype=rl.BF16 if precision in QUANTISED else linear,
        linear_dtype=linear,
        fused_accumulation_bytes=2.0 * stack.accumulation_bytes if fused else 0.0,
        accumulation_bytes=0.0 if fused else _unfused_accumulation(stack, precision, element),
        int8_weights=t.int8_weights,
        lora_rank=t.lora_rank,
        lora_targets=TARGETS[t.lora_targets] if t.lora_rank else (),
        tuning=t.tuning,
        frozen=freezes_layers(t),
        trains_embedding=trains_embedding(t),
        trains_head=trains_head(plan.model, t),
        attention_forward=forward,
        attention_backward=forward * stack.attention_backward,
    )


def predicted_shape(s: Shape) -> Shape:
    """Return the local sizes of the head: the tokens for which it is computed."""
    share = s.model.predicted
    if share == 1.0:
        return s
    tokens = max(1, round(s.tokens * share))
    return replace(s, tokens=tokens, region_tokens=-(-tokens // s.tp) if s.sp else tokens)


def tower_shape(s: Shape, tower: Tower) -> Shape:
    """Return the local sizes of a tower in the plan of the model's: its pieces are sequences."""
    sequences = s.sequences * tower.pieces
    tokens = sequences * tower.tokens
    return replace(
        s,
        model=tower.model,
        sequences=sequences,
        seq_len=tower.tokens,
        sample_len=0,
        local_seq=tower.tokens,
        tokens=tokens,
        region_tokens=-(-tokens // s.tp) if s.sp else tokens,
    )


def _unfused_accumulation(stack: Stack, precision: str, element: float) -> float:
    """Return the bytes moved per weight to add a gradient of ``element`` bytes to its accumulator.

    The sum reads both and writes one. Gradients that are promoted to fp32 are cast first, into
    memory (read e, write 4), and then added (read 4 + 4, write 4).
    """
    if stack.promotes(precision):
        return element + 4.0 * 4.0
    return element + 2.0 * stack.accumulation_bytes
