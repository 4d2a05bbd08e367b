"""How the benchmarks train and judge each architecture."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.data import Data, load

UP = ("train accuracy", "test accuracy")
METRICS = ("train loss", "test loss", *UP)


@dataclass(frozen=True)
class Setting:
    """How one architecture is trained and judged.

    Attributes:
        data: the images.
        widths: of the nets.
        epochs, batch: of training.
        judged: the most images of each split that losses are computed on.
        steps: points on a line.
    """

    data: Data
    widths: tuple[int, ...]
    epochs: int
    batch: int
    judged: int
    steps: int

    def __str__(self) -> str:
        train, test = (len(split.labels) for split in self.data.splits(self.judged).values())
        return (
            f"{self.data.name} ({len(self.data.train.labels)} images of {self.data.size} x {self.data.size}), {self.epochs} "
            f"epochs of Adam 1e-3, batches of {self.batch}; lines of {self.steps} points, judged on {train} training and "
            f"{test} test images"
        )


def setting(name: str, data: str, *, quick: bool) -> Setting:
    """Conv nets and the ViT see Fashion-MNIST at 14 x 14, 10,000 images of it, so that two cores can train them."""
    if quick:
        widths, epochs = ((64,), 5) if name == "mlp" else ((1,), 2)
        return Setting(load("digits"), widths, epochs, 64, 450, 7)
    found = load(data)
    if found.size == 8:
        return Setting(found, (32, 128, 512) if name == "mlp" else (1, 2, 4), 20, 64, 1347, 25)
    if name == "mlp":
        return Setting(found, (64, 512), 20, 500, 10_000, 25)
    return Setting(load(data, size=14, subset=10_000), (1, 2, 4), 10, 100, 2000, 25)
