"""What a software stack keeps in memory: facts, each with a physical meaning."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.simulator.stacks import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """Facts of a software stack that decide how much memory a plan takes."""

    attention_saves_scores: bool
    """Unfused attention keeps the score matrix for its backward pass."""
    dropout: bool
    """Dropout masks are kept (one byte an element) behind attention, projection and MLP."""
    gradient_bytes: float
    """Bytes per element of the buffer into which gradients accumulate (2 or 4)."""
    master_bytes: float = 4.0
    """Bytes per parameter of the optimizer's fp32 weights, where training is mixed-precision."""
    moment_bytes: float = 8.0
    """Bytes per parameter of both Adam moments together."""
    main_gradients_sharded: bool = False
    """The optimizer keeps an fp32 copy of low-precision gradients, sharded as its state is."""
    bucket_bytes: float = 0.0
    """Communication buffers of gradient reduction."""
    logits_bytes_per_element: float = 4.0
    """Logits and what the loss keeps of them (fp32 logits 4; softmax and its gradient more)."""
    framework_bytes: float = 0.0
    """Runtime context and communicator buffers per accelerator."""
    fragmentation: float = 0.0
    """Share of activations and buffers that the allocator loses on top of them."""
    expert_outputs_saved: bool = True
    """Outputs of experts are kept to weight their gradients (not where the routing weights are
    applied to the activation instead)."""
    bf16_gradient_bytes: float = 0.0
    """Further bytes per parameter of gradients under bf16 training."""
    gradient_stubs: bool = False
    """One empty gradient in the activations' precision for each shape of a layer's weights."""
    activation_input_bytes: float = 0.0
    """Bytes per element of the input of the activation function; 0 for full width."""
    fp8_weight_bytes: float = 0.0
    """Bytes per weight under fp8 beyond those of a 16-bit weight: 0 where weights themselves are
    fp8 (a row-wise and a column-wise copy take the same 2 bytes), 2 where both copies are cached
    beside 16-bit weights."""
    unsharded_units: int = 2
    """Units whose gathered weights coexist under full sharding: the current and the next."""
    gathers_layers: bool = True
    """Full sharding gathers whole layers (PyTorch FSDP) rather than one matrix at a time
    (DeepSpeed ZeRO-3 by submodule, XLA by operation)."""


def memory_facts(stack: Stack) -> MemoryFacts:
    """Return the memory facts of a software stack.

    Megatron's cross-entropy keeps fp32 logits, made in place into their softmax (4 bytes, as
    Korthikanti et al. 2022 count them), beside the 16-bit logits of the GEMM (2 bytes). The fused
    cross-entropy that goes with FSDP keeps 16-bit logits and their gradient (2 + 2 bytes).
    """
    fsdp = stack.sharding == "fsdp"
    return MemoryFacts(
        attention_saves_scores=stack.attention == "unfused",
        dropout=stack.dropout,
        gradient_bytes=stack.accumulation_bytes,
        main_gradients_sharded=stack.accumulation_bytes < 4 and not fsdp,
        bucket_bytes=stack.bucket_bytes,
        logits_bytes_per_element=4.0 if fsdp else 6.0,
        gathers_layers=fsdp and stack.sharding_unit == "layer",
        framework_bytes=stack.framework_bytes,
        moment_bytes=stack.moment_bytes,
        bf16_gradient_bytes=stack.bf16_gradient_bytes,
        gradient_stubs=stack.gradient_stubs,
        activation_input_bytes=stack.activation_input_bytes,
        fp8_weight_bytes=stack.fp8_weight_bytes,
        expert_outputs_saved=stack.expert_outputs_saved,
        fragmentation=stack.fragmentation,
    )
