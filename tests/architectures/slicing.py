"""Pieces of parameters, and pieces of tensors that parameters make."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.nets import Net, architecture


@architecture((2, 2), order=2 * 6)  # the slice, and the set of three outside of it
def middle_slice() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x) + m.middle(torch.tanh(x[:, 1:3]))

    return Net(forward, first=nn.Linear(2, 5), last=nn.Linear(5, 2), middle=nn.Linear(2, 2))


@architecture((2, 2), order=2 * 2)  # the first two units, which the narrow network has too, and the other two
def slimmable() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        wide = F.linear(torch.relu(F.linear(x, m.up, m.bias)), m.down)
        narrow = F.linear(torch.relu(F.linear(x, m.up[:2], m.bias[:2])), m.down[:, :2])
        return torch.cat([wide, narrow], -1)

    return Net(forward, up=torch.randn(4, 2), bias=torch.randn(4), down=torch.randn(2, 4))


@architecture((1, 2, 2), order=24 * 2 * 2)
def padded_channels() -> nn.Module:
    """A residual whose shortcut is padded with zeros: two channels meet the shortcut, two do not; hidden of 4."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(F.pad(x, (1, 1)) + m.out(torch.relu(m.hidden(x))))

    return Net(forward, first=nn.Linear(2, 2), hidden=nn.Linear(2, 4), out=nn.Linear(4, 4), last=nn.Linear(4, 2))


@architecture((2, 2), order=6)
def unpacked_parameter() -> nn.Module:
    """One flat vector holds both layers: 3 rows of 2, 3 biases, 2 rows of 3."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        up, bias, down = m.flat.split([6, 3, 6])
        return F.linear(F.gelu(F.linear(x, up.view(3, 2), bias)), down.view(2, 3))

    return Net(forward, flat=torch.randn(15))


@architecture((2, 2), order=24 * 6**4)  # off the diagonal, each row's three entries are only summed
def diagonal_of_parameter() -> nn.Module:
    parts = {"first": nn.Linear(2, 4), "matrix": torch.randn(4, 4), "last": nn.Linear(4, 2)}
    return Net(lambda m, x: m.last(m.first(x) * m.matrix.diagonal() + m.matrix.sum(1)), **parts)


@architecture((2, 2), order=24)
def masked_weight() -> nn.Module:
    """A causal mask on the weight between two widths of four: nothing moves there; hidden of 4 after."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(m.first(x), m.weight.tril()))
        return m.last(torch.relu(m.hidden(x)))

    parts = {"first": nn.Linear(2, 4), "hidden": nn.Linear(4, 4), "last": nn.Linear(4, 2)}
    return Net(forward, **parts, weight=torch.randn(4, 4))


@architecture((2, 6))
def overlapping_windows() -> nn.Module:
    """Windows of the input beside zeros: their axis is cut in more ways than is followed, and must not come free by that."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        lagged = torch.stack([x[:, 2:6], x[:, 1:5], x[:, 0:4]], -1)
        return m.last(m.first(torch.cat([lagged, torch.zeros(2, 4, 1, dtype=x.dtype)], -1)).relu())

    return Net(forward, first=nn.Linear(4, 5), last=nn.Linear(5, 2))


@architecture((10, 4), order=1)
def rows_of_a_table_in_turn() -> nn.Module:
    """Ten places read three rows in turn, the first once more than the others."""
    index = torch.arange(10) % 3
    return Net(lambda m, x: x * m.table[index], table=torch.randn(3, 4))
