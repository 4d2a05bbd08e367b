"""The networks of the training benchmarks, small enough for two CPU cores.

VGG and ResNet follow Ainsworth et al. 2023 in what matters to merging: LayerNorm over the channels of each pixel in place
of BatchNorm, and a width multiplier. They are shallower, for images of 8 to 28 pixels. ``*-bn`` are the same with BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Net:
    """An architecture at one width.

    Attributes:
        name: of the architecture, in :data:`NETS`.
        width: units of an MLP's layers, or the multiplier of a conv net's channels.
        size: pixels of the images in each direction.
        convolutional: whether it costs so much per image that benchmarks shrink images and train for fewer epochs.
    """

    name: str
    width: int
    size: int
    convolutional: bool

    def build(self) -> nn.Module:
        """A freshly initialised module, from torch's global generator."""
        return _BUILDERS[self.name](self.width, self.size)

    def __str__(self) -> str:
        return f"{self.name} {self.width}"


def net(name: str, width: int, size: int) -> Net:
    """The architecture of that name at a width, for images of ``size`` pixels."""
    if name not in _BUILDERS:
        raise ValueError(f"no net is called {name!r}; there are {', '.join(_BUILDERS)}")
    return Net(name, width, size, convolutional=name != "mlp")


class PixelNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


Norm = Callable[[int], nn.Module]


def conv(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), norm(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions added to the input, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, norm, stride), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), norm(outputs)
        )
        same = inputs == outputs and stride == 1
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.skip = nn.Identity() if same else skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.body(x))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def mlp(width: int, size: int) -> nn.Module:
    """pixels - width - width - width - 10, the paper's at width 512."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (size * size, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def vgg(width: int, norm: Norm) -> nn.Module:
    """Six convolutions of 8, 16 and 32 channels times the width, halved in between."""
    c = 8 * width
    return nn.Sequential(
        conv(1, c, norm), conv(c, c, norm), nn.MaxPool2d(2), conv(c, 2 * c, norm), conv(2 * c, 2 * c, norm), nn.MaxPool2d(2),
        conv(2 * c, 4 * c, norm), conv(4 * c, 4 * c, norm), *head(4 * c),
    )  # fmt: skip


def resnet(width: int, norm: Norm) -> nn.Module:
    """A stem and three residual blocks of 8, 16 and 32 channels times the width (ResNet-20 has nine)."""
    c = 8 * width
    return nn.Sequential(
        conv(1, c, norm), Residual(c, c, norm, 1), Residual(c, 2 * c, norm, 2), Residual(2 * c, 4 * c, norm, 2), *head(4 * c)
    )


class Block(nn.Module):
    """A pre-norm transformer block with one fused query-key-value weight."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches in a 4 x 4 or 7 x 7 grid, two blocks of four heads, a mean over patches."""

    def __init__(self, width: int, size: int):
        super().__init__()
        side = 7 if size % 7 == 0 else 4
        self.patch = nn.Conv2d(1, width, size // side, size // side)
        self.place = nn.Parameter(0.02 * torch.randn(1, side * side, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": mlp,
    "vgg-ln": lambda width, size: vgg(width, PixelNorm),
    "vgg-bn": lambda width, size: vgg(width, nn.BatchNorm2d),
    "resnet-ln": lambda width, size: resnet(width, PixelNorm),
    "resnet-bn": lambda width, size: resnet(width, nn.BatchNorm2d),
    "vit": lambda width, size: ViT(16 * width, size),
}

#: All architectures.
NETS = tuple(_BUILDERS)
