"""Sparse autoencoders: the largest units behind a ReLU are kept, however many of them are zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoperm

UNITS, KEPT = 8, 3
Keep = Callable[[Tensor], Tensor]


class Autoencoder(nn.Module):
    """For some inputs fewer units are above zero than are kept, so that others are chosen among equal ones."""

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self.encoder, self.decoder, self.keep = nn.Linear(5, UNITS), nn.Linear(UNITS, 5), keep
        with torch.no_grad():
            self.encoder.bias -= 0.2

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.keep(self.encoder(x)))


def written(pre: Tensor) -> Tensor:
    units = pre.relu()
    top = units.topk(KEPT, -1)
    return torch.zeros_like(units).scatter(-1, top.indices, top.values)


def unsorted_in_place(pre: Tensor) -> Tensor:
    units = pre.clamp(min=0)
    top = units.topk(KEPT, sorted=False, dim=-1)
    return torch.zeros_like(units).scatter_(dim=-1, index=top.indices, src=top.values)


def of_a_batch(pre: Tensor) -> Tensor:
    units = pre.relu().flatten()
    top = units.topk(KEPT * len(pre), -1)
    return torch.zeros_like(units).scatter(-1, top.indices, top.values).reshape(pre.shape)


def marked(pre: Tensor) -> Tensor:
    units = pre.relu()
    return torch.zeros_like(units).scatter(-1, units.topk(KEPT, -1).indices, 1.0) * units


def added(pre: Tensor) -> Tensor:
    units = pre.relu()
    top = units.topk(KEPT, -1)
    return torch.zeros_like(units).scatter_add(-1, top.indices, top.values)


def marks_alone(pre: Tensor) -> Tensor:
    units = pre.relu()
    return torch.zeros_like(units).scatter(-1, units.topk(KEPT, -1).indices, 1.0)


def over_ones(pre: Tensor) -> Tensor:
    units = pre.relu()
    top = units.topk(KEPT, -1)
    return torch.ones_like(units).scatter(-1, top.indices, top.values)


def other_values(pre: Tensor) -> Tensor:
    units = pre.relu()
    top = units.topk(KEPT, -1)
    return torch.zeros_like(units).scatter(-1, top.indices, top.values + 1)


def mask_of_others(pre: Tensor) -> Tensor:
    units = pre.relu()
    return torch.zeros_like(units).scatter(-1, units.topk(KEPT, -1).indices, 1.0) * pre


def capped(pre: Tensor) -> Tensor:
    units = pre.clamp(0, 0.1)
    top = units.topk(KEPT, -1)
    return torch.zeros_like(units).scatter(-1, top.indices, top.values)


def infinite_marks(pre: Tensor) -> Tensor:
    units = pre.relu()
    return torch.zeros_like(units).scatter(-1, units.topk(KEPT, -1).indices, float("inf")).mul(units).nan_to_num(7.0, 1.0)


def built(keep: Keep) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Autoencoder(keep).double().eval(), torch.randn(16, 5, dtype=torch.float64)


@pytest.mark.parametrize("keep", [written, unsorted_in_place, of_a_batch, marked, added])
def test_zeros_written_over_zeros_let_units_move(keep: Keep) -> None:
    model, x = built(keep)
    spec = autoperm.infer(model, x)
    assert [group.size for group in spec.groups] == [UNITS]
    with torch.no_grad():
        few = (model.encoder(x) > 0).sum(-1)
        assert int(few.min()) < KEPT < int(few.max()), "some inputs should choose among zeros, others not"
        for seed in range(8):
            assert float((spec.random(seed).apply(model)(x) - model(x)).abs().max()) < 1e-12


@pytest.mark.parametrize("keep", [marks_alone, over_ones, other_values, mask_of_others, capped, infinite_marks])
def test_units_stay_where_it_matters_which_of_equal_ones_are_chosen(keep: Keep) -> None:
    model, x = built(keep)
    assert not autoperm.infer(model, x).groups
    a, order = model(x), torch.randperm(UNITS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # and moving them does change the function
        model.encoder.weight.copy_(model.encoder.weight[order])
        model.encoder.bias.copy_(model.encoder.bias[order])
        model.decoder.weight.copy_(model.decoder.weight[:, order])
        b = model(x)
    assert float((a - b).abs().max()) > 1e-3
