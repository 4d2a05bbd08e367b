"""Convolutional networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from tests.architectures.registry import Net, architecture


@architecture((1, 2, 2, 2), order=2 * 2**2 * 2**2)  # groups, and in each what enters and what leaves
def grouped_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


@architecture((1, 2, 2, 2), order=24)
def depthwise_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


@architecture((1, 2, 2, 2), order=6 * 2**3)  # what each of three channels becomes is two
def depthwise_multiplier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 1, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 1))


@architecture((1, 2, 2, 2), order=2 * 2**2)
def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))


@architecture((1, 2, 2, 2), order=24)
def instance_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 2, 1))


@architecture((1, 2, 2, 2), order=24 * 6)  # stream of 4, hidden of 3
def residual_convolution() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.n0(m.stem(x)))
        x = torch.relu(x + m.n2(m.c2(torch.relu(m.n1(m.c1(x))))))
        return m.last(x.mean((2, 3)))

    return Net(
        forward, stem=nn.Conv2d(2, 4, 1), n0=nn.BatchNorm2d(4), c1=nn.Conv2d(4, 3, 1), n1=nn.BatchNorm2d(3),
        c2=nn.Conv2d(3, 4, 1), n2=nn.BatchNorm2d(4), last=nn.Linear(4, 2),
    )  # fmt: skip


@architecture((1, 2, 2, 2), order=24 * 2)
def squeeze_excite() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.stem(x))
        scale = torch.sigmoid(m.excite(torch.relu(m.squeeze(x.mean((2, 3), keepdim=True)))))
        return m.last(x * scale)

    return Net(
        forward, stem=nn.Conv2d(2, 4, 1), squeeze=nn.Conv2d(4, 2, 1), excite=nn.Conv2d(2, 4, 1), last=nn.Conv2d(4, 2, 1)
    )


@architecture((1, 2, 2, 2), order=6 * 2 * 2)  # segments of 3, 2 and 2
def dense_concatenation() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        found = [m.stem(x)]
        for norm, conv in ((m.n1, m.c1), (m.n2, m.c2)):
            found.append(conv(torch.relu(norm(torch.cat(found, 1)))))
        return m.last(torch.cat(found, 1))

    return Net(
        forward, stem=nn.Conv2d(2, 3, 1), n1=nn.BatchNorm2d(3), c1=nn.Conv2d(3, 2, 1), n2=nn.BatchNorm2d(5),
        c2=nn.Conv2d(5, 2, 1), last=nn.Conv2d(7, 2, 1),
    )  # fmt: skip


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


@architecture((1, 1, 4, 4), order=6 * 24 * 6)  # fine, coarse, and what comes up
def u_net() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        fine = torch.relu(m.down(x))
        coarse = torch.relu(m.middle(F.max_pool2d(fine, 2)))
        return m.last(torch.cat([fine, torch.relu(m.up(coarse))], 1))

    return Net(
        forward, down=nn.Conv2d(1, 3, 1), middle=nn.Conv2d(3, 4, 1), up=nn.ConvTranspose2d(4, 3, 2, 2), last=nn.Conv2d(6, 1, 1)
    )


@architecture((1, 1, 4, 4), order=6 * 24)  # three channels of four places each; hidden of 4
def convolution_flatten_linear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    )


@architecture((1, 2, 2, 2), order=6 * 2)  # before; channels after: the place within a pixel stays
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 2, 1))


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


@architecture((1, 2, 2, 2), order=24 * 6)
def convnext_block() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.scale * m.project(F.gelu(m.expand(y)))
        return m.last((x + y.permute(0, 3, 1, 2)).mean((2, 3)))

    return Net(
        forward, stem=nn.Conv2d(2, 4, 1), depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4), norm=nn.LayerNorm(4),
        expand=nn.Linear(4, 3), project=nn.Linear(3, 4), scale=torch.ones(4) * 0.1, last=nn.Linear(4, 2),
    )  # fmt: skip


@architecture((1, 2, 2, 2), order=24)  # an axis for the norm and none of the pixels'
def layer_norm_over_all() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.LayerNorm((4, 2, 2)), nn.ReLU(), nn.Conv2d(4, 2, 1))
