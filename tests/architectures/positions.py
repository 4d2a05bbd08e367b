"""Positions: embeddings, rotary embeddings, and learned tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.architectures.attention import PLAIN, attend, block, heads, separate
from tests.architectures.registry import Net, architecture


@architecture((1, 2, 2), order=PLAIN)
def position_embedding() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        x = x + m.position
        return attend(*(heads(f(x)) for f in (m.q, m.k, m.v)))

    return block(attention, **separate(), position=torch.randn(1, 2, 4))


@architecture((1, 2, 2), order=PLAIN * 2)  # two registers without a position, in any order
def class_and_register_tokens() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x) + m.position
        x = torch.cat([m.cls, m.registers, x], 1)
        x = x + m.o(attend(*(heads(f(x)) for f in (m.q, m.k, m.v))))
        return m.last(x[:, 0])

    return Net(
        forward, first=nn.Linear(2, 4), position=torch.randn(1, 2, 4), cls=torch.randn(1, 1, 4),
        registers=torch.randn(1, 2, 4), **separate(), o=nn.Linear(4, 4), last=nn.Linear(4, 2),
    )  # fmt: skip


@architecture((1, 2, 2), order=PLAIN)  # positions for all tokens, registers included, each of which is its own
def class_token_with_positions() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([m.cls, m.first(x)], 1) + m.position
        x = x + m.o(attend(*(heads(f(x)) for f in (m.q, m.k, m.v))))
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
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        return attend(rotate(q), rotate(k), v)

    return block(attention, inner=8, **separate(q=8, kv=8))


ROTARY = 24 * 2 * 24**2  # width, heads, and in each head four v dims; q and k dims are rotated, each by its own angle


@architecture((1, 2, 2), order=ROTARY)
def rotary_half() -> nn.Module:
    return _rotary(rotate_half)


@architecture((1, 2, 2), order=ROTARY)
def rotary_pairs() -> nn.Module:
    return _rotary(rotate_pairs)


@architecture((1, 2, 2), order=ROTARY * 2**2)  # the other two q and k dims of each head are free
def rotary_partial() -> nn.Module:
    return _rotary(rotate_part)


@architecture((1, 2, 2), order=ROTARY)
def rotary_fused() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return attend(rotate_half(q), rotate_half(k), v)

    return block(attention, inner=8, qkv=nn.Linear(4, 24, bias=False))


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
        return attend(*(heads(f(x)) for f in (m.q, m.k, m.v)), m.slope * distance)

    return block(attention, **separate(), slope=torch.randn(2, 1, 1))


@architecture((1, 2, 2), order=PLAIN // 2)  # constant slopes that differ tell the heads apart
def constant_slopes() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        distance = (torch.arange(2)[:, None] - torch.arange(2)[None]).abs().to(x)
        slope = torch.tensor([0.5, 0.25], dtype=x.dtype)[:, None, None]
        return attend(*(heads(f(x)) for f in (m.q, m.k, m.v)), slope * distance)

    return block(attention, **separate())
