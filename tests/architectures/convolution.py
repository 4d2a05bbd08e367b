"""Convolutional architectures, on images of 3 x 3 with one or two channels."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn

from tests.architectures.registry import case, net

L = nn.Linear


def C(i: int, o: int, k: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **options)


@case(1, 1, 3, 3, order=f(3) * f(4))
def conv_batchnorm() -> nn.Module:
    return nn.Sequential(C(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), C(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), C(4, 2))


@case(1, 1, 3, 3, order=f(4) * f(3))
def residual_conv() -> nn.Module:
    return net(
        lambda m, x: m.h((lambda y: torch.relu(y + m.b(torch.relu(m.a(y)))))(m.n(m.i(x)))),
        i=C(1, 4, 2), n=nn.BatchNorm2d(4), a=C(4, 3), b=C(3, 4), h=C(4, 2),
    )  # fmt: skip


@case(1, 1, 2, 2, order=f(2) * f(2) ** 2 * f(3) ** 2)
def grouped_conv() -> nn.Module:
    """Two groups, exchangeable, each with two inputs and three outputs of its own."""
    return nn.Sequential(C(1, 4), nn.ReLU(), C(4, 6, groups=2), nn.ReLU(), C(6, 2))


@case(1, 1, 3, 3, order=f(4))
def depthwise_conv() -> nn.Module:
    return nn.Sequential(C(1, 4), nn.ReLU(), C(4, 4, 2, groups=4), nn.ReLU(), C(4, 2))


@case(1, 1, 2, 2, order=f(3) * f(2) ** 3)
def group_norm() -> nn.Module:
    """Three groups of two."""
    return nn.Sequential(C(1, 6), nn.GroupNorm(3, 6), nn.ReLU(), C(6, 2))


@case(1, 1, 2, 2, order=f(4))
def instance_norm() -> nn.Module:
    return nn.Sequential(C(1, 4), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), C(4, 2))


@case(1, 1, 2, 2, order=f(4) * f(2))
def squeeze_excite() -> nn.Module:
    return net(
        lambda m, x: m.h((lambda y: y * torch.sigmoid(m.u(torch.relu(m.d(y.mean((2, 3), keepdim=True))))))(torch.relu(m.i(x)))),
        i=C(1, 4), d=C(4, 2), u=C(2, 4), h=C(4, 2),
    )  # fmt: skip


@case(1, 1, 2, 2, order=f(3) * f(2) * f(2))
def dense_concatenation() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        x = torch.cat([x, m.a(torch.relu(m.n(x)))], 1)
        x = torch.cat([x, m.b(torch.relu(m.p(x)))], 1)
        return m.h(torch.relu(m.q(x)))

    norms = {"n": nn.BatchNorm2d(3), "p": nn.BatchNorm2d(5), "q": nn.BatchNorm2d(7)}
    return net(forward, i=C(1, 3), a=C(3, 2), b=C(5, 2), h=C(7, 2), **norms)


@case(1, 1, 2, 2)
def shuffle_between_grouped_convs() -> nn.Module:
    return nn.Sequential(C(1, 4), nn.ReLU(), C(4, 4, groups=2), nn.ChannelShuffle(2), nn.ReLU(), C(4, 4, groups=2), C(4, 2))


@case(1, 1, 2, 2)
def shuffle_after_split() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.i(x))
        for conv in (m.a, m.b):
            keep, work = x.chunk(2, 1)
            x = torch.cat([keep, torch.relu(conv(work))], 1).unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        return m.h(x)

    return net(forward, i=C(1, 6), a=C(3, 3), b=C(3, 3), h=C(6, 2))


@case(1, 1, 4, 4, order=f(3) * f(4) * f(3))
def unet_skip() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(m.i(x))
        y = torch.relu(m.d(x))
        y = nn.functional.interpolate(torch.relu(m.u(y)), scale_factor=2)
        return m.h(torch.cat([x, y], 1))

    return net(forward, i=C(1, 3), d=C(3, 4, 2, stride=2), u=C(4, 3), h=C(6, 1))


@case(1, 1, 3, 3, order=f(3) * f(4))
def conv_flatten_linear() -> nn.Module:
    """Flattening channels with pixels keeps the channels free and pins the pixels."""
    return nn.Sequential(C(1, 3, 2), nn.ReLU(), nn.Flatten(), L(12, 4), nn.ReLU(), L(4, 2))


@case(1, 1, 2, 2, order=f(4) * f(6))
def convnext_block() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.i(x)
        y = m.n(m.d(x).permute(0, 2, 3, 1))
        return m.h(x + (m.s * m.b(nn.functional.gelu(m.a(y)))).permute(0, 3, 1, 2))

    parts = {"d": C(4, 4, 3, padding=1, groups=4), "n": nn.LayerNorm(4), "a": L(4, 6), "b": L(6, 4), "s": torch.randn(4)}
    return net(forward, i=C(1, 4), h=C(4, 2), **parts)


@case(1, 1, 2, 2, order=f(2))
def pixel_shuffle() -> nn.Module:
    """Eight channels become two of 2 x 2 pixels: only the two can be exchanged."""
    return nn.Sequential(C(1, 8), nn.Tanh(), nn.PixelShuffle(2), C(2, 1))


@case(1, 1, 3, 3, order=f(3) * f(4))
def transposed_conv() -> nn.Module:
    return nn.Sequential(C(1, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), C(4, 1))


@case(1, 1, 3, 3, order=f(3) * f(4))
def weight_norm() -> nn.Module:
    wn = nn.utils.parametrizations.weight_norm
    return nn.Sequential(wn(C(1, 3, 2)), nn.ReLU(), nn.Flatten(), wn(L(12, 4)), nn.ReLU(), L(4, 2))
