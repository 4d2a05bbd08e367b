"""torch.nn: every layer class and option, between free operands as in the tests of the rules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import Entry

_TESTS = str(Path(__file__).resolve().parents[3] / "tests")


def entries(full: bool) -> Sequence[Entry]:
    """The cases of the tests, and the classes that they leave out; ``full`` makes no difference."""
    if _TESTS not in sys.path:
        sys.path.append(_TESTS)
    from module_cases import CASES

    return [*(_sandwiched(case) for case in CASES), *(_plain(*spec) for spec in _more())]


def _sandwiched(case: Any) -> Entry:
    from sandwich import Sandwich

    def build() -> nn.Module:
        return Sandwich(case, torch.Generator().manual_seed(0))

    # No input of the tests is constant, so that doubling one tells something.
    return Entry(case.name, case.name.split("_")[0], build, lambda model: tuple(_scaled(model.inputs)), counted=False)


def _scaled(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [2.1 * x if x.is_floating_point() else x for x in inputs]


def _plain(name: str, make: Callable[[], nn.Module], *shape: int) -> Entry:
    """A layer between two of weights, whose units it has."""
    return Entry(name, name.split("_")[0], make, lambda model: torch.randn(*shape), counted=False)


def _more() -> list[tuple]:
    """Layers that the cases lack: name, model, shape of its input."""

    def conv(rank: int, layer: nn.Module, width: int = 6) -> nn.Module:
        kind = getattr(nn, f"Conv{rank}d")
        return nn.Sequential(kind(2, width, 3, padding=1), layer, kind(width, 3, 1))

    images = {1: (2, 2, 8), 2: (2, 2, 8, 8), 3: (1, 2, 4, 4, 4)}
    layers: list[tuple[int, str, Callable[[], nn.Module]]] = []
    for rank in (1, 2, 3):
        for name, args in {
            "MaxPool": (2,), "AvgPool": (2,), "AdaptiveAvgPool": (2,), "AdaptiveMaxPool": (2,), "LPPool": (2, 2),
            "ReflectionPad": (1,), "ReplicationPad": (1,), "CircularPad": (1,), "ConstantPad": (1, 0.5), "ZeroPad": (1,),
        }.items():  # fmt: skip
            layers.append((rank, f"{name}{rank}d_between", lambda n=f"{name}{rank}d", a=args: getattr(nn, n)(*a)))  # type: ignore[misc]
        for name in ("Dropout", "BatchNorm", "SyncBatchNorm", "InstanceNorm", "ConvTranspose", "Conv"):
            layers.append((rank, f"{name}{rank}d_between", lambda n=name, r=rank: _between(n, r)))  # type: ignore[misc]
    layers += [
        (2, "FractionalMaxPool2d", lambda: nn.FractionalMaxPool2d(2, output_size=4)),
        (3, "FractionalMaxPool3d", lambda: nn.FractionalMaxPool3d(2, output_size=2)),
        (2, "UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=2)),
        (2, "FeatureAlphaDropout", lambda: nn.FeatureAlphaDropout()),
        (2, "Upsample_bicubic", lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
        (3, "Upsample_trilinear", lambda: nn.Upsample(scale_factor=2, mode="trilinear")),
        (1, "Upsample_linear", lambda: nn.Upsample(scale_factor=2, mode="linear")),
        (2, "GroupNorm_between", lambda: nn.GroupNorm(3, 6)),
        (2, "LocalResponseNorm_between", lambda: nn.LocalResponseNorm(3)),
        (2, "Conv2d_depthwise", lambda: nn.Conv2d(6, 6, 3, groups=6)),
    ]
    found = [(name, lambda r=rank, m=make: conv(r, m()), *images[rank]) for rank, name, make in layers]
    return [*found, ("MaxUnpool2d", Unpooled, 2, 2, 8, 8), ("AdaptiveLogSoftmax", AdaptiveSoftmax, 3, 5)]


def _between(name: str, rank: int) -> nn.Module:
    if name in ("Conv", "ConvTranspose"):
        return getattr(nn, f"{name}{rank}d")(6, 6, 3, stride=2, groups=2)
    if name == "Dropout":
        return getattr(nn, f"Dropout{rank}d")()
    if name == "SyncBatchNorm":
        return nn.SyncBatchNorm(6)
    return getattr(nn, f"{name}{rank}d")(6, affine=True, track_running_stats=True)


class Unpooled(nn.Module):
    """Pooling with indices, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.unpool(*self.pool(self.first(x))))


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of clusters of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.last = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [6, 12], div_value=2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last.log_prob(self.first(x).relu())
