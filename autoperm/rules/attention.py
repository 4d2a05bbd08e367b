"""Fused attention: ``softmax(q k / sqrt(d)) v`` reads like its equation."""

from __future__ import annotations

from autoperm.rules.op import Op
from autoperm.rules.registry import rule


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
    several = isinstance(op.node.meta["val"], (tuple, list))
    if several:
        op.only(0)
    if op.get("is_causal"):
        op.pin(q, "causal attention depends on the order", [q.ndim - 2])
        op.pin(k, "causal attention depends on the order", [k.ndim - 2])
    shared = q.ndim >= 3 and q.shape[-3] != k.shape[-3]  # grouped queries: each key head serves several
    equation = _grouped(q.ndim) if shared else "... q d, ... k d, ... k e, ... q k -> ... q e; ... q"
    sizes = {"g": k.shape[-3], "r": q.shape[-3] // max(k.shape[-3], 1)} if shared else {}
    found = op.equation(equation, q, k, v, mask, shapes=[op.shape()], sizes=sizes, reduces=(0, 1, 3))
    return [found] + [None] * (len(op.node.meta["val"]) - 1) if several else found


def _grouped(ndim: int) -> str:
    lead = " ".join(f"b{k}" for k in range(ndim - 3))
    heads = f"{lead} (g r)"
    return f"{heads} q d, {lead} g k d, {lead} g k e, {heads} q k -> {heads} q e; {lead} g r q"
