"""Recurrent networks, as modules and as cells in a loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.registry import Net, architecture


def _unrolled(cell: nn.Module, hidden: int) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = m.cell(x[:, t], state)
        return m.last(state[0] if isinstance(state, tuple) else state)

    return Net(forward, cell=cell, last=nn.Linear(hidden, 2))


@architecture((1, 2, 2), order=6)
def gru_cell() -> nn.Module:
    return _unrolled(nn.GRUCell(2, 3), 3)


@architecture((1, 2, 2), order=6)
def lstm_cell() -> nn.Module:
    return _unrolled(nn.LSTMCell(2, 3), 3)


@architecture((1, 2, 2), order=6 * 2)  # two layers
def lstm() -> nn.Module:
    class Layers(nn.LSTM):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[0][:, -1]

    parts = {"first": Layers(2, 3, batch_first=True), "last": nn.Linear(3, 2)}
    return nn.Sequential(parts["first"], nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))


@architecture((1, 2, 2), order=2**4)  # two layers of two directions
def gru() -> nn.Module:
    parts = {"core": nn.GRU(2, 2, num_layers=2, bidirectional=True, batch_first=True), "last": nn.Linear(4, 2)}
    return Net(lambda m, x: m.last(m.core(x)[0].mean(1)), **parts)


@architecture((1, 3, 2), order=6)
def rnn_by_hand() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            h = torch.tanh(m.of_input(x[:, t]) + m.of_state(h))
        return m.last(h)

    parts = {"of_input": nn.Linear(2, 3), "of_state": nn.Linear(3, 3, bias=False), "last": nn.Linear(3, 2)}
    return Net(forward, **parts, start=torch.randn(1, 3))


@architecture((1, 3, 2), order=6 * 2)  # state space: channels, and the state of each channel is its own: 2**3
def diagonal_state_space() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        decay, state, found = -m.decay.exp(), torch.zeros(x.shape[0], 3, 2, dtype=x.dtype), []
        step, write, read = m.project(x).split([3, 2, 2], -1)
        for t in range(x.shape[1]):
            size = torch.sigmoid(step[:, t])[..., None]
            state = (size * decay).exp() * state + size * x[:, t, :, None] * write[:, t, None]
            found.append((state * read[:, t, None]).sum(-1))
        return m.last(torch.stack(found, 1))

    return Net(forward, first=nn.Linear(2, 3), project=nn.Linear(3, 7), last=nn.Linear(3, 2), decay=torch.randn(3, 2))
