"""Weights that are used more than once, or that are made from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import Net, architecture


@architecture((2, 3), (2, 3), order=24 * 6)
def siamese_distance() -> nn.Module:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    return Net(lambda m, a, b: m.head((m.encoder(a) - m.encoder(b)).abs()), encoder=encoder, head=nn.Linear(3, 2))


@architecture((2, 2), order=24 * 2)  # the adapter on the activations: B(Ax) beside Wx
def low_rank_activation() -> nn.Module:
    parts = {"first": nn.Linear(2, 4), "base": nn.Linear(4, 2), "a": nn.Linear(4, 2, bias=False), "b": nn.Linear(2, 2)}
    return Net(lambda m, x: m.base(torch.relu(m.first(x))) + m.b(m.a(torch.relu(m.first(x)))), **parts)


@architecture((1, 2), (2, 2), order=6 * 24 * 6)  # hidden of the generator, both widths of the generated weight
def hypernetwork_deep() -> nn.Module:
    def forward(m: nn.Module, z: Tensor, x: Tensor) -> Tensor:
        weight = m.weight(torch.relu(m.hidden(z))).view(3, 4)
        return m.last(torch.relu(F.linear(torch.relu(m.first(x)), weight)))

    parts = {"hidden": nn.Linear(2, 3), "weight": nn.Linear(3, 12), "first": nn.Linear(2, 4), "last": nn.Linear(3, 2)}
    return Net(forward, **parts)


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


@architecture((2, 3), order=24)  # the gram matrix of a weight: its rows are summed over
def gram_matrix() -> nn.Module:
    return Net(lambda m, x: torch.tanh(x @ (m.weight.t() @ m.weight)), weight=torch.randn(4, 3))
