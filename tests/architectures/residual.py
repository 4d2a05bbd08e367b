"""Residual streams, gates, and what splits channels and joins them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from tests.architectures.registry import Net, architecture


@architecture((2, 2), order=24 * 6 * 6)  # the stream and two hidden widths
def residual_blocks() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        for hidden, out in ((m.hidden1, m.out1), (m.hidden2, m.out2)):
            x = x + out(torch.relu(hidden(x)))
        return m.last(x)

    blocks = {f"{n}{k}": nn.Linear(*((4, 3) if n == "hidden" else (3, 4))) for k in (1, 2) for n in ("hidden", "out")}
    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(4, 2), **blocks)


@architecture((2, 2), order=24)  # a gate and a value move together
def swiglu_fused() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        gate, value = m.both(x).chunk(2, -1)
        return m.last(F.silu(gate) * value)

    return Net(forward, both=nn.Linear(2, 8), last=nn.Linear(4, 2))


@architecture((2, 2), order=24)
def swiglu_separate() -> nn.Module:
    parts = {"gate": nn.Linear(2, 4), "value": nn.Linear(2, 4), "last": nn.Linear(4, 2)}
    return Net(lambda m, x: m.last(F.silu(m.gate(x)) * m.value(x)), **parts)


@architecture((2, 2), order=24)
def swiglu_interleaved() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        both = m.both(x)
        return m.last(F.silu(both[..., ::2]) * both[..., 1::2])

    return Net(forward, both=nn.Linear(2, 8), last=nn.Linear(4, 2))


@architecture((2, 2), order=24 * 2**4)  # the two pieces of each of four units
def maxout() -> nn.Module:
    return Net(lambda m, x: m.last(m.first(x).view(-1, 4, 2).amax(-1)), first=nn.Linear(2, 8), last=nn.Linear(4, 2))


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


@architecture((2, 2), order=1 * 2 * 6)  # parts of 1, 2 and 3
def uneven_split() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b, c = m.first(x).split([1, 2, 3], -1)
        return m.last(torch.cat([torch.tanh(a), torch.sigmoid(b), torch.relu(c)], -1))

    return Net(forward, first=nn.Linear(2, 6), last=nn.Linear(6, 2))


@architecture((2, 2), order=1 * 1 * 1 * 6)  # cut after 1, 2 and 4 of one, after 3 of the other: 1, 1, 1, 1, and 2
def two_uneven_splits() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        a, b = x.split([3, 4], -1)
        c, d = torch.cat([torch.tanh(a), b], -1).split([2, 5], -1)
        e, f = torch.cat([c, torch.sigmoid(d)], -1).split([4, 3], -1)
        return m.last(torch.cat([e, torch.relu(f)], -1)) + m.beside(x[..., 1:2])

    return Net(forward, first=nn.Linear(2, 7), last=nn.Linear(7, 2), beside=nn.Linear(1, 2))


@architecture((2, 2, 3), order=24 * 6 * 6)  # channels, hidden of the tokens' and of the channels' layers
def mixer() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = x + m.tokens(m.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + m.channels(m.norm2(x))
        return m.last(x.mean(1))

    return Net(
        forward, embed=nn.Linear(3, 4), last=nn.Linear(4, 2), norm1=nn.LayerNorm(4), norm2=nn.LayerNorm(4),
        tokens=nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2)),
        channels=nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4)),
    )  # fmt: skip


@architecture((2, 2), order=24 * 6)
def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)
    )


@architecture((2, 2), order=24)
def rms_norm_by_hand() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(m.scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    return Net(forward, first=nn.Linear(2, 4), last=nn.Linear(4, 2), scale=torch.rand(4))
