"""timm: one model of each family by default, the smallest by parameters; all with ``full``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo import lean
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sources import tiny_timm
from tests.zoo import import_torchvision

#: The smallest model of each family (module of timm), with its parameters; made by ``python -m benchmarks.zoo.families``.
CACHE = Path(__file__).with_name("timm_families.json")
#: Image sizes tried, smallest first: most convolutional models take any.
SIZES = (64, 96, 128, 160, 224)


def entries(full: bool) -> Sequence[Entry]:
    """The families' smallest, or every model."""
    import_torchvision()  # timm imports it
    import timm

    if full:
        return [_entry(name, timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]) for name in timm.list_models()]
    return [_entry(found["model"], family) for family, found in json.loads(CACHE.read_text()).items()]


def _entry(name: str, family: str) -> Entry:
    return Entry(name, family, _builder(name), lambda model: _image(model), narrow=lambda: tiny_timm.versions(name))


def _builder(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return build


def _image(model: nn.Module) -> Any:
    """The smallest image that the model takes."""
    if (side := getattr(model, "zoo_side", None)) is not None:
        return torch.randn(1, 3, side, side)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, default = config.get("input_size", (3, 224, 224))[:2]
    if config.get("fixed_input_size"):
        return torch.randn(1, channels, default, default)
    for size in SIZES:
        if size < default and _runs(model, torch.randn(1, channels, size, size)):
            return torch.randn(1, channels, size, size)
    return torch.randn(1, channels, default, default)


@torch.no_grad()
def _runs(model: nn.Module, image: torch.Tensor) -> bool:
    try:
        if next(model.parameters()).is_meta:
            return lean.on_meta(model)(image.to("meta")) is not None
        return bool(model(image).isfinite().all())
    except Exception:
        return False
