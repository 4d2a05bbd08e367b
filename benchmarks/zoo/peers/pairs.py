"""The models: pairs of random initialisations, and images of the size that they are for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoperm.trained import randomize_
from tests.zoo import import_torchvision

#: Larger models are left out.
LARGEST = 100_000_000
SIZES = {"inception_v3": 299}


def classifiers(largest: int = LARGEST) -> Iterator[tuple[str, int]]:
    """Names and numbers of parameters of torchvision's float models for classifying images, the smallest first."""
    models = import_torchvision().models
    found = sorted((_count(name), name) for name in models.list_models(module=models))
    yield from ((name, n) for n, name in found if n <= largest)


def _count(name: str) -> int:
    """The number of parameters; some models cannot be built on the meta device."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                return sum(p.numel() for p in import_torchvision().models.get_model(name, **options(name)).parameters())
        except NotImplementedError:
            continue
    raise RuntimeError(f"{name} cannot be built")


def options(name: str) -> dict[str, bool]:
    """Without the slow initialisation that two models have; ``randomize_`` does not need it."""
    return {"init_weights": False} if name in ("inception_v3", "googlenet") else {}


def pair(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Models a and b in eval mode, and a batch of two images."""
    models = import_torchvision().models
    built = []
    for seed in range(2):
        torch.manual_seed(seed)
        built.append(models.get_model(name, **options(name)).eval())
        randomize_(built[-1], seed)
    size = SIZES.get(name, 224)
    return built[0], built[1], torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
