"""Weights that are used more than once, or that are made from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)
from torch.nn.utils import parametrizations

from tests.architectures.registry import Net, architecture


@architecture((1, 3), ids=5, order=24 * 6)  # model width 4, hidden 3
def tied_embedding() -> nn.Module:
    def forward(m: nn.Module, ids: Tensor) -> Tensor:
        x = m.embedding(ids)
        x = x + m.out(torch.relu(m.hidden(x)))
        return F.linear(m.norm(x), m.embedding.weight)

    return Net(forward, embedding=nn.Embedding(5, 4), hidden=nn.Linear(4, 3), out=nn.Linear(3, 4), norm=nn.LayerNorm(4))


@architecture((2, 3), order=24)  # the decoder's weight is the encoder's, transposed
def reused_transposed() -> nn.Module:
    return Net(lambda m, x: F.linear(torch.relu(m.encoder(x)), m.encoder.weight.t()), encoder=nn.Linear(3, 4))


@architecture((2, 2), order=24)  # both sides of the shared layer are the one width
def used_twice() -> nn.Module:
    parts = {"first": nn.Linear(2, 4), "shared": nn.Linear(4, 4), "last": nn.Linear(4, 2)}
    return Net(lambda m, x: m.last(torch.tanh(m.shared(torch.tanh(m.shared(m.first(x)))))), **parts)


@architecture((2, 2), order=24)
def used_twice_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for _ in range(2):
            x = x + torch.relu(m.shared(x))
        return m.last(x)

    return Net(forward, first=nn.Linear(2, 4), shared=nn.Linear(4, 4), last=nn.Linear(4, 2))


@architecture((2, 3), (2, 3), order=24 * 6)  # hidden 4, code 3; the head reads two codes side by side
def siamese() -> nn.Module:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    return Net(lambda m, a, b: m.head(torch.cat([m.encoder(a), m.encoder(b)], -1)), encoder=encoder, head=nn.Linear(6, 2))


@architecture((2, 3), (2, 3), order=24 * 6)
def siamese_distance() -> nn.Module:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    return Net(lambda m, a, b: m.head((m.encoder(a) - m.encoder(b)).abs()), encoder=encoder, head=nn.Linear(3, 2))


@architecture((2, 3, 2), order=24 * 6 * 24)
def deep_sets() -> nn.Module:
    inner = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    outer = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return Net(lambda m, x: m.outer(m.inner(x).sum(1)), inner=inner, outer=outer)


@architecture((2, 2), order=24 * 24 * 2)  # two widths of 4, rank 2
def low_rank_adapter() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.first(x))
        x = torch.relu(F.linear(x, m.base.weight + m.b @ m.a, m.base.bias))
        return m.last(x)

    parts = {"first": nn.Linear(2, 4), "base": nn.Linear(4, 4), "last": nn.Linear(4, 2)}
    return Net(forward, **parts, a=torch.randn(2, 4), b=torch.randn(4, 2))


@architecture((2, 2), order=24 * 2)  # the adapter on the activations: B(Ax) beside Wx
def low_rank_activation() -> nn.Module:
    parts = {"first": nn.Linear(2, 4), "base": nn.Linear(4, 2), "a": nn.Linear(4, 2, bias=False), "b": nn.Linear(2, 2)}
    return Net(lambda m, x: m.base(torch.relu(m.first(x))) + m.b(m.a(torch.relu(m.first(x)))), **parts)


@architecture((1, 2), (2, 3), order=24)  # the rows of the generated weight
def hypernetwork() -> nn.Module:
    def forward(m: nn.Module, z: Tensor, x: Tensor) -> Tensor:
        return m.last(torch.relu(F.linear(x, m.weight(z).view(4, 3), m.bias(z).view(4))))

    return Net(forward, weight=nn.Linear(2, 12), bias=nn.Linear(2, 4), last=nn.Linear(4, 2))


@architecture((1, 2), (2, 2), order=6 * 24 * 6)  # hidden of the generator, both widths of the generated weight
def hypernetwork_deep() -> nn.Module:
    def forward(m: nn.Module, z: Tensor, x: Tensor) -> Tensor:
        weight = m.weight(torch.relu(m.hidden(z))).view(3, 4)
        return m.last(torch.relu(F.linear(torch.relu(m.first(x)), weight)))

    parts = {"hidden": nn.Linear(2, 3), "weight": nn.Linear(3, 12), "first": nn.Linear(2, 4), "last": nn.Linear(3, 2)}
    return Net(forward, **parts)


@architecture((2, 2), order=24 * 6)
def weight_normalised() -> nn.Module:
    weight_norm = parametrizations.weight_norm
    return nn.Sequential(
        weight_norm(nn.Linear(2, 4)), nn.ReLU(), weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2)
    )


@architecture((2, 2), order=24**3)  # three independent widths
def stacked_parameters() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.first(x))
        for weight, bias in zip(m.weights.unbind(0), m.biases.unbind(0), strict=True):
            x = torch.relu(F.linear(x, weight, bias))
        return m.last(x)

    parts = {"first": nn.Linear(2, 4), "last": nn.Linear(4, 2)}
    return Net(forward, **parts, weights=torch.randn(2, 4, 4), biases=torch.randn(2, 4))


@architecture((2, 2), order=24)  # a layer that all iterations share, with a residual stream
def stacked_parameters_residual() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for weight in m.weights.unbind(0):
            x = x + torch.tanh(F.linear(x, weight))
        return m.last(x)

    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(4, 2), weights=torch.randn(3, 4, 4))


@architecture((2, 2), (2, 3), order=24 * 6 * 6)
def bilinear() -> nn.Module:
    parts = {"f": nn.Linear(2, 4), "g": nn.Linear(3, 3), "both": nn.Bilinear(4, 3, 3), "last": nn.Linear(3, 2)}
    return Net(lambda m, a, b: m.last(torch.relu(m.both(torch.relu(m.f(a)), torch.relu(m.g(b))))), **parts)


@architecture((2, 3), order=24)  # the gram matrix of a weight: its rows are summed over
def gram_matrix() -> nn.Module:
    return Net(lambda m, x: torch.tanh(x @ (m.weight.t() @ m.weight)), weight=torch.randn(4, 3))
