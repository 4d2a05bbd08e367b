"""Ops for which the order of channels matters, or seems to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.nets import Net, architecture


def _between(function: object, width: int = 4, hidden: int = 0) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(function(m.first(x)))  # type: ignore[operator]

    first = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, width)) if hidden else nn.Linear(2, width)
    return Net(forward, first=first, last=nn.Linear(width, 2))


@architecture((2, 2), order=24)
def top_values() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.first(x).topk(2, -1).values)

    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(2, 2))


@architecture((2, 2), order=2 * 2**2 * (2**2) ** 2)  # two pairs, swaps in each, and of equal entries in both rows of the last weight
def flip_added() -> nn.Module:
    return _between(lambda x: x + x.flip(1))


@architecture((2, 2), order=2 * 2**2)  # two pairs, each of which may swap
def flip_added_nonlinear() -> nn.Module:
    return _between(lambda x: x + torch.tanh(x.flip(1)))


@architecture((2, 2), order=24)
def flip_alone() -> nn.Module:
    return _between(lambda x: x.flip(1))


@architecture((2, 2), order=4)  # the rotations
def roll_added() -> nn.Module:
    return _between(lambda x: x + torch.tanh(x.roll(1, -1)))


@architecture((2, 2), order=2 * 2**2)  # the even and the odd places, which trade places or not, and a swap in each
def roll_by_two() -> nn.Module:
    return _between(lambda x: x + torch.tanh(x.roll(2, -1)))


@architecture((2, 2), order=24)
def constant_gather() -> nn.Module:
    return _between(lambda x: torch.relu(x[:, [2, 0, 3, 1]]))


@architecture((2, 2), order=1)
def adjacent_differences() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(torch.tanh(x[:, 1:] - x[:, :-1]))

    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(3, 2))


@architecture((2, 2), order=24)
def log_sum_exp() -> nn.Module:
    return _between(lambda x: x - x.logsumexp(-1, keepdim=True))


@architecture((2, 2), order=2 * 2 * 2)  # blocks are 01|2 3|45: a swap in each pair, and the mirror image
def incompatible_views() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        x = x.view(-1, 2, 3).softmax(-1).flatten(1)
        return m.last(x.view(-1, 3, 2).softmax(-1).flatten(1))

    return Net(forward, first=nn.Linear(2, 6), last=nn.Linear(6, 2))


@architecture((2, 4), order=6)  # a Fourier transform along the tokens, none along the channels
def fourier_mixing() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x[..., None])
        return m.last(x + torch.fft.rfft(x, dim=1).abs().mean(1, keepdim=True))

    return Net(forward, first=nn.Linear(1, 3), last=nn.Linear(3, 2))
