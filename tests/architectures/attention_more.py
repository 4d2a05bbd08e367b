"""More attention: two heads of two on a width of four, so that without more the order is 24 * 2 * (2 * 2)**2 = 768."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import PLAIN, architecture, attend, block, separate, split_heads


@architecture((1, 2, 2), order=PLAIN)
def attention_separate() -> nn.Module:
    return block(lambda m, x: attend(*(split_heads(f(x)) for f in (m.q, m.k, m.v))), **separate())


@architecture((1, 2, 2), order=PLAIN)
def attention_fused_per_head() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        return attend(*split_heads(m.qkv(x)).chunk(3, -1))

    return block(attention, qkv=nn.Linear(4, 12))


@architecture((1, 2, 2), order=PLAIN)
def attention_scaled_dot_product() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(*(split_heads(f(x)) for f in (m.q, m.k, m.v)), is_causal=True)
        return found.transpose(1, 2).flatten(2)

    return block(attention, **separate())


@architecture((1, 2, 2), order=24 * 2 * 2 * 2)  # heads; one k and one v for both
def multi_query() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        return attend(split_heads(m.q(x)), m.k(x)[:, None], m.v(x)[:, None])

    return block(attention, **separate(kv=2))


@architecture((1, 4, 2), order=PLAIN)
def shifted_window_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        windows = x.roll(-1, 1).reshape(2, 2, 4)
        mask = torch.zeros(2, 1, 2, 2, dtype=x.dtype)
        mask[1, 0, 0, 1] = mask[1, 0, 1, 0] = -100.0
        return attend(*(split_heads(f(windows)) for f in (m.q, m.k, m.v)), mask).reshape(1, 4, 4).roll(1, 1)

    return block(attention, **separate())


@architecture((1, 2, 2), order=PLAIN)
def linear_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (F.elu(split_heads(m.q(x))) + 1, F.elu(split_heads(m.k(x))) + 1, split_heads(m.v(x)))
        found = torch.einsum("bhqd,bhde->bhqe", q, torch.einsum("bhkd,bhke->bhde", k, v))
        found = found / (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        return found.transpose(1, 2).flatten(2)

    return block(attention, **separate())


@architecture((1, 2, 2), order=24 * 24 * 24)  # width, and channel attention (cross-covariance) with one head: channels of q; those of k and v
def channel_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.q(x), m.k(x), m.v(x)
        scores = (F.normalize(q, dim=1).transpose(1, 2) @ F.normalize(k, dim=1)).softmax(-1)
        return (scores @ v.transpose(1, 2)).transpose(1, 2)

    return block(attention, **separate())


@architecture((1, 2, 2), order=24 * 2 * (2 * 2) ** 2)  # talking heads would tie; a temperature for each head does not
def head_temperature() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (split_heads(f(x)) for f in (m.q, m.k, m.v))
        return attend(q * m.temperature.exp(), k, v)

    return block(attention, **separate(), temperature=torch.randn(2, 1, 1))


@architecture((1, 2, 2), order=24 * 2 * 2 * 2**2 * 2**2)  # heads before and after the mixing
def talking_heads() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (split_heads(f(x)) for f in (m.q, m.k, m.v))
        scores = torch.einsum("bhqk,hg->bgqk", q @ k.transpose(-1, -2), m.mix).softmax(-1)
        return (scores @ v).transpose(1, 2).flatten(2)

    return block(attention, **separate(), mix=torch.randn(2, 2))
