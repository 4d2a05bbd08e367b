"""Models without memory for their weights: what else they hold is there, and ties and groups are those of the real model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autoperm
from benchmarks.zoo import lean


class Relative(nn.Module):
    """Two heads whose scores get a bias from a table, by an index that is a buffer, with a bias that is a buffer of zeros (as
    BEiT's keys have); the output layer is tied to the input's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.embed, self.head = nn.Linear(4, 12), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight
        self.table = nn.Parameter(torch.zeros(5, 2))
        self.register_buffer("index", torch.arange(3)[:, None] - torch.arange(3)[None] + 2, persistent=False)
        self.register_buffer("nothing", torch.zeros(12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (self.qkv(x) + self.nothing).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT + self.table[self.index.reshape(-1)].reshape(3, 3, 2).permute(2, 0, 1)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ self.head.weight


class Stubborn(Relative):
    """Its constructor fills a buffer from what is where a weight is, as Swin v2's does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("copied", torch.zeros(2))
        self.copied.copy_(torch.ones(2, device=self.table.device))


def _on_meta(make: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("make", [Relative, Stubborn])
def test_the_group_is_that_of_the_real_model(make: type[nn.Module]) -> None:
    x = torch.randn(1, 3, 4)
    model = lean.build(make, _on_meta(make))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert model.head.weight is model.embed.weight
    assert autoperm.infer(model, x).order == autoperm.infer(make(), x).order > 1


def test_under_the_meta_device_heads_are_not_found() -> None:
    """Why models are not simply built there."""
    x = torch.randn(1, 3, 4)
    blind = _on_meta(Relative)
    assert autoperm.infer(blind, x).order < autoperm.infer(Relative(), x).order


def test_what_is_too_large_to_be_built_whole_is_built_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "REAL", 10)

    class Blind(Relative):
        def __init__(self) -> None:
            super().__init__()
            if self.table.is_meta and not self.index.is_meta:
                raise RuntimeError("two devices")

    model = lean.build(Blind, _on_meta(Blind))
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert lean.on_meta(Relative())(torch.zeros(1, 3, 4, device="meta")).is_meta


def test_modules_are_registered_as_before_afterwards() -> None:
    with pytest.raises(ValueError, match="inside"), lean.weights_on_meta():
        raise ValueError("inside")
    assert not nn.Linear(2, 2).weight.is_meta
