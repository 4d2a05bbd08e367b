"""Fused attention: ``softmax(q k / sqrt(d)) v`` reads like its equation."""

from __future__ import annotations

from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import NoRule, rule


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
    if op.get("dropout_p"):
        raise NoRule("dropout in train mode")
    if q.ndim >= 3 and q.shape[-3] != k.shape[-3]:
        found = _grouped(op, q, k, v, mask)
    else:
        equation = _CAUSAL if op.get("is_causal") else "... q d, ... k d, ... k e, ... q k -> ... q e; ... q"
        found = op.equation(equation, q, k, v, mask, shapes=[op.shape()], reason=_WHY)
    return [found] + [None] * (len(op.node.meta["val"]) - 1) if several else found


_WHY = "causal attention depends on the order"
_CAUSAL = "... _ d, ... _ d, ... _ e, ... _ _ -> ... _ e; ..."


def _grouped(op: Op, q: View, k: View, v: View, mask: View | None) -> View:
    """Grouped queries: each key head serves several."""
    lead = [f"b{n}" for n in range(q.ndim - 3)]
    row, column = ("_", "_") if op.get("is_causal") else ("q", "k")
    heads, single = " ".join([*lead, "(g r)"]), " ".join([*lead, "g"])
    of_mask = [*lead, "(g r)", row, column]
    of_mask = of_mask[len(of_mask) - mask.ndim :] if mask is not None else of_mask
    inner = [*lead, "g", "r", *([] if row == "_" else [row])]
    terms = [f"{heads} {row} d", f"{single} {column} d", f"{single} {column} e", " ".join(of_mask)]
    equation = f"{', '.join(terms)} -> {heads} {row} e; {' '.join(inner)}"
    sizes = {"g": k.shape[-3], "r": q.shape[-3] // max(k.shape[-3], 1)}
    return op.equation(equation, q, k, v, mask, shapes=[op.shape()], sizes=sizes, reason=_WHY)
