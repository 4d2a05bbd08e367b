"""Weights that share memory: nothing moves along one that is another in another order or in part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoperm
from autoperm.capture import capture

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Three(nn.Module):
    """Three square layers, of which the last one's weight is made of the first one's memory."""

    def __init__(self, share, device: str = "cpu") -> None:
        super().__init__()
        with torch.device(device):
            self.first, self.second, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        share(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x).tanh()).tanh())


def transposed(m: Three) -> None:
    m.third.weight = nn.Parameter(m.first.weight.data.t())


def overlapping(m: Three) -> None:
    memory = torch.randn(6, 4, device=m.first.weight.device)
    m.first.weight, m.third.weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])


def pieces(m: Three) -> None:
    memory = torch.randn(4, 8, device=m.first.weight.device)
    m.first.weight, m.third.weight = nn.Parameter(memory[:, :4]), nn.Parameter(memory[:, 4:])


def tied(m: Three) -> None:
    m.third.weight = m.first.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("share, order", [(transposed, 1), (overlapping, 1), (pieces, 24 * 24), (tied, 1)])
def test_memory_is_permuted_once(share, order: int, device: str) -> None:
    model = Three(share, device)
    spec = autoperm.infer(model, X)
    assert spec.order == order
    reason = spec.pinned.get(("first.weight", 0), "")
    assert ("shares memory with third.weight, in another order or in part" in reason) == (share in (transposed, overlapping))
    if device == "cpu":
        before = model(X)
        model.load_state_dict(spec.random(1).apply(model.state_dict()))
        assert float((model(X) - before).abs().max()) < 1e-5


def test_what_is_transposed_in_the_forward_moves() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).tanh()).tanh() @ self.first.weight

    assert autoperm.infer(Tied(), X).order == 120


def test_packed_layers_share_nothing() -> None:
    model = nn.LSTM(4, 3, num_layers=2)
    model.flatten_parameters()
    assert not capture(model, X).fixed
