"""What ops of derivatives are composed of: models of energies, flows and scores take gradients in their forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


@functools.cache
def compositions() -> dict[OpOverload, Callable[..., Any]]:
    """torch's own decompositions of ``*_backward`` ops, and those that it lacks, of convolutions and attention."""
    known = torch._decomp.decomposition_table
    own = (op for op in known if isinstance(op, OpOverload) and op._overloadname == "default")
    found = {op: known[op] for op in own if "_backward" in op.name()}
    return found | {
        aten.convolution_backward.default: convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: attention_backward,
    }


def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """The gradients of a convolution by input, weight and bias, as convolutions.

    Returns ``NotImplemented``, upon which the op stays, for the gradient by the weight of a transposed or grouped one.
    """
    by_input, by_weight, by_bias = output_mask
    if by_weight and (transposed or groups > 1):
        return NotImplemented
    spatial = range(2, x.ndim)
    found: list[Tensor | None] = [None, None, None]
    if by_input:
        reach = [dilation[k - 2] * (weight.shape[k] - 1) + 1 - 2 * padding[k - 2] for k in spatial]
        more = [x.shape[k] - (gradient.shape[k] - 1) * stride[k - 2] - reach[k - 2] for k in spatial]
        found[0] = aten.convolution(
            gradient, weight, None, stride, padding, dilation, not transposed, [0] * len(more) if transposed else more, groups
        )
    if by_weight:
        # Batch and channels trade places: each weight is a product of the input's windows with the gradient.
        whole = aten.convolution(
            x.transpose(0, 1), gradient.transpose(0, 1), None, dilation, padding, stride, False, [0] * len(spatial), 1
        )
        for k in spatial:
            whole = whole.narrow(k, 0, weight.shape[k])
        found[1] = whole.transpose(0, 1)
    if by_bias:
        found[2] = gradient.sum([0, *spatial])
    return tuple(found)


def attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """The gradients of attention by queries, keys and values: of softmax(scale q k' + mask) v, written out.

    Returns ``NotImplemented`` with dropout, and where keys and values have fewer heads than queries.
    """
    if dropout_p or key.shape[1] != query.shape[1]:
        return NotImplemented
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * (query @ key.transpose(-2, -1))
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(1)
    if attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    by_weights = gradient @ value.transpose(-2, -1)
    by_scores = scale * weights * (by_weights - (gradient * out).sum(-1, keepdim=True))
    return by_scores @ key, by_scores.transpose(-2, -1) @ query, weights.transpose(-2, -1) @ gradient
