"""Mixtures of experts with batched weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.nets import Net, architecture


def _weights() -> dict[str, nn.Module | Tensor]:
    return {
        "first": nn.Linear(2, 3), "router": nn.Linear(3, 2), "last": nn.Linear(3, 2),
        "up": torch.randn(2, 3, 2), "middle": torch.randn(2, 1, 2), "down": torch.randn(2, 2, 3),
    }  # fmt: skip


@architecture((2, 2), order=6 * 2 * 2**2)
def experts_bmm() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        share = m.router(x).softmax(-1)
        hidden = torch.relu(torch.bmm(x.expand(2, *x.shape), m.up) + m.middle)
        found = torch.bmm(hidden, m.down)
        return m.last(x + (share.t()[..., None] * found).sum(0))

    return Net(forward, **_weights())


@architecture((2, 2), order=2 * 6 * 2)  # modules of their own: the router's outputs tell them apart
def experts_separate() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        share = m.router(x).softmax(-1)
        return m.last(share[:, :1] * m.a(x) + share[:, 1:] * m.b(x))

    def expert() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))

    return Net(forward, first=nn.Linear(2, 3), router=nn.Linear(3, 2), a=expert(), b=expert(), last=nn.Identity())


@architecture((2, 2), order=6 * 2 * 2)  # rows, experts, the code that routes
def mixed_weights() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        share = m.router(m.z).softmax(-1)
        up = torch.einsum("e,eoi->oi", share, m.up)
        return m.last(torch.relu(x @ up.t()))

    return Net(forward, router=nn.Linear(2, 2), z=torch.randn(2), up=torch.randn(2, 3, 2), last=nn.Linear(3, 2))
