"""Software stacks: which kernels, which fusions, what overlaps what. Facts, never per-row factors.

A stack is a TOML file in ``data/stacks``; every value has a source there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache

from ridgeline.hardware.accelerator import Accelerator
from ridgeline.simulator.profile_file import ProfileKind, load_profile, profile_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a stack was calibrated on (``ridgeline fit --measured``)."""

    rows: int
    """Measured steps."""
    stack: str
    """Stack whose defaults it started from."""
    accelerator: str
    kinds: tuple[str, ...]
    """Kinds of plan among the steps (``uncertainty.plan_kind``)."""
    below: float
    above: float
    """Range of a predicted step time that holds about four of five, as shares of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A training stack. Defaults are those of a well-tuned modern one."""

    name: str
    description: str
    kernel_library: str = "default"
    """Library whose kernel sets price matrix products on the corrected rung (trtllm, vllm,
    sglang); "default" for the device's conservative one."""
    wgrad_rate: dict[str, float] = field(default_factory=dict)
    """Number format -> rate of weight-gradient products over the device's GEMM fit."""
    attention: str = "fused"
    """fused (FlashAttention and its kin) or unfused (score matrix in memory)."""
    attention_rate: dict[str, float] = field(default_factory=dict)
    """Accelerator family -> compute rate of this attention kernel over the device's fit."""
    misaligned_rate: float = 1.0
    """Rate of unfused attention's matrix products where the head dimension is no multiple of 8:
    tensor cores load 16 bytes (8 elements) at a time."""
    attention_backward: float = 0.77
    """Rate of the backward kernel over the forward one."""
    scan_memory: float = 0.75
    """Bandwidth that chunked scans of linear attention reach over that of element-wise kernels."""
    scan_backward: float = 0.38
    """Rate of their backward kernels over the forward ones."""
    elementwise_factor: float = 1.0
    """Bytes that element-wise kernels move over the count of one fused pass each."""
    moe_elementwise_factor: float = 1.0
    """The same for the permutation of tokens and the activation of experts."""
    fused_experts: bool = False
    """Grouped products apply biases and the activation behind them, and quantise their results."""
    expert_bias_bytes: float = 0.0
    """Bytes moved per element of the experts' outputs by kernels that add a bias to them; 0 where
    their product adds it."""
    expert_bias_gradient_bytes: float = 0.0
    """The same in the backward pass."""
    clamp_passes: float = 0.0
    """Elements moved per element of an expert's width by kernels that clamp the inputs of its
    activation; 0 where the activation does."""
    clamp_gradient_passes: float = 0.0
    """The same in the backward pass."""
    moe_rate: float = 1.0
    """Rate of grouped matrix products of experts over the device's GEMM fit."""
    dropout: bool = False
    fp8_cast_bytes: float = 8.0
    """Bytes moved per element of a GEMM operand to quantise it, forward and backward together."""
    tp_overlap: float = 0.0
    """Share of tensor-parallel collectives hidden behind GEMMs, 0 to 1."""
    tp_gradient_overlap: float = 0.0
    """Share of the tensor-parallel reductions of input gradients that run beside the
    weight-gradient product of the same layer, 0 to 1."""
    ep_overlap: float = 0.0
    cp_overlap: float = 1.0
    """Share of context-parallel exchange that may hide behind attention."""
    gradient_overlap: bool = True
    """Gradient reduction runs during the last backward pass."""
    parameter_overlap: bool = True
    """The distributed optimizer's parameter all-gather runs during the first forward pass."""
    backward_prefetch: bool = True
    """Where weights are sharded layer by layer, the backward pass gathers those of its next layer
    before it reduces the gradients of the current one."""
    transfer_overlap: bool = True
    """Pipeline sends overlap compute when stages are interleaved."""
    overlap_slowdown: float = 0.0
    """Seconds of compute lost per second of communication hidden behind it."""
    gradient_bytes: float = 4.0
    """Bytes per element of the gradient that is reduced."""
    accumulation_bytes: float = 4.0
    """Bytes per element of the buffer into which weight gradients accumulate."""
    fused_accumulation: bool = True
    """Weight-gradient products add to that buffer themselves; otherwise a kernel behind each."""
    sharding: str = "megatron"
    """megatron (gradients reduced once per step) or fsdp (gathered and reduced layer by layer)."""
    sharding_unit: str = "layer"
    """What sharded weights are gathered and reduced by: layer, or matrix (one linear at a time)."""
    bucket_bytes: float = 160e6
    """Size of a gradient bucket."""
    launch_s: float = 0.0
    """Host time per eagerly launched kernel, s; the step is never faster than its launches."""
    host_layer_s: float = 0.0
    """Serial host time per layer and pass that nothing hides, s."""
    moe_host_s: float = 0.0
    """The same of a routed layer, in addition: the host waits for the counts of tokens per expert
    before it can launch their products, s."""
    operator_s: float = 0.0
    """Host time to issue one operator of a routed layer through the framework, on an x86 server, s;
    a pass over it is never shorter than its operators take to issue."""
    routed_operators: float = 0.0
    """Operators of a routed layer and pass, apart from the products of its experts."""
    cast_operators: float = 0.0
    """Operators that quantise the operand of one expert's product."""
    issued: dict[str, float] = field(default_factory=dict)
    """Accelerator or family -> share of ``routed_operators`` that no CUDA graph replays."""
    host_step_s: float = 0.0
    """Serial host time per step (data loading, logging), s."""
    optimizer_bytes: float = 30.0
    """Bytes moved per parameter in the optimizer step (mixed-precision Adam)."""
    activation_input_bytes: float = 0.0
    """Bytes per element of the kept input of the activation function; 0 for full width."""
    fp8_weight_bytes: float = 2.0
    """Bytes per GEMM weight of the fp8 copies kept beside the weights under fp8."""
    bf16_gradient_bytes: float = 0.0
    """Further bytes per parameter of gradients under bf16: an fp32 accumulator beside them."""
    moment_bytes: float = 8.0
    """Bytes per parameter of both Adam moments together."""
    scale_jitter: float = 0.0
    """Relative slow-down per doubling of nodes (stragglers, network jitter)."""
    nccl_bandwidth: float = 1.0
    """Bandwidth of collectives between overlapping kernels over that of NCCL alone."""
    collective_wait_s: float = 0.0
    """What a collective inside a layer lasts longer in a job than alone: streams that wait for
    each other's events, ranks that arrive at different times, s."""
    compute_rate: float = 1.0
    """Clock of matrix products and attention on the cluster that this stack was calibrated on,
    over the device's sustained clock."""
    node_bandwidth: float = 1.0
    """Bandwidth inside a node (or slice) of that cluster over the device's collective fit."""
    network_bandwidth: float = 1.0
    """Bandwidth between nodes of that cluster over what its links are said to give."""
    gradient_stubs: bool = False
    """Where weight-gradient products write into the accumulator, autograd is handed an empty
    gradient instead: one for each shape of a weight stays allocated."""
    expert_outputs_saved: bool = True
    """Outputs of experts are kept for the backward pass (not where routing weights are applied
    to the activation before the down projection)."""
    expert_dispatch: str = "all-to-all"
    """all-to-all (each token once per expert) or by-node (each token once per node, then once per
    rank inside it)."""
    fp8_dispatch: bool = False
    """Tokens travel to their experts in fp8 where matrix products are in fp8."""
    framework_bytes: float = 3.5e9
    """Runtime context and communicator buffers per accelerator."""
    fragmentation: float = 0.04
    """Share of allocated memory that the allocator loses."""
    sources: dict[str, str] = field(default_factory=dict)
    """Field -> where the value comes from."""
    calibration: Calibration | None = None
    """Set where a user's own steps on one cluster stand behind the values."""

    def attention_compute(self, family: str) -> float:
        """Return the forward attention rate on an accelerator family (1 when nothing is known)."""
        return self.attention_rate.get(family, self.attention_rate.get("default", 1.0))

    def weight_gradient_compute(self, dtype: str) -> float:
        """Return the rate of weight-gradient products in a number format."""
        return self.wgrad_rate.get(dtype, 1.0)

    def issued_operators(self, accelerator: str, family: str) -> float:
        """Return the operators of a routed layer and pass that the host issues one by one."""
        known = self.issued
        share = known.get(accelerator, known.get(family, known.get("default", 1.0)))
        return self.routed_operators * share

    def promotes(self, precision: str) -> bool:
        """Whether 16-bit gradients are added to an fp32 accumulator after every micro-batch."""
        return precision == "bf16" and self.bf16_gradient_bytes > 0.0

    def aligned_compute(self, head_dim: int) -> float:
        """Return the rate of unfused attention's products for a head dimension."""
        return self.misaligned_rate if head_dim % 8 else 1.0


def _calibration(entry: object) -> tuple[Calibration | None, str]:
    """Return the record of a calibration, None with the rule that it breaks."""
    wanted = [f.name for f in fields(Calibration)]
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        return None, f": must have exactly {', '.join(wanted)}"
    shares = [entry["below"], entry["above"]]
    texts = [entry["stack"], entry["accelerator"]]
    kinds, rows = entry["kinds"], entry["rows"]
    if not isinstance(kinds, list) or not all(isinstance(text, str) for text in (*kinds, *texts)):
        return None, ": stack, accelerator and kinds must be texts"
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        return None, f".rows = {rows!r}: must be a count from 1"
    if not all(type(share) in (int, float) and 0 <= share < 1 for share in shares):
        return None, ": below and above must be shares from 0 to 1"
    return Calibration(**{**entry, "kinds": tuple(kinds)}), ""


_KIND = ProfileKind(
    noun="stack",
    make=Stack,
    package="ridgeline.simulator",
    folder="data/stacks",
    texts={
        "kernel_library": ("default", "sglang", "trtllm", "vllm"),
        "attention": ("fused", "unfused"),
        "sharding": ("megatron", "fsdp"),
        "sharding_unit": ("layer", "matrix"),
        "expert_dispatch": ("all-to-all", "by-node"),
    },
    shares=(
        "tp_overlap",
        "tp_gradient_overlap",
        "ep_overlap",
        "cp_overlap",
        "overlap_slowdown",
        "fragmentation",
    ),
    positive=(
        "wgrad_rate",
        "attention_rate",
        "attention_backward",
        "scan_memory",
        "scan_backward",
        "nccl_bandwidth",
        "compute_rate",
        "node_bandwidth",
        "network_bandwidth",
    ),
    readers={"calibration": _calibration},
)


_USUAL = {
    "AWS": "neuronx-distributed",
    "Google": "maxtext",
    "Intel": "megatron-deepspeed-gaudi",
}
"""Vendor -> the stack of its chips."""
_OWN = ("AWS", "Google")
"""Vendors whose chips run what their compiler takes, which is their stack alone."""


def usual_stack(accelerator: Accelerator) -> str:
    """Return the stack that trains on an accelerator where nobody says another."""
    return _USUAL.get(accelerator.vendor, "megatron-core")


def runs_on(stack: Stack, accelerator: Accelerator) -> bool:
    """Whether a stack, or the one that it was calibrated from, is known to run on a chip.

    JAX (MaxText) runs on GPUs too.
    """
    name = stack.name if stack.calibration is None else stack.calibration.stack
    if name not in stack_names():
        return True
    if accelerator.vendor in _OWN:
        return name == _USUAL[accelerator.vendor]
    return name not in (_USUAL["AWS"], _USUAL["Intel"]) or name == usual_stack(accelerator)


def stack_names() -> tuple[str, ...]:
    """Return the names of the shipped stacks."""
    return profile_names(_KIND)


@lru_cache(maxsize=64)
def load_stack(name: str) -> Stack:
    """Load a shipped stack by name, or a user's own from a path that ends in ``.toml``.

    Raises
    ------
    InputError
        Unknown name (with the nearest one), unknown key, or a value of the wrong kind.
    """
    return load_profile(_KIND, name)
