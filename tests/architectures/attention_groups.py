"""Attention with grouped queries, tokens and poolings of its own; grouped convolutions with group norms; experts."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import PLAIN, Net, architecture, attend, block, separate, split_heads

L = nn.Linear
GROUPED = f(4) * f(2) * (f(2) * f(2) * f(2)) ** 2  # width; key heads; in each two query heads, two qk and two v dims


@architecture((1, 2, 2), order=GROUPED)
def grouped_queries_broadcast() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (2, 2, 2)).permute(0, 2, 3, 1, 4)
        k, v = (split_heads(p(x))[:, :, None] for p in (m.k, m.v))
        return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).permute(0, 3, 1, 2, 4).flatten(2)

    return block(attention, inner=8, **separate(q=8))


@architecture((1, 2, 2), order=GROUPED)
def grouped_queries_tiled() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        k, v = (split_heads(p(x)).repeat(1, 2, 1, 1) for p in (m.k, m.v))
        return attend(split_heads(m.q(x), 4), k, v)

    return block(attention, inner=8, **separate(q=8))


@architecture((1, 2, 2), order=GROUPED)
def grouped_queries_fused() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, *kv = m.qkv(x).split([8, 4, 4], -1)
        return attend(split_heads(q, 4), *(split_heads(p).repeat_interleave(2, 1) for p in kv))

    return block(attention, inner=8, qkv=L(4, 16))


@architecture((1, 2, 2), order=PLAIN)  # a norm weight for each dimension of each head ties nothing
def norm_of_each_head() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k = (F.rms_norm(split_heads(p(x)), (2,)) * w for p, w in ((m.q, m.wq), (m.k, m.wk)))
        return attend(q, k, split_heads(m.v(x)))

    return block(attention, **separate(), wq=torch.randn(2, 1, 2), wk=torch.randn(2, 1, 2))


@architecture((1, 2, 2), order=PLAIN * f(3))  # torch's own layer
def encoder_layer() -> nn.Module:
    parts = {"first": L(2, 4), "e": nn.TransformerEncoderLayer(4, 2, 3, 0.0, batch_first=True), "last": L(4, 2)}
    return Net(lambda m, x: m.last(m.e(m.first(x))), **parts)


@architecture((1, 2, 2), order=PLAIN * f(3))  # three registers
def registers_in_heads() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([m.cls, m.registers, m.first(x) + m.position], 1)
        x = x + m.o(attend(*(split_heads(p(x)) for p in (m.q, m.k, m.v))))
        return m.last(x[:, 0])

    tokens = {"cls": torch.randn(1, 1, 4), "registers": torch.randn(1, 3, 4), "position": torch.randn(1, 2, 4)}
    return Net(forward, first=L(2, 4), o=L(4, 4), last=L(4, 2), **tokens, **separate())


@architecture((1, 2, 2), order=f(3) * f(4) * PLAIN)  # latents; their width, which is not the input's
def learned_queries_in_heads() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        z = m.z + m.o(attend(split_heads(m.q(m.z)), split_heads(m.k(x)), split_heads(m.v(x))))
        return m.last(torch.tanh(z).sum(1))

    return Net(forward, first=L(2, 4), z=torch.randn(1, 3, 4), o=L(4, 4), last=L(4, 2), **separate())


@architecture((1, 2, 2), order=f(4) * f(2) * f(2) ** 2)  # width, heads, the values of each
def attention_pooling() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        v = m.v(x).unflatten(-1, (2, 2))
        return m.last(torch.tanh(torch.einsum("bth,bthd->bhd", m.score(x).softmax(1), v).flatten(1)))

    return Net(forward, first=L(2, 4), score=L(4, 2), v=L(4, 4), last=L(4, 2))


@architecture((1, 2, 2, 2), order=f(2) * (f(2) * f(4)) ** 2)  # two groups with two inputs and four outputs each
def grouped_conv_and_norm() -> nn.Module:
    convs = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 1, groups=2), nn.Conv2d(8, 2, 1)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.GroupNorm(2, 8), nn.ReLU(), convs[2])


@architecture((1, 2, 2, 2), order=f(2) * (f(2) * f(2)) ** 2)  # groups; in each two of the stream and two inside
def grouped_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(torch.relu(x + m.b(torch.relu(m.n(m.a(torch.relu(x)))))))

    parts = {name: nn.Conv2d(4, 4, 1, groups=2) for name in "ab"}
    return Net(forward, first=nn.Conv2d(2, 4, 1), last=nn.Conv2d(4, 2, 1), n=nn.GroupNorm(2, 4), **parts)


@architecture((2, 2), order=f(4) * f(2) * f(3) ** 2 * f(2))  # stream; experts; three units in each; two shared ones
def experts_beside_a_shared_one() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        a, b = torch.einsum("ni,eio->eno", x, m.up).chunk(2, -1)
        y = torch.einsum("eno,eoj,ne->nj", F.silu(a) * b, m.down, m.router(x).softmax(-1))
        return m.last(x + y + m.shared_down(torch.relu(m.shared_up(x))))

    weights = {"up": torch.randn(2, 4, 6), "down": torch.randn(2, 3, 4), "router": L(4, 2)}
    return Net(forward, first=L(2, 4), shared_up=L(4, 2), shared_down=L(2, 4), last=L(4, 2), **weights)
