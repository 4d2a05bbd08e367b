"""Structures of all kinds: sharing, splitting, gating, routing."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn

from tests.architectures.registry import case, net

L = nn.Linear


@case(1, 2, order=f(4) * f(5))
def mlp() -> nn.Module:
    return nn.Sequential(L(2, 4), nn.ReLU(), L(4, 5), nn.ReLU(), L(5, 2))


@case(1, 3, order=f(4), integers=5)
def tied_embedding() -> nn.Module:
    """One table embeds and unembeds; the vocabulary is pinned, the width free."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return torch.tanh(m.e(x)) @ m.e.weight.t()

    return net(forward, e=nn.Embedding(5, 4))


@case(1, 3, order=f(4))
def tied_autoencoder() -> nn.Module:
    return net(lambda m, x: torch.tanh(m.i(x)) @ m.i.weight, i=L(3, 4))


@case(1, 2, order=f(4) * f(3))
def residual() -> nn.Module:
    return net(lambda m, x: m.h((lambda y: y + m.b(torch.relu(m.a(y))))(m.i(x))), i=L(2, 4), a=L(4, 3), b=L(3, 4), h=L(4, 2))


@case(1, 2, order=f(4))
def layer_used_twice() -> nn.Module:
    return net(lambda m, x: m.h(torch.tanh(m.a(torch.tanh(m.a(m.i(x)))))), i=L(2, 4), a=L(4, 4), h=L(4, 2))


@case(2, 2, order=f(4) * f(3))
def siamese() -> nn.Module:
    return net(lambda m, x: (m.b(torch.relu(m.a(x[:1]))) - m.b(torch.relu(m.a(x[1:])))).abs() @ m.w, a=L(2, 4), b=L(4, 3), w=torch.randn(3, 2))


@case(1, 3, 2, order=f(4) * f(3))
def deep_sets() -> nn.Module:
    return net(lambda m, x: m.h(torch.relu(m.b(torch.relu(m.a(x)).sum(1)))), a=L(2, 4), b=L(4, 3), h=L(3, 2))


@case(1, 2, order=f(3) * f(2) * f(4))
def uneven_splits() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.i(x).split([3, 2], 1)
        return m.h(torch.relu(m.c(torch.cat([torch.tanh(b), torch.relu(a)], 1))))

    return net(forward, i=L(2, 5), c=L(5, 4), h=L(4, 2))


@case(1, 2, order=f(4))
def swiglu_fused() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.i(x).chunk(2, -1)
        return m.h(nn.functional.silu(a) * b)

    return net(forward, i=L(2, 8), h=L(4, 2))


@case(1, 2, order=f(4))
def swiglu_separate() -> nn.Module:
    return net(lambda m, x: m.h(nn.functional.silu(m.a(x)) * m.b(x)), a=L(2, 4), b=L(2, 4), h=L(4, 2))


@case(2, 2, order=f(3) * f(3) ** 3)
def mixture_of_experts() -> nn.Module:
    """Three experts, exchangeable with their router rows; in each three hidden units of its own."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        gates = torch.softmax(m.r(x), -1)
        hidden = torch.relu(torch.bmm(x.expand(3, -1, -1), m.u) + m.b)
        return torch.einsum("eno,ne->no", torch.bmm(hidden, m.d), gates)

    return net(forward, r=L(2, 3), u=torch.randn(3, 2, 3), b=torch.randn(3, 1, 3), d=torch.randn(3, 3, 2))


@case(1, 3, 2, order=f(4) * f(3) * f(5))
def mixer() -> nn.Module:
    """Channels free, three hidden tokens, five hidden channels; tokens are the input's."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        x = x + m.tb(torch.relu(m.ta(m.n(x).transpose(1, 2)))).transpose(1, 2)
        return m.h(x + m.cb(torch.relu(m.ca(m.p(x)))))

    norms = {"n": nn.LayerNorm(4), "p": nn.LayerNorm(4)}
    return net(forward, i=L(2, 4), ta=L(3, 3), tb=L(3, 3), ca=L(4, 5), cb=L(5, 4), h=L(4, 2), **norms)


@case(1, 2, order=f(3) * 2**3 * (2**3) ** 2)
def mirrored() -> nn.Module:
    """x + x.flip: three pairs, each can turn round; columns that read one value swap for each of the two outputs."""
    return net(lambda m, x: m.h((lambda y: y + y.flip(1))(m.i(x))), i=L(2, 6), h=L(6, 2))


@case(1, 2, order=f(3) * 2**3)
def tied_to_its_mirror() -> nn.Module:
    return net(lambda m, x: m.h((lambda y: y + torch.tanh(y).flip(1))(m.i(x))), i=L(2, 6), h=L(6, 2))


@case(1, 2, order=f(4) * f(2) ** 4)
def maxout() -> nn.Module:
    return net(lambda m, x: m.h(m.i(x).view(1, 4, 2).amax(2)), i=L(2, 8), h=L(4, 2))


@case(1, 2, order=f(3) * f(4) * f(2))
def bilinear() -> nn.Module:
    return net(lambda m, x: m.h(torch.tanh(m.c(m.a(x), m.b(x)))), a=L(2, 3), b=L(2, 4), c=nn.Bilinear(3, 4, 2), h=L(2, 1))


@case(1, 3, order=f(4) * f(2))
def low_rank_adapter() -> nn.Module:
    weights = {"w": torch.randn(3, 4), "a": torch.randn(3, 2), "b": torch.randn(2, 4)}
    return net(lambda m, x: m.h(torch.tanh(x @ (m.w + m.a @ m.b))), h=L(4, 2), **weights)


@case(1, 2, order=f(3))
def hypernetwork() -> nn.Module:
    """A layer makes the weights of another; only its own hidden units are free."""
    return net(lambda m, x: x @ m.b(torch.tanh(m.a(x))).view(2, 2), a=L(2, 3), b=L(3, 4))


@case(1, 2, order=f(4))
def parameter_with_unused_rest() -> nn.Module:
    """Rows that no output depends on do not count."""
    return net(lambda m, x: m.h(torch.tanh(x @ m.w[:2])), w=torch.randn(5, 4), h=L(4, 2))


@case(1, 2, order=f(3) ** 3)
def stacked_parameter() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.w.unbind(0)
        return m.h(torch.tanh(torch.tanh(m.i(x)) @ a) @ b)

    return net(forward, w=torch.randn(2, 3, 3), i=L(2, 3), h=L(3, 2))


@case(1, 2, 2, order=f(3) ** 2)
def weights_per_position() -> nn.Module:
    """One hidden layer per position: each has its own permutation."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return torch.einsum("bti,tio->bto", torch.tanh(torch.einsum("bti,tio->bto", x, m.u)), m.d)

    return net(forward, u=torch.randn(2, 2, 3), d=torch.randn(2, 3, 2))


@case(1, 2, 2, order=f(4))
def position_embedding() -> nn.Module:
    return net(lambda m, x: m.h(torch.relu(m.i(x) + m.p)), i=L(2, 4), p=torch.randn(1, 2, 4), h=L(4, 2))


@case(1, 2, order=f(4) * f(3))
def spectral_norm() -> nn.Module:
    sn = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(sn(L(2, 4)), nn.ReLU(), sn(L(4, 3)), nn.ReLU(), L(3, 2))


@case(1, 2, order=f(4))
def prelu_per_unit() -> nn.Module:
    return nn.Sequential(L(2, 4), nn.PReLU(4), L(4, 2))
