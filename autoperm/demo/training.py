"""Training and evaluation, as plain as they get."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from autoperm.demo.data import Split
from autoperm.merging.batchnorm import norms_with_statistics, reset_statistics


def train(build: Callable[[], nn.Module], data: Split, *, seed: int, epochs: int, batch: int = 64) -> nn.Module:
    """Train with Adam and a cosine schedule; the seed decides initialisation and order, and leaves torch's own alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = epochs * (len(data.labels) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator)
        for k in range(0, len(order) - batch + 1, batch):
            at = order[k : k + batch]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(data.images[at]), data.labels[at]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, splits: dict[str, Split]) -> dict[str, float]:
    """Loss and accuracy on each split."""
    found: dict[str, float] = {}
    for name, data in splits.items():
        logits = model(data.images)
        found[f"{name} loss"] = float(nn.functional.cross_entropy(logits, data.labels))
        found[f"{name} accuracy"] = float((logits.argmax(1) == data.labels).float().mean())
    return found


def reset_norms(model: nn.Module, data: Split) -> None:
    """Recompute BatchNorm statistics on data, as REPAIR (Jordan et al. 2023) does for interpolated networks."""
    reset_statistics(model.eval(), norms_with_statistics(model), [data.images])
