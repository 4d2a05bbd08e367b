"""What merging holds in memory at once, in units of one model: every storage that torch makes is counted."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import autoperm

COUNT = 4

pytestmark = pytest.mark.slow  # minutes


class Peak(TorchDispatchMode):
    """The most bytes in storages that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def net(seed: int) -> nn.Module:
    """Ten equal layers, so that a tensor is a tenth of the model, and the matrices of groups are small beside it."""
    torch.manual_seed(seed)
    body = [layer for _ in range(10) for layer in (nn.Conv2d(64, 64, 7, padding=3), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), *body, nn.Conv2d(64, 2, 1))


@pytest.mark.parametrize("options, most", [
    ({"align": "none"}, COUNT + 1),  # the models and the merged one
    ({}, COUNT + 2),  # or, while matching, a permuted copy and the one to go back to
    ({"method": "many"}, COUNT + 3),  # the mean of the others besides
    ({"method": "universe", "max_steps": 2, "max_sweeps": 0}, COUNT + 2),  # the sum of all and that of the others
])  # fmt: skip
def test_how_much_is_held_at_once(options: dict[str, Any], most: int) -> None:
    models = [net(seed) for seed in range(COUNT)]
    spec = autoperm.infer(models[0], torch.zeros(1, 3, 8, 8))
    size = sum(p.numel() * p.element_size() for p in models[0].parameters())
    with Peak() as peak:
        merged = autoperm.merge(models, spec, progress=False, **options)
    assert peak.now == pytest.approx((COUNT + 1) * size, rel=0.02) and merged.model is not None
    assert peak.most <= (most + 0.8) * size  # a few tensors, some of them in doubles, and the matrices of the groups
