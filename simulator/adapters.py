"""Low-rank adapters: what is trained when the weights of the model are frozen.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds B A to a frozen matrix W of n x k, with A of r x k and
B of n x r. The step then needs no gradients of W, hence neither their products nor their exchange
nor optimizer state; it still needs those of the inputs.
"""

from __future__ import annotations

from ridgeline.simulator.plan import Plan
from ridgeline.workloads.forms import Form
from ridgeline.workloads.model import Model

TARGETS = {
    "attention": ("qkv", "attention output"),
    "all": ("qkv", "attention output", "mlp up", "mlp down"),
}
"""Name -> operators that get adapters; routed experts get none."""


def layer_adapters(model: Model, form: Form, rank: int, targets: str, tp: int) -> float:
    """Return the adapter parameters of one layer on one tensor rank.

    A column-parallel product keeps A whole and splits B, a row-parallel one splits A.

    Parameters
    ----------
    model, form
        The model and what the layer is made of; ``legality`` refuses all but attention.
    rank
        r; 0 means none.
    targets
        A key of ``TARGETS``.
    tp
        Tensor parallel ways.
    """
    a, h = model.attention, model.hidden
    query = a.heads * a.head_dim / tp
    key_value = max(1.0, a.kv_heads / tp) * (a.head_dim + a.v_head_dim)
    shapes = {
        "qkv": (h, query + key_value),
        "attention output": (a.heads * a.v_head_dim / tp, h),
    }
    if not form.is_moe:
        width = model.ffn_hidden / tp
        shapes["mlp up"] = (h, width * (2 if model.gated_mlp else 1))
        shapes["mlp down"] = (width, h)
    return rank * sum(sum(shapes[name]) for name in TARGETS[targets] if name in shapes)


def adapter_parameters(plan: Plan) -> float:
    """Return all adapter parameters of a plan, 0 where every weight is trained."""
    t, model = plan.training, plan.model
    if not t.lora_rank:
        return 0.0
    return sum(
        layer_adapters(model, model.form(index), t.lora_rank, t.lora_targets, 1)
        for index in range(model.num_layers)
    )
