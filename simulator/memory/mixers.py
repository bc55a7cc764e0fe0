"""What layers without full attention or an MLP keep for their backward pass, bytes of a rank.

States of chunked scans, spectra of convolutions and the values that a memory looks up are made
again: none of their published kernels keeps them.
"""

from __future__ import annotations

from ridgeline.workloads.forms import Form, MemoryTable
from ridgeline.workloads.mixers import convolved, fan_out, input_width
from ridgeline.workloads.model import Attention, Model


def mixer_saved(
    model: Model, form: Form, tokens: float, element: float
) -> tuple[float, float, float]:
    """Return bytes of the projections' outputs and of the core, and elements of its output.

    Parameters
    ----------
    model, form
        The model and what the layer is made of: any mixer but attention.
    tokens
        Tokens of a micro-batch on one rank, over the tensor ranks that split every width.
    element
        Bytes of a stored activation.

    Returns
    -------
    tuple of float
        Of linear attention: projections; the short convolution's output and the scan's, which its
        norm reads; values that go into the output projection. Of a long convolution: branches;
        the same behind the short convolution and each long one; the gated output.
    """
    if form.is_linear:
        linear = model.linear
        assert linear is not None
        values = linear.value_heads * linear.value_head_dim
        inputs = input_width(linear) + sum(outputs for outputs, _ in fan_out(linear))
        core = convolved(linear) + values
        return element * tokens * inputs, element * tokens * core, tokens * values
    if form.mixer == "convolution":
        convolution = model.convolution
        assert convolution is not None
        branches = (convolution.order + 1) * model.hidden
        core = branches + (convolution.order - 1) * model.hidden
        return element * tokens * branches, element * tokens * core, tokens * model.hidden
    return 0.0, 0.0, 0.0


def sparse_saved(attention: Attention, tokens: float, tp: int, element: float) -> float:
    """Return what sparse attention keeps beside full attention.

    With an indexer its queries and weights, and the 4-byte places of the chosen keys, all whole
    on every tensor rank. Of block-sparse attention the output and the log-sum-exp of two branches
    more, the compressed keys and values, and the places of the chosen blocks.
    """
    blocks = attention.blocks
    if blocks is not None:
        heads, kv_heads = attention.heads / tp, max(attention.kv_heads / tp, 1.0)
        compressed = kv_heads * (attention.head_dim + attention.v_head_dim) / blocks.stride
        outputs = 2.0 * heads * attention.v_head_dim + compressed
        return tokens * (element * outputs + 2.0 * 4.0 * heads + 4.0 * kv_heads * blocks.chosen)
    if attention.index_heads:
        width = attention.index_heads * (attention.index_head_dim + 1)
        return tokens * (element * width + 4.0 * attention.index_top_k)
    return 0.0


def memory_saved(
    memory: MemoryTable, tokens: float, element: float, gemm_input: float
) -> tuple[float, float]:
    """Return bytes of a memory's hidden values and of the input of its last product.

    Queries, places and weights of the values looked up, their sum and its gate; and what the
    output projection reads.
    """
    looked_up = memory.heads * memory.top_k * (4.0 + element)
    hidden = memory.heads * memory.key_dim + memory.value_dim * (2.0 if memory.gated else 1.0)
    return tokens * (looked_up + element * hidden), tokens * gemm_input * memory.value_dim
