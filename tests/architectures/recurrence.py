"""Recurrent networks, as modules and as cells in a loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.nets import Net, architecture


def _unrolled(cell: nn.Module, hidden: int) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = m.cell(x[:, t], state)
        return m.last(state[0] if isinstance(state, tuple) else state)

    return Net(forward, cell=cell, last=nn.Linear(hidden, 2))


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
