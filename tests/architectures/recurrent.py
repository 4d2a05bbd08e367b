"""Recurrent architectures; the gates follow the hidden units."""

from __future__ import annotations

from math import factorial as f

import torch
from torch import Tensor, nn

from tests.architectures.registry import case, net

L = nn.Linear


def unrolled(cell: nn.Module, state: bool) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 3)
        s = (h, h) if state else h
        for t in range(x.shape[1]):
            s = m.c(x[:, t], s)
        return m.h(s[0] if state else s)

    return net(forward, c=cell, h=L(3, 2))


@case(1, 2, 2, order=f(3))
def lstm_unrolled() -> nn.Module:
    return unrolled(nn.LSTMCell(2, 3), True)


@case(1, 2, 2, order=f(3))
def gru_unrolled() -> nn.Module:
    return unrolled(nn.GRUCell(2, 3), False)


@case(1, 2, 2, order=f(3))
def rnn_unrolled() -> nn.Module:
    return unrolled(nn.RNNCell(2, 3), False)


@case(1, 2, 2, order=f(3) * f(3))
def lstm_two_layers() -> nn.Module:
    return net(lambda m, x: m.h(m.c(x)[0]), c=nn.LSTM(2, 3, num_layers=2, batch_first=True), h=L(3, 2))


@case(1, 2, 2, order=f(2) * f(2))
def gru_both_directions() -> nn.Module:
    return net(lambda m, x: m.h(m.c(x)[0]), c=nn.GRU(2, 2, bidirectional=True, batch_first=True), h=L(4, 2))


@case(1, 2, 2, order=f(4) * f(2))
def lstm_projected() -> nn.Module:
    """Four cells, projected to two."""
    return net(lambda m, x: m.h(m.c(x)[0]), c=nn.LSTM(2, 4, proj_size=2, batch_first=True), h=L(2, 2))


@case(1, 2, 2, order=f(2) * f(2))
def lstm_read_in_parts() -> nn.Module:
    """The hidden units are cut in two: the recurrent weights have four blocks, of which the diagonal ones are two."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        one, other = m.c(x)[0].split(2, -1)
        return m.a(one) + m.b(torch.tanh(other))

    return net(forward, c=nn.LSTM(2, 4, batch_first=True), a=L(2, 2), b=L(2, 2))


@case(1, 2, 2, order=f(2) * f(2))
def gru_read_in_parts() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        one, other = m.c(x)[0].split(2, -1)
        return m.a(one) + m.b(torch.tanh(other))

    return net(forward, c=nn.GRU(2, 4, batch_first=True), a=L(2, 2), b=L(2, 2))


@case(1, 3, 2, order=f(4))
def cumulative_sum() -> nn.Module:
    """A scan over time leaves channels free."""
    return net(lambda m, x: m.h(torch.tanh(m.i(x).cumsum(1))), i=L(2, 4), h=L(4, 2))


@case(1, 2, order=1)
def cumulative_sum_of_units() -> nn.Module:
    return net(lambda m, x: m.h(torch.tanh(m.i(x).cumsum(1))), i=L(2, 4), h=L(4, 2))


@case(1, 2, order=f(4))
def sorted_units() -> nn.Module:
    """The order of the input does not matter to a sort; that of its output does."""
    return net(lambda m, x: m.h(m.i(x).sort(1).values), i=L(2, 4), h=L(4, 2))
