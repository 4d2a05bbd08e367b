"""torchvision's models with trained-like random weights, and its ResNets trained on digits at 32 x 32. Part of matching.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm import PermutationSpec
from autoperm.demo.data import Split
from autoperm.trained import randomize_
from benchmarks.data import load
from benchmarks.nets import Net
from benchmarks.training import evaluate, train
from tests.zoo import import_torchvision

SIZE, EPOCHS, BATCH = 32, 5, 64


@dataclass(frozen=True)
class Torchvision(Net):
    """A model of torchvision by name, with ten classes."""

    def build(self) -> nn.Module:
        return import_torchvision().models.get_model(self.name, num_classes=10)


def trained(name: str, seed: int) -> nn.Module:
    """A model after a few epochs of Adam, in eval mode; in the cache of training.py."""
    how = Torchvision(name, 1, SIZE, convolutional=True)
    return train(how, _enlarged(load("digits").train), seed=seed, epochs=EPOCHS, batch=BATCH, progress=False)


def accuracy(model: nn.Module) -> float:
    """The share of test images that are classified rightly."""
    return evaluate({"test": _enlarged(load("digits").test)})(model)["test accuracy"]


def _enlarged(split: Split) -> Split:
    """Images of 8 x 8 as 32 x 32 with three equal channels."""
    images = nn.functional.interpolate(split.images, size=(SIZE, SIZE), mode="bilinear").repeat(1, 3, 1, 1)
    return Split(images.to(torch.float32), split.labels)


def fresh(name: str, seed: int, **more: Any) -> nn.Module:
    """A torchvision model with trained-like random weights."""
    torch.manual_seed(seed)
    model = import_torchvision().models.get_model(name, **more).eval()
    randomize_(model, seed)
    return model


def spec_of(model: nn.Module, size: int = 224) -> PermutationSpec:
    return autoperm.infer(model, torch.zeros(1, 3, size, size))
