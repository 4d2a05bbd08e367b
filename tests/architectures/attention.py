"""Attention: two heads of size two on a width of four, so that without more the order is 24 * 2 * (2 * 2)**2 = 768."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from tests.architectures.registry import Net, architecture

PLAIN = 24 * 2 * (2 * 2) ** 2  # width, heads, and in each head what q and k share and what v makes


def heads(x: Tensor, n: int = 2) -> Tensor:
    """(b, t, c) as (b, n, t, c / n)."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def block(
    attention: Callable[..., Tensor], c: int = 4, inner: int = 4, **parts: nn.Module | Tensor
) -> nn.Module:
    """A width of c, one residual attention, and the way in and out."""

    def forward(m: nn.Module, x: Tensor, *more: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x + m.o(attention(m, x, *more)))

    return Net(forward, first=nn.Linear(2, c), last=nn.Linear(c, 2), o=nn.Linear(inner, c), **parts)


def separate(c: int = 4, q: int = 4, kv: int = 4, source: int = 4) -> dict[str, nn.Module]:
    return {"q": nn.Linear(c, q, bias=False), "k": nn.Linear(source, kv), "v": nn.Linear(source, kv, bias=False)}


@architecture((1, 2, 2), order=PLAIN)
def attention_separate() -> nn.Module:
    return block(lambda m, x: attend(*(heads(f(x)) for f in (m.q, m.k, m.v))), **separate())


@architecture((1, 2, 2), order=PLAIN)
def attention_fused_reshape() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        return attend(q, k, v)

    return block(attention, qkv=nn.Linear(4, 12))


@architecture((1, 2, 2), order=PLAIN)
def attention_fused_chunk() -> nn.Module:
    return block(lambda m, x: attend(*(heads(p) for p in m.qkv(x).chunk(3, -1))), qkv=nn.Linear(4, 12))


@architecture((1, 2, 2), order=PLAIN)
def attention_fused_per_head() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        return attend(*heads(m.qkv(x)).chunk(3, -1))

    return block(attention, qkv=nn.Linear(4, 12))


@architecture((1, 2, 2), order=PLAIN)
def attention_scaled_dot_product() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(*(heads(f(x)) for f in (m.q, m.k, m.v)), is_causal=True)
        return found.transpose(1, 2).flatten(2)

    return block(attention, **separate())


@architecture((1, 2, 2), order=PLAIN)
def multihead_attention() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x + m.attention(x, x, x, need_weights=False)[0])

    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    return Net(forward, first=nn.Linear(2, 4), attention=attention, last=nn.Linear(4, 2))


@architecture((1, 2, 2), order=PLAIN * 6)  # hidden of 3
def pre_norm_transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 3, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Linear(2, 4), layer, nn.LayerNorm(4), nn.Linear(4, 2))


@architecture((1, 2, 2), order=PLAIN * 6)
def post_norm_transformer() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), nn.Linear(4, 2))


@architecture((1, 2, 2), order=24 * 2 * 2**2 * (2 * 2) ** 2)  # pairs of queries' heads; each pair's k and v dims
def grouped_query_repeat() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        k, v = (heads(f(x)).repeat_interleave(2, 1) for f in (m.k, m.v))
        return attend(heads(m.q(x), 4), k, v)

    return block(attention, inner=8, **separate(q=8))


@architecture((1, 2, 2), order=24 * 2 * 2**2 * (2 * 2) ** 2)
def grouped_query_expand() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        k, v = (
            heads(f(x))[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, x.shape[1], 2) for f in (m.k, m.v)
        )
        return attend(heads(m.q(x), 4), k, v)

    return block(attention, inner=8, **separate(q=8))


@architecture((1, 2, 2), order=24 * 2 * 2 * 2)  # heads; one k and one v for both
def multi_query() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        return attend(heads(m.q(x)), m.k(x)[:, None], m.v(x)[:, None])

    return block(attention, **separate(kv=2))


@architecture((1, 2, 2), order=24 * 2 * 2 * 2**2)  # q and k dims are shared by the heads, v dims are not
def shared_head_norm() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        return attend(m.nq(heads(m.q(x))), m.nk(heads(m.k(x))), heads(m.v(x)))

    return block(attention, **separate(), nq=nn.RMSNorm(2), nk=nn.LayerNorm(2))


@architecture((1, 2, 2), (1, 2, 3), order=PLAIN)  # the context is an input
def cross_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor, context: Tensor) -> Tensor:
        return attend(heads(m.q(x)), heads(m.k(context)), heads(m.v(context)))

    return block(attention, **separate(source=3))


@architecture((1, 3, 2), order=24 * 24 * 6 * 2 * (2 * 2) ** 2)  # width of latents and of inputs, three latents
def perceiver() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x, latents = torch.relu(m.first(x)), m.latents.expand(x.shape[0], -1, -1)
        found = latents + m.o(attend(heads(m.q(m.norm(latents))), heads(m.k(x)), heads(m.v(x))))
        return m.last(found.mean(1))

    return Net(
        forward, first=nn.Linear(2, 4), latents=torch.randn(1, 3, 4), norm=nn.LayerNorm(4), **separate(),
        o=nn.Linear(4, 4), last=nn.Linear(4, 2),
    )  # fmt: skip


@architecture((1, 4, 2), order=PLAIN)  # the table is read by heads; its places are pinned by those of tokens
def window_attention() -> nn.Module:
    """Two windows of two tokens each with a table of relative positions."""

    def attention(m: nn.Module, x: Tensor) -> Tensor:
        windows = x.reshape(2, 2, 4)
        place = torch.arange(2)[:, None] - torch.arange(2)[None] + 1
        bias = m.table[place.reshape(-1)].view(2, 2, 2).permute(2, 0, 1)
        return attend(*(heads(f(windows)) for f in (m.q, m.k, m.v)), bias).reshape(1, 4, 4)

    return block(attention, **separate(), table=torch.randn(3, 2))


@architecture((1, 4, 2), order=PLAIN)
def shifted_window_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        windows = x.roll(-1, 1).reshape(2, 2, 4)
        mask = torch.zeros(2, 1, 2, 2, dtype=x.dtype)
        mask[1, 0, 0, 1] = mask[1, 0, 1, 0] = -100.0
        return attend(*(heads(f(windows)) for f in (m.q, m.k, m.v)), mask).reshape(1, 4, 4).roll(1, 1)

    return block(attention, **separate())


@architecture((1, 2, 2), order=PLAIN)
def linear_attention() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (F.elu(heads(m.q(x))) + 1, F.elu(heads(m.k(x))) + 1, heads(m.v(x)))
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
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        return attend(q * m.temperature.exp(), k, v)

    return block(attention, **separate(), temperature=torch.randn(2, 1, 1))


@architecture((1, 2, 2), order=24 * 2 * 2 * 2**2 * 2**2)  # heads before and after the mixing
def talking_heads() -> nn.Module:
    def attention(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        scores = torch.einsum("bhqk,hg->bgqk", q @ k.transpose(-1, -2), m.mix).softmax(-1)
        return (scores @ v).transpose(1, 2).flatten(2)

    return block(attention, **separate(), mix=torch.randn(2, 2))
