"""Positions: embeddings, rotary embeddings, and learned tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.architectures.nets import PLAIN, Net, architecture, attend, block, separate, split_heads


@architecture((1, 2, 2), order=PLAIN)  # positions for all tokens, registers included, each of which is its own
def class_token_with_positions() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([m.cls, m.first(x)], 1) + m.position
        x = x + m.o(attend(*(split_heads(f(x)) for f in (m.q, m.k, m.v))))
        return m.last(x[:, 0])

    return Net(
        forward, first=nn.Linear(2, 4), position=torch.randn(1, 3, 4), cls=torch.randn(1, 1, 4),
        **separate(), o=nn.Linear(4, 4), last=nn.Linear(4, 2),
    )  # fmt: skip


def tables(d: int, tokens: int = 2) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (tokens, d / 2)."""
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * 10.0 ** -torch.arange(d // 2, dtype=torch.float64)
    return angle.cos(), angle.sin()


def rotate_half(x: Tensor) -> Tensor:
    cos, sin = (torch.cat([t, t], -1) for t in tables(x.shape[-1]))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def rotate_pairs(x: Tensor) -> Tensor:
    cos, sin = tables(x.shape[-1])
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotate_part(x: Tensor) -> Tensor:
    return torch.cat([rotate_half(x[..., :2]), x[..., 2:]], -1)


def _rotary(rotate: Callable[[Tensor], Tensor]) -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (split_heads(f(x)) for f in (m.q, m.k, m.v))
        return attend(rotate(q), rotate(k), v)

    return block(attention, inner=8, **separate(q=8, kv=8))


ROTARY = 24 * 2 * 24**2  # width, heads, and in each head four v dims; q and k dims are rotated, each by its own angle


@architecture((1, 2, 2), order=ROTARY)
def rotary_pairs() -> nn.Module:
    return _rotary(rotate_pairs)


@architecture((1, 2, 2), order=ROTARY)
def rotary_complex() -> nn.Module:
    def rotate(x: Tensor) -> Tensor:
        turn = torch.complex(*tables(x.shape[-1]))
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    return _rotary(rotate)


@architecture((1, 2, 2), order=PLAIN)  # a slope for each head would tie heads only if it were a constant
def learned_slopes() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        distance = (torch.arange(2)[:, None] - torch.arange(2)[None]).abs().to(x)
        return attend(*(split_heads(f(x)) for f in (m.q, m.k, m.v)), m.slope * distance)

    return block(attention, **separate(), slope=torch.randn(2, 1, 1))


@architecture((1, 2, 2), order=PLAIN // 2)  # constant slopes that differ tell the heads apart
def constant_slopes() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        distance = (torch.arange(2)[:, None] - torch.arange(2)[None]).abs().to(x)
        slope = torch.tensor([0.5, 0.25], dtype=x.dtype)[:, None, None]
        return attend(*(split_heads(f(x)) for f in (m.q, m.k, m.v)), slope * distance)

    return block(attention, **separate())
