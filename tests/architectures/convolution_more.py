"""More convolutional networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import Net, architecture


@architecture((1, 2, 2, 2), order=6 * 2**3)  # what each of three channels becomes is two
def depthwise_multiplier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 1, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 1))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    """What ShuffleNet does to the channels."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@architecture((1, 2, 2, 2), order=2**2 * 2)  # in each group; the groups, which after the shuffle are places in groups
def shuffle_v1() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = _shuffle(torch.relu(m.n1(m.c1(x))), 2)
        return m.last(torch.relu(x + m.c2(m.depthwise(y))))

    return Net(
        forward, stem=nn.Conv2d(2, 4, 1), c1=nn.Conv2d(4, 4, 1, groups=2), n1=nn.BatchNorm2d(4),
        depthwise=nn.Conv2d(4, 4, 1, groups=4), c2=nn.Conv2d(4, 4, 1, groups=2), last=nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@architecture((1, 2, 2, 2))
def shuffle_v2() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        for branch in (m.b1, m.b2):
            a, b = x.chunk(2, 1)
            x = _shuffle(torch.cat([a, torch.relu(branch(b))], 1), 2)
        return m.last(x)

    return Net(forward, stem=nn.Conv2d(2, 6, 1), b1=nn.Conv2d(3, 3, 1), b2=nn.Conv2d(3, 3, 1), last=nn.Conv2d(6, 2, 1))


@architecture((1, 2, 2, 2), order=24 * 6)
def pixel_unshuffle() -> nn.Module:
    """24 for the channels before, whose places become channels of the next layer."""
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(16, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))


@architecture((1, 2, 4), order=24)
def gated_convolution() -> nn.Module:
    parts = {"both": nn.Conv1d(2, 8, 2), "last": nn.Conv1d(4, 2, 1)}
    return Net(lambda m, x: m.last(F.glu(m.both(x), 1)), **parts)


@architecture((1, 2, 4), order=24 * 24 * 6)  # stream, what the gate makes, skip channels
def wavenet() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.both(F.pad(x, (2, 0)))
        a, b = y.chunk(2, 1)
        y = torch.tanh(a) * torch.sigmoid(b)
        return m.last(torch.relu(m.skip(y))) + m.end(x + m.out(y))

    return Net(
        forward, stem=nn.Conv1d(2, 4, 1), both=nn.Conv1d(4, 8, 2, dilation=2), skip=nn.Conv1d(4, 3, 1),
        out=nn.Conv1d(4, 4, 1), last=nn.Conv1d(3, 2, 1), end=nn.Conv1d(4, 2, 1),
    )  # fmt: skip


@architecture((1, 2, 2, 2), order=24)  # an axis for the norm and none of the pixels'
def layer_norm_over_all() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.LayerNorm((4, 2, 2)), nn.ReLU(), nn.Conv2d(4, 2, 1))
