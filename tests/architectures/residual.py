"""Residual streams, gates, and what splits channels and joins them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import Net, architecture


@architecture((2, 2), order=24)
def swiglu_interleaved() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        both = m.both(x)
        return m.last(F.silu(both[..., ::2]) * both[..., 1::2])

    return Net(forward, both=nn.Linear(2, 8), last=nn.Linear(4, 2))


@architecture((2, 2), order=24 * 2**4)
def maxout_strided() -> nn.Module:
    parts = {"first": nn.Linear(2, 8), "last": nn.Linear(4, 2)}
    return Net(lambda m, x: m.last(m.first(x).view(-1, 2, 4).max(1).values), **parts)


@architecture((2, 2), order=24 * 2**4)  # unit i of one half may trade places with unit i of the other
def sum_of_halves() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = torch.tanh(m.first(x)).chunk(2, -1)
        return m.last(a + b)

    return Net(forward, first=nn.Linear(2, 8), last=nn.Linear(4, 2))


@architecture((2, 2), order=1 * 1 * 1 * 6)  # cut after 1, 2 and 4 of one, after 3 of the other: 1, 1, 1, 1, and 2
def two_uneven_splits() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        a, b = x.split([3, 4], -1)
        c, d = torch.cat([torch.tanh(a), b], -1).split([2, 5], -1)
        e, f = torch.cat([c, torch.sigmoid(d)], -1).split([4, 3], -1)
        return m.last(torch.cat([e, torch.relu(f)], -1)) + m.beside(x[..., 1:2])

    return Net(forward, first=nn.Linear(2, 7), last=nn.Linear(7, 2), beside=nn.Linear(1, 2))


@architecture((2, 2), order=24)
def rms_norm_by_hand() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(m.scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(4, 2), scale=torch.rand(4))
