"""Scaled dot-product attention, in all its ATen spellings."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch

from .contract import matmul
from .pointwise import MINUS_INFINITY, combine, elementwise, scale, where
from .reduce import reduction, softmax_along
from .registry import Context, Ids, expands


def masked_scores(ctx: Context, a: SimpleNamespace, scores: Ids) -> Ids:
    """Apply `attn_mask` or `attn_bias`, and the causal mask."""
    mask = getattr(a, "attn_mask", None)
    mask = getattr(a, "attn_bias", None) if mask is None else mask
    if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
        scores = hide(ctx, scores, mask)
    elif mask is not None:
        scores = combine(ctx, "add", scores, mask)
    if a.is_causal:
        scores = hide(ctx, scores, torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    return scores


def hide(ctx: Context, scores: Ids, visible: torch.Tensor) -> Ids:
    return where(ctx, SimpleNamespace(condition=visible, self=scores, other=MINUS_INFINITY))


def heads_like(ctx: Context, value: Any, query: torch.Tensor) -> torch.Tensor:
    """Repeat shared key and value heads (grouped-query attention)."""
    ids = ctx.ids(value)
    if ids.dim() > 2 and ids.shape[-3] != query.shape[-3]:
        ids = ids.repeat_interleave(query.shape[-3] // ids.shape[-3], dim=-3)
    return ids


@expands(
    "scaled_dot_product_attention", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def attention(ctx: Context, a: SimpleNamespace) -> Any:
    query = ctx.ids(a.query)
    key, value = heads_like(ctx, a.key, query), heads_like(ctx, a.value, query)
    factor = 1 / math.sqrt(query.shape[-1]) if a.scale is None else a.scale
    scores = masked_scores(ctx, a, scale(ctx, factor, matmul(ctx, Ids(query), Ids(key.mT))))
    weights = softmax_along(ctx, scores.ids, -1)
    out = matmul(ctx, weights, Ids(value))
    returns = len(ctx.op._schema.returns)
    if returns == 1:
        return out
    second = weights if ctx.name.endswith("_math") else reduction(ctx, "logsumexp", scores.ids, -1, False)
    return (out, second, *[None] * (returns - 2))


@expands("_euclidean_dist", "_cdist_forward", "cdist")
def distance(ctx: Context, a: SimpleNamespace) -> Ids:
    """A symmetric function of the multiset of coordinate differences."""
    x1, x2 = ctx.ids(a.x1).unsqueeze(-2), ctx.ids(a.x2).unsqueeze(-3)
    differences = combine(ctx, "difference", Ids(x1), Ids(x2))
    return elementwise(
        ctx, "root", reduction(ctx, ("distance", getattr(a, "p", 2)), differences.ids, -1, False)
    )
