"""Layers that are used more than once with a residual, weights for each position, and conditioning."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import PLAIN, Net, architecture, attend, separate, split_heads

L = nn.Linear


@architecture((2, 2), order=f(4))  # the stream is both ends of the shared layer
def layer_used_twice_with_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for _ in range(2):
            x = x + torch.tanh(m.shared(x))
        return m.last(x)

    return Net(forward, first=L(2, 4), shared=L(4, 4), last=L(4, 2))


@architecture((1, 2, 2), order=f(4) * f(3))  # the stream, the hidden units of the shared block
def mlp_block_used_twice() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for _ in range(2):
            x = x + m.down(torch.relu(m.up(m.norm(x))))
        return m.last(x)

    return Net(forward, first=L(2, 4), norm=nn.LayerNorm(4), up=L(4, 3), down=L(3, 4), last=L(4, 2))


@architecture((1, 2, 2), order=PLAIN)  # as if it were used once
def attention_block_used_twice() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for _ in range(2):
            x = m.norm(x + m.o(attend(*(split_heads(p(x)) for p in (m.q, m.k, m.v)))))
        return m.last(x)

    return Net(forward, first=L(2, 4), norm=nn.LayerNorm(4), o=L(4, 4), last=L(4, 2), **separate())


@architecture((2, 2), order=f(4) * f(3))  # x + W^T tanh(W x): the stream, the rows of W
def transposed_reuse_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x + torch.tanh(m.w(x)) @ m.w.weight)

    return Net(forward, first=L(2, 4), w=L(4, 3), last=L(4, 2))


@architecture((1, 2, 2), order=f(3) ** 2)  # three hidden units at each of two positions; weights are [t, o, i]
def linear_per_position() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.tanh((m.up @ x[..., None])[..., 0] + m.bias)
        return (m.down @ y[..., None])[..., 0]

    return Net(forward, up=torch.randn(2, 3, 2), bias=torch.randn(2, 3), down=torch.randn(2, 2, 3))


@architecture((1, 2, 2), order=f(4) * f(3) ** 2)  # the stream is one for all positions, the hidden units are not
def linear_per_position_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        y = torch.relu(torch.einsum("bti,toi->bto", x, m.up))
        return m.last(x + torch.einsum("bti,toi->bto", y, m.down))

    return Net(forward, first=L(2, 4), up=torch.randn(2, 3, 4), down=torch.randn(2, 4, 3), last=L(4, 2))


@architecture((1, 2, 2), order=f(4) * f(4))  # what is scaled and shifted; the units of the condition
def film() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scale, shift = m.film(torch.relu(m.condition(x.mean(1, keepdim=True)))).chunk(2, -1)
        return m.last(torch.relu(m.first(x) * scale + shift))

    return Net(forward, first=L(2, 4), condition=L(2, 4), film=L(4, 8), last=L(4, 2))


@architecture((1, 2, 2), order=f(4) * f(3) * f(3))  # the stream, the condition, the hidden units
def adaptive_norm() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scale, shift, gate = m.adapt(F.silu(m.condition(x.mean(1, keepdim=True)))).chunk(3, -1)
        x = m.first(x)
        return m.last(x + gate * m.down(F.gelu(m.up(F.layer_norm(x, (4,)) * (1 + scale) + shift))))

    parts = {"condition": L(2, 3), "adapt": L(3, 12), "up": L(4, 3), "down": L(3, 4)}
    return Net(forward, first=L(2, 4), last=L(4, 2), **parts)


@architecture((1, 3, 2), order=f(4) * f(3))  # the stream, the recurrent units
def gru_residual() -> nn.Module:
    parts = {"first": L(2, 4), "gru": nn.GRU(4, 3, batch_first=True), "back": L(3, 4), "last": L(4, 2)}
    return Net(lambda m, x: m.last((y := m.first(x)) + m.back(m.gru(y)[0])), **parts)


@architecture((1, 2, 2), order=f(2))  # adding both directions ties their units
def directions_added() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.gru(x)[0].chunk(2, -1)
        return m.last(torch.tanh(a + b))

    return Net(forward, gru=nn.GRU(2, 2, bidirectional=True, batch_first=True), last=L(2, 2))
