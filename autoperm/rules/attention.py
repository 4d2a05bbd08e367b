"""Fused attention: ``softmax(q k / sqrt(d)) v`` reads like its equation."""

from __future__ import annotations

from torch import fx

from autoperm.inference.views import View
from autoperm.rules.op import Op, op_name
from autoperm.rules.registry import NoRule, rule


def is_attention(node: fx.Node) -> bool:
    """Whether a node is fused attention, in one of its forms."""
    return "scaled_dot_product" in op_name(node)


@rule(
    "aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention", "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_attention_math", "aten._scaled_dot_product_fused_attention_overrideable",
    "aten._scaled_dot_product_cudnn_attention",
)  # fmt: skip
def attention(op: Op) -> object:
    """Batch axes merge over q, k and v; q's and k's last axes merge; v's last axis is the result's."""
    q, k, v = op.view("query"), op.view("key"), op.view("value")
    mask = op.optional("attn_mask") or op.optional("attn_bias")
    if op.get("is_causal"):  # the same as a constant mask
        mask = op.pinned((q.shape[-2], k.shape[-2]), "causal attention depends on the order")
    if op.get("dropout_p"):
        raise NoRule("dropout in train mode")
    several = isinstance(op.node.meta["val"], (tuple, list))
    if several:
        op.only(0)
    if q.ndim >= 3 and q.shape[-3] != k.shape[-3]:
        found = _grouped(op, q, k, v, mask)
    else:
        found = op.equation("... q d, ... k d, ... k e, ... q k -> ... q e; ... q", q, k, v, mask, shapes=[op.shape()])
    return [found] + [None] * (len(op.node.meta["val"]) - 1) if several else found


def _grouped(op: Op, q: View, k: View, v: View, mask: View | None) -> View:
    """Grouped queries: each key head serves several."""
    lead = " ".join(f"b{n}" for n in range(q.ndim - 3))
    of_mask = [*lead.split(), "(g r)", "q", "k"]
    of_mask = of_mask[len(of_mask) - mask.ndim :] if mask is not None else of_mask
    terms = f"{lead} (g r) q d, {lead} g k d, {lead} g k e, {' '.join(of_mask)}"
    sizes = {"g": k.shape[-3], "r": q.shape[-3] // max(k.shape[-3], 1)}
    equation = f"{terms} -> {lead} (g r) q e; {lead} g r q"
    return op.equation(equation, q, k, v, mask, shapes=[op.shape()], sizes=sizes)
