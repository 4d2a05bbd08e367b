"""Attention in its variants. Width 4, two heads of two, unless said otherwise."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn

from tests.architectures.registry import attend, case, heads, net

L = nn.Linear


@case(1, 3, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2)
def fused_qkv_reshaped() -> nn.Module:
    """Stream; heads; in each its query-key and its value dimensions."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        q, k, v = m.qkv(m.n(x)).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return m.h(x + m.o(attend(q, k, v)))

    return net(forward, i=L(2, 4), n=nn.LayerNorm(4), qkv=L(4, 12), o=L(4, 4), h=L(4, 2))


@case(1, 3, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2)
def fused_qkv_chunked() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.h(x + m.o(attend(*(heads(p, 2) for p in m.qkv(m.n(x)).chunk(3, -1)))))

    return net(forward, i=L(2, 4), n=nn.LayerNorm(4), qkv=L(4, 12, bias=False), o=L(4, 4), h=L(4, 2))


@case(1, 3, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2 * f(5))
def transformer_block_prenorm() -> nn.Module:
    """As above, and an MLP of five."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        y = m.n(x)
        x = x + m.o(attend(heads(m.q(y), 2), heads(m.k(y), 2), heads(m.v(y), 2)))
        return m.h(x + m.d(torch.nn.functional.gelu(m.u(m.p(x)))))

    linear = {n: L(4, 4) for n in "qkvo"}
    return net(forward, i=L(2, 4), n=nn.LayerNorm(4), p=nn.LayerNorm(4), u=L(4, 5), d=L(5, 4), h=L(4, 2), **linear)


@case(1, 3, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2 * f(3))
def transformer_block_postnorm() -> nn.Module:
    """As before the norm, with an MLP of three."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        x = m.n(x + m.o(attend(heads(m.q(x), 2), heads(m.k(x), 2), heads(m.v(x), 2))))
        return m.h(m.p(x + m.d(torch.relu(m.u(x)))))

    linear = {n: L(4, 4) for n in "qkvo"}
    return net(forward, i=L(2, 4), n=nn.LayerNorm(4), p=nn.LayerNorm(4), u=L(4, 3), d=L(3, 4), h=L(4, 2), **linear)


@case(1, 3, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2)
def multihead_attention() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.h(x + m.a(x, x, x, need_weights=False)[0])

    return net(forward, i=L(2, 4), a=nn.MultiheadAttention(4, 2, batch_first=True), h=L(4, 2))


@case(1, 2, 2, order=f(4) * f(3) * f(2) * (f(2) * f(2)) ** 2)
def cross_attention() -> nn.Module:
    """The stream, the width of what is attended to, and the heads."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y, x = torch.tanh(m.j(x)), m.i(x)
        return m.h(x + m.o(attend(heads(m.q(x), 2), heads(m.k(y), 2), heads(m.v(y), 2))))

    return net(forward, i=L(2, 4), j=L(2, 3), q=L(4, 4), k=L(3, 4), v=L(3, 4), o=L(4, 4), h=L(4, 2))


@case(1, 2, 2, order=f(4) * f(2) * f(2) ** 2 * f(2) ** 2 * f(2) ** 2)
def grouped_queries_repeated() -> nn.Module:
    """Two key heads; each serves two query heads, exchangeable within; 2 qk and 2 value dims per key head."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        k, v = (heads(p(x), 2).repeat_interleave(2, 1) for p in (m.k, m.v))
        return m.h(x + m.o(attend(heads(m.q(x), 4), k, v)))

    return net(forward, i=L(2, 4), q=L(4, 8, bias=False), k=L(4, 4, bias=False), v=L(4, 4), o=L(8, 4), h=L(4, 2))


@case(1, 2, 2, order=f(4) * f(2) * f(2) ** 2 * f(2) ** 2 * f(2) ** 2)
def grouped_queries_expanded() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        k, v = (heads(p(x), 2)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for p in (m.k, m.v))
        return m.h(x + m.o(attend(heads(m.q(x), 4), k, v)))

    return net(forward, i=L(2, 4), q=L(4, 8, bias=False), k=L(4, 4, bias=False), v=L(4, 4), o=L(8, 4), h=L(4, 2))


def rotate(x: Tensor, n: int) -> Tensor:
    """Rotary embedding of the first n dimensions, rotate-half form."""
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.3], dtype=x.dtype)[: n // 2]
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    a, rest = x[..., :n], x[..., n:]
    turned = torch.cat([-a[..., n // 2 :], a[..., : n // 2]], -1)
    return torch.cat([a * cos + turned * sin, rest], -1)


@case(1, 3, 2, order=f(4) * f(2) * f(2) ** 2)
def rotary_separate() -> nn.Module:
    """Query-key dimensions are pinned; heads and value dimensions are free."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.h(x + m.o(attend(rotate(heads(m.q(x), 2), 2), rotate(heads(m.k(x), 2), 2), heads(m.v(x), 2))))

    return net(forward, i=L(2, 4), h=L(4, 2), **{n: L(4, 4, bias=False) for n in "qkvo"})


@case(1, 3, 2, order=f(4) * f(2) * f(2) ** 2)
def rotary_fused() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        q, k, v = m.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return m.h(x + m.o(attend(rotate(q, 2), rotate(k, 2), v)))

    return net(forward, i=L(2, 4), qkv=L(4, 12, bias=False), o=L(4, 4), h=L(4, 2))


@case(1, 3, 2, order=f(3) * f(2) * f(4))
def rotary_multi_query() -> nn.Module:
    """Two query heads, one key and one value head in one weight: the cut for the rotation leaves the values whole."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        every = m.qkv(x).unflatten(-1, (4, 4))
        q, k, v = (t.transpose(1, 2) for t in (every[..., :-2, :], every[..., [-2], :], every[..., [-1], :]))
        return m.h(x + m.o(attend(rotate(q, 4), rotate(k, 4), v)))

    return net(forward, i=L(2, 3), qkv=L(3, 16, bias=False), o=L(8, 3), h=L(3, 2))


@case(1, 3, 2, order=f(3) * f(2) * f(4) ** 2)
def rotary_fused_wide() -> nn.Module:
    """The same with a value head for each query head."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        q, k, v = m.qkv(x).unflatten(-1, (2, 12)).transpose(1, 2).chunk(3, -1)
        return m.h(x + m.o(attend(rotate(q, 4), rotate(k, 4), v)))

    return net(forward, i=L(2, 3), qkv=L(3, 24, bias=False), o=L(8, 3), h=L(3, 2))


@case(1, 2, 2, order=f(3) * f(2) * (f(2) * f(2)) ** 2)
def rotary_partial() -> nn.Module:
    """Heads of four query-key dimensions, two of them rotated."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.h(x + m.o(attend(rotate(heads(m.q(x), 2), 2), rotate(heads(m.k(x), 2), 2), heads(m.v(x), 2))))

    parts = {"q": L(3, 8, bias=False), "k": L(3, 8, bias=False), "v": L(3, 4, bias=False), "o": L(4, 3)}
    return net(forward, i=L(2, 3), h=L(3, 2), **parts)


@case(1, 2, 2, order=f(4) * f(2) * f(2) * f(2) ** 2)
def norm_shared_by_heads() -> nn.Module:
    """One norm for the queries and keys of all heads ties their dimensions over the heads."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        q, k = (m.n(heads(p(x), 2)) for p in (m.q, m.k))
        return m.h(x + m.o(attend(q, k, heads(m.v(x), 2))))

    return net(forward, i=L(2, 4), n=nn.LayerNorm(2), h=L(4, 2), **{n: L(4, 4, bias=False) for n in "qkvo"})


@case(1, 4, 2, order=f(4) * f(2) * (f(2) * f(2)) ** 2)
def windows_with_relative_bias() -> nn.Module:
    """Windows of two tokens, a bias table per head looked up by relative position."""
    index = torch.tensor([[1, 2], [0, 1]])

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        w = x.reshape(2, 2, 4)
        q, k, v = m.qkv(w).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        bias = m.t[index.reshape(-1)].view(2, 2, 2).permute(2, 0, 1)
        y = (torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v).transpose(1, 2).flatten(2)
        return m.h(x + m.o(y).reshape(1, 4, 4))

    return net(forward, i=L(2, 4), qkv=L(4, 12), t=torch.randn(3, 2), o=L(4, 4), h=L(4, 2))


@case(1, 2, 2, order=f(3) * f(3))
def learned_queries() -> nn.Module:
    """Perceiver-like: three learned latents are exchangeable, as their mean is read; width three."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        y = torch.softmax(m.q @ x.transpose(1, 2), -1) @ x
        return m.h(torch.tanh(m.q + y).mean(1))

    return net(forward, i=L(2, 3), q=torch.randn(1, 3, 3), h=L(3, 2))


@case(1, 2, 2, order=f(3) * f(4))
def class_and_register_tokens() -> nn.Module:
    """Registers are exchangeable; the class token and positions are not."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([m.c, m.r, m.i(x) + m.p], 1)
        y = m.n(x)
        x = x + torch.softmax(y @ y.transpose(1, 2), -1) @ y
        return m.h(x[:, 0])

    tokens = {"c": torch.randn(1, 1, 4), "r": torch.randn(1, 3, 4), "p": torch.randn(1, 2, 4)}
    return net(forward, i=L(2, 4), n=nn.LayerNorm(4), h=L(4, 2), **tokens)
